"""Proofs: each planted fault is found and names its node."""

import dataclasses

import numpy as np
import pytest

from golden import ops
from golden.errors import LockstepError
from golden.program import Node, Program, Quantization, Tensor, interpreter
from golden.program.verify import verify, width
from tests.golden.samples import replace_op, residual_program


def change(program, name, **fields):
    op = next(node.op for node in program.nodes if node.name == name)
    return replace_op(program, name, dataclasses.replace(op, **fields))


def test_the_sample_is_proven_and_its_accumulators_stay_within():
    program = residual_program()
    report = verify(program)
    assert report["conv1"].macs == 6 * 27 * 64
    assert report["conv2"].macs == 6 * 9 * 64
    assert report.macs == sum(entry.macs for entry in report.nodes)
    assert report["conv1"].exact_float32
    assert 17 <= report["conv1"].accumulator_width <= 22
    assert report["pool"].input_ranges == ((-7, 127),)
    trace = interpreter.run(program, np.random.default_rng(0).normal(0, 9, (4, 3, 8, 8)))
    for node in program.nodes:
        entry = report[node.name]
        low, high = entry.output_range
        value = trace[node.outputs[0]]
        assert low <= value.min()
        assert value.max() <= high
        if entry.accumulator:
            acc = node.op.accumulate(*(trace[name] for name in node.inputs))
            assert entry.accumulator[0] <= acc.min()
            assert acc.max() <= entry.accumulator[1]


@pytest.mark.parametrize(("name", "fields", "message"), [
    ("conv1", {"bias": np.array([0, 0, 0, 2**31 - 1, 0, 0])},
     r"Node conv1 \(Conv2d\): .* of channel 3 must fit int32, not 21"),
    ("conv1", {"bias": np.full(6, -2**31)}, "channel . must fit int32, not -21"),
    ("conv1", {"input_zero_point": 4},
     r"Node conv1 \(Conv2d\): Input zero point must be 3 as in tensor x, not 4"),
    ("conv1", {"stride": (2, 2)}, r"Output a must have shape \(6, 4, 4\), not \(6, 8, 8\)"),
    ("conv1", {"rescale": ops.Rescale.from_factors(0.1, zero_point=0)},
     "Output zero point must be -128 as in tensor a, not 0"),
    ("conv2", {"groups": 3}, "Conv2d must get 3 input channels, not 6"),
    ("add", {"input_rescales": ((1 << 30, 25), (1 << 30, 31))},
     r"Node add \(Add\): Input 0 shifted left by 26 must fit int32"),
    ("mean", {"window": (8, 8)}, r"must get a map of \(8, 8\), not \(4, 4\)"),
    ("flat", {"shape": (3, 4)}, r"Output f must have shape \(3, 4\), not \(12,\)"),
    ("pool", {"kernel": (9, 9)}, "Window of 9 must fit the padded input of 8"),
])
def test_planted_faults(name, fields, message):
    with pytest.raises(LockstepError, match=message):
        verify(change(residual_program(), name, **fields))


def rebuilt(program, **fields):
    values = {item.name: getattr(program, item.name) for item in dataclasses.fields(program)}
    return Program(**{**values, **fields})


def test_faults_of_the_graph():
    program = residual_program()
    nodes = program.nodes
    with pytest.raises(LockstepError, match="Node norm .*Input a must be written by an earlier"):
        verify(rebuilt(program, nodes=(nodes[1], nodes[0], *nodes[2:])))
    with pytest.raises(LockstepError, match="Node conv1 .*Node name must be unique"):
        verify(rebuilt(program, nodes=(nodes[0], *nodes)))
    with pytest.raises(LockstepError, match="Output y must be written by a node"):
        verify(rebuilt(program, nodes=nodes[:-1]))
    twice = Node(name="again", op=nodes[0].op, inputs=("x",), outputs=("a",))
    with pytest.raises(LockstepError, match="Output a must be written once"):
        verify(rebuilt(program, nodes=(*nodes, twice)))
    one = Node(name="add", op=nodes[3].op, inputs=("a",), outputs=("s",))
    with pytest.raises(LockstepError, match="Node must have 2 inputs, not 1"):
        verify(rebuilt(program, nodes=(*nodes[:3], one, *nodes[4:])))
    spare = Tensor(name="spare", shape=(1,), quantization=Quantization(scale=1.0, zero_point=0))
    with pytest.raises(LockstepError, match="Tensor spare must be the input or be written"):
        verify(rebuilt(program, tensors={**program.tensors, "spare": spare}))
    other = dataclasses.replace(program.tensors["m"],
                                quantization=Quantization(scale=0.06, zero_point=-7))
    with pytest.raises(LockstepError, match="Tensors s and m must share their scale"):
        verify(rebuilt(program, tensors={**program.tensors, "m": other}))


def test_raw_codes_need_more_than_corrected_ones():
    weights = np.full((1, 60000), 127, np.int8)
    fields = dict(weights=weights, bias=np.array([0]), input_zero_point=-128,
                  rescale=ops.Rescale.from_factors(1e-6, zero_point=0))
    q = Quantization(scale=0.1, zero_point=-128)
    tensors = {"x": Tensor(name="x", shape=(60000,), quantization=q),
               "y": Tensor(name="y", shape=(1,), quantization=Quantization(scale=1, zero_point=0))}
    program = Program(name="p", nodes=(Node(name="fc", op=ops.Linear(**fields), inputs=("x",),
                                            outputs=("y",)),),
                      tensors=tensors, inputs=("x",), outputs=("y",))
    report = verify(program)["fc"]
    assert report.accumulator == (0, 127 * 255 * 60000)
    assert not report.exact_float32
    assert report.accumulator_width == 32
    assert report.raw_accumulator == (-127 * 128 * 60000, 127 * (127 + 128) * 60000)


def test_width():
    assert [width(value) for value in (-129, -128, -1, 0, 1, 127, 128)] == [9, 8, 1, 1, 2, 8, 9]


def test_raw_codes_can_overflow_where_corrected_ones_do_not():
    # The producer's clamp keeps x at 100 or more: x - 127 is small, x is not.
    weights = np.full((1, 140000), 127, np.int8)
    q = Quantization(scale=0.1, zero_point=127)
    names = {"x": (140000,), "c": (140000,)}
    tensors = {name: Tensor(name=name, shape=shape, quantization=q)
               for name, shape in names.items()}
    tensors["y"] = Tensor(name="y", shape=(1,), quantization=Quantization(scale=1, zero_point=0))
    linear = ops.Linear(weights=weights, bias=np.array([0]), input_zero_point=127,
                        rescale=ops.Rescale.from_factors(1e-6, zero_point=0))
    nodes = (Node(name="clamp", op=ops.Clamp(low=100), inputs=("x",), outputs=("c",)),
             Node(name="fc", op=linear, inputs=("c",), outputs=("y",)))
    program = Program(name="p", nodes=nodes, tensors=tensors, inputs=("x",), outputs=("y",))
    with pytest.raises(LockstepError, match="Node fc .*Accumulator of raw codes of channel 0"):
        verify(program)
