"""Commands: what sim/driver.cc plays on the simulated accelerator, and its answers.

    commands = Commands()
    commands.write(Register.PROGRAM_ADDRESS, [0])
    commands.run()
    status = commands.read(Register.STATUS)
    answers = play(build, commands)
    answers[status]  # uint32, as many as were asked for

Addresses are byte addresses of the host's bus (hw.isa.Register, AddressWindow), words have 32 bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hw.isa import Register
from sim.runner import Build, SimulationError, run_driver

__all__ = ["Answers", "Commands", "play"]

(_END, _WRITE, _READ, _RUN, _TRY_WRITE, _TRY_READ, _WAIT, _RESET, _PASS, _POKE, _PEEK,
 _PROGRESS) = range(12)
_START, _SINGLE_STEP, _ABORT = 1, 2, 4
#: Cycles from a start until the interrupt of the run before has fallen.
_START_LATENCY = 8
#: Cycles for which the driver waits for an answer or an interrupt before it gives up.
LIMIT = 1 << 28


class Commands:
    """A list of commands. What returns a slice is answered there, by uint32 words."""

    def __init__(self):
        self._words: list[np.ndarray] = []
        self.n_answers = 0

    def _add(self, *numbers, n_answers=0) -> slice:
        self._words.append(np.array(numbers, "<u4"))
        self.n_answers += n_answers
        return slice(self.n_answers - n_answers, self.n_answers)

    def _add_words(self, opcode, address, words):
        words = np.asarray(words, "<u4").ravel()
        self._add(opcode, address, len(words))
        self._words.append(words)

    def write(self, address: int, words) -> None:
        """Write words at successive addresses; the run fails where a response is not OKAY."""
        self._add_words(_WRITE, address, words)

    def read(self, address: int, n_words: int = 1) -> slice:
        """Read words from successive addresses; the run fails where a response is not OKAY."""
        return self._add(_READ, address, n_words, n_answers=n_words)

    def run(self, *, single_step: bool = False) -> None:
        """Start at PROGRAM_ADDRESS and wait for the interrupt."""
        self._add(_RUN, _START | _SINGLE_STEP * single_step)

    def start(self) -> None:
        """Start at PROGRAM_ADDRESS and go on with the next command."""
        self._add(_TRY_WRITE, Register.CONTROL, _START, n_answers=1)
        self.idle(_START_LATENCY)

    def abort(self) -> None:
        """Ask the accelerator to end its run."""
        self._add(_TRY_WRITE, Register.CONTROL, _ABORT, n_answers=1)

    def wait(self, n_cycles: int) -> slice:
        """Wait at most ``n_cycles`` for the interrupt: its level, the cycles waited."""
        return self._add(_WAIT, n_cycles, n_answers=2)

    def try_write(self, address: int, word: int) -> slice:
        """Write a word: the response."""
        return self._add(_TRY_WRITE, address, word, n_answers=1)

    def try_read(self, address: int) -> slice:
        """Read a word: the response, the word."""
        return self._add(_TRY_READ, address, n_answers=2)

    def reset(self, n_cycles: int = 2) -> None:
        """Hold the reset; memories keep what they hold."""
        self._add(_RESET, n_cycles)

    def idle(self, n_cycles: int) -> None:
        """Let cycles pass."""
        self._add(_PASS, n_cycles)

    def write_external(self, address: int, words) -> None:
        """Put words into the external memory, in no time."""
        self._add_words(_POKE, address, words)

    def read_external(self, address: int, n_words: int) -> slice:
        """Words of the external memory, in no time."""
        return self._add(_PEEK, address, n_words, n_answers=n_words)

    def progress(self) -> None:
        """Call ``on_progress`` of `play`."""
        self._add(_PROGRESS)

    def to_bytes(self) -> bytes:
        """The commands as the driver reads them."""
        return b"".join([*(words.tobytes() for words in self._words),
                         np.array([_END], "<u4").tobytes()])


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the accelerator has answered. cycles: of the whole simulation."""

    words: np.ndarray
    cycles: int

    def __getitem__(self, where: slice) -> np.ndarray:
        return self.words[where]


def play(build: Build, commands: Commands, *, limit: int = LIMIT, time_limit: float | None = None,
         plusargs: dict | None = None, on_progress: Callable[[], None] | None = None) -> Answers:
    """Run the commands from reset.

    Arguments: `limit` in cycles, for each wait; `time_limit` in wall seconds; `plusargs` of the
    external memory (sim/axi_memory.sv).
    Raises SimulationError where a response is not OKAY or a wait does not end.
    """
    with tempfile.TemporaryDirectory(prefix="lockstep-rtl-") as folder:
        script, answers = Path(folder) / "commands.bin", Path(folder) / "answers.bin"
        script.write_bytes(commands.to_bytes())
        options = [f"+{name}={value}" for name, value in (plusargs or {}).items()]
        line = run_driver(build, [script, answers, limit, *options], time_limit=time_limit,
                          on_line=lambda line: line == ".\n" and on_progress and on_progress())
        words = np.fromfile(answers, "<u4")
    if len(words) != commands.n_answers:
        raise SimulationError(f"The simulation answered {len(words)} words, "
                              f"not {commands.n_answers}")
    return Answers(words=words, cycles=int(line))
