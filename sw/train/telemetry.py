"""What quantization does to every layer, seen once per epoch on one fixed batch.

A copy of the model runs forward and backward in training mode under ``sw.train.probe.recording``.
The training's numbers stay as they are: the copy has its own buffers and gradients, and the random
generators are put back.
"""

import copy
import math
from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sw.train.evaluate import prepared, reconstructs
from sw.train.probe import Observation, recording

__all__ = ["COLUMNS", "PROBE_IMAGES", "observe_model"]

COLUMNS = ("epoch", "layer", "kind", "relative_error", "cosine", "low", "high")
PROBE_IMAGES = 64


def observe_model(model: nn.Module, images: Tensor, labels: Tensor, epoch: int) -> list[dict]:
    """One row per layer and kind, with the keys COLUMNS.

    kind: "W" weight, "A" activation, "E" gradient to the input, "G" gradient to the weight: the
    tensors as quantized on the probe images, (N, C, H, W) float32 on any device, with
    relative_error = ||quantized - original|| / ||original||, the cosine of the angle between them,
    and low, high of the original. "range": low and high of an activation's running range, "weight"
    those of a stored weight; these two have no error (nan).
    """
    device = next(model.parameters()).device
    probe = copy.deepcopy(model).train().requires_grad_()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad(), recording() as seen:
        torch.manual_seed(0)
        inputs = prepared(probe, images.to(device))
        outputs = probe(inputs)
        loss = F.mse_loss(outputs.flatten(1), inputs.flatten(1)) if reconstructs(model) else \
            F.cross_entropy(outputs, labels.to(device))
        loss.backward()
    rows = _stored_ranges(model) + _errors(seen)
    return [{"epoch": epoch} | row for row in rows]


def _row(layer: str, kind: str, low: float, high: float, relative_error: float = math.nan,
         cosine: float = math.nan) -> dict:
    return {"layer": layer, "kind": kind, "relative_error": relative_error, "cosine": cosine,
            "low": low, "high": high}


def _stored_ranges(model: nn.Module) -> list[dict]:
    rows = []
    for name, module in model.named_modules():
        if hasattr(module, "range_low") and module.range_low.numel():
            rows.append(_row(name, "range", module.range_low.min().item(),
                             module.range_high.max().item()))
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1:
            low, high = weight.detach().aminmax()
            rows.append(_row(name, "weight", low.item(), high.item()))
    return rows


def _errors(seen: list[Observation]) -> list[dict]:
    """The observations of one layer and kind taken together."""
    groups = defaultdict(list)
    for entry in seen:
        groups[entry.layer, entry.kind].append(entry)
    rows = []
    for (layer, kind), entries in groups.items():
        original = torch.cat([entry.original.double().flatten() for entry in entries])
        quantized = torch.cat([entry.quantized.double().flatten() for entry in entries])
        length, error = original.norm().item(), (quantized - original).norm().item()
        product = length * quantized.norm().item()
        rows.append(_row(
            layer, kind, original.min().item(), original.max().item(),
            relative_error=error / length if length else math.nan,
            cosine=(original @ quantized).item() / product if product else math.nan))
    return rows
