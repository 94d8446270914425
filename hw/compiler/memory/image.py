"""Image: what the accelerator's memories hold before it starts, and where tensors lie.

Stored as 32-bit words for the host bus: sections of (bus address, values). A scratchpad word
occupies as many bytes on the bus as it has.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from golden.errors import LockstepError
from hw.compiler.memory.placement import Dense, Placement
from hw.isa import MAGIC, N_WORDS, VERSION, AddressWindow, decode
from hw.targets import Target, get_target

__all__ = ["EXTERNAL_WINDOW", "Block", "Image", "NodeStep", "Placement", "from_bus", "to_bus"]

#: Top four address bits of the sections that belong into external memory, from byte 0 on.
EXTERNAL_WINDOW = 0xF
_FORMAT = 3


@dataclass(frozen=True, kw_only=True)
class NodeStep:
    """One node of the program: its instructions, its useful MACs, those of them that the vector
    engine computes, and the placements' names of the tensors that are there once they are over.
    """

    node: str
    op: str
    first_instruction: int
    n_instructions: int
    outputs: tuple[str, ...]
    macs: int
    vector_macs: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Words, int8 (n, word_bytes), that lie in a bank from word ``base`` on."""

    bank: int
    base: int
    words: np.ndarray


def to_bus(words: np.ndarray) -> np.ndarray:
    """int8 (..., word_bytes) to the bus's little-endian uint32 (..., word_bytes / 4)."""
    return np.ascontiguousarray(words, np.int8).view("<u4")


def from_bus(values: np.ndarray, word_bytes: int) -> np.ndarray:
    """uint32 values of whole words to int8 (n_words, word_bytes)."""
    return np.ascontiguousarray(values, "<u4").view(np.int8).reshape(-1, word_bytes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """A compiled program for one target.

    instructions: uint32 (n,), whole records; parameters: uint32 (channels, 3) bias, multiplier,
    shift; blocks: what banks hold, weights. placements: by tensor name; those of image k > 0 of a
    batch are called ``name#k``. A tensor's place is its own only while it is needed. inputs: what
    the host writes before a run, the state included; outputs: what it reads afterwards, with what
    renews the state. external: uint8, what external memory holds from address 0 on, room for
    tensors included, or None. steps: by node, in the order in which they run.
    """

    program: str
    program_sha256: str
    target: Target
    instructions: np.ndarray
    parameters: np.ndarray
    blocks: tuple[Block, ...]
    placements: dict[str, Placement]
    steps: tuple[NodeStep, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: int = 1
    external: np.ndarray | None = None
    metadata: dict = field(default_factory=dict)

    def sections(self) -> list[tuple[int, np.ndarray]]:
        """(bus address, uint32 values) of what the host writes before a run; external memory
        is filled beside it.
        """
        channels = np.zeros((len(self.parameters), 4), "<u4")
        channels[:, :3] = self.parameters
        sections = [(AddressWindow.INSTRUCTIONS << 28, np.asarray(self.instructions, "<u4")),
                    (AddressWindow.PARAMETERS << 28, channels.ravel())]
        for block in self.blocks:
            start = (AddressWindow.BANK_0 + block.bank) << 28
            sections.append((start + block.base * self.target.word_bytes,
                             to_bus(block.words).ravel()))
        return sections

    def bus_address(self, placement: Placement) -> int:
        """The bus address of a tensor's first word; of external memory the byte address."""
        if placement.external:
            return placement.base
        return (((AddressWindow.BANK_0 + placement.bank) << 28)
                + placement.base * self.target.word_bytes)

    def place(self, tensor: str, index: int = 0) -> Placement:
        """The placement of a tensor of image ``index`` of the batch."""
        return self.placements[f"{tensor}#{index}" if index else tensor]

    def copies(self, tensor: str) -> list[str]:
        """Names of a tensor's placements: one for each image, or where all share it one."""
        names = [tensor, *(f"{tensor}#{index}" for index in range(1, self.batch))]
        return [name for name in names if name in self.placements]

    def to_bytes(self) -> bytes:
        """The memory image as one binary file (little endian uint32).

        magic, version, configuration id, number of sections, then per section its bus address
        (EXTERNAL_WINDOW for external memory), its number of words and the words.
        """
        sections = self.sections()
        if self.external is not None:
            sections.append((EXTERNAL_WINDOW << 28, self.external.view("<u4")))
        parts = [struct.pack("<4I", MAGIC, VERSION, self.target.configuration_id, len(sections))]
        for address, values in sections:
            parts.append(struct.pack("<2I", address, len(values)) + values.tobytes())
        return b"".join(parts)

    def save(self, directory) -> list[Path]:
        """Write image.bin, image.hex (the same words, one a line) and image.json."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        binary = self.to_bytes()
        values = np.frombuffer(binary, "<u4")
        about = {
            "format": _FORMAT, "sha256": hashlib.sha256(binary).hexdigest(),
            "program": self.program, "program_sha256": self.program_sha256,
            "target": self.target.name, "inputs": self.inputs, "outputs": self.outputs,
            "batch": self.batch,
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
            about = _in_this_format(about)
            sections = _read_sections(binary, target)
            if hashlib.sha256(binary).hexdigest() != about["sha256"]:
                raise ValueError("image.bin has another sha256 than image.json says")
            return cls(
                program=about["program"], program_sha256=about["program_sha256"], target=target,
                placements={name: _placement(place)
                            for name, place in about["placements"].items()},
                steps=tuple(NodeStep(**step | {"outputs": tuple(step["outputs"])})
                            for step in about["steps"]),
                inputs=tuple(about["inputs"]), outputs=tuple(about["outputs"]),
                batch=about["batch"], metadata=about["metadata"],
                **_contents(sections, target))
        except OSError as error:
            raise LockstepError(f"Image {directory}: {error.strerror or error}") from error
        except (LookupError, AttributeError, TypeError, ValueError, struct.error) as error:
            if isinstance(error, LockstepError):
                raise
            raise LockstepError(f"Image {directory} is damaged: {error}") from error

    def listing(self) -> str:
        """The instructions as text, one a line, fields that are 0 left out."""
        lines = []
        for index, record in enumerate(self.instructions.reshape(-1, N_WORDS)):
            fields = decode([int(word) for word in record])
            shown = " ".join(f"{name}={value}" for name, value in fields.items() if value)
            lines.append(f"{index}: {shown or 'opcode=0'}")
        return "\n".join(lines) + "\n"

    @property
    def n_instructions(self) -> int:
        """Instructions, the final halt included."""
        return len(self.instructions) // N_WORDS


def _in_this_format(about):
    """image.json of this format, or of the one before, in which there was one of everything."""
    if about["format"] == _FORMAT - 1:
        steps = [{**step, "outputs": [step["output"]]} for step in about["steps"]]
        for step in steps:
            del step["output"]
        return about | {"inputs": [about["input"]], "outputs": [about["output"]], "steps": steps}
    if about["format"] != _FORMAT:
        raise ValueError(f"its format is {about['format']}, not {_FORMAT}")
    return about


def _placement(about):
    dense = about["dense"] and Dense(**about["dense"])
    axes = about.get("axes") and tuple(about["axes"])
    return Placement(**about | {"dense": dense, "shape": tuple(about["shape"]), "axes": axes,
                                "stored": tuple(about["stored"])})


def _contents(sections, target):
    """Sections back to fields of an Image."""
    contents = {"blocks": [], "external": None}
    for address, values in sections:
        window, offset = address >> 28, address & (1 << 28) - 1
        if window == AddressWindow.INSTRUCTIONS:
            contents["instructions"] = values
        elif window == AddressWindow.PARAMETERS:
            contents["parameters"] = values.reshape(-1, 4)[:, :3]
        elif window == EXTERNAL_WINDOW:
            contents["external"] = values.view(np.uint8)
        else:
            contents["blocks"].append(Block(bank=window - AddressWindow.BANK_0,
                                            base=offset // target.word_bytes,
                                            words=from_bus(values, target.word_bytes)))
    contents["blocks"] = tuple(contents["blocks"])
    return contents


def _read_sections(binary: bytes, target: Target) -> list[tuple[int, np.ndarray]]:
    values = np.frombuffer(binary, "<u4")
    if len(values) < 4 or values[0] != MAGIC:
        raise ValueError("image.bin does not start with its magic number")
    if values[2] != target.configuration_id:
        raise ValueError(f"image.bin is for configuration {values[2]:#x}, "
                         f"not {target.configuration_id:#x}")
    sections, at = [], 4
    for _ in range(int(values[3])):
        n_values = int(values[at + 1])
        sections.append((int(values[at]), values[at + 2:at + 2 + n_values]))
        at += 2 + n_values
        if len(sections[-1][1]) != n_values:
            raise ValueError("image.bin is truncated")
    return sections
