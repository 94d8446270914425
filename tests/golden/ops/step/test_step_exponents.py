"""The exponent rule of the integer training step, and sums of exponents."""

import numpy as np
import pytest

from golden.ops.step import ExponentRule, ShiftSum
from tests.golden.ops.step.common import channels, limit, one, run


def literal_rule(e, quiet, top, bits):
    need = top.bit_length() - bits
    if need > 0:
        e, quiet = e + need, 0
    elif need < 0:
        quiet += 1
        if quiet == 8:
            e, quiet = e - 1, 0
    else:
        quiet = 0
    return limit(e, -64, 63), quiet


@pytest.mark.parametrize("bits", [7, 15])
def test_exponent_rule_is_the_literal_one(bits):
    rng = np.random.default_rng(bits)
    op, (e, quiet) = ExponentRule(bits=bits), (0, 0)
    tops = [0] * 20 + [1 << 31 - 1 - i for i in range(31)] + [int(v) for v in rng.integers(
        0, 1 << bits + 1, 200)] + [1] * 900 + [(1 << 31) - 1] * 6
    for top in tops:
        expected = literal_rule(e, quiet, top, bits)
        found = run(op, one(e, "int8"), one(quiet, "int8"), one(top))
        assert tuple(int(x[0, 0]) for x in found) == expected
        e, quiet = expected
    for top in (0, 3, 127, 128, 1 << 20):
        e, quiet = run(ExponentRule(bits=bits, settle=True), one(4, "int8"), one(5, "int8"),
                       one(top))
        assert (e[0, 0], quiet[0, 0]) == (4 + top.bit_length() - bits, 0)


def test_shift_sums_and_their_ranges():
    op = ShiftSum(signs=(1, -1, 1), dtypes=("int8", "int8", "int32"), offset=8)
    y, = run(op, channels([1, 2, 3], "int8"), one(-5, "int8"), channels([10, 20, 30]))
    assert y.tolist() == [[24, 35, 46]] and op.output_shape((3,), (1,), (3,)) == (3,)
    assert op.output_range([(-128, 127), (-64, 63), (0, 10)]) == (8 - 128 - 63, 8 + 127 + 64 + 10)
    with pytest.raises(ValueError, match=r"must get term 1 of shape \(3,\), not \(2,\)"):
        op.output_shape((3,), (2,), (1,))
    with pytest.raises(ValueError, match="Signs must be 1 or -1 for each of 1 inputs"):
        ShiftSum(signs=(1, 1), dtypes=("int8",))
    with pytest.raises(ValueError, match="Dtypes must be int8 or int32, not 'int16'"):
        ShiftSum(signs=(1,), dtypes=("int16",))


def test_what_is_refused():
    with pytest.raises(ValueError, match="Bits must be in 1..15, not 16"):
        ExponentRule(bits=16)
    with pytest.raises(ValueError, match="must get exponent without a batch"):
        ExponentRule(bits=7).output_batched(True, False, False)
