"""ImageRuns: the commands that run images on one simulator process, and what the answers mean."""

from __future__ import annotations

import numpy as np

from hw.compiler.memory.image import Image, from_bus, to_bus
from hw.isa import Counter, ErrorCode, Register
from sim.batches import by_tensor
from sim.commands import Answers, Commands
from sim.runner import SimulationError

__all__ = ["ImageRuns"]

_FAILED = 0b100  # of the status


class ImageRuns:
    """Runs of an Image, each of ``image.batch`` images.

    Every run is made at full speed, engines side by side, and its output is read; a traced one
    again by single steps, and every tensor is read right after the instructions of its node.
    Placements reuse memory, so this is the image that is deployed.
    """

    def __init__(self, image: Image):
        self.image = image
        self.commands = Commands()
        self._statuses: list[slice] = []
        self._counters: list[slice] = []  # by run, at full speed
        self._step_counters: list[list[list[slice]]] = []  # by run, step, instruction
        self._outputs: list[dict[str, slice]] = []  # by run, at full speed
        self._tensors: list[dict[str, slice]] = []  # by run, by single steps
        if image.external is not None:
            self.commands.write_external(0, image.external.view("<u4"))
            self.commands.write(Register.REGION_LIMIT, [len(image.external)])
        self._load()

    def _load(self):
        for address, words in self.image.sections():
            self.commands.write(address, words)

    def _read(self, place) -> slice:
        n_words = place.n_words * place.word_bytes // 4
        read = self.commands.read_external if place.external else self.commands.read
        return read(self.image.bus_address(place), n_words)

    def _start(self, **how):
        self.commands.run(**how)
        self._statuses.append(self.commands.read(Register.STATUS))
        self._statuses.append(self.commands.read(Register.INSTRUCTION_INDEX))

    def _make_ready(self, words):
        """The state in which the program begins: a program may load over what the host wrote.

        words: by placement.
        """
        if self.image.external is not None:
            self._load()
        self.commands.write(Register.PROGRAM_ADDRESS, [0])
        for name, values in words.items():
            place = self.image.placements[name]
            write = self.commands.write_external if place.external else self.commands.write
            write(self.image.bus_address(place), values)

    def add(self, codes: dict[str, np.ndarray], traced: bool) -> None:
        """One more run; codes: of every input, (image.batch, *shape), or (1, *shape) of what the
        images share.
        """
        image, commands = self.image, self.commands
        words = {}
        for tensor in image.inputs:
            packed = to_bus(image.place(tensor).pack(codes[tensor])).reshape(
                len(codes[tensor]), -1)
            words |= zip(image.copies(tensor), packed, strict=True)
        self._make_ready(words)
        self._start()
        self._counters.append(commands.read(Register.COUNTERS, 2 * len(Counter)))
        self._outputs.append({name: self._read(image.placements[name])
                              for output in image.outputs for name in image.copies(output)})
        tensors, step_counters = {}, []
        if traced:
            self._make_ready(words)
            for name in words:
                tensors[name] = self._read(image.placements[name])
            for step in image.steps:
                step_counters.append([])
                for _ in range(step.n_instructions):
                    self._start(single_step=True)
                    step_counters[-1].append(commands.read(Register.COUNTERS, 2 * len(Counter)))
                for name in step.outputs:
                    tensors[name] = self._read(image.placements[name])
        self._tensors.append(tensors)
        self._step_counters.append(step_counters)
        commands.progress()

    def check(self, answers: Answers) -> None:
        """Raise SimulationError where a run has ended with an error."""
        for status, index in zip(self._statuses[::2], self._statuses[1::2]):
            if (word := int(answers[status][0])) & _FAILED:
                raise SimulationError(
                    f"The accelerator stopped with error {ErrorCode(word >> 8 & 0xFF).name} at "
                    f"instruction {self._where(int(answers[index][0]))}")

    def _where(self, index):
        for step in self.image.steps:
            if step.first_instruction <= index < step.first_instruction + step.n_instructions:
                return f"{index} (node {step.node})"
        return str(index)

    def tensors(self, answers: Answers, run: int) -> dict[str, np.ndarray]:
        """Of one run, (image.batch, *shape) by tensor: the outputs, or where traced all.

        Raises SimulationError where single steps give another output than full speed.
        """
        outputs, tensors = (by_tensor({name: self._tensor(answers, name, where)
                                       for name, where in found[run].items()})
                            for found in (self._outputs, self._tensors))
        for name, output in outputs.items():
            stepped = tensors.get(name, output)
            if (stepped != output).any():
                at = tuple(int(i) for i in np.argwhere(stepped != output)[0])
                raise SimulationError(
                    f"At full speed the output is not the one of single steps: {name} differs in "
                    f"{(stepped != output).sum()} values, first at {at}: {output[at]}, not "
                    f"{stepped[at]}")
        return {**tensors, **outputs}

    def _tensor(self, answers, name, where):
        place = self.image.placements[name]
        return place.unpack(from_bus(answers[where], place.word_bytes)[None])

    def counters(self, answers: Answers, run: int) -> dict[str, int]:
        """Of one run at full speed, by the names of hw.isa.Counter in lower case."""
        return _counts(answers[self._counters[run]])

    def step_counters(self, answers: Answers, run: int) -> list[dict[str, int]]:
        """Of the steps of one traced run, summed over their instructions."""
        return [_sum([_counts(answers[where]) for where in step])
                for step in self._step_counters[run]]


def _counts(words):
    return {counter.name.lower(): int(words[2 * counter]) | int(words[2 * counter + 1]) << 32
            for counter in Counter}


def _sum(parts):
    return {counter.name.lower(): sum(part[counter.name.lower()] for part in parts)
            for counter in Counter}
