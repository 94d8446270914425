"""The vector engine: everything that is not a matrix product."""

from hw.rtl.vector.engine import VectorEngine
from hw.rtl.vector.ports import Which, returned_signature, vector_item_layout

__all__ = ["VectorEngine", "Which", "returned_signature", "vector_item_layout"]
