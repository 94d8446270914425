"""Operators that slide a window over the rows and columns of an image."""

from dataclasses import replace

from golden.ops import windows
from golden.ops.operator import Operator

__all__ = ["Windowed"]


class Windowed(Operator):
    """Has kernel, stride, dilation (rows, columns) and padding (top, left, bottom, right)."""

    needs_image = True
    dilation = (1, 1)

    def output_shape(self, shape) -> tuple:
        """(C, H, W) to (C, OH, OW)."""
        channels, *size = windows.image_shape(type(self).__name__, shape)
        return (channels, *windows.output_size(size, self.kernel, self.stride, self.padding,
                                               self.dilation))

    def _span(self, first, end):
        """The rows that rows first to end of the output lie over; negative: of the padding."""
        low = first * self.stride[0] - self.padding[0]
        return low, low + (end - first - 1) * self.stride[0] + (
            self.kernel[0] - 1) * self.dilation[0] + 1

    def input_rows(self, first, end, *shapes) -> tuple | None:
        """From the first row of the first window to the last one of the last window."""
        (above, below), height = self._span(first, end), shapes[0][1]
        low, high = max(0, above), min(height, below)
        return ((low, high) if low < high else (0, 0),)

    def for_rows(self, first, end, *shapes) -> "Operator":
        """The same windows, with as much padding above and below as is missing of the input.

        Windows over padding alone have an input without rows.
        """
        above, below = self._span(first, end)
        (low, high), = self.input_rows(first, end, *shapes)
        if low == high:
            low, high = above, above
        _, left, _, right = self.padding
        return replace(self, padding=(low - above, left, max(0, below - high), right))
