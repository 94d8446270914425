"""The builder: shapes, quantizations and names that it finds, and what it refuses."""

import time

import numpy as np
import pytest

from golden import ops
from golden.errors import LockstepError
from golden.program import Program, Quantization, interpreter
from golden.program.builder import ProgramBuilder
from golden.program.sources import run_steps
from tests.golden.samples import residual_program
from tests.golden.stateful import (
    BATCH,
    N_CHANNELS,
    Gradient,
    Update,
    Weigh,
    step_inputs,
    step_program,
    streaming_program,
)


def rebuilt(program):
    """The Program, node by node through the builder."""
    builder = ProgramBuilder()
    for name in program.inputs:
        tensor = program.tensors[name]
        builder.input(name, tensor.shape, tensor.quantization, tensor.batched)
    for name, state in program.state.items():
        tensor = program.tensors[name]
        builder.state(name, state.initial, tensor.quantization, tensor.batched)
    for node in program.nodes:
        quantizations = [program.tensors[name].quantization for name in node.outputs]
        if len(quantizations) == 1:
            quantizations, = quantizations
        builder.node(node.name, node.op, node.inputs,
                     None if node.op.same_quantization else quantizations, outputs=node.outputs)
    for name, state in program.state.items():
        builder.renew(name, state.renewed_by)
    return builder.build(program.name, program.outputs, input_layout=program.input_layout,
                         metadata=program.metadata, batch=program.batch), builder


@pytest.mark.parametrize("make", [residual_program, step_program, streaming_program])
def test_the_same_program_by_hand_and_by_the_builder(make):
    program = make()
    again, builder = rebuilt(program)
    assert again.sha256 == program.sha256
    assert [entry.node for entry in builder.report.nodes] == [node.name for node in program.nodes]


def test_names_and_batches_of_outputs_are_found():
    def wide(dtype):
        return Quantization(scale=1.0, zero_point=0, dtype=dtype)

    builder = ProgramBuilder()
    x = builder.input("x", (N_CHANNELS,), wide("int8"))
    target = builder.input("target", [np.int64(N_CHANNELS)], wide("int8"))
    rate = builder.input("rate", (1,), wide("int32"), batched=False)
    masters = builder.state("masters", np.ones(N_CHANNELS, np.int16), wide("int16"), batched=False)
    momenta = builder.state("momenta", np.ones(N_CHANNELS, np.int32), wide("int32"), batched=False)
    y = builder.node("y", Weigh(), [x, masters], wide("int8"))
    sums = builder.node("sums", Gradient(), [y, target], wide("int32"))
    renewed = builder.node("update", Update(), [masters, momenta, sums, rate],
                           [wide("int16"), wide("int32")])
    assert renewed == ("update/0", "update/1")
    assert [builder.tensors[name].batched for name in (y, sums, *renewed)] == [True] + [False] * 3
    assert builder.tensors[y].shape == (N_CHANNELS,)
    builder.renew(masters, renewed[0])
    with pytest.raises(LockstepError, match="State momenta must be renewed"):
        builder.build("step", y)
    builder.renew(momenta, renewed[1])
    for name, message in ((momenta, "State momenta must be renewed once"),
                          (y, "Tensor y must be state to be renewed")):
        with pytest.raises(LockstepError, match=message):
            builder.renew(name, y)
    with pytest.raises(LockstepError, match="Output spare must be a tensor of the Program"):
        builder.build("step", "spare")
    program = builder.build("step", y, batch=BATCH)
    assert isinstance(program, Program)
    first, second = run_steps(interpreter.run, program, [step_inputs(), step_inputs()])
    np.testing.assert_array_equal(second["masters"], first["update/0"])


def test_a_program_that_is_not_sound_is_not_built():
    builder = ProgramBuilder()
    quantization = Quantization(scale=1.0, zero_point=3)
    x = builder.input("x", (4, 5, 5), quantization)
    with pytest.raises(ValueError, match="Window of 9 must fit"):
        builder.node("pool", ops.MaxPool(kernel=(9, 9), stride=(1, 1)), [x])
    with pytest.raises(LockstepError, match=r"Node y \(Clamp\): Input later must be written by an"):
        builder.node("y", ops.Clamp(), ["later"])
    rescaling = ops.Rescaling(input_zero_point=2,
                              rescale=ops.Rescale.from_factors(1.0, zero_point=3))
    with pytest.raises(LockstepError, match=r"Node y \(Rescaling\) must be given the quantization"):
        builder.node("y", rescaling, [x])
    y = builder.node("y", rescaling, [x], quantization)
    with pytest.raises(LockstepError, match="Node y .*Input zero point must be 3"):
        builder.build("p", y)
    assert builder.report is None
    shape = builder.node("z", ops.Clamp(low=0), [x], shape=(4, 5))
    with pytest.raises(LockstepError, match=r"Output z must have shape \(4, 5, 5\), not \(4, 5\)"):
        builder.nodes.pop(0)
        builder.build("p", shape)


def test_invented_names_are_free_and_found_at_once():
    builder = ProgramBuilder({"a", "a_2"})
    assert [builder.invent("a") for _ in range(3)] == ["a_1", "a_3", "a_4"]
    assert builder.invent("b") == "b"
    builder.input("c", (1,), Quantization(scale=1.0, zero_point=0))
    assert builder.invent("c") == "c_1"
    begin = time.process_time()
    assert len({builder.invent("a") for _ in range(20000)}) == 20000
    assert time.process_time() - begin < 2
