"""Ports of the lanes: the array's items and the writing of parameters."""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from hw.rtl.memory.scratchpad import FIELDS_PER_CHANNEL, exact_bits
from hw.rtl.vector.ports import vector_item_layout

__all__ = ["ParameterWrite", "array_item_layout"]

_VECTOR_ONLY = ("which", "multiplier", "shift")


def array_item_layout(target) -> data.StructLayout:
    """What the lanes need of a group of the array's sums.

    ``sums``: one int32 per lane. ``bank``, ``address``, ``group``: lane i goes to byte
    lanes * group + i of that word, if bit i of ``mask`` is set. ``parameter``: word of the
    parameter memory. ``wide``: byte ``plane`` of the sums is written instead of their codes.
    ``gemmlowp``, ``zero_point``, ``low``, ``high``: of the rescaling. ``progress``,
    ``instruction_end``: come out when the item is written, or would be: also with an empty mask.

    A vector item also has ``which``, ``multiplier``, ``shift`` (hw.rtl.vector.ports); those last
    two take the place of the parameter word where ``which`` is not PARAMETERS, with a bias of 0,
    and ``wide`` means nothing then.
    """
    return data.StructLayout({name: field.shape for name, field in vector_item_layout(target)
                              if name not in _VECTOR_ONLY})


class ParameterWrite(wiring.Signature):
    """Writes of the parameter memory, always accepted.

    Members
    -------
    valid, address, data : 32-bit word ``address`` = 4 * channel + field, as ParameterMemory takes
    it.
    """

    def __init__(self):
        super().__init__({"valid": Out(1), "address": Out(16 + exact_bits(FIELDS_PER_CHANNEL)),
                          "data": Out(32)})
