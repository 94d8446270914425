"""Every operator of the integer training step on real tensors, against what it means in float64.

Networks learn digits for some steps; the tensors of one more step are compared with the references
of `real_references`. Each row of `BOUNDS` holds for the worst node of its class. The integer step
gives the same bits everywhere, so that errors are the same everywhere.
"""

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from golden import arith
from golden.ops import Reshape
from golden.ops import step as ops
from golden.program.sources import renewed_state
from models import build_model
from sw import executor
from sw.data import load_dataset
from sw.integer.initial import draw_weights
from sw.integer.layers import LABEL
from sw.integer.runner import Runner
from sw.integer.step import SETTLE_STEPS, host_inputs, integer_step
from sw.integer.tape import RATES
from sw.integer.train import input_exponent
from sw.layers.weighted import QAdd, QAvgPool2d, QConv2d, QGlobalAvgPool2d, QInput, QLinear
from sw.quantize.recipes import make_recipe
from tests.golden.ops.step.common import cosine, relative_error
from tests.sw.integer.real_references import Step, lines, meaning

N_IMAGES, N_STEPS, RATE, DECAY, SEED = 32, 20, 0.05, 1e-3, 4
CLAMPED = 0.02              # the largest share of a tensor that a clamp may take out
FLOAT64 = 1e-6              # of a unit


class Bound(NamedTuple):
    """relative: largest error of a tensor, by norms; cosine: smallest; units: largest error of a
    value, in units of the last place: half a unit to nearest, less than one at random"""

    relative: float
    cosine: float
    units: float


HALF, NONE = 0.5, np.inf
#: By class and by what it gives, the worst node. 8-bit copies of gradients are unbiased and coarse;
#: gamma's 12 fraction bits tell while it has just left 0, as does rounding at random in movements.
BOUNDS = {
    (ops.LaneCodes, "codes"): Bound(0.032, 1 - 3.1e-4, HALF),
    (ops.LaneCodes, "top"): Bound(0.012, 1, HALF),
    (ops.GradientCodes, "g16"): Bound(5.9e-5, 1 - 1e-9, HALF),
    (ops.GradientCodes, "g8"): Bound(0.019, 1 - 1.1e-4, 1),
    (ops.GradientCodes, "top"): Bound(2.2e-5, 1, HALF),
    (ops.PreNormCodes, "q"): Bound(0.023, 1 - 1.5e-4, HALF),
    (ops.CodesGradient, "g"): Bound(2e-4, 1 - 9.1e-9, 1),
    (ops.CodesGradient, "top"): Bound(2e-5, 1, HALF),
    (ops.KernelGradient, "gradient"): Bound(0.0011, 1 - 3.7e-7, HALF),
    (ops.NormParameters, "slope"): Bound(0.0073, 1 - 1.4e-5, NONE),
    (ops.NormParameters, "offset"): Bound(0.0065, 1 - 1.1e-5, NONE),
    (ops.NormApply, "y"): Bound(0.05, 1 - 0.00072, 0.52),
    (ops.NormApply, "top"): Bound(0.0082, 1, HALF),
    (ops.NormGradientParameters, "mean_g"): Bound(5.1e-4, 1 - 1.4e-7, HALF),
    (ops.NormGradientParameters, "spike"): Bound(6.3e-5, 1 - 3.5e-10, 6.5),
    (ops.NormGradientParameters, "dgamma"): Bound(1.8e-4, 1 - 1.5e-8, 420),
    (ops.NormInputGradient, "g16"): Bound(0.0012, 1 - 4.1e-7, 5.2),
    (ops.NormInputGradient, "g8"): Bound(0.16, 1 - 0.0078, 1),
    (ops.NormInputGradient, "top"): Bound(2e-4, 1, 5.2),
    (ops.DeviationGradientParameters, "slope"): Bound(2.2e-4, 1 - 4.6e-9, NONE),
    (ops.DeviationGradientParameters, "centre"): Bound(8e-4, 1 - 1.8e-7, 2300),
    (ops.DeviationGradientParameters, "dgamma"): Bound(1.7e-4, 1 - 1.7e-9, 430),
    (ops.DeviationInputGradient, "g16"): Bound(0.0011, 1 - 3.5e-7, 4.7),
    (ops.DeviationInputGradient, "g8"): Bound(0.17, 1 - 0.0083, 1),
    (ops.DeviationInputGradient, "top"): Bound(1.7e-4, 1, 4),
    (ops.ResidualAddition, "y"): Bound(0.04, 1 - 3.6e-4, HALF),
    (ops.ResidualAddition, "top"): Bound(0.013, 1, HALF),
    (ops.GradientAddition, "g"): Bound(0.00032, 1 - 3e-8, 1),
    (ops.GradientAddition, "top"): Bound(4.6e-5, 1, 1),
    (ops.AverageCodes, "y"): Bound(0.02, 1 - 1.1e-4, HALF),
    (ops.AverageCodes, "top"): Bound(0.0027, 1, HALF),
    (ops.AverageGradient, "g"): Bound(2.6e-4, 1 - 2e-8, 1),
    (ops.AverageGradient, "top"): Bound(1.4e-5, 1, HALF),
    (ops.GlobalAverageCodes, "y"): Bound(0.02, 1 - 1.2e-4, HALF),
    (ops.GlobalAverageCodes, "top"): Bound(0.0074, 1, HALF),
    (ops.Dropout, "share"): Bound(0.003, 1, NONE),
    (ops.Dropout, "y"): Bound(0.021, 1 - 1.3e-4, HALF),
    (ops.Dropout, "top"): Bound(0.0066, 1, HALF),
    (ops.DropoutGradient, "share"): Bound(0.003, 1, NONE),
    (ops.DropoutGradient, "g"): Bound(8.8e-5, 1 - 2.3e-9, 1),
    (ops.DropoutGradient, "top"): Bound(2e-5, 1, HALF),
    (ops.LogitSums, "acc"): Bound(0.00021, 1 - 1.2e-8, HALF),
    (ops.CrossEntropy, "gradient"): Bound(5.3e-4, 1 - 6.6e-8, 14000),
    (ops.CrossEntropy, "loss"): Bound(6.1e-4, 1 - 8.4e-8, 200),
    (ops.WeightCodes, "weights"): Bound(0.037, 1 - 3.9e-4, HALF),
    (ops.WeightUpdate, "momentum"): Bound(4.6e-6, 1 - 6.2e-12, 5),
    (ops.WeightUpdate, "master"): Bound(2e-4, 1 - 1.2e-8, 2.3),
    (ops.WeightUpdate, "movement"): Bound(0.24, 1 - 0.017, NONE),
    (ops.VectorUpdate, "master"): Bound(3.9e-5, 1 - 4.2e-10, 1),
    (ops.VectorUpdate, "momentum"): Bound(2.3e-4, 1 - 1.6e-8, 1),
    (ops.RunningStatistics, "mean"): Bound(9.1e-7, 1, 1),
    (ops.RunningStatistics, "running spread"): Bound(2.9e-7, 1, 1),
}
#: What is a function of integers, or shifted so little that no bit is lost.
BOUNDS |= {(op, what): Bound(0, 1, 0) for op, names in {
    ops.ExponentRule: ("exponent", "quiet"),
    ops.ShiftSum: ("sum",),
    ops.BiasGradient: ("sum",),
    ops.NormStatistics: ("total", "spread", "largest", "at_high", "at_low", "squares"),
    ops.NormGradientSums: ("sum_g", "sum_gq"),
    ops.NormGradientParameters: ("dbeta",),
    ops.DeviationGradientParameters: ("dbeta",),
    ops.MaskedGradient: ("g",),
    ops.MaximumCodes: ("y",),
    ops.MaximumGradient: ("g", "top"),
    ops.SpreadGradient: ("g",),
    ops.ReshapedGradient: ("g",),
    ops.WeightUpdate: ("exponent", "grow"),
    ops.RunningStatistics: ("exponent",),
}.items() for what in names}


class Mixed(nn.Module):
    """The layers that the network for digits lacks, for digits of 16 by 16 pixels."""

    input_shape = 1, 16, 16

    def __init__(self, overrides):
        super().__init__()
        config = make_recipe("banner", overrides=overrides)
        self.input = QInput(config)
        self.stem = QConv2d(1, 8, 3, padding=1, activation="relu6", config=config)
        self.maximum = nn.MaxPool2d(3, 2, padding=1)
        self.depthwise = QConv2d(8, 8, 3, padding=1, groups=8, activation="relu6", config=config)
        self.pointwise = QConv2d(8, 8, 1, activation="relu", config=config)
        self.add = QAdd(activation="relu", config=config)
        self.average = QAvgPool2d(3, stride=2, config=config)
        self.linear = QConv2d(8, 8, 1, config=config)
        self.add2 = QAdd(config=config)
        self.flatten = nn.Flatten()
        self.hidden = QLinear(72, 24, activation="relu", norm=True, config=config)
        self.pool = QGlobalAvgPool2d(config)
        self.side = QLinear(8, 24, norm=True, config=config)
        self.add3 = QAdd(config=config)
        self.dropout = nn.Dropout(0.25)
        self.last = QLinear(24, 10, config=config)

    def forward(self, x):
        x = self.depthwise(self.maximum(self.stem(self.input(x))))
        x = self.average(self.add(self.pointwise(x), x))
        x = self.add2(self.linear(x), x)
        x = self.add3(self.hidden(self.flatten(x)), self.side(self.flatten(self.pool(x))))
        return self.last(self.dropout(x))


MAKE = {"digits": lambda overrides: build_model("resnet_digits", {
            "width": 8, "overrides": overrides}),
        "mixed": Mixed}
NETWORKS = [(name, gradient) for name in MAKE for gradient in ("extremes", "deviation")]


def batches(data, program):
    """Of each step: real images and labels, and what the host gives."""
    image, = (each for each in program.inputs if program.tensors[each].batched and each != LABEL)
    images, labels = data.train_sample((N_STEPS + 1) * N_IMAGES)
    repeats = program.tensors[image].shape[-1] // images.shape[-1]
    codes = arith.quantize(images.numpy(), 2.0 ** input_exponent(data), 0).astype(np.int8)
    codes = codes.repeat(repeats, 2).repeat(repeats, 3)
    for number in range(N_STEPS + 1):
        own = slice(number * N_IMAGES, (number + 1) * N_IMAGES)
        yield {image: codes[own], LABEL: labels.numpy().astype(np.int8)[own, None],
               **host_inputs(rate=RATE, decay=DECAY, n_images=N_IMAGES, seed=SEED, step=number)}


@cache
def steps(name, gradient):
    """(the last settling run, the step after training) of a network."""
    data = load_dataset("digits")
    model = MAKE[name]({"norm.range_gradient": gradient})
    draw_weights(model, SEED)       # the same on every CPU
    settle, program = (integer_step(model, N_IMAGES, input_exponent=input_exponent(data),
                                    settle=settle) for settle in (True, False))
    first, *rest, last = batches(data, program)
    runner = Runner(settle)
    for _ in range(SETTLE_STEPS - 1):
        runner(first)
    settled = executor.run(settle, first, state=runner.state)
    state = renewed_state(settle, settled)
    runner = Runner(program, state={key: torch.from_numpy(value) for key, value in state.items()})
    for inputs in (first, *rest):
        runner(inputs)
    grow = "stem.weight.grow"           # few steps have a weight whose exponent grows
    state = runner.state | {grow: torch.ones_like(runner.state[grow])}
    trace = executor.run(program, last, state=state)
    return Step.of(settle, settled), Step.of(program, trace)


def compared(network):
    """(step, node) of all that is compared: of a settling run what is its own."""
    for step, settles in zip(steps(*network), (True, False)):
        for node in step.program.nodes:
            if getattr(node.op, "settle", False) == settles and not isinstance(node.op, Reshape):
                yield step, node


def measure(result):
    """The `Bound` that just holds; what a clamp took out is at its limit and rare."""
    found, expected = (np.asarray(x, np.float64).ravel() for x in (result.found, result.expected))
    low, high = result.clamp
    assert found.shape == expected.shape, result.what
    inside = (expected >= low - 0.5) & (expected <= high + 0.5)
    np.testing.assert_array_equal(found[~inside], expected[~inside].clip(low, high), result.what)
    assert (~inside).mean() <= CLAMPED, f"{result.what}: {(~inside).mean():.2%} are clamped"
    found, expected = found[inside], expected[inside]
    if not found.any() or not expected.any():
        equal = np.array_equal(found, expected)
        return Bound(0 if equal else np.inf, int(equal), abs(found - expected).max())
    return Bound(relative_error(found, expected), cosine(found, expected),
                 abs(found - expected).max())


@cache
def worst(network):
    """By (class, what it gives): the `Bound` that just holds for all nodes of a network."""
    rows = {}
    for step, node in compared(network):
        for result in meaning(node.op, node, step):
            add(rows, (type(node.op), result.what), measure(result))
    return rows


def add(rows, key, found):
    """Keeps the worse of each column."""
    old = rows.get(key, Bound(0, 1, 0))
    rows[key] = Bound(max(old.relative, found.relative), min(old.cosine, found.cosine),
                      max(old.units, found.units))


def check(step, node):
    """AssertionError where a node does not hold its bounds."""
    for result in meaning(node.op, node, step):
        found, bound = measure(result), BOUNDS[type(node.op), result.what]
        assert_within(found, bound, f"{node.name}: {result.what}")


def assert_within(found, bound, what):
    assert (found.relative <= bound.relative and found.cosine >= bound.cosine - 1e-12
            and found.units <= bound.units + FLOAT64), f"{what}: {found} is not within {bound}"


def first(kind):
    """(step, node): the first of a class, in the first network that has one."""
    return next((step, node) for network in NETWORKS for step, node in compared(network)
                if type(node.op) is kind)


@pytest.mark.parametrize("network", NETWORKS, ids="-".join)
def test_every_node_is_within_the_bounds_of_its_class(network):
    for key, found in worst(network).items():
        print(f"{key[0].__name__:28} {key[1]:16} {found.relative:8.2g} {1 - found.cosine:8.2g} "
              f"{found.units:8.3g}")
    for (kind, what), found in worst(network).items():
        assert_within(found, BOUNDS[kind, what], f"{kind.__name__} {what}")


def test_every_operator_is_compared_and_no_bound_is_loose():
    rows = {}
    for network in NETWORKS:
        for key, found in worst(network).items():
            add(rows, key, found)
    assert {*rows} == {*BOUNDS}
    # Products read 16-bit gradients themselves; the digits are for multipliers that take int8.
    assert {*ops.STEP_OPERATORS} - {kind for kind, _ in rows} == {ops.GradientDigits}
    for key, found in rows.items():
        assert BOUNDS[key].relative <= 2 * found.relative, key
        assert 1 - BOUNDS[key].cosine <= 2 * (1 - found.cosine) + 1e-12, key


@pytest.mark.parametrize("network", NETWORKS, ids="-".join)
def test_what_no_step_has(network):
    """Digits of gradients, and the norms of inference from running statistics."""
    for step, node in compared(network):
        if isinstance(node.op, ops.NormInputGradient | ops.DeviationInputGradient):
            g = step.trace[node.outputs[0]]
            low, high = ops.GradientDigits()(g.astype(np.int16))
            np.testing.assert_array_equal(low + 256.0 * high, g)
        if isinstance(node.op, ops.NormParameters):
            statistics = step.writer[node.inputs[2]]
            running, = (each for each in step.program.nodes if isinstance(
                each.op, ops.RunningStatistics) and each.inputs[1] == statistics.outputs[0])
            gamma, beta, mean, spread = (step.trace[name] for name in (
                *node.inputs[:2], *running.outputs[1:]))
            found = replace(node.op, running=True)(
                *(x.astype(np.int32)[None] for x in (gamma, beta, mean, spread)))
            for result in lines([x[0].astype(np.int64) for x in found], gamma * 2.0**-28,
                                beta * 2.0**-28, mean * 2.0**-16, spread * 2.0**-12,
                                node.op.count):
                assert_within(measure(result), BOUNDS[type(node.op), result.what], node.name)


def test_rates_are_those_asked_for():
    step, _ = steps(*NETWORKS[0])
    multiplier, shift, decay, decay_shift = (int(step.trace[name][0]) for name in RATES)
    assert multiplier * 2.0**-shift == pytest.approx(RATE / N_IMAGES, rel=2.0**-16)
    assert decay * 2.0**-decay_shift == pytest.approx(RATE * DECAY, rel=2.0**-16)


# Planted faults


KINDS = [kind for kind in ops.STEP_OPERATORS if kind is not ops.GradientDigits]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_result_that_is_halved_is_found(kind):
    step, node = first(kind)
    check(step, node)
    for name in node.outputs:
        value = step.trace[name]
        fault = value >> 1 if (value >> 1 != value).any() else value + 1
        with pytest.raises(AssertionError):
            check(replace(step, trace=step.trace | {name: fault}), node)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_shift_that_is_one_more_is_found(kind):
    step, node = first(kind)
    for index, port in enumerate(node.op.ports_in):
        if "shift" not in port.name and port.name != "e_y":
            continue
        inputs = [step.trace[name].astype(each.dtype) for name, each in
                  zip(node.inputs, node.op.ports_in)]
        inputs[index] = inputs[index] + np.ones((), port.dtype)
        results = node.op(*(x if each.batched else x[None] for x, each in
                            zip(inputs, node.op.ports_in)))
        results = results if isinstance(results, tuple) else (results,)
        fault = {name: (x if each.batched else x[0]).astype(np.int64) for name, x, each in
                 zip(node.outputs, results, node.op.ports_out)}
        with pytest.raises(AssertionError):
            check(replace(step, trace=step.trace | fault), node)


def test_one_unit_more_is_found():
    for kind in KINDS:
        step, node = first(kind)
        for result in meaning(node.op, node, step):
            bound = BOUNDS[kind, result.what]
            if bound.units < 1:         # nearest or exact
                with pytest.raises(AssertionError):
                    assert_within(measure(result._replace(found=np.asarray(result.found) + 1)),
                                  bound, kind.__name__)
