"""Verilog of a component: no source paths, zeroed memories in one line."""

import re

from amaranth.back import verilog

__all__ = ["to_verilog"]

_CONSTANT_BLOCK = re.compile(r"always @\*\n +(?P<signal>\S.*?) = \d+'[hdb][0-9a-fx]+;")
_ZERO_WORD = re.compile(r"^ *(?P<memory>\S+) *\[(?P<index>\d+)\] = (?P<width>\d+)'[hdb]0+;$")


def to_verilog(component, name):
    """Return the Verilog of ``component`` as module ``name``, the same text from run to run.

    Amaranth writes a memory's initial zeros word by word; a loop says the same in one line.

    Raises ValueError where some bits of a signal are constant and others are not: that becomes a
    block without anything to wake it, which simulators never run.
    """
    text = verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
    constant = _CONSTANT_BLOCK.search(text)
    if constant:
        raise ValueError(f"Signal '{constant['signal']}' of {name} is partly constant")
    lines, pending = [], None
    for line in text.splitlines():
        zero = _ZERO_WORD.match(line)
        follows = int(zero["index"]) == (int(pending["index"]) + 1 if pending else 0) if zero else 0
        if follows and (pending or lines[-1].strip() == "initial begin"):
            pending = zero
            continue
        if pending:
            lines.append(_zero_loop(pending))
            pending = None
        lines.append(line)
    return "\n".join(lines) + "\n"


def _zero_loop(last):
    count = int(last["index"]) + 1
    return (f"    for (integer i = 0; i < {count}; i = i + 1) "
            f"{last['memory']}[i] = {last['width']}'d0;")
