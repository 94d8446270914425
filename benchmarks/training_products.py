"""The training products of ResNet-8's convolutions on the RTL: exact, and their utilisation.

Every product of every convolution runs by itself, from start to done, operands resident, and must
be what torch computes in float64, where all these integers are exact. Utilisation is useful MACs
over rows * columns * cycles, both summed over the convolutions.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from cli.rtl_backend import SimulationFailure
from golden.ops import Rescale
from golden.program import Program, Quantization

__all__ = ["PRODUCTS", "Convolution", "cases", "compare", "layers", "operands", "product_program",
           "reference", "training_rows", "values"]

BATCH = 4
GOAL = 0.75
ZERO_POINT = -100
PRODUCTS = ("forward", "input_gradient", "weight_gradient", "weight_gradient_16bit")
NOTES = {
    "forward": "int8 results",
    "input_gradient": "int8 results, without the first layer, stride 2 without inserted zeros",
    "weight_gradient": "raw sums, the product for the zero point included in the cycles",
    "weight_gradient_16bit": "two byte passes, a 16x8 MAC counts as two",
}


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """Shape of a convolution without groups. padding: top, left, bottom, right."""

    name: str
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def output(self) -> tuple[int, int]:
        """Rows and columns of y."""
        size, pad = (self.height, self.width), self.padding
        return tuple((size[k] + pad[k] + pad[k + 2] - self.kernel[k]) // self.stride[k] + 1
                     for k in (0, 1))

    @property
    def macs(self) -> int:
        """Products of one image, those of the padding included."""
        return (self.output[0] * self.output[1] * self.kernel[0] * self.kernel[1]
                * self.in_channels * self.out_channels)


def layers() -> list[Convolution]:
    """ResNet-8's convolutions."""
    def conv(name, channels, size, kernel=3, stride=1):
        return Convolution(
            name=name, in_channels=channels[0], out_channels=channels[1], height=size, width=size,
            kernel=(kernel, kernel), stride=(stride, stride), padding=(kernel // 2,) * 4)

    return [conv("conv1", (3, 16), 32),
            conv("block1a", (16, 16), 32), conv("block1b", (16, 16), 32),
            conv("block2a", (16, 32), 32, stride=2), conv("block2b", (32, 32), 16),
            conv("block2s", (16, 32), 32, kernel=1, stride=2),
            conv("block3a", (32, 64), 16, stride=2), conv("block3b", (64, 64), 8),
            conv("block3s", (32, 64), 16, kernel=1, stride=2)]


def operands(c, n_images: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random x, w, dy (int8), dy16 (int32 within 16 bits) and bias, extremes included."""
    rng = np.random.default_rng(seed)
    y_shape = n_images, c.out_channels, *c.output
    dy16 = rng.integers(-(1 << 15), 32640, y_shape)
    dy16.flat[:4] = -(1 << 15), 32639, 127, 128
    return {
        "x": rng.integers(-128, 128, (n_images, c.in_channels, c.height, c.width), np.int8),
        "w": rng.integers(-127, 128, (c.out_channels, c.in_channels, *c.kernel), np.int8),
        "dy": rng.integers(-128, 128, y_shape, np.int8), "dy16": dy16,
        "bias": rng.integers(-5000, 5000, c.out_channels)}


def rescale(n_terms: int, zero_point: int, channels: int = 1) -> Rescale:
    """A golden Rescale that brings sums of n_terms random products to about 40 codes."""
    factors = 40 / (73 * 73 * np.sqrt(n_terms)) * np.linspace(0.5, 1.5, channels)
    return Rescale.from_factors(factors, zero_point=zero_point)


def reference(c, x, w, dy, zero_point: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64 (y without bias, dx, dw) by torch's own differentiation in float64."""
    import torch

    top, left, bottom, right = c.padding
    x = torch.tensor(x.astype(np.float64) - zero_point, requires_grad=True)
    w = torch.tensor(w.astype(np.float64), requires_grad=True)
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, w, stride=c.stride)
    dx, dw = torch.autograd.grad(y, (x, w), torch.tensor(np.asarray(dy, np.float64)))
    return tuple(t.detach().to(torch.int64).numpy() for t in (y, dx, dw))


def product_program(name: str, operators: list, tensors: dict, n_images: int) -> Program:
    """A Program of operators that all read the same tensors, on a batch of its own.

    tensors: {input: (shape without the batch, zero point, dtype, batched)}.
    """
    from golden.program.builder import ProgramBuilder

    build, outputs = ProgramBuilder(), []
    for tensor, (shape, zero_point, dtype, batched) in tensors.items():
        build.input(tensor, shape, Quantization(scale=1.0, zero_point=zero_point, dtype=dtype),
                    batched)
    for index, op in enumerate(operators):
        to = Quantization(scale=1.0, zero_point=op.writes_zero_point, dtype=op.output_dtypes[0])
        several = op.n_outputs > 1
        written = build.node(f"product{index}", op, list(tensors),
                             [to] * op.n_outputs if several else to)
        outputs += written if several else [written]
    return build.build(name, outputs, batch=n_images)


def parts_of(c, target) -> list:
    """Taps of the products of a weight gradient: several where its sums need more than a bank."""
    n_taps = c.kernel[0] * c.kernel[1]
    words = n_taps * c.in_channels * -(-c.out_channels // target.columns) * 4
    if words <= max(target.bank_words):
        return [None]
    edges = sorted({0, 2 * n_taps // 3, 8 * n_taps // 9, n_taps})
    return list(zip(edges, edges[1:]))


def products(target, c, n_images: int, data: dict) -> Iterator[tuple]:
    """(kind, Program, its inputs by name) of a convolution."""
    from golden import ops

    window = {"stride": c.stride, "padding": c.padding}
    taps = c.kernel[0] * c.kernel[1]
    x = (c.in_channels, c.height, c.width), ZERO_POINT, "int8", True
    dy_shape = c.out_channels, *c.output

    def made(kind, operators, **tensors):
        inputs = {name: array for name, (array, _) in tensors.items()}
        about = {name: entry for name, (_, entry) in tensors.items()}
        return kind, product_program(f"{c.name}.{kind}", operators, about, n_images), inputs

    yield made("forward", [ops.Conv2d(
        weights=data["w"], bias=data["bias"].astype(np.int32), input_zero_point=ZERO_POINT,
        rescale=rescale(taps * c.in_channels, -7, c.out_channels), **window)], x=(data["x"], x))
    yield made("input_gradient", [ops.InputGradient(
        size=(c.height, c.width), rescale=rescale(taps * c.out_channels, 0), **window)],
        dy=(data["dy"], (dy_shape, 0, "int8", True)),
        w=(data["w"], (data["w"].shape, 0, "int8", False)))
    for n_digits, suffix, dy in ((1, "", data["dy"]), (2, "_16bit", data["dy16"].astype("i2"))):
        yield made(f"weight_gradient{suffix}", [ops.WeightGradient(
            kernel=c.kernel, input_zero_point=ZERO_POINT, n_digits=n_digits, taps=part, **window)
            for part in parts_of(c, target)],
            x=(data["x"], x), dy=(dy, (dy_shape, 0, dy.dtype.name, True)))


def expected(c, kind: str, program, data: dict) -> dict[str, np.ndarray]:
    """What torch computes of a product: {"y" | "dx" | "dw", "db": array}."""
    op = program.nodes[0].op
    gradient = data["dy16" if kind.endswith("16bit") else "dy"]
    y, dx, dw = reference(c, data["x"], data["w"], gradient, ZERO_POINT)
    if kind == "forward":
        return {"y": op.rescale(y + data["bias"].reshape(-1, 1, 1))}
    if kind == "input_gradient":
        return {"dx": op.rescale(dx)}
    return {"dw": dw, "db": gradient.astype(np.int64).sum((0, 2, 3))}


def values(kind: str, program, trace: dict) -> dict[str, np.ndarray]:
    """The same of a run's trace."""
    if not kind.startswith("weight"):
        return {"y" if kind == "forward" else "dx": trace[program.outputs[0]]}
    n_digits = program.nodes[0].op.n_digits
    sums = {"dw": [[] for _ in range(n_digits)], "db": [[] for _ in range(n_digits)]}
    for node in program.nodes:
        per_digit = len(node.outputs) // n_digits
        for index, name in enumerate(node.outputs):
            array = trace[name][0]
            which = "db" if index % per_digit else "dw"
            sums[which][index // per_digit].append(
                array if which == "db" else array.reshape(*array.shape[:2], -1))
    dw = [np.concatenate(parts, axis=2) for parts in sums["dw"]]
    db = [parts[0] for parts in sums["db"]]
    return dict(zip(("dw", "db"), program.nodes[0].op.gradients(dw, db)))


def cases(target, c, n_images: int, seed: int = 0) -> Iterator[tuple]:
    """(kind, Program, inputs by name, what torch computes) of a convolution."""
    data = operands(c, n_images, seed)
    for kind, program, inputs in products(target, c, n_images, data):
        if kind != "input_gradient" or c.in_channels >= target.columns:
            yield kind, program, inputs, expected(c, kind, program, data)


def compare(program, target, actual: dict, right: dict) -> None:
    """SimulationFailure where a result is not bit for bit what is expected."""
    for name, wanted in right.items():
        got = actual[name]
        n = int((got != wanted).sum()) if got.shape == wanted.shape else wanted.size
        if n:
            raise SimulationFailure(f"Product {program.name} on {target.name}: {n} of "
                                    f"{wanted.size} values of {name} differ from torch's")


def measure(target, n_images: int = BATCH,
            on_product: Callable[[str], None] = lambda line: None) -> dict[str, tuple[int, int]]:
    """{kind: (useful MACs, cycles)}, summed over the convolutions; all results compared."""
    from sim import rtl
    from sim.runner import SimulationError

    totals = {kind: (0, 0) for kind in PRODUCTS}
    for seed, c in enumerate(layers()):
        for kind, program, inputs, right in cases(target, c, n_images, seed):
            reports = []
            try:
                trace = rtl.run(program, inputs, target=target, trace=False, report=reports)
            except SimulationError as error:
                raise SimulationFailure(f"{program.name} on {target.name}: {error}") from error
            compare(program, target, values(kind, program, trace), right)
            report, (macs, cycles) = reports[0], totals[kind]
            totals[kind] = macs + report.macs, cycles + report.cycles
            on_product(f"{program.name}: {report.cycles:,} cycles, {report.utilisation:.1%}, "
                       "as torch")
    return totals


def training_rows(target, command: str) -> list[dict]:
    """The rows utilisation.training.*."""
    from benchmarks.rows import row

    totals = measure(target, on_product=lambda line: print(line, file=sys.stderr, flush=True))
    rows = []
    for kind, (macs, cycles) in totals.items():
        value = macs / (target.n_macs * cycles)
        context = (f"{target.name} (configuration 0x{target.configuration_id:08x}), RTL; training "
                   f"products of ResNet-8's convolutions, batch {BATCH} on the chip, each from "
                   f"start to done, results as torch's bit for bit; {NOTES[kind]}")
        rows.append(row(f"utilisation.training.{kind}", value, "of the array",
                        command, goal=f">= {GOAL}", met=value >= GOAL, context=context))
    return rows
