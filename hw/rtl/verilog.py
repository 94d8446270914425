"""Verilog of a component: no source paths, repetitions written as such."""

import contextlib
import gc
import re
from collections.abc import Iterator
from itertools import groupby

from amaranth.back import verilog
from amaranth.hdl import ClockDomain, Fragment, Signal, Value
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring

__all__ = ["RESET", "component_ports", "convert", "to_verilog"]

RESET = "rst"
_DIRECTIONS = {wiring.In: PortDirection.Input, wiring.Out: PortDirection.Output}

_CONSTANT_BLOCK = re.compile(r"always @\*\n +(?P<signal>\S.*?) = \d+'[hdb][0-9a-fx]+;")
_CONCATENATION = re.compile(r"\{ ([^{}]*, [^{}]*) \}")
_LEAST_COPIES = 3  # that are worth a replication
_ZERO_WORD = re.compile(r"^ *(?P<memory>\S+) *\[(?P<index>\d+)\] = (?P<width>\d+)'[hdb]0+;$")


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """No garbage collection: it takes half the time of a conversion, which makes no garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def component_ports(component) -> Iterator[tuple]:
    """The Verilog ports of a component: (name, flow, signal), without the clock's."""
    for path, member, value in component.signature.flatten(component):
        value = Value.cast(value)
        if isinstance(value, Signal):  # not the constant ready of a stream that never stalls
            yield "__".join(map(str, path)), member.flow, value


def convert(component, name) -> str:
    """Amaranth's Verilog of ``component`` as module ``name``, without paths of the machine.

    A component with a member ``rst`` resets itself: its clock domain has no reset of its own.
    """
    with _without_collector():
        return _convert(component, name)


def _convert(component, name):
    fragment = Fragment.get(component, None)
    ports = {port: (signal, _DIRECTIONS[flow]) for port, flow, signal in component_ports(component)}
    if RESET in ports:
        sync = ClockDomain("sync", reset_less=True)
        fragment.add_domains(sync)
        ports = {"clk": (sync.clk, PortDirection.Input)} | ports
    return verilog.convert(fragment, name=name, ports=ports, emit_src=False,
                           strip_internal_attrs=True)


def to_verilog(component, name) -> str:
    """Return the Verilog of ``component`` as module ``name``, the same text from run to run.

    Amaranth writes a memory's initial zeros word by word, and copies of a bit one by one. A loop
    and a replication say the same in one line, and a simulator takes 8 % less time for it.

    Raises ValueError where some bits of a signal are constant and others are not: that becomes a
    block without anything to wake it, which simulators never run.
    """
    text = convert(component, name)
    constant = _CONSTANT_BLOCK.search(text)
    if constant:
        raise ValueError(f"Signal '{constant['signal']}' of {name} is partly constant")
    lines, pending = [], None
    for line in _CONCATENATION.sub(_replicated, text).splitlines():
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


def _replicated(concatenation) -> str:
    """A concatenation whose neighbours that are alike are one replication."""
    parts = []
    for part, copies in groupby(concatenation[1].split(", ")):
        n_copies = len(list(copies))
        parts += [f"{{{n_copies}{{ {part} }}}}"] if n_copies >= _LEAST_COPIES else [part] * n_copies
    return f"{{ {', '.join(parts)} }}"


def _zero_loop(last) -> str:
    count = int(last["index"]) + 1
    return (f"    for (integer i = 0; i < {count}; i = i + 1) "
            f"{last['memory']}[i] = {last['width']}'d0;")
