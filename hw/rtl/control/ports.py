"""Ports: what registers, dispatcher and engines say to each other."""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import FORMAT_WORDS, Engine, ErrorCode, Format
from hw.rtl.memory.ports import PORT_PROGRESS_WIDTH

__all__ = ["ENGINES", "ArrayActivity", "EngineControl", "EngineProgress", "EngineState", "Region",
           "RunControl", "SharedError", "engine_format"]

ENGINES = tuple(Engine)
_TRANSFERS = (Engine.LOAD, Engine.STORE)


def engine_format(engine: Engine) -> Format:
    """The instruction format of an engine."""
    return Format(min(engine, Format.TRANSFER))


class EngineControl(wiring.Signature):
    """The instructions of an engine, from the dispatcher's side.

    Members
    -------
    words : the instruction, stable from ``start`` until two cycles after ``done``.
    start : pulse. done : pulse, the engine can take the next instruction.
    unit_ready, unit_next : the chase; ``unit_ready`` is right from the third cycle after ``start``
        and after ``unit_next`` on.
    error : ErrorCode for one cycle, in place of ``done``; NONE otherwise.
    abort : level, give up everything.
    busy : of LOAD and STORE, bursts are still open. error_previous : with ``error``, that is of
        the instruction before the one started last.
    """

    def __init__(self, engine: Engine):
        members = {
            "words": Out(data.ArrayLayout(32, FORMAT_WORDS[engine_format(engine)])),
            "start": Out(1), "done": In(1), "unit_ready": Out(1), "unit_next": In(1),
            "error": In(ErrorCode), "abort": Out(1)}
        if engine in _TRANSFERS:
            members |= {"busy": In(1), "error_previous": In(1)}
        super().__init__(members)


class EngineProgress(wiring.Signature):
    """What of an engine's results is written, from the side of who writes them.

    Members
    -------
    progress : units of the oldest instruction that are written in this cycle.
    complete : pulse, all its results are.
    """

    def __init__(self):
        super().__init__({"progress": Out(PORT_PROGRESS_WIDTH), "complete": Out(1)})


class EngineState(wiring.Signature):
    """What an engine does, from the dispatcher's side, for the counters.

    Members
    -------
    running : between ``start`` and ``done``. waiting : its next instruction is held back by its
    waits, ``blocked`` says for which engines.
    """

    def __init__(self):
        super().__init__({"running": Out(1), "waiting": Out(1), "blocked": Out(len(ENGINES))})


class ArrayActivity(wiring.Signature):
    """What the array does in this cycle, from its side, for the counters.

    Members
    -------
    go : it takes a slot. draining : it waits for the readout. chasing : for a producer.
    """

    def __init__(self):
        super().__init__({"go": Out(1), "draining": Out(1), "chasing": Out(1)})


class SharedError(wiring.Signature):
    """An error that a shared unit has found for an engine.

    Members
    -------
    code : ErrorCode, for one cycle. engine : whose. of_result : in a result of its oldest
    instruction that was not complete, else in a read of the one started last.
    """

    def __init__(self):
        super().__init__({"code": Out(ErrorCode), "engine": Out(2), "of_result": Out(1)})


class RunControl(wiring.Signature):
    """Begin and end of runs, from the side of the registers.

    Members
    -------
    start, abort_request : pulses. single_step, program_address : how and where to start. resume :
        ``program_address`` is the ``index`` of the last stop, at which the dispatcher goes on.
    cycle_limit, watchdog_limit : cycles.
    busy, done, error, index : status; ``index`` is the refused or halting instruction, or the next
        one after a single step. begin : the run begins, for counters.
    """

    def __init__(self, target):
        super().__init__({
            "start": Out(1), "single_step": Out(1), "abort_request": Out(1),
            "program_address": Out(16), "resume": Out(1), "cycle_limit": Out(32),
            "watchdog_limit": Out(32, init=target.watchdog),
            "busy": In(1), "done": In(1), "error": In(ErrorCode), "index": In(16),
            "begin": In(1)})


class Region(wiring.Signature):
    """The external bytes that a program may name, from the side of the registers.

    Members
    -------
    base, limit : the first and the last.
    """

    def __init__(self):
        super().__init__({"base": Out(32), "limit": Out(32, init=0xFFFF_FFFF)})
