"""What the operators of the integer training step mean, in float64, on the tensors of one step.

References are in real numbers, without roundings and clamps, and do without golden where that is
possible: torch's convolutions and its autograd, regression, plain sums. A tensor's exponent is that
of the rule that reads its watch, so that shifts are compared too.
"""

from dataclasses import dataclass
from functools import singledispatch
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from golden.ops import Reshape
from golden.ops import step as ops
from golden.random import counter_bits, counter_seed
from sw.integer.layers import LABEL
from tests.golden.ops.step import literal_norm

INT8, INT32 = (-128, 127), (-(1 << 31), (1 << 31) - 1)
LIMIT8, LIMIT16 = (-127, 127), (-32639, 32639)
MOMENTUM = 0.9
KEEPS_EXPONENT = (Reshape, ops.MaximumCodes, ops.SpreadGradient, ops.ReshapedGradient,
                  ops.MaskedGradient)
INPUT_GRADIENTS = ops.NormInputGradient, ops.DeviationInputGradient


class Result(NamedTuple):
    """found: codes, or a real number that they stand for; expected: float64, in the same unit
    clamp: bounds of the codes"""

    what: str
    found: object
    expected: object
    clamp: tuple = (-np.inf, np.inf)


def channels_first(x):
    """(N, C, ...) as (C, n)."""
    return np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)


def images_of(values, like):
    """The inverse of `channels_first`."""
    return np.moveaxis(values.reshape(like.shape[1], like.shape[0], *like.shape[2:]), 0, 1)


def by_channel(values, like):
    """(C,) in the form that broadcasts against (N, C, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 2))


@dataclass(frozen=True)
class Step:
    """One step with all its tensors. trace: arrays by name, what has no batch without that axis."""

    program: object
    trace: dict
    writer: dict                # the node that writes a tensor
    exponent: dict              # of a tensor, an array that broadcasts; real = code * 2^exponent
    norms: dict                 # by pre-norm codes: nodes of statistics and of parameters

    @classmethod
    def of(cls, program, trace):
        """Finds the exponents: those of the rule that reads a tensor's watch, or of its source."""
        trace = {name: value.astype(np.int64) if program.tensors[name].batched
                 else value[0].astype(np.int64) for name, value in trace.items()}
        writer = {output: node for node in program.nodes for output in node.outputs}
        image, = (name for name in program.inputs if program.tensors[name].batched
                  and name != LABEL)
        step = cls(program, trace, writer, {image: trace["host/input.exponent"]}, {})
        rules = {node.inputs[2]: node.inputs[0] for node in program.nodes
                 if isinstance(node.op, ops.ExponentRule)}
        for node in program.nodes:
            step._note(node, rules)
        return step

    def _note(self, node, rules):
        inputs, outputs, e = node.inputs, node.outputs, self.exponent
        if isinstance(node.op, ops.NormStatistics):
            self.norms[inputs[0]] = [node]
        elif isinstance(node.op, ops.NormParameters):
            self.norms[self.writer[inputs[2]].inputs[0]].append(node)
        elif isinstance(node.op, ops.RunningStatistics):
            q, = self.writer[inputs[1]].inputs
            e[q] = by_channel(self.trace[inputs[0]], self.trace[q])
        elif isinstance(node.op, ops.WeightCodes):
            e[outputs[0]] = self.trace[f"{inputs[0]}.exponent"]
        elif isinstance(node.op, ops.LogitSums):
            e[outputs[0]] = e[inputs[0]] + e[inputs[1]]
        elif isinstance(node.op, ops.CrossEntropy):
            e[outputs[0]] = -24
        elif isinstance(node.op, KEEPS_EXPONENT):
            e[outputs[0]] = e[inputs[0]]
        elif outputs[-1] in rules:
            e[outputs[0]] = self.trace[rules[outputs[-1]]]
            if isinstance(node.op, INPUT_GRADIENTS):    # of int32 codes: now of real sums
                q = inputs[1] if inputs[1] in self.norms else self.writer[inputs[1]].inputs[0]
                x, w, _ = self.writer[q].inputs
                e[outputs[0]] = e[outputs[0]] - e[x] - e[w]
            if len(outputs) == 3:
                e[outputs[1]] = e[outputs[0]] + 8

    def real(self, name):
        """A tensor in real numbers, float64."""
        return torch.from_numpy(self.trace[name] * 2.0 ** self.exponent[name])

    def units(self, value, name):
        """Real numbers in units of a tensor's last place, numpy."""
        return np.asarray(value) / 2.0 ** self.exponent[name]

    def norm(self, total):
        """(q, what `literal_norm.reference` takes: q, gamma, beta); total: of its statistics.

        gamma and beta with the 12 fraction bits that `NormParameters`, compared by itself, leaves.
        """
        q, = self.writer[total].inputs
        gamma, beta = (np.floor(self.trace[name] * 2.0 ** -16 + 0.5) * 2.0 ** -12
                       for name in self.norms[q][1].inputs[:2])
        return q, (channels_first(self.trace[q]), gamma, beta)

    def masked(self, g, *mask):
        """Codes of a gradient where its activation, ReLU or ReLU6, let real values pass."""
        g = self.trace[g]
        if mask:
            y = self.real(mask[0]).numpy()
            g = g * (y > 0) * (y < (6 if len(mask) > 1 else np.inf))
        return g

    def update(self, gradient):
        """What the update that reads a gradient reads beside it."""
        node, = (node for node in self.program.nodes if gradient in node.inputs[2:3]
                 and isinstance(node.op, ops.WeightUpdate | ops.VectorUpdate))
        return node.inputs


@singledispatch
def meaning(op, node, step):
    """What a node gives, and what it means: a list of `Result`."""
    raise NotImplementedError(f"{type(op).__name__} has no reference")


def given(node, step):
    """Arrays of the inputs."""
    return [step.trace[name] for name in node.inputs]


def codes(node, step, real, clamp, what):
    """Codes of real numbers, and their watch, where there is one."""
    expected = step.units(real, node.outputs[0])
    results = [Result(what, step.trace[node.outputs[0]], expected, clamp)]
    if len(node.outputs) == 3:
        results.append(Result("g8", step.trace[node.outputs[1]],
                              step.units(real, node.outputs[1]), LIMIT8))
    if len(node.outputs) > 1:
        top = max(expected.max(), -1 - expected.min())
        results.append(Result("top", step.trace[node.outputs[-1]], top, INT32))
    return results


@meaning.register
def _(op: ops.ExponentRule, node, step):
    e, quiet, top = (int(x[0]) for x in given(node, step))
    need = top.bit_length() - op.bits
    quiet = quiet + 1 if need < 0 and not op.settle else 0
    if need > 0 or op.settle:
        e += need
    elif quiet == 8:
        e, quiet = e - 1, 0
    return [Result(what, step.trace[name], value) for what, name, value in
            zip(("exponent", "quiet"), node.outputs, (max(-64, min(e, 63)), quiet))]


@meaning.register
def _(op: ops.ShiftSum, node, step):
    total = op.offset + sum(sign * x for sign, x in zip(op.signs, given(node, step)))
    return [Result("sum", step.trace[node.outputs[0]], total)]


# Products


def padded(x, op, value=0.0):
    """x (N, C, H, W) with the padding of a window."""
    top, left, bottom, right = op.padding
    return functional.pad(x, (left, right, top, bottom), value=value)


def product(x, w, op):
    """The sums of a convolution or of a linear layer."""
    if x.ndim == 2:
        return functional.linear(x, w)
    return functional.conv2d(padded(x, op), w, stride=op.stride, groups=op.groups)


def gradient(function, shape, g):
    """The gradient of a function of a tensor, linear, for that of its result."""
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(function(x), x, g)[0].numpy()


@meaning.register
def _(op: ops.PreNormCodes, node, step):
    x, w, _ = node.inputs
    return codes(node, step, product(step.real(x), step.real(w), op), INT8, "q")


@meaning.register
def _(op: ops.CodesGradient, node, step):
    g, w = (step.real(name) for name in node.inputs[:2])
    found = step.trace[node.outputs[0]]
    real = gradient(lambda x: product(x, w, op), found.shape, g) / op.pixels
    return codes(node, step, real, LIMIT16, "g")


@meaning.register
def _(op: ops.KernelGradient, node, step):
    x, g = (step.real(name) for name in node.inputs)
    name, = node.outputs
    found = step.trace[name]
    real = gradient(lambda w: product(x, w, op), found.shape, g)
    _, _, _, e_w, _, e, *_ = (step.trace[each] for each in step.update(name))
    return [Result("gradient", found, real / 2.0 ** (e + 8 - e_w), INT32)]


@meaning.register
def _(op: ops.BiasGradient, node, step):
    g, = given(node, step)
    return [Result("sum", step.trace[node.outputs[0]], g.sum(0))]


@meaning.register
def _(op: ops.LogitSums, node, step):
    x, w = (step.real(name) for name in node.inputs[:2])
    bias = torch.from_numpy(step.trace[node.inputs[2]] * 2.0 ** -24)
    return codes(node, step, functional.linear(x, w) + bias, INT32, "acc")


@meaning.register
def _(op: ops.CrossEntropy, node, step):
    logits = step.real(node.inputs[0]).requires_grad_()
    labels = torch.from_numpy(step.trace[node.inputs[1]][:, 0])
    loss = functional.cross_entropy(logits, labels, reduction="none")
    loss.sum().backward()
    found = (step.trace[name] for name in node.outputs)
    return [Result(what, value, expected) for what, value, expected in zip(
        ("gradient", "loss"), found, (logits.grad * 2.0**24, loss.detach()[:, None] * 2.0**16))]


@meaning.register(ops.LaneCodes)
@meaning.register(ops.GradientCodes)
def _(op, node, step):
    logits = isinstance(op, ops.LaneCodes)
    return codes(node, step, step.real(node.inputs[0]), INT8 if logits else LIMIT16,
                 "codes" if logits else "g16")


# RangeBN


@meaning.register
def _(op: ops.NormStatistics, node, step):
    q = channels_first(step.trace[node.inputs[0]])
    length = literal_norm.constant(q.shape[1])[0]
    chunks = [q[:, i:i + length] for i in range(0, q.shape[1], length)]
    total, spread, largest, *detail = (step.trace[name] for name in node.outputs)
    results = [Result("total", total, q.sum(1)),
               Result("spread", spread, sum(np.ptp(chunk, 1) for chunk in chunks)),
               Result("largest", largest, np.maximum(q.max(1), -1 - q.min(1)))]
    if op.squares:
        low, high = detail
        return [*results, Result("squares", (high << 16) + low, (q * q).sum(1))]
    places = ([find(chunk, 1) for chunk in chunks] for find in (np.argmax, np.argmin))
    return [*results, *map(Result, ("at_high", "at_low"), detail, places)]


@meaning.register
def _(op: ops.RunningStatistics, node, step):
    e, total, spread, largest, mean, running = given(node, step)
    moved, *found = (step.trace[name] for name in node.outputs)
    wanted = e + (largest >= 127) - (largest < 48)
    results = [Result("exponent", moved, wanted)]
    for what, old, new, value in zip(("mean", "running spread"), (mean, running),
                                     (total * 2.0**16 / op.count, spread * 2.0**12), found):
        new = new if op.settle else old + (new - old) / 8
        results.append(Result(what, value, new * 2.0 ** (e - wanted), INT32))
    return results


def lines(parameters, gamma, beta, mean, spread, count, what=""):
    """Slope and offset of y in q: those of `NormParameters`, and those meant."""
    sign, bias, multiplier, shift = parameters
    slope = gamma * literal_norm.constant(count)[2] / np.maximum(spread, 16) * (spread > 0)
    factor = multiplier * 2.0 ** -shift
    return [Result(f"{what}slope", sign * factor * 2.0**10, slope),
            Result(f"{what}offset", bias * factor, beta - slope * mean)]


@meaning.register
def _(op: ops.NormParameters, node, step):
    gamma, beta, total, spread = given(node, step)
    return lines([step.trace[name] for name in node.outputs], gamma * 2.0**-28, beta * 2.0**-28,
                 total / op.count, spread, op.count)


@meaning.register
def _(op: ops.NormApply, node, step):
    bias = step.writer[node.inputs[2]]
    q, reference = step.norm(bias.inputs[2])
    y = images_of(literal_norm.reference(*reference), step.trace[q])
    if op.activation != "none":
        y = y.clip(0, 6 if op.activation == "relu6" else np.inf)
    return codes(node, step, y, INT8, "y")


@meaning.register
def _(op: ops.NormGradientSums, node, step):
    g, q, *mask = node.inputs
    g, q = channels_first(step.masked(g, *mask)), channels_first(step.trace[q])
    low_g, high_g, low_gq, high_gq = (step.trace[name] for name in node.outputs)
    return [Result("sum_g", (high_g << 16) + low_g, g.sum(1)),
            Result("sum_gq", (high_gq << 16) + low_gq, (g * q).sum(1))]


def normed(sums, total, step):
    """(g (C, n), dq, dgamma, exponent of all): by autograd, of the gradient that was summed."""
    node = step.writer[sums]
    q, reference = step.norm(total)
    g = channels_first(step.masked(node.inputs[0], *node.inputs[2:]))
    deviation = step.norms[q][0].op.squares
    _, dq, dgamma = literal_norm.reference(*reference, g, deviation)
    return g, dq, dgamma, step.exponent[node.inputs[0]]


def vectors(node, step, g, dgamma, e):
    """dgamma and dbeta, in the units in which they are learnt."""
    results = []
    for what, name, value in zip(("dgamma", "dbeta"), node.outputs[-2:], (dgamma, g.sum(1))):
        unit = step.trace[step.update(name)[3]]
        results.append(Result(what, step.trace[name], value * 2.0 ** (e - unit), INT32))
    return results


@meaning.register
def _(op: ops.NormGradientParameters, node, step):
    total, spread, sign = given(node, step)[4:]
    g, _, dgamma, e = normed(node.inputs[0], node.inputs[4], step)
    q = channels_first(step.trace[step.writer[node.inputs[4]].inputs[0]])
    product = (g * (q - q.mean(1, keepdims=True))).sum(1)
    mean_g, spike = (step.trace[name] for name in node.outputs[:2])
    return [Result("mean_g", mean_g, g.mean(1) * 2**10),
            Result("spike", spike, sign * product / np.maximum(spread, 16) * 2**10),
            *vectors(node, step, g, dgamma, e)]


@meaning.register
def _(op: ops.DeviationGradientParameters, node, step):
    g, _, dgamma, e = normed(node.inputs[0], node.inputs[4], step)
    q = channels_first(step.trace[step.writer[node.inputs[4]].inputs[0]])
    centre, slope, shift = (step.trace[name] for name in node.outputs[:3])
    wanted = [np.polyfit(x, y, 1) for x, y in zip(q, g)]     # the line through g over q
    return [Result("slope", slope * 2.0 ** (-3 - shift), [line[0] for line in wanted]),
            Result("centre", centre, [line[1] * 2**10 for line in wanted]),
            *vectors(node, step, g, dgamma, e)]


@meaning.register(ops.NormInputGradient)
@meaning.register(ops.DeviationInputGradient)
def _(op, node, step):
    taken = step.writer[node.inputs[4 if isinstance(op, ops.NormInputGradient) else 3]]
    q, _ = step.norm(taken.inputs[4])
    _, dq, _, e = normed(taken.inputs[0], taken.inputs[4], step)
    like = step.trace[q]
    return codes(node, step, images_of(dq, like) * 2.0 ** (e - step.exponent[q]), LIMIT16, "g16")


# Additions, masks, pools, dropout


@meaning.register
def _(op: ops.ResidualAddition, node, step):
    total = step.real(node.inputs[0]) + step.real(node.inputs[1])
    return codes(node, step, total.relu() if op.activation == "relu" else total, INT8, "y")


@meaning.register
def _(op: ops.GradientAddition, node, step):
    a, b, *_ = node.inputs
    b = step.masked(b, *node.inputs[7:]) * 2.0 ** step.exponent[b]
    return codes(node, step, step.real(a).numpy() + b, LIMIT16, "g")


@meaning.register
def _(op: ops.MaskedGradient, node, step):
    return [Result("g", step.trace[node.outputs[0]], step.masked(*node.inputs))]


def averages(op):
    """An average pool as a function of images."""
    return lambda x: functional.avg_pool2d(padded(x, op), op.kernel, op.stride)


@meaning.register
def _(op: ops.AverageCodes, node, step):
    return codes(node, step, averages(op)(step.real(node.inputs[0])), INT8, "y")


@meaning.register
def _(op: ops.GlobalAverageCodes, node, step):
    return codes(node, step, step.real(node.inputs[0]).mean((2, 3)), INT8, "y")


@meaning.register
def _(op: ops.AverageGradient, node, step):
    found, g = step.trace[node.outputs[0]], step.real(node.inputs[0])
    return codes(node, step, gradient(averages(op), found.shape, g), LIMIT16, "g")


@meaning.register
def _(op: ops.MaximumCodes, node, step):
    x = torch.from_numpy(step.trace[node.inputs[0]]).double()
    wanted = functional.max_pool2d(padded(x, op, -np.inf), op.kernel, op.stride)
    return [Result("y", step.trace[node.outputs[0]], wanted)]


@meaning.register
def _(op: ops.MaximumGradient, node, step):
    g, x = step.real(node.inputs[0]).numpy(), torch.from_numpy(step.trace[node.inputs[4]])
    x = padded(x, op, -129).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(x, op.kernel, (2, 3))
    windows = windows[:, :, ::op.stride[0], ::op.stride[1]].reshape(*g.shape, -1)
    image, channel, row, column = np.indices(g.shape)
    first = windows.argmax(-1)              # numpy's: the first of equal ones
    total = np.zeros(x.shape)
    np.add.at(total, (image, channel, row * op.stride[0] + first // op.kernel[1],
                      column * op.stride[1] + first % op.kernel[1]), g)
    top, left, *_ = op.padding
    return codes(node, step, total[:, :, top:top + op.size[0], left:left + op.size[1]], LIMIT16,
                 "g")


@meaning.register(ops.SpreadGradient)
@meaning.register(ops.ReshapedGradient)
def _(op, node, step):
    g, found = step.trace[node.inputs[0]], step.trace[node.outputs[0]]
    if isinstance(op, ops.SpreadGradient):
        g = np.tile(g[:, :, None, None], op.size)
    return [Result("g", found, g.reshape(len(g), *found.shape[1:]))]


@meaning.register(ops.Dropout)
@meaning.register(ops.DropoutGradient)
def _(op, node, step):
    x = step.real(node.inputs[0]).numpy()
    seed, number = (step.trace[name] for name in node.inputs[2:])
    kept = counter_bits(counter_seed(seed, number, op.tensor_id), np.arange(x.size)) >= op.drop
    kept = np.moveaxis(kept.reshape(len(x), *x.shape[2:], x.shape[1]), -1, 1)
    real = x * kept * 256 / (256 - op.drop)
    forward = isinstance(op, ops.Dropout)
    return [Result("share", kept.mean(), 1 - op.drop / 256),
            *codes(node, step, real, INT8 if forward else LIMIT16, "y" if forward else "g")]


# Updates


@meaning.register
def _(op: ops.WeightCodes, node, step):
    return [Result("weights", step.trace[node.outputs[0]], given(node, step)[0] / 256)]


@meaning.register
def _(op: ops.WeightUpdate, node, step):
    m, v, dw, e, grow, e_g, *rates = given(node, step)
    rate, decay = (rates[i] * 2.0 ** -rates[i + 1] for i in (0, 2))
    w, v, dw = m * 2.0 ** (e - 8), v * 2.0 ** (e - 24), dw * 2.0 ** (e_g + 8 - e)
    v = MOMENTUM * v + rate * dw + decay * w
    found, momentum, e_new, grows = (step.trace[name] for name in node.outputs)
    unit = 2.0 ** (e + grow - 8)
    return [Result("exponent", e_new, e + grow),
            Result("momentum", momentum, v / unit * 2**16, INT32),
            Result("master", found, (w - v) / unit, LIMIT16),
            Result("movement", found - w / unit, -v / unit),
            Result("grow", grows, abs(found).max() >= 120 * 256)]


@meaning.register
def _(op: ops.VectorUpdate, node, step):
    m, v, gradient, e, rate, rate_shift = given(node, step)
    v = MOMENTUM * v + rate * gradient * 2.0 ** (e + op.fraction - rate_shift)
    return [Result(what, step.trace[name], value, INT32) for what, name, value in
            zip(("master", "momentum"), node.outputs, (m - v, v))]
