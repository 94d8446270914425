"""RangeBN (Banner et al. 2018, arXiv 1805.11046) on int8 codes, running or batch statistics."""

import math
from dataclasses import dataclass

import numpy as np

from golden import arith, validate
from golden.ops import range_norm
from golden.ops.operator import Elementwise
from golden.ops.primitives import ExecutorTensor

__all__ = ["RangeNorm"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RangeNorm(Elementwise):
    """y = clamp((q * multiplier + bias + half) >> shift) per channel.

    With running statistics the three are constants:
    multiplier: int64 (C,), signed 17 bits
    bias: int64 (C,), signed 48 bits
    shift: int64 (C,), 0..32
    low, high: inclusive clamp bounds within int8
    With batch statistics `batch` (a `range_norm.RangeNormConfig`) computes them from the input,
    the three are None, and low and high are those of `batch`.
    """

    multiplier: np.ndarray | None = None
    bias: np.ndarray | None = None
    shift: np.ndarray | None = None
    low: int = arith.INT8_MIN
    high: int = arith.INT8_MAX
    batch: range_norm.RangeNormConfig | None = None

    def __post_init__(self):
        if self.batch is not None:
            validate.instance("Batch", self.batch, range_norm.RangeNormConfig)
            if any(value is not None for value in (self.multiplier, self.bias, self.shift)):
                raise ValueError("RangeNorm must have either constants or batch, not both")
            self._put("low", self.batch.low)
            self._put("high", self.batch.high)
            return
        limit = range_norm.MULTIPLIER_MAX
        self._put("multiplier", validate.int_array("Multiplier", self.multiplier, np.int64, 1,
                                             -limit - 1, limit))
        length = len(self.multiplier)
        # One bit less than 48: the product and the half are added in 48 bits.
        limit = (1 << (range_norm.BIAS_WIDTH - 1)) - (1 << 33)
        self._put("bias", validate.int_array("Bias", self.bias, np.int64, 1, -limit, limit, length))
        self._put("shift", validate.int_array("Shift", self.shift, np.int64, 1, 0,
                                        range_norm.SHIFT_MAX, length))
        self._put("low", validate.integer("Low", self.low, arith.INT8_MIN, arith.INT8_MAX))
        self._put("high", validate.integer("High", self.high, self.low, arith.INT8_MAX))

    @classmethod
    def from_running(cls, *, mean, sigma, gamma, beta, eps, input_scale, input_zero_point,
                     output_scale, output_zero_point, low=arith.INT8_MIN, high=arith.INT8_MAX
                     ) -> "RangeNorm":
        """Constants for (x - mean) / (sigma + eps) * gamma + beta, float (C,) each.

        sigma is the running range already multiplied by the range constant. The bias is computed
        from the rounded multiplier. Raises ValueError naming a channel that does not fit.
        """
        arrays = (np.atleast_1d(np.asarray(value, np.float64))
                  for value in (mean, sigma, gamma, beta))
        rows = []
        for channel, (mu, deviation, weight, offset) in enumerate(zip(*arrays, strict=True)):
            if not deviation + eps > 0:
                raise ValueError(f"Sigma + eps of channel {channel} must be above 0, "
                                 f"not {deviation + eps}")
            slope = weight * input_scale / ((deviation + eps) * output_scale)
            centre = mu / input_scale + input_zero_point
            rows.append(_constants(channel, slope, centre,
                                   offset / output_scale + output_zero_point))
        multiplier, bias, shift = (np.array(column, np.int64) for column in zip(*rows))
        return cls(multiplier=multiplier, bias=bias, shift=shift, low=low, high=high)

    @property
    def label(self) -> str:
        """Batch statistics are another thing than constants."""
        return "RangeNorm with batch statistics" if self.batch else "RangeNorm"

    @property
    def n_channels(self) -> int:
        """The number of channels."""
        return self.batch.n_channels if self.batch else len(self.multiplier)

    def output_shape(self, shape) -> tuple:
        """The input's shape."""
        shape = tuple(shape)
        if not shape or shape[0] != self.n_channels:
            raise ValueError(f"RangeNorm must get {self.n_channels} channels, not shape {shape}")
        return shape

    def parameters(self, q) -> tuple:
        """(multiplier, bias, shift) used for the input q, int64 (C,) each."""
        if self.batch:
            return self.batch.parameters(*range_norm.statistics(q))
        return self.multiplier, self.bias, self.shift

    def input_rows(self, first, end, *shapes) -> tuple | None:
        """The same rows; all of them for the statistics of a batch."""
        return None if self.batch else super().input_rows(first, end, *shapes)

    def output_range(self, input_ranges) -> tuple:
        """The clamp bounds."""
        return self.low, self.high

    def compute(self, p, q) -> ExecutorTensor:
        """q: (N, C, H, W) or (N, C)."""
        if self.batch:
            return self.batch.compute(p, q)
        return range_norm.apply(p, q, self.multiplier, self.bias, self.shift, self.low, self.high)

    def compute_real(self, r, x) -> ExecutorTensor:
        """Slope and offset per channel."""
        if self.batch:
            return super().compute_real(r, x)
        return r.affine(x, *(np.ldexp(values.astype(np.float64), -self.shift)
                             for values in (self.multiplier, self.bias)))


def _constants(channel, slope, centre, code):
    """(multiplier, bias, shift) of y = (q - centre) * slope + code."""
    mantissa, exponent = math.frexp(slope)
    shift = range_norm.MULTIPLIER_WIDTH - 1 - exponent
    if shift < 0:
        raise ValueError(f"Slope of channel {channel} must be below 65536 output codes per input "
                         f"code, not {slope}")
    if shift > range_norm.SHIFT_MAX or slope == 0:
        multiplier, shift = 0, range_norm.ZERO_SHIFT
    else:
        limit = range_norm.MULTIPLIER_MAX
        multiplier = arith.clamp(
            math.floor(mantissa * (1 << (range_norm.MULTIPLIER_WIDTH - 1)) + 0.5), -limit, limit)
    bias = math.floor(math.ldexp(code, shift) - multiplier * centre + 0.5)
    limit = (1 << (range_norm.BIAS_WIDTH - 1)) - (1 << 33)
    if abs(bias) > limit:
        raise ValueError(f"Bias of channel {channel} must be within {limit}, not {bias}")
    return multiplier, bias, shift
