"""Random layers are as golden or refused by the compiler's exceptions; and a fault is found."""

from collections import Counter

import numpy as np
import pytest

from flows import fuzz as flow
from golden import ops
from golden.program import interpreter
from hw.compiler import CannotRun
from hw.machine import Machine
from hw.targets import TARGETS
from sim import layer_fuzz, model
from sim.layer_fuzz import fuzz_layers, layer_case
from sim.random_layers import LayerMaker
from tests import programs


@pytest.mark.slow
@pytest.mark.parametrize("target", [*TARGETS, "array-2x8"])
def test_random_layers_are_as_golden(target):
    findings, outcomes = fuzz_layers(target, seed=0, numbers=range(16))
    assert not findings, "\n".join(map(str, findings))
    assert outcomes["run"] + outcomes["run, tiled"] >= 8


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_random_layers_are_as_golden(capsys):
    assert flow.main(["--layers", "600", "--seed", "1"]) == 0, capsys.readouterr().out


def test_every_operator_is_drawn_and_numbers_repeat():
    drawn = Counter(type(node.op) for number in range(150)
                    for node in layer_case("sim-4x4", 0, number)[0].nodes)
    assert set(drawn) == set(ops.OPERATORS) == set(LayerMaker(np.random.default_rng(0)).layers)
    one, other = (layer_case("sim-8x8-axi", 3, 5) for _ in range(2))
    assert one[0].sha256 == other[0].sha256 and one[1] == other[1]
    assert np.array_equal(one[3], other[3])


def test_a_wrong_result_is_a_finding(monkeypatch):
    right = Machine.rescale
    monkeypatch.setattr(Machine, "rescale", lambda *what: right(*what) ^ 1)
    findings, outcomes = fuzz_layers("sim-4x4", seed=0, numbers=range(6))
    assert findings and outcomes["finding"] == len(findings)
    assert "model: " in str(findings[0]) and "program 0 of seed 0 on sim-4x4" in str(findings[0])


@pytest.mark.parametrize("error, found", [(CannotRun("no"), 0), (ValueError("a fault"), 4)])
def test_only_the_compilers_own_refusals_are_none(monkeypatch, error, found):
    def refuse(*what):
        raise error
    monkeypatch.setattr(layer_fuzz, "compile_program", refuse)
    findings, outcomes = fuzz_layers("sim-4x4", seed=0, numbers=range(4))
    assert len(findings) == found
    assert outcomes == {"finding": 4} if found else {"refused, CannotRun": 4}


def test_the_model_is_an_executor():
    program = programs.residual_net()
    x = programs.random_codes(program, 3)
    golden, trace = interpreter.run(program, x), model.run(program, x, target="sim-4x4")
    assert set(trace) == set(golden)
    assert all(np.array_equal(trace[name], golden[name]) for name in golden)


def test_the_flow_counts_and_refuses(capsys):
    assert flow.main(["--layers", "3", "--target", "sim-4x4", "--jobs", "1", "--first", "2"]) == 0
    assert "3 layers on sim-4x4: " in capsys.readouterr().err
    with pytest.raises(flow.LockstepError, match="--rtl goes with --layers"):
        flow.parse(["--rtl"])
    with pytest.raises(flow.LockstepError, match="--layers must be in 1"):
        flow.parse(["--layers", "0"])


def reshaped(kind):
    """An operator element by element behind a reshape, and a layer that reads the elements."""
    make = programs.Maker("reshaped", (7, 4, 6), 0)
    x = make.flatten(make.conv(make.input, 7), channels_last=True)
    y = {"clamp": lambda: make.clamp(x, -90, 100), "rescaling": lambda: make.rescaling(x, 0.8),
         "add": lambda: make.add(x, x)}[kind]()
    return make.program(make.linear(y, 9))


@pytest.mark.parametrize("kind", ["clamp", "rescaling", "add"])
@pytest.mark.parametrize("target", ["sim-4x4", "zynq-7020"])
def test_element_by_element_behind_a_reshape(kind, target):
    program = reshaped(kind)
    x = programs.random_codes(program, 1)
    golden, trace = interpreter.run(program, x), model.run(program, x, target=target)
    assert all(np.array_equal(trace[name], golden[name]) for name in golden)


def test_two_orders_of_the_elements_are_not_added():
    make = programs.Maker("orders", (6, 3, 2), 0)
    program = make.program(make.add(make.flatten(make.input), make.flatten(make.input, True)))
    with pytest.raises(CannotRun, match="an addition behind a reshape does not run"):
        model.run(program, programs.random_codes(program, 1), target="sim-4x4")
