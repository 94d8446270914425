"""Proofs: each planted fault is found and names its node."""

import dataclasses

import numpy as np
import pytest

from golden import ops
from golden.errors import LockstepError
from golden.program import Node, Program, Quantization, Tensor, interpreter
from golden.program.verify import verify, width
from tests.golden.samples import replace_op, residual_program
from tests.golden.stateful import Update, step_program, streaming_program


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


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_may_reach_the_bounds_of_int32_and_no_further(sign):
    def extreme(bias):
        entry = verify(change(residual_program(), "conv1", bias=np.array([sign * bias] + 5 * [0])))
        bounds = entry["conv1"].accumulator + entry["conv1"].raw_accumulator
        return max(bounds) if sign > 0 else min(bounds)

    fits, too_large = 0, 2**31 - 1
    while too_large - fits > 1:
        bias = (fits + too_large) // 2
        try:
            extreme(bias)
            fits = bias
        except LockstepError:
            too_large = bias
    assert extreme(fits) == (2**31 - 1 if sign > 0 else -2**31)


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
    with pytest.raises(LockstepError, match="Tensor spare must be an input, state or written"):
        verify(rebuilt(program, tensors={**program.tensors, "spare": spare}))
    other = dataclasses.replace(program.tensors["m"],
                                quantization=Quantization(scale=0.06, zero_point=-7))
    with pytest.raises(LockstepError, match="Tensors s and m must share their scale"):
        verify(rebuilt(program, tensors={**program.tensors, "m": other}))


def with_tensor(program, name, **fields):
    tensor = dataclasses.replace(program.tensors[name], **fields)
    return rebuilt(program, tensors={**program.tensors, name: tensor})


def wide(dtype, scale=0.5):
    return Quantization(scale=scale, zero_point=0, dtype=dtype)


def test_ranges_follow_the_dtypes():
    report = verify(step_program())
    assert report["weigh"].input_ranges == ((-128, 127), (-32768, 32767))
    assert report["update"].output_ranges == ((-32639, 32639), (-2**31, 2**31 - 1))
    assert report["update"].output_range == (-32639, 32639)


@pytest.mark.parametrize(("change", "message"), [
    (lambda p: replace_op(p, "update", Update(largest=32768)),
     r"Node update \(Update\): Output masters_next must fit int16, not -32768..32768"),
    (lambda p: with_tensor(p, "sums", quantization=wide("int16")),
     r"Node gradient .*Output sums must be int32, not int16"),
    (lambda p: with_tensor(p, "rate", quantization=wide("int16")),
     "Node update .*Input rate must be int32, not int16"),
    (lambda p: with_tensor(p, "target", quantization=wide("int16")),
     "Node gradient .*Input target must be int8, not int16"),
    (lambda p: with_tensor(p, "sums", batched=True),
     "Node gradient .*Output sums must not be batched"),
    (lambda p: with_tensor(p, "y", batched=False), "Node weigh .*Output y must be batched"),
    (lambda p: with_tensor(p, "x", batched=False), "Node weigh .*Weigh must get images and one"),
    (lambda p: with_tensor(p, "rate", batched=True),
     "Node update .*Inputs must all be batched, or none of them"),
    (lambda p: with_tensor(p, "momenta_next", shape=(4,)),
     r"Node update .*Output momenta_next must have shape \(5,\), not \(4,\)"),
    (lambda p: rebuilt(p, nodes=(*p.nodes[:2], dataclasses.replace(
        p.nodes[2], outputs=("masters_next",)))), "Node update .*Node must have 2 outputs, not 1"),
    (lambda p: rebuilt(p, nodes=(*p.nodes[:2], dataclasses.replace(
        p.nodes[2], outputs=("masters_next", "masters_next")))),
     "Node update .*Output masters_next must be written once"),
    (lambda p: rebuilt(p, nodes=(*p.nodes[:2], dataclasses.replace(
        p.nodes[2], outputs=("masters", "momenta_next")))),
     "Node update .*Output masters must be written once"),
    (lambda p: rebuilt(p, nodes=(*p.nodes[:2], dataclasses.replace(
        p.nodes[2], inputs=("masters", "momenta", "sums")))),
     "Node update .*Node must have 4 inputs, not 3"),
    (lambda p: rebuilt(p, outputs=("y", "spare"), tensors=p.tensors | {
        "spare": dataclasses.replace(p.tensors["y"], name="spare")}),
     "Output spare must be written by a node"),
    (lambda p: rebuilt(p, outputs=("y", "rate")), "Output rate must be written by a node"),
    (lambda p: rebuilt(p, outputs=("y", "masters")), "Output masters must be written by a node"),
])
def test_faults_of_dtypes_and_outputs(change, message):
    with pytest.raises(LockstepError, match=message):
        verify(change(step_program()))


@pytest.mark.parametrize(("changes", "message"), [
    ({"initial": np.zeros(5, np.int32)}, r"State masters must begin as int16 of shape \(5,\), "
                                         r"not int32 of shape \(5,\)"),
    ({"initial": np.zeros((1, 5), np.int16)}, r"of shape \(5,\), not int16 of shape \(1, 5\)"),
    ({"renewed_by": "momenta_next"}, "masters and momenta_next, which renews it, .* one quantizat"),
    ({"renewed_by": "rate"}, "masters and rate, which renews it, must have one shape"),
])
def test_faults_of_state(changes, message):
    program = step_program()
    state = dataclasses.replace(program.state["masters"], **changes)
    with pytest.raises(LockstepError, match=message):
        verify(rebuilt(program, state={**program.state, "masters": state}))


def test_a_state_must_be_renewed_by_a_tensor_like_it_that_is_written():
    program = step_program()
    spare = dataclasses.replace(program.tensors["masters"], name="spare")
    state = dataclasses.replace(program.state["masters"], renewed_by="spare")
    with pytest.raises(LockstepError, match="must be renewed by a tensor that is written, not spa"):
        verify(rebuilt(program, state={**program.state, "masters": state},
                       tensors={**program.tensors, "spare": spare}))
    program = streaming_program()
    with pytest.raises(LockstepError, match="memory and mixed, which .* must have one batch axis"):
        verify(rebuilt(with_tensor(program, "memory", batched=False), nodes=program.nodes[:1] + (
            Node(name="mix", op=ops.Clamp(low=0), inputs=("both",), outputs=("mixed",)),
            program.nodes[2]), tensors={**program.tensors, **{
                name: dataclasses.replace(program.tensors[name], batched=name != "memory",
                                          quantization=wide("int8"))
                for name in ("both", "mixed", "memory", "limited")}}))
    # Renewed by what comes in: a delay of one run.
    delay = dataclasses.replace(program.state["memory"], renewed_by="x")
    program = with_tensor(program, "x", quantization=program.tensors["memory"].quantization)
    joined = dataclasses.replace(program.nodes[0].op, input_zero_points=(7, -1))
    verify(rebuilt(replace_op(program, "join", joined), state={"memory": delay}))


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
