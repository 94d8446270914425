"""The training products of ResNet-8's convolutions on the RTL: exact, and their utilisation.

Every product of every convolution runs by itself, from start to done, operands resident, and must
be what torch computes in float64, where all these integers are exact. Utilisation is useful MACs
over rows * columns * cycles, both summed over the convolutions.
"""

import sys
from collections.abc import Callable, Iterator

import numpy as np

from cli.rtl_backend import SimulationFailure

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


def layers() -> list:
    """ResNet-8's convolutions (hw.compiler.training.products.Convolution)."""
    from hw.compiler.training.products import Convolution

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


def rescale(n_terms: int, zero_point: int, channels: int = 1):
    """A golden Rescale that brings sums of n_terms random products to about 40 codes."""
    from golden.ops import Rescale

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


def cases(target, c, n_images: int, seed: int = 0) -> Iterator[tuple]:
    """(kind, TrainingProduct, expected results by name) of a convolution."""
    from hw.compiler.training import products as training

    data = operands(c, n_images, seed)
    x, w, dy, dy16 = (data[name] for name in ("x", "w", "dy", "dy16"))
    y, dx, dw = reference(c, x, w, dy, ZERO_POINT)
    taps = c.kernel[0] * c.kernel[1]
    to_y = rescale(taps * c.in_channels, -7, c.out_channels)
    yield ("forward", training.forward(target, c, x, w, data["bias"], to_y,
                                       zero_point=ZERO_POINT),
           {"y": to_y(y + data["bias"].reshape(-1, 1, 1))})
    if c.in_channels >= target.columns:
        to_dx = rescale(taps * c.out_channels, 0)
        yield ("input_gradient", training.input_gradient(target, c, dy, w, to_dx),
               {"dx": to_dx(dx)})
    yield ("weight_gradient", training.weight_gradient(target, c, x, dy, zero_point=ZERO_POINT),
           {"dw": dw, "db": dy.astype(np.int64).sum((0, 2, 3))})
    dw16 = reference(c, x, w, dy16, ZERO_POINT)[2]
    yield ("weight_gradient_16bit",
           training.weight_gradient(target, c, x, dy16, zero_point=ZERO_POINT),
           {"dw": dw16, "db": dy16.sum((0, 2, 3))})


def compare(product, values: dict, expected: dict) -> None:
    """SimulationFailure where a result is not bit for bit what is expected."""
    for name, right in expected.items():
        n = int((values[name] != right).sum()) if values[name].shape == right.shape else right.size
        if n:
            raise SimulationFailure(f"Product {product.name} on {product.target.name}: {n} of "
                                    f"{right.size} values of {name} differ from torch's")


def measure(target, n_images: int = BATCH,
            on_product: Callable[[str], None] = lambda line: None) -> dict[str, tuple[int, int]]:
    """{kind: (useful MACs, cycles)}, summed over the convolutions; all results compared."""
    from sim.runner import SimulationError
    from sim.training import run_product

    totals = {kind: (0, 0) for kind in PRODUCTS}
    for seed, c in enumerate(layers()):
        for kind, product, expected in cases(target, c, n_images, seed):
            try:
                values, counters = run_product(product)
            except SimulationError as error:
                raise SimulationFailure(f"{product.name} on {target.name}: {error}") from error
            compare(product, values, expected)
            macs, cycles = totals[kind]
            totals[kind] = macs + product.macs, cycles + counters["cycles"]
            on_product(f"{product.name}: {counters['cycles']:,} cycles, "
                       f"{product.macs / (target.n_macs * counters['cycles']):.1%}, as torch")
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
