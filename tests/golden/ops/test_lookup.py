"""Tables of codes: the operator, and the tables of other operators."""

import numpy as np
import pytest

from golden import ops
from tests.golden import literal

CODES = np.arange(-128, 128, dtype=np.int8)


def test_a_table_is_indexed_by_the_code():
    table = np.random.default_rng(0).integers(-128, 128, 256, dtype=np.int8)
    op = ops.Lookup(table=table)
    x = np.random.default_rng(1).permuted(CODES).reshape(2, 4, 8, 4)
    y = op(x)
    assert y.dtype == np.int8
    assert y.ravel().tolist() == [int(table[code + 128]) for code in x.ravel().tolist()]
    assert (op.table == table).all()
    assert op.output_range(((-128, 127),)) == (table.min(), table.max())
    assert op.output_range(((5, 7),)) == (table[133:136].min(), table[133:136].max())


def test_clamp_and_rescaling_are_tables():
    assert ops.Clamp(low=-5, high=9).table.tolist() == [max(-5, min(9, q)) for q in CODES.tolist()]
    op = ops.Rescaling(input_zero_point=7, rescale=ops.Rescale.from_factors(
        0.37, zero_point=-3, low=-50, rounding="gemmlowp"))
    multiplier, shift = int(op.rescale.multiplier[0]), int(op.rescale.shift[0])
    assert op.table.tolist() == [literal.gemmlowp(q - 7, multiplier, shift, -3, -50, 127)
                                 for q in CODES.tolist()]
    x = np.random.default_rng(2).integers(-128, 128, (2, 3, 4), dtype=np.int8)
    assert (ops.Lookup(table=op.table)(x) == op(x)).all()
    with pytest.raises(ValueError, match="read-only"):
        op.table[0] = 1


def test_no_table_where_channels_or_inputs_differ():
    assert ops.Rescaling(input_zero_point=7, rescale=ops.Rescale.from_factors(
        [0.3, 0.4], zero_point=0)).table is None
    assert ops.MaxPool(kernel=(1, 1), stride=(1, 1)).table is None


def test_fields_are_checked():
    with pytest.raises(TypeError, match="table"):
        ops.Lookup()
    with pytest.raises(ValueError, match="Table must have 256 entries, not 255"):
        ops.Lookup(table=CODES[1:])
    with pytest.raises(ValueError, match="Table must be in -128..127, not 128"):
        ops.Lookup(table=np.arange(-127, 129))
