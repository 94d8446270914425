"""A whole step of the integer training step as a Program: convolution, RangeBN, ReLU, average over
the pixels, linear layer, cross-entropy, the way back and the update, all of them state."""

import numpy as np

from golden.ops import step as ops
from golden.program import Program, Quantization
from golden.program.builder import ProgramBuilder

IMAGE, N_CHANNELS, N_CLASSES, IMAGE_EXPONENT = (3, 6, 6), 4, 5, -6
PIXELS = IMAGE[1] * IMAGE[2]
KERNEL, PADDING = (3, 3), (1, 1, 1, 1)
STEM, HEAD = 1 << 8, 2 << 8     # tensor ids


class _Builder:
    """Writes nodes with the dtypes of their ports."""

    def __init__(self):
        self.build = ProgramBuilder()
        self.renewed = {}

    def node(self, name, op, *inputs):
        quantization = [_to(port.dtype) for port in op.ports_out]
        single = op.n_outputs == 1
        return self.build.node(name, op, inputs, quantization[0] if single else quantization)

    def shift(self, name, terms, offset=0):
        """terms: names of exponents or shifts, with a minus where they are taken off."""
        names = [term.lstrip("-") for term in terms]
        dtypes = tuple(self.build.quantization(term).dtype for term in names)
        signs = tuple(-1 if term[0] == "-" else 1 for term in terms)
        return self.node(name, ops.ShiftSum(signs=signs, dtypes=dtypes, offset=offset), *names)

    def state(self, name, values, dtype):
        return self.build.state(name, np.asarray(values, dtype), _to(dtype), batched=False)

    def exponent(self, name, value=0):
        self.state(f"{name} quiet", [0], "int8")
        return self.state(name, [value], "int8")

    def rule(self, name, top, bits, settle):
        self.renewed[name], self.renewed[f"{name} quiet"] = self.node(
            f"{name} rule", ops.ExponentRule(bits=bits, settle=settle), name, f"{name} quiet", top)


def _to(dtype):
    return Quantization(scale=1.0, zero_point=0, dtype=dtype)


def _weights(b, name, rng, shape):
    b.state(f"{name} m", rng.integers(-16000, 16001, shape), "int16")
    b.state(f"{name} v", np.zeros(shape, int), "int32")
    b.state(f"{name} e", [-8], "int8")
    b.state(f"{name} grow", [0], "int8")
    return b.node(f"{name} w", ops.WeightCodes(), f"{name} m")


def _vector(b, name, values):
    b.state(f"{name} v", np.zeros(len(values), int), "int32")
    return b.state(name, values, "int32")


def tiny_step(n_images: int, settle: bool = False, activation: str = "relu") -> Program:
    """settle: exponents move at once and nothing is learnt; the state is that of the step."""
    rng, b = np.random.default_rng(0), _Builder()
    count = n_images * PIXELS
    b.build.input("x", IMAGE, _to("int8"))
    b.build.input("label", (1,), _to("int8"))
    for name in ("seed", "step", "rate", "rate shift", "decay", "decay shift"):
        b.build.input(name, (1,), _to("int32"), batched=False)
    random, rates = ("seed", "step"), ("rate", "rate shift", "decay", "decay shift")
    w = _weights(b, "stem", rng, (N_CHANNELS, IMAGE[0], *KERNEL))
    gamma = _vector(b, "gamma", [1 << 28] * N_CHANNELS)
    beta = _vector(b, "beta", [0] * N_CHANNELS)
    e_q = b.state("e_q", [0] * N_CHANNELS, "int8")
    b.state("mean", [0] * N_CHANNELS, "int32")
    b.state("running", [0] * N_CHANNELS, "int32")
    e_y, e_p, e_ga, e_gl, e_gh = (b.exponent(name) for name in ("e_y", "e_p", "e_ga", "e_gl",
                                                                "e_gh"))
    head = _weights(b, "head", rng, (N_CLASSES, N_CHANNELS))
    bias = _vector(b, "bias", [0] * N_CLASSES)

    # Forward.
    window = {"padding": PADDING}
    s = b.shift("s", [e_q, "-stem e"], -IMAGE_EXPONENT)
    q = b.node("q", ops.PreNormCodes(**window), "x", w, s)
    total, spread, largest, *at = b.node("statistics", ops.NormStatistics(count=count), q)
    norm = b.node("norm", ops.NormParameters(count=count), gamma, beta, total, spread)
    limits = [e_y] if activation == "relu6" else []
    y, top_y = b.node("y", ops.NormApply(activation=activation), q, *norm[:3],
                      b.shift("y shift", [norm[3], e_y]), *limits)
    pooled, top_p = b.node("pool", ops.GlobalAverageCodes(), y, b.shift("p shift", [e_p, "-e_y"]))
    acc = b.node("acc", ops.LogitSums(), pooled, head, bias,
                 b.shift("bias shift", ["head e", e_p], 24))
    gradient, loss = b.node("loss", ops.CrossEntropy(), acc, "label",
                            b.shift("t shift", ["-head e", "-e_p"], 22))

    # Backward.
    gl16, gl8, top_gl = b.node("gl", ops.GradientCodes(tensor_id=HEAD + 1), gradient,
                               b.shift("gl shift", [e_gl], 24), *random)
    head_dw = b.node("head dw", ops.KernelGradient(n_images=n_images), pooled, gl16)
    db = b.node("db", ops.BiasGradient(n_images=n_images), gl16)
    gh, top_gh = b.node("gh", ops.CodesGradient(pixels=PIXELS, tensor_id=HEAD + 2), gl8, head,
                        b.shift("gh shift", [e_gh, "-e_gl", "-head e"], -8), *random)
    g = b.node("g", ops.SpreadGradient(size=IMAGE[1:]), gh)
    mask = [y, *limits]
    sums = b.node("sums", ops.NormGradientSums(count=count, activation=activation), g, q, *mask)
    between = ops.NormGradientParameters(count=count)
    mean_g, spike, dgamma, dbeta = b.node("between", between, *sums, total, spread, norm[0])
    g16, g8, top_ga = b.node(
        "ga", ops.NormInputGradient(count=count, activation=activation, tensor_id=STEM + 1), g,
        *at, norm[0], mean_g, spike, norm[2],
        b.shift("ga shift", [norm[3], s, "-e_gh", e_ga]), *random, *mask)
    stem_dw = b.node("stem dw", ops.KernelGradient(n_images=n_images, kernel=KERNEL, **window),
                     "x", g16)
    dx, _ = b.node("dx", ops.CodesGradient(size=IMAGE[1:], tensor_id=STEM + 2, **window), g8, w,
                   b.shift("dx shift", ["-e_ga"], -8), *random)

    # The next state.
    for name, top, bits in ((e_y, top_y, 7), (e_p, top_p, 7), (e_ga, top_ga, 15),
                            (e_gl, top_gl, 15), (e_gh, top_gh, 15)):
        b.rule(name, top, bits, settle)
    b.renewed |= dict(zip((e_q, "mean", "running"), b.node(
        "running statistics", ops.RunningStatistics(count=count, settle=settle), e_q, total,
        spread, largest, "mean", "running")))
    for name, sums, exponent, identity in (
            ("stem", stem_dw, b.shift("stem exponent", [e_ga]), STEM),
            ("head", head_dw, b.shift("head exponent", [e_gl, "head e", e_p]), HEAD)):
        parts = f"{name} m", f"{name} v", f"{name} e", f"{name} grow"
        b.renewed |= dict(zip(parts, b.node(
            f"{name} update", ops.WeightUpdate(tensor_id=identity + 13), *parts[:2], sums,
            *parts[2:], exponent, *rates, *random)))
    e_gamma = b.shift("gamma exponent", [e_gh], between.gamma_exponent)
    for name, fraction, value, exponent in (
            (gamma, 28, dgamma, e_gamma), (beta, 28, dbeta, b.shift("beta exponent", [e_gh])),
            (bias, 24, db, b.shift("bias exponent", [e_gl]))):
        b.renewed |= dict(zip((name, f"{name} v"), b.node(
            f"{name} update", ops.VectorUpdate(fraction=fraction), name, f"{name} v", value,
            exponent, *rates[:2])))
    learnt = "stem", "head", "gamma", "beta", "bias"
    for name, by in b.renewed.items():
        b.build.renew(name, name if settle and name.split()[0] in learnt else by)
    return b.build.build("tiny step", [acc, loss, dx], batch=n_images)
