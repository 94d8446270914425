"""The last stage of most ops: int32 accumulator to int8 codes.

y = clamp(round(acc * multiplier * 2**-shift) + zero_point), Jacob et al. 2017, section 2.2.
"""

from dataclasses import dataclass

import numpy as np

from golden import arith, validate
from golden.ops.primitives import NUMPY, ExecutorTensor

__all__ = ["Rescale"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rescale:
    """Multiplier, shift, zero point and clamp bounds, one multiplier for all channels or one each.

    multiplier: int64 (C,) or (1,), 0..2**31-1
    shift: int64 (C,) or (1,), 0..62, of the same length; the real factor is multiplier * 2**-shift
    zero_point: output zero point, -128..127
    low, high: inclusive clamp bounds within int8 (ReLU and ReLU6 are clamp bounds)
    rounding: `Rounding.HALF_UP` or `Rounding.GEMMLOWP`
    """

    multiplier: np.ndarray
    shift: np.ndarray
    zero_point: int
    low: int = arith.INT8_MIN
    high: int = arith.INT8_MAX
    rounding: arith.Rounding = arith.Rounding.HALF_UP

    def __post_init__(self):
        def put(name, value):
            object.__setattr__(self, name, value)
        put("multiplier", validate.int_array("Multiplier", np.atleast_1d(self.multiplier),
                                             np.int64, 1, 0, arith.MULTIPLIER_MAX))
        put("shift", validate.int_array("Shift", np.atleast_1d(self.shift), np.int64, 1, 0,
                                        arith.SHIFT_MAX, length=len(self.multiplier)))
        int8 = arith.INT8_MIN, arith.INT8_MAX
        put("zero_point", validate.integer("Zero point", self.zero_point, *int8))
        put("low", validate.integer("Low", self.low, *int8))
        put("high", validate.integer("High", self.high, self.low, arith.INT8_MAX))
        put("rounding", arith.Rounding(self.rounding))

    @classmethod
    def from_factors(cls, factors, **fields) -> "Rescale":
        """The Rescale nearest to real `factors`, (C,) or scalar; ValueError names the channel."""
        pairs = []
        for channel, factor in enumerate(np.atleast_1d(factors)):
            try:
                pairs.append(arith.multiplier_and_shift(factor))
            except ValueError as error:
                raise ValueError(f"{error} (channel {channel})") from error
        multiplier, shift = (np.array(values, np.int64) for values in zip(*pairs))
        return cls(multiplier=multiplier, shift=shift, **fields)

    @property
    def n_channels(self) -> int:
        """The number of multipliers: 1 where all channels share one."""
        return len(self.multiplier)

    def __call__(self, acc, axis=1):
        """acc: integers, channels along `axis` where there is one multiplier each. Returns int8."""
        acc = np.asarray(acc)
        if self.n_channels > 1 and (acc.ndim == 0 or acc.shape[axis] != self.n_channels):
            raise ValueError(f"Rescale must get {self.n_channels} channels on axis {axis}, "
                             f"not shape {acc.shape}")
        return self.compute(NUMPY, acc, axis)

    def compute(self, p, acc, axis=1) -> ExecutorTensor:
        """int8 codes of int64 accumulators, by the primitives `p` of an executor."""
        multiplier, shift = (p.per_channel(values, acc, axis)
                             for values in (self.multiplier, self.shift))
        return p.codes(arith.requantize(acc, multiplier, shift, self.zero_point, self.low,
                                        self.high, self.rounding))

    def check_channels(self, n_channels) -> None:
        """Raises ValueError unless there is one multiplier, or one for each of the channels."""
        if self.n_channels not in (1, n_channels):
            raise ValueError(f"Rescale must have 1 or {n_channels} multipliers, "
                             f"not {self.n_channels}")
