"""Rows of the training products, on played runs."""

from types import SimpleNamespace

import pytest

import sim.rtl
from benchmarks import training_products
from benchmarks.training_products import Convolution
from cli.rtl_backend import SimulationFailure
from golden.program import interpreter
from hw.targets import get_target
from sim.runner import SimulationError

TARGET = get_target("sim-4x4")
CYCLES = 1000


def layer(channels):
    return Convolution(name=f"c{channels}", in_channels=channels, out_channels=4, height=4, width=4)


@pytest.fixture
def played(monkeypatch):
    """Two small layers; the results are golden's, always in CYCLES."""
    monkeypatch.setattr(training_products, "layers", lambda: [layer(4), layer(8)])

    def run(program, inputs, *, target, trace, report):
        macs = sum(program.batch * node.op.macs(*(program.tensors[name].shape
                                                  for name in node.inputs))
                   for node in program.nodes)
        report.append(SimpleNamespace(macs=macs, cycles=CYCLES, utilisation=macs / CYCLES))
        return interpreter.run(program, inputs)
    monkeypatch.setattr(sim.rtl, "run", run)
    return run


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
    def run(program, inputs, **options):
        trace = played(program, inputs, **options)
        trace[program.outputs[0]].flat[3] ^= 1
        return trace
    monkeypatch.setattr(sim.rtl, "run", run)
    with pytest.raises(SimulationFailure, match="c4.forward on .*: 1 of .* values of y differ"):
        rows()


def test_a_stopped_accelerator_is_a_failure(played, monkeypatch):
    def run(*program, **options):
        raise SimulationError("stopped")
    monkeypatch.setattr(sim.rtl, "run", run)
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
