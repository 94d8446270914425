"""What a tiled program's writer remembers of tensors, nodes and jobs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hw.compiler.memory.allocator import Buffer
from hw.compiler.memory.placement import Placement

__all__ = ["Job", "NodeState", "StoredWeights", "TensorState"]


@dataclass(eq=False)
class TensorState:
    """A tensor of one image: its layout; where it is; how many of its rows are there."""

    layout: Placement
    address: int | None  # in external memory; None where it stays on the chip
    readers: int = 0  # nodes that have not read all of it
    rows: int = 0
    buffer: Buffer | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredWeights:
    """Weights in external memory: their address, ``n_words`` there, and fields of their LOAD."""

    words: np.ndarray  # as the engine reads them
    address: int
    n_words: int
    fields: dict

    @property
    def key(self) -> tuple:
        """Equal for what one buffer on the chip can hold."""
        return self.address, *self.fields.values()


@dataclass(eq=False)
class NodeState:
    """A node of one image while it is computed."""

    image: int
    node: object
    stripes: list
    groups: list
    on_array: bool
    keeps_weights: bool = False
    weights: dict = field(default_factory=dict)  # by external address
    parameters: dict = field(default_factory=dict)
    inputs: dict = field(default_factory=dict)  # buffers of the present stripe, by tensor
    outputs: dict = field(default_factory=dict)  # buffers by stripe
    memo: dict = field(default_factory=dict)  # of lowering
    stored: dict = field(default_factory=dict)  # StoredWeights by id of the words


@dataclass(eq=False)
class Job:
    """Some rows, and channels, of a node."""

    owner: NodeState
    stripe: int
    group: int
    tasks: list | None = None
    loaded: bool = False

    @property
    def ends_stripe(self) -> bool:
        """Is it the last one of its rows?"""
        return self.group == len(self.owner.groups) - 1

    @property
    def ends_node(self) -> bool:
        """Is it the last one of its node?"""
        return self.ends_stripe and self.stripe == len(self.owner.stripes) - 1
