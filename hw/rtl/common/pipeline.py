"""Registers between the stages of a pipeline that never stalls.

Every live value moves one stage per clock, `valid` among them: there is no enable, so nothing
fans out to all stages. Values are dropped where they are last used.
"""

from types import SimpleNamespace

from amaranth.hdl import Cat, Mux, Signal, Value
from amaranth.lib import memory

__all__ = ["Pipeline", "delayed", "delayed_in_memory", "one_of", "own_copy", "registered"]


class Pipeline:
    """Builds pipeline stages in a module.

    Arguments
    ---------
    m : Module, receives the registers (domain sync).
    values : the signals that enter, by name. `valid` starts at 0; all others are not reset.

    Members
    -------
    depth : int, the number of stages so far.
    now : namespace of the values after the last stage.
    """

    def __init__(self, m, **values):
        self._m = m
        self.depth = 0
        self.now = SimpleNamespace(**{name: Value.cast(v) for name, v in values.items()})

    def stage(self, *, drop=(), own=(), joined=None, **computed) -> SimpleNamespace:
        """Register every live value once; return the namespace after the stage.

        drop : names that are not needed afterwards.
        own : names of values that pipelines side by side have in common, and that synthesis is
            not to share between them from here on.
        joined : values that a submodule has already registered at this depth, by name.
        computed : new or replaced values, registered here.
        """
        self.depth += 1
        values = {name: v for name, v in vars(self.now).items() if name not in drop}
        values |= computed
        after = {}
        for name, value in values.items():
            value = Value.cast(value)
            register = Signal(value.shape(), name=f"{name}_{self.depth}",
                              reset_less=name != "valid",
                              attrs={"keep": 1} if name in own else None)
            self._m.d.sync += register.eq(value)
            after[name] = register
        self.now = SimpleNamespace(**after, **(joined or {}))
        return self.now

    def wait(self, n_cycles, name) -> SimpleNamespace:
        """``n_cycles`` stages in which nothing happens: all but `valid` passes them in a memory,
        named ``name``.
        """
        values = vars(self.now)
        valid = delayed(self._m, values.pop("valid"), n_cycles, f"{name}_valid")
        late = delayed_in_memory(self._m, Cat(values.values()), n_cycles, name)
        after, begin = {}, 0
        for key, value in values.items():
            part = late[begin:begin + len(value)]
            after[key] = part.as_signed() if value.shape().signed else part
            begin += len(value)
        self.depth += n_cycles
        self.now = SimpleNamespace(valid=valid, **after)
        return self.now


def registered(m, port) -> Signal:
    """A register that drives ``port`` and takes no part in the reset, for what travels with a
    valid bit: a net to every register of the accelerator would cross the device.
    """
    register = Signal(port.shape(), name=f"{Value.cast(port).name}_register", reset_less=True)
    m.d.comb += port.eq(register)
    return register


def delayed(m, value, n_cycles, name, *, reset_less=False) -> Value:
    """``value`` as it was ``n_cycles`` ago; plain registers in ``m``, named after ``name``."""
    for stage in range(n_cycles):
        late = Signal.like(value, name=f"{name}_{stage}", reset_less=reset_less)
        m.d.sync += late.eq(value)
        value = late
    return value


def delayed_in_memory(m, value, n_cycles, name) -> Signal:
    """``value`` as it was ``n_cycles`` ago, 2 or more; for what is wide and needs no reset.

    It lies in distributed memory and, in its last cycle, in a register.
    """
    depth = n_cycles - 1
    value = Value.cast(value)
    m.submodules[name] = cells = memory.Memory(shape=len(value), depth=depth, init=[])
    # A read port without a clock gives what stood there before this cycle's write.
    write, read = cells.write_port(), cells.read_port(domain="comb")
    late = Signal(value.shape(), name=f"{name}_late", reset_less=True)
    place = Signal(range(max(2, depth)), name=f"{name}_place", reset_less=True)
    m.d.comb += [write.en.eq(1), write.data.eq(value), write.addr.eq(place), read.addr.eq(place)]
    m.d.sync += [late.eq(read.data), place.eq(Mux(place == depth - 1, 0, place + 1))]
    return late


def own_copy(m, value, name) -> Signal:
    """``value``, a cycle later, in a register that synthesis does not share with other units."""
    value = Value.cast(value)
    copy = Signal(value.shape(), name=name, attrs={"keep": 1}, reset_less=True)
    m.d.sync += copy.eq(value)
    return copy


def one_of(choices) -> Value:
    """The value whose select bit is 1, among (select, value), as gates: 0 where none is."""
    result = 0
    for select, value in choices:
        value = Value.cast(value)
        result |= value & select.replicate(len(value))
    return result
