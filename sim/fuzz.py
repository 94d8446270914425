"""Fuzzing of the instruction stream: random programs on the RTL against the instruction-set model.

Whatever the instructions say, a run ends, within a bound; sound programs leave in the memories
what hw.machine says, error code and instruction included; no program touches a memory that none
of its instructions names, and the next program runs as if nothing had happened.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np

from golden.errors import LockstepError
from hw.isa import (
    FIELDS_PER_CHANNEL,
    FORMAT_OF,
    INSTRUCTIONS,
    N_WORDS,
    AddressWindow,
    Counter,
    ErrorCode,
    Register,
    decode,
)
from hw.machine import Machine, MachineError, hazards
from hw.targets import N_BANKS, Target
from sim.commands import Commands, play
from sim.random_programs import ProgramMaker, RandomProgram, random_parameters

__all__ = ["Finding", "fuzz", "small_memories"]

CYCLE_LIMIT = 4000
WATCHDOG = 3200  # more than one instruction takes that writes nothing (random_programs)
#: Cycles from the limit to the end of a run: what is under way, open bursts included.
GRACE = 1500
EXTERNAL_BYTES = 4096  # the region of a program; as much again lies behind it
_BUSY, _DONE, _FAILED = 1, 2, 4


def small_memories(target: Target) -> Target:
    """The target with memories that are quickly compared; everything else is the same.

    Two banks have room for a table of LOOKUP.
    """
    return replace(target, bank_words=(80, 80, 32, 32), parameter_words=32,
                   instruction_words=6 * N_WORDS)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A program that did what it must not: its number, and what happened."""

    number: int
    what: str
    program: RandomProgram

    def __str__(self):
        lines = [f"program {self.number}: {self.what}"]
        for record in self.program.records:
            fields = decode([int(word) for word in record])
            lines.append("  " + " ".join(f"{k}={v}" for k, v in fields.items() if v))
        return "\n".join(lines)


class _Session:
    """The commands of one simulator process, and the model that follows it."""

    def __init__(self, target, seed):
        self.target = target
        self.rng = np.random.default_rng(seed)
        external = EXTERNAL_BYTES if target.bus_bits else 0
        self.maker = ProgramMaker(target, self.rng, external)
        self.machine = Machine(target, external_bytes=2 * external)
        self.machine.region_limit = external
        self.commands = Commands()
        self.programs = []
        self.answers_at = []
        self._fill()

    def _fill(self):
        """Random memories, in the accelerator and in the model."""
        machine, rng, commands = self.machine, self.rng, self.commands
        for number, bank in enumerate(machine.banks):
            bank[:] = rng.integers(-128, 128, bank.shape)
            commands.write((AddressWindow.BANK_0 + number) << 28, bank.view("<u4"))
        n = len(machine.parameters)
        self.parameters = random_parameters(rng, n)
        self._write_parameters()
        if machine.external.size:
            machine.external[:] = rng.integers(0, 256, machine.external.shape)
            commands.write_external(0, machine.external.view("<u4"))
            commands.write(Register.REGION_LIMIT, [machine.region_limit])
        commands.write(Register.CYCLE_LIMIT, [CYCLE_LIMIT])
        commands.write(Register.WATCHDOG, [WATCHDOG])

    def _write_parameters(self):
        rows = np.zeros((len(self.parameters), FIELDS_PER_CHANNEL), "<u4")
        rows[:, :3] = self.parameters
        self.commands.write(AddressWindow.PARAMETERS << 28, rows)

    def add(self):
        """One more program."""
        program, commands = self.maker.program(), self.commands
        if self.programs and self.target.bus_bits:  # the one before may have loaded others
            self._write_parameters()
        n_records = self.machine.n_records
        first = program.records[:n_records - program.start]
        commands.write((AddressWindow.INSTRUCTIONS << 28) + 4 * N_WORDS * program.start, first)
        if len(first) < len(program.records):
            commands.write(AddressWindow.INSTRUCTIONS << 28, program.records[len(first):])
        commands.write(Register.PROGRAM_ADDRESS, [program.start])
        commands.start()
        at = {"end": commands.wait(CYCLE_LIMIT + GRACE), "status": commands.read(Register.STATUS),
              "index": commands.read(Register.INSTRUCTION_INDEX),
              "counters": commands.read(Register.COUNTERS, 2 * (Counter.ARRAY_FETCH + 1))}
        at["banks"] = [commands.read((AddressWindow.BANK_0 + k) << 28, bank.size // 4)
                       for k, bank in enumerate(self.machine.banks)]
        if self.machine.external.size:
            at["external"] = commands.read_external(0, self.machine.external.size // 4)
        self.programs.append(program)
        self.answers_at.append(at)

    def check(self, answers):
        """Findings, program by program; the model goes on from what the hardware has left."""
        for number, (program, at) in enumerate(zip(self.programs, self.answers_at)):
            what = self._check(program, at, answers)
            if what:
                yield Finding(number=number, what=what, program=program)
            for bank, where in zip(self.machine.banks, at["banks"]):
                bank[:] = _codes(answers[where], bank.shape)
            if "external" in at:
                self.machine.external[:] = answers[at["external"]].view(np.uint8)

    def _check(self, program, at, answers):
        """What is wrong, or None."""
        level, cycles = answers[at["end"]]
        status, index = int(answers[at["status"]][0]), int(answers[at["index"]][0])
        if not level or status & _BUSY or not status & _DONE:
            return f"does not end within {cycles} cycles, status {status:#x}"
        try:
            code = ErrorCode(status >> 8 & 0xFF)
        except ValueError:
            return f"ends with the unknown error {status >> 8 & 0xFF}"
        if bool(status & _FAILED) != (code != ErrorCode.NONE):
            return f"ends with status {status:#x}"
        counts = answers[at["counters"]][::2]
        if counts[Counter.ARRAY_BUSY:].sum() != counts[Counter.CYCLES]:
            return f"its cycles are not explained: {counts.tolist()}"
        records = [decode([int(word) for word in record]) for record in program.records]
        if program.is_sound:
            return self._check_sound(program, records, at, answers, code, index)
        return self._check_wild(records, at, answers)

    def _check_sound(self, program, records, at, answers, code, index):
        machine = self.machine
        machine.parameters[:] = self.parameters
        for k, record in enumerate(program.records):
            machine.load_program([record], (program.start + k) % machine.n_records)
        refused = None
        try:
            machine.run(program.start)
        except MachineError as error:
            refused = error
        if refused is None:
            try:
                hazards.check(program.records, self.target)
            except LockstepError as error:
                return f"the generator left it unordered: {error}"
            if code != ErrorCode.NONE:
                return f"ends with {code.name} at {index}, the model without error"
            return self._differences(at, answers, None)
        if code == ErrorCode.NONE:
            return f"ends without error, the model with {refused}"
        if not program.in_turn and index != refused.index:
            refused = self._refused_beside(program, index) or refused
        if index != refused.index:
            return f"ends with {code.name} at {index}, the model: {refused}"
        if code != refused.code and not {code, refused.code} <= _EITHER:
            return f"ends with {code.name}, the model: {refused}"
        # The refused one may have written some results, and what it overtook be without its own.
        failed = (refused.index - program.start) % machine.n_records
        return self._differences(at, answers, _reach(
            records[failed:failed + 1] if program.in_turn else records, self.target))

    def _refused_beside(self, program, index):
        """The error of an instruction that is wrong, too, and may have been found before the first
        of the program: they run side by side. None where it is not."""
        at = index - program.start & 0xFFFF
        if at >= len(program.records):
            return None
        try:
            copy.deepcopy(self.machine).execute(program.records[at])
        except MachineError as error:
            return MachineError(error.code, index, error.detail)
        return None

    def _check_wild(self, records, at, answers):
        return self._differences(at, answers, {bank: None for bank in _named_banks(records)})

    def _differences(self, at, answers, touched):
        """Words that are not the model's, but for those touched: {bank: words, or None for all},
        and the region in external memory; None where nothing is.
        """
        for number, (bank, where) in enumerate(zip(self.machine.banks, at["banks"])):
            wrong = (_codes(answers[where], bank.shape) != bank).any(axis=1)
            allowed = (touched or {}).get(number, ())
            wrong[slice(None) if allowed is None else list(allowed)] = False
            if wrong.any():
                word = int(wrong.argmax())
                return (f"bank {number} differs in {wrong.sum()} words, first at {word}: "
                        f"{_codes(answers[where], bank.shape)[word].tolist()}, not "
                        f"{bank[word].tolist()}")
        if "external" in at:
            external = answers[at["external"]].view(np.uint8)
            wrong = external != self.machine.external
            if touched is not None:
                wrong[:self.machine.region_limit] = False
            if wrong.any():
                return f"external memory differs in {wrong.sum()} bytes, first {wrong.argmax()}"
        return None


#: A product may read outside a bank and both operands from one bank: either may be seen first.
_EITHER = {ErrorCode.ADDRESS, ErrorCode.BANK_CONFLICT}


def _codes(words, shape):
    return words.view(np.int8).reshape(shape)


def _reach(records, target):
    """{bank: words} that instructions write, within the banks."""
    reach = {}
    for fields in records:
        if fields["opcode"] not in FORMAT_OF:
            break
        try:
            writes = INSTRUCTIONS[fields["opcode"]].footprint(fields, target).writes
        except (LockstepError, ValueError, IndexError):
            continue
        for access in writes:
            if access.memory < N_BANKS:
                words = access.words[access.words < target.bank_words[access.memory]]
                reach.setdefault(access.memory, set()).update(int(word) for word in words)
    return reach


def _named_banks(records):
    """Banks that instructions name as their output."""
    named = {INSTRUCTIONS[fields["opcode"]].written_memory(fields) for fields in records
             if fields["opcode"] in INSTRUCTIONS}
    return named & {*range(N_BANKS)}


def fuzz(build, target: Target, *, n_programs: int, seed: int | tuple[int, ...] = 0,
         plusargs: dict | None = None) -> list[Finding]:
    """Run random programs in one simulator process; what is wrong, in their order.

    build: of `sim.design.build_accelerator` for ``target``, which should have `small_memories`.
    """
    session = _Session(target, seed)
    for _ in range(n_programs):
        session.add()
    answers = play(build, session.commands, plusargs=plusargs)
    return list(session.check(answers))
