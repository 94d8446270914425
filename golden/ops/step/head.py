"""The head of the integer training step: logits, softmax, loss and its gradient.

    acc = sum w x + lanes(bias master, 2^30, 30 + 24 + e_w + e_p)       logits are acc 2^(e_w + e_p)
    t_j = sat16(lanes(acc_j, log2(e) 2^30, 22 - e_w - e_p))             units of 2^-8 octaves
    d_j = max t - t_j;  u_j = E[d_j & 255] >> (d_j >> 8);  E[f] = round(2^24 2^(-f / 256))
    p_j = (u_j << 24) // sum u
    gradient_j = p_j of a wrong class j, - the sum of those of the right one: 24 fraction bits
    loss = ln 2 (log2(sum u) - 24 + d_right / 256)                      16 fraction bits

The gradient is that of the sum of the losses of a batch; it sums to 0 exactly, and that of the
right class keeps its relative precision near 0. The loss is only reported.
"""

import math
from dataclasses import dataclass

import numpy as np

from golden import arith
from golden.digits import MAX_TERMS
from golden.ops.step.base import HALF, Port, StepOperator, Width
from golden.ops.step.convolution import sums_of

__all__ = ["BIAS_FRACTION", "CLASSES_MAX", "CrossEntropy", "GRADIENT_FRACTION", "LOSS_FRACTION",
           "LogitSums", "SOFTMAX_SHIFT"]

BIAS_FRACTION = 24              # of the master of the classifier's bias
GRADIENT_FRACTION = 24          # of probabilities and of the loss's gradient
LOSS_FRACTION = 16
SOFTMAX_SHIFT = 22              # 31 - 8 - 1: of t, beside the exponent of the logits
CLASSES_MAX = 31                # the sum of the exponentials is a divisor of 29 bits
LOG2E = 1549082005              # log2(e) * 2^30
LN2 = 1488522236                # ln(2) * 2^31
EXP = np.array([math.floor(2.0 ** (24 - f / 256) + 0.5) for f in range(256)], np.int64)
LOG = np.array([math.floor(math.log2(1 + f / 256) * 2 ** LOSS_FRACTION + 0.5)
                for f in range(257)], np.int64)
TABLE_OFFSET = 128              # a primitive look-up begins at code -128


@dataclass(frozen=True, kw_only=True, eq=False)
class LogitSums(StepOperator):
    """A linear layer with a bias: int32 sums, not rescaled.

    x: int8 (N, I), exponent e_p; weights: int8 (O, I), exponent e_w
    bias: int32 (O,), a master of 24 fraction bits; shift: int32 (1,), 24 + e_w + e_p
    Returns acc, int32 (N, O), exponent e_w + e_p; with the bias it saturates.
    """

    ports_in = (Port("x", "int8", True), Port("weights"), Port("bias", "int32"),
                Port("shift", "int32"))
    ports_out = (Port("acc", "int32", True),)

    def shapes(self, x, weights, *rest) -> tuple[tuple, tuple]:
        """(I,) to (O,)."""
        if len(weights) != 2 or weights[1] > MAX_TERMS:
            raise ValueError(f"{self.label} must get weights (O, I) with I at most {MAX_TERMS}, "
                             f"not shape {weights}")
        return (weights[1:], weights, weights[:1], (1,)), (weights[:1],)

    def macs(self, x, weights, *rest) -> int:
        """Multiplications of one image."""
        return weights[0] * weights[1]

    def product_sums(self, input_ranges, x, *rest) -> tuple:
        """Before the bias."""
        return sums_of(x[0], *input_ranges[:2])

    def results(self, p, x, weights, bias, shift) -> tuple:
        """The bias by one visit of the lanes."""
        sums = p.linear(p.codes(x), p.codes(weights)[0], None, 0)
        return (arith.saturate(sums + arith.lanes(bias, HALF, shift + 30), 32),)


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossEntropy(StepOperator):
    """Softmax, loss and the loss's gradient of every image.

    acc: int32 (N, J), J of 2..31 classes; label: int8 (N, 1); shift: int32 (1,), 22 - e, e the
    exponent of acc
    Returns gradient, int32 (N, J), 24 fraction bits, and loss, int32 (N, 1), 16 fraction bits.
    """

    ports_in = Port("acc", "int32", True), Port("label", "int8", True), Port("shift", "int32")
    ports_out = Port("gradient", "int32", True), Port("loss", "int32", True)
    ranges = ((-1 << GRADIENT_FRACTION, 1 << GRADIENT_FRACTION), (0, arith.INT32_MAX))

    def shapes(self, acc, *rest) -> tuple[tuple, tuple]:
        """Checks the number of classes."""
        if len(acc) != 1 or not 2 <= acc[0] <= CLASSES_MAX:
            raise ValueError(f"{self.label} must get 2..{CLASSES_MAX} classes, not shape {acc}")
        return (acc, (1,), (1,)), (acc, (1,))

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """Of the division, for the most classes."""
        return (Width("Sum of exponentials", 0, CLASSES_MAX << 24, 30),
                Width("Dividend of a probability", 0, 1 << 48, 52))

    def results(self, p, acc, label, shift) -> tuple:
        """One table, a shift, a division for each class."""
        t = arith.saturate(arith.lanes(acc, LOG2E, shift), 16)
        d = p.max(t, 1) - t
        u = p.lookup((d & 255) - TABLE_OFFSET, EXP) >> (d >> 8)
        total = p.sum(u, (1,))
        right = p.integers(label == p.constant([[*range(acc.shape[1])]], acc))
        wrong = arith.floor_divide(u << GRADIENT_FRACTION, total) * (1 - right)
        gradient = wrong - right * p.sum(wrong, (1,))
        octaves = self._log2(p, total) + (p.sum(right * d, (1,)) << LOSS_FRACTION - 8)
        return gradient, arith.clamp(arith.lanes(octaves, LN2, 31), 0, arith.INT32_MAX)

    def _log2(self, p, total):
        """log2(total) - 24 with 16 fraction bits, by a table with linear interpolation."""
        length = arith.bit_length(total) - 1
        fraction = (total << 28 >> length) - (1 << 28)
        index, rest = (fraction >> 20) - TABLE_OFFSET, fraction & (1 << 20) - 1
        low, high = p.lookup(index, LOG[:-1]), p.lookup(index, LOG[1:])
        return (length - 24 << LOSS_FRACTION) + low + arith.round_shift((high - low) * rest, 20)
