"""EngineSlot: what stands between the fetch and one engine.

Two sets of instruction registers, so that the next instruction is fetched while one runs; the
check of its waits; and the chase of a producer, unit by unit (`hw.isa` defines both).
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import COMMON_FIELDS, FIELDS, FORMAT_WORDS
from hw.rtl.common.pipeline import own_copy, registered
from hw.rtl.control.ports import ENGINES

__all__ = ["COMPLETED_WIDTH", "PROGRESS_WIDTH", "EngineSlot", "instruction_fields"]

COMPLETED_WIDTH, PROGRESS_WIDTH = 16, 24
_REACH = 4  #: words that one register can move: they lie all over the engine


def instruction_fields(words, n_words=None, *, format_=None) -> dict:
    """The fields of an instruction held in a Signal of 32-bit words, by name.

    format_ : hw.isa.Format, or None for the common fields alone. n_words : only those of the first
    words.
    """
    fields = {}
    for field in COMMON_FIELDS if format_ is None else FIELDS[format_]:
        if n_words is not None and field.word >= n_words:
            break
        value = words[field.word][field.offset:field.offset + field.width]
        fields[field.name] = value.as_signed() if field.signed else value
    return fields


class EngineSlot(wiring.Component):
    """The instruction registers of one engine.

    Members
    -------
    write, write_data : the next word of the next instruction; commit : it is whole.
        free : there is room for one; right from the third cycle after ``commit``.
    completed, progress : of all engines.
    words, start, done, unit_ready, unit_next : to and from the engine. ``start`` is up for one
        cycle; words are stable from then until two cycles after the engine's ``done``.
        ``unit_ready`` is right from the third cycle after ``start`` and after ``unit_next``.
    alone : every earlier instruction is complete (single steps); nothing is waited for or chased.
    running : between ``start`` and ``done``; waiting : an instruction is held back by its waits,
        ``blocked`` says for which engines. clear : forget everything.
    """

    def __init__(self, format_):
        self.format = format_
        self.n_words = FORMAT_WORDS[format_]
        counts = data.ArrayLayout(COMPLETED_WIDTH, len(ENGINES))
        super().__init__({
            "write": In(1), "write_data": In(32), "commit": In(1), "free": Out(1), "clear": In(1),
            "alone": In(1), "completed": In(counts),
            "progress": In(data.ArrayLayout(PROGRESS_WIDTH, len(ENGINES))),
            "words": Out(data.ArrayLayout(32, self.n_words)),
            "start": Out(1), "done": In(1), "unit_ready": Out(1), "unit_next": In(1),
            "running": Out(1), "waiting": Out(1), "blocked": Out(len(ENGINES)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        following = Signal(self.words.shape(), reset_less=True)
        words = registered(m, self.words)
        groups = [range(first, min(first + _REACH, self.n_words))
                  for first in range(0, self.n_words, _REACH)]
        full = Signal()
        checked = Signal(2)  # the comparisons below know of the instruction
        move = Signal()
        m.d.comb += self.free.eq(~full)

        # The slot lies between the fetch and its engine, and sees only registers of its own. Words
        # shift through it, so that none has to reach all of it.
        write_data = Signal(32, reset_less=True)
        commit, done, clear = Signal(), Signal(), Signal()
        m.d.sync += [write_data.eq(self.write_data), commit.eq(self.commit), done.eq(self.done),
                     clear.eq(self.clear)]
        for k, group in enumerate(groups):
            with m.If(own_copy(m, self.write, f"write_{k}")):
                m.d.sync += [following[i].eq(following[i + 1] if i + 1 < self.n_words
                                             else write_data) for i in group]
        with m.If(commit):
            m.d.sync += full.eq(1)
        m.d.sync += checked.eq(Mux(full & ~move, Cat(1, checked[0]), 0))

        f = instruction_fields(following)
        unmet = Cat(self.completed[engine] < f[f"wait_{engine.name.lower()}"]
                    for engine in ENGINES)
        m.d.sync += [self.blocked.eq(Mux(self.alone, 0, unmet)),
                     self.waiting.eq(full & ~self.running & ~move)]
        can_move = full & checked[1] & ~self.blocked.any() & ~self.running & ~move
        starts = Signal()  # in the next cycle; meanwhile the words move
        m.d.sync += [move.eq(can_move), starts.eq(move), self.start.eq(starts)]
        with m.If(can_move):
            m.d.sync += self.running.eq(1)
        with m.If(move):
            m.d.sync += full.eq(0)
        for k, group in enumerate(groups):
            with m.If(own_copy(m, move, f"load_{k}")):
                m.d.sync += [words[i].eq(following[i]) for i in group]
        with m.If(done):
            m.d.sync += self.running.eq(0)

        # The chase: what the producer has done, against what the present unit needs.
        now = instruction_fields(self.words)
        completed = Signal(COMPLETED_WIDTH)
        progress = Signal(PROGRESS_WIDTH)
        need = Signal(PROGRESS_WIDTH)
        past, same, enough = Signal(), Signal(), Signal()
        m.d.sync += [
            completed.eq(Array(list(self.completed))[now["chase_engine"]]),
            progress.eq(Array(list(self.progress))[now["chase_engine"]]),
            past.eq(completed > now["chase_number"]), same.eq(completed == now["chase_number"]),
            enough.eq(progress >= need),
            self.unit_ready.eq(self.alone | ~now["chase"] | past | (same & enough)),
        ]
        with m.If(self.unit_next):
            m.d.sync += need.eq(need + now["chase_step"])
        with m.If(move):
            m.d.sync += need.eq(f["chase_first"])
        with m.If(clear):
            m.d.sync += [full.eq(0), checked.eq(0), move.eq(0), starts.eq(0), self.start.eq(0),
                         self.running.eq(0), self.waiting.eq(0)]
        return m
