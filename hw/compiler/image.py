"""Image: what the accelerator's memories hold before it starts, and where tensors lie.

Stored as 32-bit words for the host bus: sections of (bus address, values). A scratchpad word of
``word_bytes`` codes occupies ``host_word_bytes`` on the bus (hw.host).
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from golden.errors import LockstepError
from hw.isa import MAGIC, VERSION, Window, decode
from hw.targets import Target, get_target

__all__ = ["Image", "Placement", "Step"]

BANK_WINDOWS = (Window.BANK_0, Window.BANK_1)
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a tensor lies: pixel by pixel, ``n_chunks`` words of channels each.

    ``shape`` is that of the program's tensor, ``stored`` the (C, H, W) in which it is laid out;
    they differ behind a reshape, which moves nothing.
    """

    bank: int
    base: int
    shape: tuple[int, ...]
    stored: tuple[int, int, int]
    word_bytes: int

    @property
    def n_chunks(self) -> int:
        return -(-self.stored[0] // self.word_bytes)

    @property
    def n_pixels(self) -> int:
        return self.stored[1] * self.stored[2]

    @property
    def n_words(self) -> int:
        return self.n_pixels * self.n_chunks

    def pack(self, x: np.ndarray) -> np.ndarray:
        """x: int8 (N, *shape). Returns int8 (N, n_words, word_bytes), channels padded with 0."""
        channels, height, width = self.stored
        x = np.asarray(x, np.int8).reshape(len(x), channels, height * width).transpose(0, 2, 1)
        padded = np.zeros((len(x), height * width, self.n_chunks * self.word_bytes), np.int8)
        padded[:, :, :channels] = x
        return padded.reshape(len(x), self.n_words, self.word_bytes)

    def unpack(self, words: np.ndarray) -> np.ndarray:
        """The inverse of ``pack``: int8 (N, n_words, word_bytes) to int8 (N, *shape)."""
        channels = self.stored[0]
        pixels = words.reshape(len(words), self.n_pixels, self.n_chunks * self.word_bytes)
        return np.ascontiguousarray(pixels[:, :, :channels].transpose(0, 2, 1)).reshape(
            len(words), *self.shape)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One node of the program: its instructions, its output tensor, its useful MACs."""

    node: str
    op: str
    first_instruction: int
    n_instructions: int
    output: str
    macs: int


def to_bus(words: np.ndarray, host_word_bytes: int) -> np.ndarray:
    """int8 (..., word_bytes) to the bus's little-endian uint32 (..., host_word_bytes / 4)."""
    padded = np.zeros((*words.shape[:-1], host_word_bytes), np.int8)
    padded[..., :words.shape[-1]] = words
    return padded.view("<u4")


def from_bus(values: np.ndarray, word_bytes: int, host_word_bytes: int) -> np.ndarray:
    """uint32 values of whole words to int8 (n_words, word_bytes)."""
    codes = np.ascontiguousarray(values, "<u4").view(np.int8)
    return codes.reshape(-1, host_word_bytes)[:, :word_bytes]


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """A compiled program for one target.

    instructions: uint32 (n,); parameters: uint32 (channels, 3) bias, multiplier, shift
    weights: int8 (n_words, word_bytes), the used part of bank 0
    placements: by tensor name; steps: by node, in order
    """

    program: str
    program_sha256: str
    target: Target
    instructions: np.ndarray
    parameters: np.ndarray
    weights: np.ndarray
    placements: dict[str, Placement]
    steps: tuple[Step, ...]
    input: str
    output: str
    metadata: dict = field(default_factory=dict)

    def sections(self) -> list[tuple[int, np.ndarray]]:
        """(bus address, uint32 values) of everything the host has to write once."""
        channels = np.zeros((len(self.parameters), 4), "<u4")
        channels[:, :3] = self.parameters
        return [
            (Window.INSTRUCTIONS << 28, np.asarray(self.instructions, "<u4")),
            (Window.PARAMETERS << 28, channels.ravel()),
            (Window.BANK_0 << 28, to_bus(self.weights, self.target.host_word_bytes).ravel()),
        ]

    def bus_address(self, placement: Placement) -> int:
        """The bus address of a tensor's first word."""
        return (BANK_WINDOWS[placement.bank] << 28) + placement.base * self.target.host_word_bytes

    def to_bytes(self) -> bytes:
        """The memory image as one binary file (little endian uint32).

        magic, version, configuration id, number of sections, then per section its bus address,
        its number of words and the words.
        """
        parts = [struct.pack("<4I", MAGIC, VERSION, self.target.configuration_id,
                             len(self.sections()))]
        for address, values in self.sections():
            parts.append(struct.pack("<2I", address, len(values)) + values.tobytes())
        return b"".join(parts)

    def save(self, directory) -> list[Path]:
        """Write image.bin, image.hex (the same words, one a line) and image.json."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        binary = self.to_bytes()
        values = np.frombuffer(binary, "<u4")
        about = {
            "format": _FORMAT, "program": self.program, "program_sha256": self.program_sha256,
            "target": self.target.name, "input": self.input, "output": self.output,
            "placements": {name: asdict(place) for name, place in self.placements.items()},
            "steps": [asdict(step) for step in self.steps], "metadata": self.metadata,
        }
        contents = {
            "image.bin": binary,
            "image.hex": "".join(f"{value:08x}\n" for value in values).encode(),
            "image.json": (json.dumps(about, indent=1, sort_keys=True) + "\n").encode(),
        }
        for name, content in contents.items():
            (directory / name).write_bytes(content)
        return [directory / name for name in contents]

    @classmethod
    def load(cls, directory) -> Image:
        """Read what ``save`` wrote; LockstepError where a file is missing or damaged."""
        directory = Path(directory)
        try:
            about = json.loads((directory / "image.json").read_text())
            binary = (directory / "image.bin").read_bytes()
            target = get_target(about["target"])
            sections = _read_sections(binary, target)
            word_bytes = target.word_bytes
            placements = {
                name: Placement(**{**place, "shape": tuple(place["shape"]),
                                   "stored": tuple(place["stored"])})
                for name, place in about["placements"].items()}
            return cls(
                program=about["program"], program_sha256=about["program_sha256"], target=target,
                instructions=sections[0], parameters=sections[1].reshape(-1, 4)[:, :3],
                weights=from_bus(sections[2], word_bytes, target.host_word_bytes),
                placements=placements, steps=tuple(Step(**step) for step in about["steps"]),
                input=about["input"], output=about["output"], metadata=about["metadata"])
        except OSError as error:
            raise LockstepError(f"Image {directory}: {error.strerror or error}") from error
        except (LookupError, AttributeError, TypeError, ValueError, struct.error) as error:
            if isinstance(error, LockstepError):
                raise
            raise LockstepError(f"Image {directory} is damaged: {error}") from error

    def listing(self) -> str:
        """The instructions as text, one a line, fields that are 0 left out."""
        lines = []
        size = len(self.instructions) // max(1, self.n_instructions)
        for index in range(self.n_instructions):
            fields = decode([int(w) for w in self.instructions[index * size:(index + 1) * size]])
            shown = " ".join(f"{name}={value}" for name, value in fields.items() if value)
            lines.append(f"{index}: {shown or 'opcode=0'}")
        return "\n".join(lines) + "\n"

    @property
    def n_instructions(self) -> int:
        """Instructions, the final halt included."""
        last = self.steps[-1] if self.steps else None
        return (last.first_instruction + last.n_instructions if last else 0) + 1


def _read_sections(binary: bytes, target: Target) -> list[np.ndarray]:
    values = np.frombuffer(binary, "<u4")
    if len(values) < 4 or values[0] != MAGIC:
        raise ValueError("image.bin does not start with its magic number")
    if values[2] != target.configuration_id:
        raise ValueError(f"image.bin is for configuration {values[2]:#x}, "
                         f"not {target.configuration_id:#x}")
    sections, at = [], 4
    for _ in range(int(values[3])):
        n_values = int(values[at + 1])
        sections.append(values[at + 2:at + 2 + n_values])
        at += 2 + n_values
        if len(sections[-1]) != n_values:
            raise ValueError("image.bin is truncated")
    return sections
