"""Verilog of a component: no source paths, zeroed memories in one line."""

import re

from amaranth.back import verilog

__all__ = ["to_verilog"]

_ZERO_WORD = re.compile(r"^ *(?P<memory>\S+) *\[(?P<index>\d+)\] = (?P<width>\d+)'[hdb]0+;$")


def to_verilog(component, name):
    """Return the Verilog of ``component`` as module ``name``, the same text from run to run.

    Amaranth writes a memory's initial zeros word by word; a loop says the same in one line.
    """
    text = verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
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
