"""The order of axes of files, at every rank."""

import numpy as np
import pytest

from golden import ops
from golden.errors import LockstepError
from golden.program import Node, Program, Quantization, Tensor
from golden.program.layout import from_file, shape_in_file, to_file

SHAPES = {1: (5,), 2: (5, 7), 3: (5, 7, 3), 4: (5, 7, 3, 2)}
IN_FILE = {1: (5,), 2: (7, 5), 3: (7, 3, 5), 4: (7, 3, 2, 5)}


def clamped(shape, layout):
    """A Program of one Clamp on tensors (C, ...)."""
    quantization = Quantization(scale=0.5, zero_point=1)
    tensors = {name: Tensor(name=name, shape=shape, quantization=quantization) for name in "xy"}
    return Program(name="p", nodes=(Node(name="n", op=ops.Clamp(low=-128, high=127),
                                         inputs=("x",), outputs=("y",)),),
                   tensors=tensors, inputs=("x",), outputs=("y",), input_layout=layout)


@pytest.mark.parametrize("rank", sorted(SHAPES))
def test_channels_last_is_the_last_axis_at_every_rank(rank):
    codes = np.random.default_rng(rank).integers(-128, 128, (2, *SHAPES[rank]), dtype=np.int8)
    assert shape_in_file(SHAPES[rank], "NHWC") == IN_FILE[rank]
    assert shape_in_file(SHAPES[rank], "NCHW") == SHAPES[rank]
    in_file = to_file(codes, "NHWC")
    assert in_file.shape == (2, *IN_FILE[rank])
    for index in np.ndindex(codes.shape):       # said once more, element by element
        image, channel, *place = index
        assert in_file[(image, *place, channel)] == codes[index]
    np.testing.assert_array_equal(from_file(in_file, "NHWC"), codes)
    for turn in (to_file, from_file):
        assert turn(codes, "NCHW") is codes


@pytest.mark.parametrize("rank", sorted(SHAPES))
def test_a_program_takes_and_gives_the_order_of_its_file(rank):
    program = clamped(SHAPES[rank], "NHWC")
    assert program.input_shape == program.output_shape == IN_FILE[rank]
    x = np.random.default_rng(rank).integers(-128, 128, (2, *IN_FILE[rank]), dtype=np.int8)
    codes = program.quantize_input(x)
    assert codes.shape == (2, *SHAPES[rank])
    assert codes.flags.c_contiguous
    np.testing.assert_array_equal(program.quantize_input((x.astype(float) - 1) / 2), codes)
    output = program.output_array(program.nodes[0].op(codes))
    assert output.flags.c_contiguous
    np.testing.assert_array_equal(output, x)
    first = clamped(SHAPES[rank], "NCHW")
    np.testing.assert_array_equal(first.output_array(codes), codes)
    if rank > 1:
        with pytest.raises(LockstepError, match="in NHWC, not"):
            program.quantize_input(codes)
