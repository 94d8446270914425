"""Counters: of nested loops, and of what a buffer holds."""

from amaranth.hdl import Mux, Signal, Value

__all__ = ["Countdown", "LateLevel", "Level"]


class Countdown:
    """A loop counter that knows, registered, whether it stands at its last value.

    Arguments
    ---------
    m : Module, receives the registers. name : of the registers. count : the number of steps, a
        value that is stable from the cycle before ``load`` on.
    """

    def __init__(self, m, name, count):
        self.m = m
        self.count = count
        self.left = Signal(len(count), name=f"{name}_left")
        self.last = Signal(name=f"{name}_last")
        self.single = Signal(name=f"{name}_single")
        m.d.sync += self.single.eq(count == 1)

    def load(self) -> list:
        """Statements (domain sync) that begin at the first step."""
        return [self.left.eq(self.count), self.last.eq(self.single)]

    def step(self) -> None:
        """Go on; after the last step comes the first."""
        with self.m.If(self.last):
            self.m.d.sync += self.load()
        with self.m.Else():
            self.m.d.sync += [self.left.eq(self.left - 1), self.last.eq(self.left == 2)]

    def next_last(self, step) -> Value:
        """Does it stand at its last value in the next cycle, if it goes on where ``step``?"""
        return Mux(step, Mux(self.last, self.single, self.left == 2), self.last)


class Level:
    """Counts what a buffer of ``depth`` places holds, and one more that was under way when it
    became full. Its flags are compared ahead of the count.

    Arguments
    ---------
    m : Module, receives the registers. name : of the registers.
    put, take : one item more, one less; they may come late in the cycle.

    ``any`` : there is one. ``room`` : there is room for one.
    """

    def __init__(self, m, name, depth, put, take):
        self.count = Signal(range(depth + 2), name=f"{name}_count")
        self.any = Signal(name=f"{name}_any")
        self.room = Signal(name=f"{name}_room", init=1)
        more, less = put & ~take, take & ~put
        next_any = Mux(more, 1, Mux(less, self.count != 1, self.any))
        next_room = Mux(less, self.count <= depth, Mux(more, self.count < depth - 1, self.room))
        m.d.sync += [self.count.eq(self.count + put - take), self.any.eq(next_any),
                     self.room.eq(next_room)]


class LateLevel:
    """Counts what a buffer of ``depth`` places holds where ``take`` comes late in the cycle.

    The count knows of a take one cycle later; ``any`` takes that into account.

    Arguments
    ---------
    m, name, depth, put, take : as of Level.

    ``any`` : there is one, combinational from three registers.
    """

    def __init__(self, m, name, depth, put, take):
        self.count = Signal(range(depth + 2), name=f"{name}_count")
        one, two, taken = (Signal(name=f"{name}_{which}") for which in ("one", "two", "taken"))
        following = Signal.like(self.count, name=f"{name}_following")
        m.d.comb += following.eq(self.count + put - taken)
        m.d.sync += [taken.eq(take), self.count.eq(following), one.eq(following != 0),
                     two.eq(following >= 2)]
        self.any = two | (one & ~taken)
