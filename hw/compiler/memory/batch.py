"""The images of a run: which nodes compute all of them at once, and how their tensors lie.

Three ways. A network runs image after image. A program with a batch of its own (products of a
training step) runs node after node, and its tensors hold all images, one behind the other. A
network of single pixels, fully connected layers above all, may do the same: its images then are
the pixels of one, so that a word of weights serves as many of them as the array has rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from hw.compiler.lowering.dispatch import runs_by_pixel, runs_whole
from hw.isa import Format, field_of

__all__ = ["Batch", "batches"]

_MOST_PIXELS = field_of(Format.VECTOR, "out_width").high


@dataclass(frozen=True, kw_only=True)
class Batch:
    """``size`` images. gathered: those of a tensor lie one behind the other, and nodes follow each
    other, not images; whole: names of the nodes that compute all at once; by_pixel: these take the
    images for pixels of one."""

    size: int
    gathered: bool = False
    whole: frozenset[str] = frozenset()
    by_pixel: bool = False

    def images_of(self, node) -> int:
        """How many images the tasks of a node compute."""
        return self.size if node.name in self.whole else 1


def batches(program, size: int, places: dict) -> list[Batch]:
    """The ways in which a program can compute ``size`` images. places: layouts by tensor."""
    if program.batch is not None:
        return [Batch(size=size, gathered=True, whole=frozenset(
            node.name for node in program.nodes
            if runs_whole(node.op) or not program.tensors[node.outputs[0]].batched))]
    ways = [Batch(size=size)]
    are_pixels = all(place.n_words == place.n_chunks for place in places.values())
    if (1 < size <= _MOST_PIXELS and are_pixels
            and all(tensor.batched for tensor in program.tensors.values())
            and all(runs_by_pixel(node.op) for node in program.nodes)):
        ways.append(Batch(size=size, gathered=True, by_pixel=True,
                          whole=frozenset(node.name for node in program.nodes)))
    return ways
