"""Rows of the training products, on played runs."""

import numpy as np
import pytest

import sim.training
from benchmarks import training_products
from cli.rtl_backend import SimulationFailure
from hw.compiler.training.products import Convolution
from hw.targets import get_target
from sim.runner import SimulationError

TARGET = get_target("sim-4x4")
CYCLES = 1000


def layer(channels):
    return Convolution(name=f"c{channels}", in_channels=channels, out_channels=4, height=4, width=4)


@pytest.fixture
def played(monkeypatch):
    """Two small layers; the results are torch's, always in CYCLES."""
    results = {}
    real = training_products.cases

    def cases(*arguments):
        for kind, product, expected in real(*arguments):
            results[product.name] = expected
            yield kind, product, expected
    monkeypatch.setattr(training_products, "layers", lambda: [layer(4), layer(8)])
    monkeypatch.setattr(training_products, "cases", cases)
    monkeypatch.setattr(sim.training, "run_product",
                        lambda product: (results[product.name], {"cycles": CYCLES}))
    return results


def rows():
    return {row["name"]: row for row in training_products.training_rows(TARGET, "command")}


def test_macs_and_cycles_are_summed_over_the_layers(played):
    found = rows()
    macs = 4 * (layer(4).macs + layer(8).macs)
    forward = found["utilisation.training.forward"]
    assert forward["value"] == pytest.approx(macs / (16 * 2 * CYCLES))
    assert forward["goal"] == ">= 0.75" and forward["met"] is (forward["value"] >= 0.75)
    assert found["utilisation.training.weight_gradient_16bit"]["value"] == pytest.approx(
        2 * forward["value"])
    assert set(found) == {f"utilisation.training.{kind}" for kind in training_products.PRODUCTS}


def test_a_wrong_result_is_no_figure(played, monkeypatch):
    def run_product(product):
        values = {name: np.array(value) for name, value in played[product.name].items()}
        next(iter(values.values())).flat[3] ^= 1
        return values, {"cycles": CYCLES}
    monkeypatch.setattr(sim.training, "run_product", run_product)
    with pytest.raises(SimulationFailure, match="c4.forward on .*: 1 of .* values of y differ"):
        rows()


def test_a_stopped_accelerator_is_a_failure(played, monkeypatch):
    def run_product(product):
        raise SimulationError("stopped")
    monkeypatch.setattr(sim.training, "run_product", run_product)
    with pytest.raises(SimulationFailure, match="c4.forward on sim-4x4: stopped"):
        rows()


def test_the_layers_are_resnet8s():
    from benchmarks.networks import resnet8
    from golden.ops import Conv2d

    shapes = [(node.op.weights.shape, node.op.stride, node.op.padding)
              for node in resnet8().nodes if isinstance(node.op, Conv2d)]
    ours = [((c.out_channels, c.in_channels, *c.kernel), c.stride, c.padding)
            for c in training_products.layers()]
    assert sorted(ours) == sorted(shapes)
