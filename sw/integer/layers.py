"""What each layer of ``sw/layers`` is in the integer training step, forward and backward.

The rules follow `golden.ops.step`: convolutions and linear layers give int8 pre-norm codes with an
exponent for each channel, RangeBN with batch statistics and the activation follow in one visit of
the lanes, gradients are bifurcated (16 bits for weights, 8 for inputs; Banner et al. 2018, arXiv
1805.11046).
"""

import math
from dataclasses import dataclass, field
from functools import singledispatch

import numpy as np

from golden.errors import LockstepError
from golden.ops import step as ops
from golden.ops.step.base import HALF
from golden.ops.step.head import BIAS_FRACTION, GRADIENT_FRACTION, SOFTMAX_SHIFT
from golden.ops.step.norm_forward import MASTER_FRACTION
from golden.ops.step.update import MOMENTUM
from sw.integer import state
from sw.integer.tape import CODE_BITS, GRADIENT_BITS, RANDOM, ActivationCodes, Gradient, Tape
from sw.layers.graph import LayerCall
from sw.layers.weighted import QAdd, QConv2d, QLinear, WeightedLayer, four_sides
from sw.quantize.recipes import make_recipe

__all__ = ["LABEL", "LOGITS", "LOSS", "RECIPE_FIELDS", "Writer", "check_formats", "classifier",
           "layer", "refuse"]

LABEL, LOSS = "host/label", "head/loss"
LOGITS = "head/logits.exponent"          # of the int8 logits of inference
G8, DX = 1, 2                       # roles of a layer's random bits
RULE = "of the integer training step"
BANNER = make_recipe("banner")
RECIPE_FIELDS = ("norm.range_gradient",)        # what a recipe may say of the integer step


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A step being written.

    n_images: of a batch; momentum: multiplier of 2^-31
    readers: the layers that read a tensor, by its name in the trace
    """

    tape: Tape
    n_images: int
    momentum: int = MOMENTUM
    readers: dict[str, list[LayerCall]] = field(default_factory=dict)


def refuse(step: LayerCall, reason: str) -> None:
    """Raises LockstepError naming the layer."""
    raise LockstepError(f"Layer {step.name} ({type(step.module).__name__}) {reason}")


@singledispatch
def layer(module, writer: Writer, step: LayerCall, *inputs: ActivationCodes) -> ActivationCodes:
    """Adds a layer to the tape, and what follows from its output's gradient; the output.

    Raises LockstepError for a layer that has no integer form.
    """
    refuse(step, f"is no layer {RULE}")


@layer.register
def _(module: QConv2d, writer: Writer, step: LayerCall, x: ActivationCodes) -> ActivationCodes:
    if module.dilation != (1, 1):
        refuse(step, f"must have dilation 1 as a layer {RULE}, not {module.dilation}")
    window = {"stride": module.stride, "padding": four_sides(module.padding),
              "groups": module.groups}
    return _with_norm(module, writer, step, x, window)


@layer.register
def _(module: QLinear, writer: Writer, step: LayerCall, x: ActivationCodes) -> ActivationCodes:
    return _with_norm(module, writer, step, x, {})


def _check(module, step):
    if module.norm is None:
        refuse(step, f"must have a norm: only the last layer {RULE} has a bias")
    options = module.config.norm
    if options.kind != "range":
        refuse(step, f"must have norm.kind range as a layer {RULE}, not {options.kind}")
    for what, value, wanted in (("norm.chunks", options.chunks, 16),
                                ("norm.constant", options.constant, "code"),
                                ("attenuation of its weights", module.attenuation, 1)):
        if value != wanted:
            refuse(step, f"must have {what} {wanted} as a layer {RULE}, not {value}")


def check_formats(step: LayerCall) -> None:
    """LockstepError for a layer with number formats of its own, which integers would not follow."""
    config = getattr(step.module, "config", None)
    if config is None or not config.quantize:
        return
    for name in ("weight", "activation", "error", "gradient"):
        if getattr(config, name) != getattr(BANNER, name):
            refuse(step, f"has a {name} format of its own, which {RULE.removeprefix('of ')} does "
                         f"not follow")


@dataclass(frozen=True, kw_only=True)
class _Norm:
    """What the way back of a normed layer reads of its way forward: names of tensors."""

    q: str
    total: str
    spread: str
    detail: tuple               # places of the extremes, or the sum of squares
    deviation: bool
    sign: str
    multiplier: str
    shift: str
    to_sums: str


def _with_norm(module: WeightedLayer, writer, step, x, window):
    _check(module, step)
    tape, name, n_channels = writer.tape, step.name, len(module.weight)
    w = state.weights(tape, f"{name}.weight", module.weight)
    for which, real in (("gamma", module.norm.weight), ("beta", module.norm.bias)):
        state.vector(tape, f"{name}.{which}", real, MASTER_FRACTION)
    e_q = tape.integers(f"{name}.q.exponent", np.zeros(n_channels), "int8")
    s = tape.shift(f"{name}.q.shift", (e_q, f"-{name}.weight.exponent", f"-{x.exponent}"))
    q = tape.operator(f"{name}.q", ops.PreNormCodes(**window), x.name, w, s)
    count = writer.n_images * math.prod(tape.tensors[q].shape[1:])
    deviation = module.config.norm.range_gradient == "deviation"
    total, spread, largest, *detail = tape.operator(
        f"{name}.statistics", ops.NormStatistics(count=count, squares=deviation), q)
    _follow(tape, name, count, e_q, total, spread, largest)
    sign, bias, multiplier, shift = tape.operator(
        f"{name}.norm", ops.NormParameters(count=count), f"{name}.gamma", f"{name}.beta", total,
        spread)
    y = _apply(tape, name, module.activation or "none", q, sign, bias, multiplier, shift)
    norm = _Norm(q=q, total=total, spread=spread, detail=tuple(detail), deviation=deviation,
                 sign=sign, multiplier=multiplier, shift=shift, to_sums=s)

    def backward(g: Gradient) -> None:
        g16, g8, e_ga = _norm_gradient(writer, name, count, norm, tape.one_mask(g, y))
        _input_gradient(writer, name, x, g8, w, window, (f"-{e_ga}", x.exponent))
        kernel = {"kernel": tuple(module.weight.shape[2:])} if window else {}
        dw = tape.operator(f"{name}.weight.gradient", ops.KernelGradient(
            n_images=writer.n_images, **kernel, **window), x.name, g16)
        exponent = tape.shift(f"{name}.weight.gradient.exponent", (e_ga,))
        state.update_weights(tape, f"{name}.weight", dw, exponent, writer.momentum)

    tape.on_gradient(y, backward)
    return y


def _follow(tape, name, count, e_q, total, spread, largest):
    """The exponents of q and the running statistics of the next step."""
    names = [e_q, *(tape.integers(f"{name}.running.{which}", np.zeros(
        tape.tensors[e_q].shape), "int32") for which in ("mean", "spread"))]
    op = ops.RunningStatistics(count=count, settle=tape.settle)
    moved = tape.operator(f"{name}.running", op, e_q, total, spread, largest, *names[1:])
    for old, new in zip(names, moved):
        tape.renew(old, new)


def _apply(tape, name, activation, q, sign, bias, multiplier, shift) -> ActivationCodes:
    e = tape.exponent(f"{name}.exponent")
    limits = (e,) if activation == "relu6" else ()
    op = ops.NormApply(activation=activation)
    y, top = tape.operator(name, op, q, sign, bias, multiplier,
                           tape.shift(f"{name}.shift", (shift, e)), *limits,
                           outputs=(name, f"{name}.top"))
    tape.rule(e, top, CODE_BITS)
    mask = None if activation == "none" else (activation, (y, *limits))
    return ActivationCodes(name=y, exponent=e, shape=tape.tensors[y].shape, low=op.low, mask=mask)


def _norm_gradient(writer, name, count, norm, g) -> tuple[str, str, str]:
    """RangeBN backward with gamma's and beta's update: g16, g8 of the sums, their exponent."""
    tape = writer.tape
    activation, mask = g.mask or ("none", ())
    sums = tape.operator(f"{name}.norm.sums",
                         ops.NormGradientSums(count=count, activation=activation), g.name, norm.q,
                         *mask)
    if norm.deviation:
        between, second_pass = ops.DeviationGradientParameters, ops.DeviationInputGradient
        between_reads, pass_reads = norm.detail, (norm.q,)
    else:
        between, second_pass = ops.NormGradientParameters, ops.NormInputGradient
        between_reads, pass_reads = (norm.sign,), norm.detail
    between = between(count=count)
    *taken, dgamma, dbeta = tape.operator(f"{name}.norm.gradient", between, *sums, norm.total,
                                          norm.spread, *between_reads)
    e = tape.exponent(f"{name}.sums.exponent")
    op = second_pass(count=count, activation=activation, tensor_id=tape.tensor_id(G8))
    g16, g8, top = tape.operator(
        f"{name}.sums.gradient", op, g.name, *pass_reads, norm.sign, *taken, norm.multiplier,
        tape.shift(f"{name}.sums.shift", (norm.shift, norm.to_sums, f"-{g.exponent}", e)),
        *RANDOM, *mask)
    tape.rule(e, top, GRADIENT_BITS)
    for which, gradient, offset in (("gamma", dgamma, between.gamma_exponent), ("beta", dbeta, 0)):
        state.update_vector(tape, f"{name}.{which}", gradient, g.exponent, offset, MASTER_FRACTION,
                            writer.momentum)
    return g16, g8, e


def _input_gradient(writer, name, x, g8, w, window, terms):
    """The gradient of a product's input; terms: exponents of its shift beside its own."""
    if not x.learns:
        return
    tape, e = writer.tape, writer.tape.exponent(f"{name}.input.exponent")
    size = {"size": x.shape[1:]} if len(x.shape) == 3 else {}
    op = ops.CodesGradient(**size, **window, pixels=x.pixels, tensor_id=tape.tensor_id(DX))
    g, top = tape.operator(f"{name}.input.gradient", op, g8, w,
                           tape.shift(f"{name}.input.shift", (e, *terms), -8), *RANDOM)
    tape.rule(e, top, GRADIENT_BITS)
    tape.contribute(x, Gradient(name=g, exponent=e))


@layer.register
def _(module: QAdd, writer: Writer, step: LayerCall, *inputs: ActivationCodes) -> ActivationCodes:
    if module.activation == "relu6":
        refuse(step, f"must have activation relu or none as a layer {RULE}, not relu6")
    tape, name, a, b = writer.tape, step.name, inputs[0], inputs[-1]
    e, op = tape.exponent(f"{name}.exponent"), ops.ResidualAddition(
        activation=module.activation or "none")
    y, top = tape.operator(name, op, a.name, b.name, a.exponent, b.exponent, e,
                           outputs=(name, f"{name}.top"))
    tape.rule(e, top, CODE_BITS)
    mask = (op.activation, (y,)) if module.activation else None
    out = ActivationCodes(name=y, exponent=e, shape=a.shape, low=op.ranges[0][0], mask=mask,
                learns=a.learns or b.learns)

    def backward(g: Gradient) -> None:
        g = tape.one_mask(g, out)
        tape.contribute(a, g)
        tape.contribute(b, g)

    tape.on_gradient(out, backward)
    return out


def _logit_codes(tape, acc, e_w, x):
    """Int8 logits, which only inference uses, so that their exponent is known."""
    e = tape.exponent(LOGITS)
    half = tape.integers("head/logits.multiplier", [HALF], "int32")
    tape.renew(half, half)
    shift = tape.shift("head/logits.shift", (e, f"-{e_w}", f"-{x.exponent}"), 30)
    _, top = tape.operator("head/logits", ops.LaneCodes(low=-128, high=127), acc, half, shift)
    tape.rule(e, top, CODE_BITS)


def classifier(writer: Writer, step: LayerCall, x: ActivationCodes) -> str:
    """The last layer, the loss and its gradient; the name of the logits' sums.

    Adds the input `LABEL` and the tensor `LOSS`.
    """
    module, tape, name = step.module, writer.tape, step.name
    if not isinstance(module, QLinear) or module.norm is not None or module.bias is None \
            or module.activation is not None:
        refuse(step, f"must be a linear layer with a bias and no activation: the last one {RULE}")
    w = state.weights(tape, f"{name}.weight", module.weight)
    bias = state.vector(tape, f"{name}.bias", module.bias, BIAS_FRACTION)
    e_w, n_images = f"{name}.weight.exponent", writer.n_images
    tape.input(LABEL, (1,), tape.quantization(w))
    acc = tape.operator(name, ops.LogitSums(), x.name, w, bias, tape.shift(
        f"{name}.bias.shift", (e_w, x.exponent), BIAS_FRACTION))
    _logit_codes(tape, acc, e_w, x)
    gradient, _ = tape.operator(
        LOSS, ops.CrossEntropy(), acc, LABEL,
        tape.shift(f"{LOSS}.shift", (f"-{e_w}", f"-{x.exponent}"), SOFTMAX_SHIFT),
        outputs=(f"{LOSS}.gradient", LOSS))
    e = tape.exponent(f"{name}.gradient.exponent")
    g16, g8, top = tape.operator(
        f"{name}.gradient", ops.GradientCodes(tensor_id=tape.tensor_id(G8)), gradient,
        tape.shift(f"{name}.gradient.shift", (e,), GRADIENT_FRACTION), *RANDOM)
    tape.rule(e, top, GRADIENT_BITS)
    _input_gradient(writer, name, x, g8, w, {}, (f"-{e}", f"-{e_w}"))
    dw = tape.operator(f"{name}.weight.gradient", ops.KernelGradient(n_images=n_images), x.name,
                       g16)
    exponent = tape.shift(f"{name}.weight.gradient.exponent", (e, e_w, x.exponent))
    state.update_weights(tape, f"{name}.weight", dw, exponent, writer.momentum)
    db = tape.operator(f"{name}.bias.gradient", ops.BiasGradient(n_images=n_images), g16)
    state.update_vector(tape, bias, db, e, 0, BIAS_FRACTION, writer.momentum)
    return acc
