"""A classifier's answers, softmax(logits), and the range of logits that changes them least.

The logits' own range is wide: what a confident network gives the classes that it rules out decides
nothing, and takes as many codes as the first two classes, whose order is the answer and which are
equal in codes wherever they lie within a step. ``logits_range`` takes the range on whose grid the
answers to the calibration images diverge least from the float network's,

    KL(softmax(float logits) || softmax(logits on the grid))

which is distillation's measure (arXiv 1503.02531), over the fractions of both ends. TensorRT clips
activations by a divergence too, that of their histograms (Migacz 2017, "8-bit Inference with
TensorRT").
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.errors import LockstepError
from sw.quantize.ranges import affine_parameters
from sw.quantize.recipe import TensorRecipe
from sw.quantize.rounding import round_to_integer
from sw.train.evaluate import prepared, reconstructs

__all__ = ["FRACTIONS", "answers", "check_classifier", "divergence", "logits_range"]

FRACTIONS = 20  # of each end of the range
NOISE = 1e-12  # nats: divergences below it are equal, and the wider range is taken
SEARCHED = 2**17  # logits, of images evenly spaced


@torch.no_grad()
def check_classifier(model: nn.Module, images: Tensor, whose: str) -> None:
    """LockstepError for a network whose outputs are no logits of classes.

    images: (N, C, H, W) float32, of which the first runs through the network. whose: what needs
    them.
    """
    needs = f"{whose} needs a network that gives the logits of classes, not"
    if reconstructs(model):
        raise LockstepError(f"{needs} one that returns its input")
    shape = tuple(model(prepared(model, images[:1])).shape[1:])
    if shape[0] < 2 or any(size > 1 for size in shape[1:]):
        raise LockstepError(f"{needs} outputs of shape {shape}")


def answers(logits: Tensor) -> Tensor:
    """log softmax of logits (N, classes, ...) float32, (N, classes)."""
    return F.log_softmax(logits.flatten(1), 1)


def divergence(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean over N of KL(wanted || found), both log probabilities (N, classes)."""
    return F.kl_div(found, wanted, log_target=True, reduction="batchmean")


def logits_range(logits: Tensor, recipe: TensorRecipe) -> tuple[Tensor, Tensor]:
    """(low, high), scalars, of the recipe's grid that changes the answers least.

    logits: (N, classes, ...) float32 of the float network. The candidates are the multiples of
    1 / FRACTIONS of the extremes, 0 included, which are one of them.
    """
    fractions = torch.arange(FRACTIONS, -1, -1, device=logits.device) / FRACTIONS
    lows, highs = ((end * fractions).unique_consecutive() for end in (
        logits.min().clamp(max=0), logits.max().clamp(min=0)))
    logits = logits[::math.ceil(logits.numel() / SEARCHED)].double()  # as evaluation quantizes
    wanted = answers(logits)
    best, found = torch.inf, (lows[0], highs[0])
    for low, high in itertools.product(lows, highs):
        if not low < high:
            continue
        scale, zero_point = affine_parameters(low, high, recipe)
        codes = round_to_integer(logits / scale, recipe.rounding) + zero_point
        codes = codes.clamp(*recipe.code_bounds)
        change = max(divergence(answers((codes - zero_point) * scale), wanted).item(), NOISE)
        if change < best:
            best, found = change, (low, high)
    return found
