"""Training in integers alone: the same weights, bit for bit, on every machine.

Batches, schedule and checkpoints are those of ``sw.train.engine``; a step is a Program
(`sw.integer.step`). From the host come image codes, labels, rates, seed and step number. With
several processes each runs its part of the batch, and all hold the same state.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from golden import arith
from golden.errors import LockstepError
from golden.ops.step import ExponentRule, WeightCodes
from golden.ops.step.head import BIAS_FRACTION, LOSS_FRACTION
from golden.ops.step.norm_forward import MASTER_FRACTION
from golden.program import Program
from sw.data import Dataset
from sw.integer.inference import inference_program
from sw.integer.layers import LABEL
from sw.integer.passes import FusedPasses
from sw.integer.runner import Runner
from sw.integer.step import SETTLE_STEPS, host_inputs, integer_step
from sw.layers.weighted import WeightedLayer
from sw.train.config import EpochResult, StepResult, TrainConfig, TrainState
from sw.train.distributed import ALONE, World
from sw.train.evaluate import TEST_BATCH, reconstructs
from sw.train.schedule import (
    data_at,
    make_optimizer,
    make_plan,
    make_scheduler,
    regime_at,
    set_options,
)

__all__ = ["IntegerState", "check_integer", "input_exponent", "last_step", "momentum_code",
           "observe_state", "state_hash", "step_inputs", "train"]

FLOAT_OPTIONS = {"label_smoothing": 0.0, "clip_gradient": None, "average_weights": None,
                 "teacher": None, "amp": False, "compile": False, "channels_last": False}
LARGEST_RATE = 1 << 15
SGD_OPTIONS = {"optimizer", "lr", "momentum", "weight_decay", "warmup_epochs"}


class IntegerState:
    """What a checkpoint keeps of the training beside the float copy of the weights.

    codes: by the names of the step's state; program: the step
    """

    def __init__(self, codes: Mapping[str, torch.Tensor], program: Program):
        self.codes, self.program = dict(codes), program

    def state_dict(self) -> dict:
        """As ``torch.optim.Optimizer``'s, for `sw.train.checkpoint.make_checkpoint`."""
        return {"arithmetic": "integer",
                "codes": {name: value.cpu().clone() for name, value in self.codes.items()}}


def state_hash(codes: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of a state, hexadecimal: names, dtypes, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(codes):
        value = np.ascontiguousarray(codes[name].cpu().numpy())
        digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def input_exponent(data: Dataset) -> int:
    """The exponent of the image codes: the largest normalised pixel is at most 128 codes."""
    largest = max(max(mean, 1 - mean) / std for mean, std in zip(data.mean, data.std))
    return math.ceil(math.log2(largest / 128))


def momentum_code(momentum: float) -> int:
    """The multiplier of 2^-31."""
    return min(math.floor(momentum * 2.0**31 + 0.5), arith.MULTIPLIER_MAX)


def check_integer(model: nn.Module, data: Dataset, config: TrainConfig, world: World = ALONE
                  ) -> Program:
    """The first step's Program; LockstepError naming what has no integer form."""
    for name, default in FLOAT_OPTIONS.items():
        if getattr(config, name) != default:
            raise LockstepError(f"Option {name.replace('_', '-')} has no form in the arithmetic "
                                f"of integers")
    if reconstructs(model):
        raise LockstepError(f"Model {type(model).__name__} reconstructs its input: the arithmetic "
                            f"of integers has the loss of a classification alone")
    if getattr(model, "input_transform", None) is not None:
        raise LockstepError(f"Model {type(model).__name__} has an input_transform, which has no "
                            f"form in the arithmetic of integers")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            raise LockstepError(f"Parameter {name} does not learn: the arithmetic of integers "
                                f"trains all of them")
    make_plan(model, data, config, world.size)
    for epoch in range(config.epochs):
        _settings(model, config, epoch)
        if data_at(model, config, epoch)[1] is not None:
            raise LockstepError("Image sizes that change have no form in the arithmetic of "
                                "integers")
    program = _Programs(model, data, world)(*_batch_and_momentum(model, config, 0))
    n_classes = program.tensors[program.outputs[0]].shape[0]
    if n_classes < data.n_classes:
        raise LockstepError(f"Model {type(model).__name__} must have {data.n_classes} outputs for "
                            f"data set {data.name}, not {n_classes}")
    return program


def _settings(model, config, epoch) -> dict:
    """SGD's of an epoch; LockstepError for another optimizer."""
    settings = regime_at(model, config, epoch)
    if settings.get("optimizer", "SGD") != "SGD":
        raise LockstepError(f"Optimizer {settings['optimizer']} has no form in the arithmetic of "
                            f"integers; SGD has")
    for name, value in settings.items():
        if name not in SGD_OPTIONS and value:
            raise LockstepError(f"SGD's option {name} has no form in the arithmetic of integers")
    for name, limit in (("lr", LARGEST_RATE), ("momentum", 1), ("weight_decay", LARGEST_RATE)):
        if not settings.get(name, 0) < limit:
            raise LockstepError(f"SGD's {name} must be below {limit} in the arithmetic of "
                                f"integers, not {settings[name]}")
    return settings


def _batch_and_momentum(model, config, epoch) -> tuple[int, float]:
    return (data_at(model, config, epoch)[0],
            _settings(model, config, epoch).get("momentum", 0.0))


class _Programs:
    """The steps of a network by batch size and momentum, made once each."""

    def __init__(self, model, data, world):
        self._model, self._exponent, self._world = model, input_exponent(data), world
        self._made = {}

    def __call__(self, batch_size, momentum, settle=False) -> Program:
        key = batch_size, momentum, settle
        if key not in self._made:
            self._made[key] = integer_step(
                self._model, batch_size * self._world.size, input_exponent=self._exponent,
                momentum=momentum_code(momentum), settle=settle)
        return self._made[key]


def train(model: nn.Module, data: Dataset, config: TrainConfig, *, world: World = ALONE,
          start_epoch: int = 0, codes: dict | None = None, passes: FusedPasses | None = None,
          on_batch: Callable[[StepResult], None] | None = None,
          on_epoch: Callable[[EpochResult, TrainState], None] | None = None
          ) -> list[EpochResult]:
    """Train from start_epoch to config.epochs; one result per epoch run.

    The state begins from the model's float weights, or is `codes`, that of an `IntegerState`; after
    every epoch the model's weights and norms are float copies of it. on_batch, on_epoch: as of
    `sw.train.engine.train`. passes: the same bits faster, on a CPU. Raises
    LockstepError where `check_integer` does.
    """
    check_integer(model, data, config, world)
    plan, programs = make_plan(model, data, config, world.size), _Programs(model, data, world)
    scale = 2.0 ** input_exponent(data)
    place = nn.Module()
    place.weight = nn.Parameter(torch.zeros(1, 1))      # what the schedule moves the rate of
    optimizer = make_optimizer(place, _settings(model, config, max(start_epoch - 1, 0)))
    scheduler = make_scheduler(optimizer, model, config, plan, plan.starts[start_epoch])
    results = []
    for epoch in range(start_epoch, config.epochs):
        settings = _settings(model, config, epoch)
        set_options(optimizer, settings)
        batch_size, momentum = _batch_and_momentum(model, config, epoch)
        program = programs(batch_size, momentum)
        runner = Runner(program, config.device, codes, world, passes)
        n_images, start = batch_size * world.size, time.perf_counter()
        sums = torch.zeros(2, dtype=torch.int64, device=config.device)      # loss, right
        for index, (images, labels) in enumerate(data.batches(
                batch_size, seed=config.seed, epoch=epoch, rank=world.rank, world_size=world.size,
                workers=config.workers)):
            step, lr = plan.starts[epoch] + index, scheduler.get_last_lr()[0]
            inputs = _inputs(program, images, labels, scale) | host_inputs(
                rate=lr, decay=settings.get("weight_decay", 0.0), n_images=n_images,
                seed=config.seed, step=step)
            if codes is None:
                runner.state = codes = _settled(programs(batch_size, momentum, True), inputs,
                                                config.device, world, passes)
            outputs = runner(inputs)
            logits, loss = (outputs[name] for name in program.outputs)
            right = (logits.argmax(1).cpu() == labels).sum()
            sums += world.sum(torch.stack([loss.long().sum().cpu(), right]).to(sums.device))
            optimizer.step()        # of nothing: the scheduler asks for it
            scheduler.step()
            if on_batch:
                done = (index + 1) * n_images
                total, right = sums.tolist()
                on_batch(StepResult(epoch=epoch, done=index + 1, total=plan.steps[epoch],
                                    loss=total / 2**LOSS_FRACTION / done, accuracy=right / done,
                                    images=n_images))
        codes = runner.state
        seconds, done = time.perf_counter() - start, plan.steps[epoch] * n_images
        write_floats(model, codes)
        test_loss, test_accuracy = evaluate(inference_program(model, program, codes), data, config,
                                            world, passes)
        total, right = sums.tolist()
        results.append(EpochResult(
            epoch=epoch, lr=lr, train_loss=total / 2**LOSS_FRACTION / done,
            train_accuracy=right / done, test_loss=test_loss, test_accuracy=test_accuracy,
            seconds=seconds, images_per_second=done / seconds))
        if on_epoch:
            on_epoch(results[-1], TrainState(
                model=model, averaged=None, optimizer=IntegerState(codes, program),
                epochs_done=epoch + 1))
    return results


def last_step(model: nn.Module, data: Dataset, config: TrainConfig, codes: dict, epoch: int,
              n_processes: int = 1) -> Program:
    """The step of an epoch for the batch of all processes; it begins from codes."""
    world = World(size=n_processes)
    program = _Programs(model, data, world)(*_batch_and_momentum(model, config, epoch))
    state = {name: replace(entry, initial=codes[name][0].cpu().numpy())
             for name, entry in program.state.items()}
    return replace(program, state=state)


def step_inputs(program: Program, model: nn.Module, data: Dataset, config: TrainConfig) -> dict:
    """Arrays by name for one run of `last_step`: the first images of the data, the last rates."""
    settings = _settings(model, config, config.epochs - 1)
    images, labels = data.train_sample(program.batch)
    return _inputs(program, images, labels, 2.0 ** input_exponent(data)) | host_inputs(
        rate=settings["lr"], decay=settings.get("weight_decay", 0.0), n_images=program.batch,
        seed=config.seed, step=0)


def _inputs(program, images, labels, scale) -> dict:
    image, *_ = (name for name in program.inputs if program.tensors[name].batched
                 and name != LABEL)
    return {image: arith.quantize(images.numpy(), scale, 0).astype(np.int8),
            LABEL: labels.numpy().astype(np.int8)[:, None]}


def _settled(program, inputs, device, world, passes) -> dict:
    """The state once all exponents fit the first batch."""
    runner = Runner(program, device, None, world, passes)
    for _ in range(SETTLE_STEPS):
        runner(inputs)
    return runner.state


@torch.no_grad()
def write_floats(model: nn.Module, codes: Mapping[str, torch.Tensor]) -> None:
    """The values of a state as the model's float weights, biases, gammas and betas."""
    def real(name, exponent):
        return torch.ldexp(codes[name][0].cpu().double(), torch.tensor(exponent)).float()

    for name, layer in model.named_modules():
        if isinstance(layer, WeightedLayer):
            e_w = int(codes[f"{name}.weight.exponent"])
            layer.weight.copy_(real(f"{name}.weight", e_w - 8))
            if layer.norm is None:
                layer.bias.copy_(real(f"{name}.bias", -BIAS_FRACTION))
            else:
                layer.norm.weight.copy_(real(f"{name}.gamma", -MASTER_FRACTION))
                layer.norm.bias.copy_(real(f"{name}.beta", -MASTER_FRACTION))


def evaluate(program: Program, data: Dataset, config: TrainConfig, world: World = ALONE,
             passes: FusedPasses | None = None) -> tuple[float, float]:
    """(mean loss, accuracy) of an inference Program over the test images."""
    runner, (tensor,) = Runner(program, config.device, passes=passes), program.inputs
    quantization = program.tensors[tensor].quantization
    unit = program.tensors[program.outputs[0]].quantization.scale
    sums = torch.zeros(3, dtype=torch.float64)      # loss, right, images
    for images, labels in data.test_batches(TEST_BATCH, rank=world.rank, world_size=world.size,
                                            workers=config.workers):
        codes = arith.quantize(images.numpy(), quantization.scale, 0).astype(np.int8)
        logits = runner({tensor: codes})[program.outputs[0]].cpu()
        loss = F.cross_entropy(logits.double() * unit, labels)
        sums += torch.stack([loss * len(labels), (logits.argmax(1) == labels).sum().double(),
                             torch.tensor(float(len(labels)), dtype=torch.float64)])
    loss, right, n = world.sum(sums.to(config.device)).tolist()
    return loss / n, right / n


def observe_state(state: IntegerState, epoch: int) -> list[dict]:
    """Rows for telemetry.csv, as of `sw.train.telemetry.observe_model`: the range that every
    tensor's exponent gives it, and that of the stored weights."""
    rows = []

    def add(layer, kind, low, high):
        rows.append({"epoch": epoch, "layer": layer, "kind": kind, "relative_error": math.nan,
                     "cosine": math.nan, "low": float(low), "high": float(high)})

    for node in state.program.nodes:
        name = node.inputs[0]
        if isinstance(node.op, ExponentRule):
            unit, most = 2.0 ** int(state.codes[name]), (1 << node.op.bits) - 1
            add(name.removesuffix(".exponent"), "range", -most * unit, most * unit)
        elif isinstance(node.op, WeightCodes):
            values = state.codes[name].double() * 2.0 ** (int(state.codes[f"{name}.exponent"]) - 8)
            add(name, "weight", values.min(), values.max())
    return rows
