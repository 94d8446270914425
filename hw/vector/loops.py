"""Counters of nested loops."""

from amaranth.hdl import Signal

__all__ = ["Countdown"]


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

    def load(self):
        """Statements (domain sync) that begin at the first step."""
        return [self.left.eq(self.count), self.last.eq(self.single)]

    def step(self):
        """Go on; after the last step comes the first."""
        with self.m.If(self.last):
            self.m.d.sync += self.load()
        with self.m.Else():
            self.m.d.sync += [self.left.eq(self.left - 1), self.last.eq(self.left == 2)]
