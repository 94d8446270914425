"""Items of the vector engine for the rescaler lanes, and what comes back of them."""

from amaranth.hdl import signed
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import Out

__all__ = ["SUM_WIDTH", "Which", "returned_signature", "vector_item_layout"]

SUM_WIDTH = 32


class Which(enum.Enum, shape=2):
    """What an item is, and where its bias, multiplier and shift come from."""

    PARAMETERS = 0  #: sums of a product; bias, multiplier and shift are in the parameter memory
    FIRST_INPUT = 1  #: of an addition; the item has multiplier and shift, its result comes back
    SECOND_INPUT = 2
    SUM = 3  #: of an addition; the item has multiplier and shift


def vector_item_layout(target) -> data.StructLayout:
    """What the lanes need of a group of sums."""
    return data.StructLayout({
        "sums": data.ArrayLayout(signed(SUM_WIDTH), target.lanes), "which": Which,
        "bank": 2, "address": 16, "group": 2, "mask": target.lanes, "parameter": 16,
        "multiplier": 31, "shift": 6, "wide": 1, "plane": 2, "gemmlowp": 1,
        "zero_point": signed(8), "low": signed(8), "high": signed(8),
        "progress": 16, "instruction_end": 1})


def returned_signature(target) -> wiring.Signature:
    """Results of the two inputs of additions, from the lanes, in the order of their items."""
    return wiring.Signature({
        "valid": Out(1), "which": Out(Which),
        "values": Out(data.ArrayLayout(signed(SUM_WIDTH), target.lanes))})
