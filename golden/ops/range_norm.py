"""RangeBN with batch statistics, in integers alone.

Banner et al. 2018, arXiv 1805.11046: y = (x - mean) / (range * constant + eps) * gamma + beta,
where range is the mean over chunks of (max - min). The input is int8 codes, the output int8 codes.

The n = N * H * W codes q of a channel come in N, H, W order. The chunk length is
L = ceil(n / 16); a new chunk starts after every L codes, so there are K = ceil(n / L) <= 16
chunks, of which the last may be shorter. Per channel:

    sum    = sum of (q + 128)                      unsigned, 8 + bits(n)
    spread = sum over chunks of (max - min)        unsigned, 12 bits
    E = (max(spread, 1) << 16) + epsilon           29 bits, then shifted left by e until bit 28 is 1
    Q = (|gain| << 21) // E'                       45 / 29 bits
    |m| = min((Q + 1) >> 1, 65535), sign of gain;  sh = shift - e
    where spread = 0 or gain = 0 or sh > 32:       m = 0, sh = 16: the code of beta
    T = ((|m| * sum << 4) + (n >> 1)) // n         52 / 25 bits: the mean, from the rounded m
    B = ((beta << (sh + 4) >> 16) + (m << 11) - sign(m) * T + 8) >> 4      48 bits
    y = clamp((q * m + B + ((1 << sh) >> 1)) >> sh)

One unsigned divider of 52 by 29 bits serves both divisions. A channel whose chunks have no range
(spread = 0) gives beta, in the reference too. The result is at most one code from
`range_norm_reference`.
"""

import math
from dataclasses import dataclass

import numpy as np

from golden import arith, validate
from golden.ops.primitives import NUMPY, ExecutorTensor

__all__ = ["BASE_SHIFT_MAX", "BETA_WIDTH", "BIAS_WIDTH", "CODE_OFFSET", "COUNT_MAX",
           "DENOMINATOR_WIDTH", "DIVIDEND_WIDTH", "DIVISOR_WIDTH", "EPSILON_MAX", "FRACTION_WIDTH",
           "GAIN_WIDTH", "GUARD_WIDTH", "MULTIPLIER_MAX", "MULTIPLIER_WIDTH", "N_CHUNKS",
           "QUOTIENT_SHIFT", "RangeNormConfig", "SHIFT_MAX", "SPREAD_WIDTH", "ZERO_SHIFT", "apply",
           "by_channel", "chunking", "range_constant", "range_norm_reference", "statistics"]

N_CHUNKS = 16
COUNT_MIN, COUNT_MAX = N_CHUNKS + 1, 1 << 24
SPREAD_WIDTH = 12               # 16 * 255 fits
FRACTION_WIDTH = 16             # of the denominator and of beta
DENOMINATOR_WIDTH = 29          # after normalisation the top bit is 1
EPSILON_MAX = (1 << (SPREAD_WIDTH + FRACTION_WIDTH)) - 1
GAIN_WIDTH = 24                 # magnitude; bit 23 is 1 unless the gain is 0
QUOTIENT_SHIFT = 21
MULTIPLIER_WIDTH = 17           # signed
MULTIPLIER_MAX = (1 << (MULTIPLIER_WIDTH - 1)) - 1
BIAS_WIDTH = 48                 # signed
SHIFT_MAX = 32
GUARD_WIDTH = 4                 # extra fraction bits while B is put together
BETA_WIDTH = 31                 # signed, FRACTION_WIDTH of it behind the point
DIVIDEND_WIDTH, DIVISOR_WIDTH = 52, DENOMINATOR_WIDTH
CODE_OFFSET = -arith.INT8_MIN
ZERO_SHIFT = FRACTION_WIDTH     # sh of a channel with m = 0
BASE_SHIFT_MAX = SHIFT_MAX + DENOMINATOR_WIDTH


def chunking(count) -> tuple:
    """(length, number) of the chunks for `count` codes per channel; ValueError outside 17..2**24.

    length = ceil(count / 16), number = ceil(count / length); the last chunk may be shorter.
    """
    count = validate.integer("Range statistics count", count, COUNT_MIN, COUNT_MAX)
    length = -(-count // N_CHUNKS)
    return length, -(-count // length)


def range_constant(length, kind="code") -> float:
    """Factor from a mean chunk range to a standard deviation, for chunks of `length` values.

    kind: "code" (0.5 * 0.35 * (1 + sqrt(pi ln 4)) / sqrt(2 ln length), as in
        eladhoffer/convNet.pytorch, models/modules/quantize.py) or "paper" (1 / sqrt(2 ln length))
    """
    if kind not in ("code", "paper"):
        raise ValueError(f"Range constant must be 'code' or 'paper', not {kind!r}")
    length = validate.integer("Chunk length", length, 2, COUNT_MAX)
    fix = 0.5 * 0.35 * (1 + math.sqrt(math.pi * math.log(4))) if kind == "code" else 1.0
    return fix / math.sqrt(2 * math.log(length))


def by_channel(q) -> np.ndarray:
    """q: (N, C, H, W) or (N, C). Returns (C, N * H * W), in N, H, W order."""
    return np.moveaxis(q, 1, 0).reshape(q.shape[1], -1)


def statistics(q, p=NUMPY) -> tuple:
    """sum of (q + 128) and sum over chunks of (max - min), int64 (C,) each, numpy.

    q: int8 (N, C, H, W) or (N, C), N * H * W in 17..2**24, by the primitives `p`
    """
    flat = p.reshape(p.transpose(q, (1, 0, *range(2, q.ndim))), (-1,))
    count = flat.shape[1]
    total, spread = CODE_OFFSET * count, 0
    for chunk in p.split(flat, chunking(count)[0]):
        total = p.sum(p.integers(chunk), (1,)) + total
        spread = p.integers(p.max(chunk, 1)) - p.integers(p.min(chunk, 1)) + spread
    return p.host(total)[:, 0], p.host(spread)[:, 0]


def apply(p, q, multiplier, bias, shift, low=arith.INT8_MIN, high=arith.INT8_MAX) -> ExecutorTensor:
    """y = clamp((q * multiplier + bias + half) >> shift), parameters per channel on axis 1.

    q: codes (N, C, ...); multiplier, bias, shift: int64 (C,), numpy. Returns codes.
    """
    multiplier, bias, shift = (p.per_channel(values, q) for values in (multiplier, bias, shift))
    y = arith.round_shift(p.integers(q) * multiplier + bias, shift)
    return p.codes(arith.clamp(y, low, high))


@dataclass(frozen=True, kw_only=True, eq=False)
class RangeNormConfig:
    """The constants of RangeBN with batch statistics; `from_floats` computes them.

    count: codes per channel and batch, N * H * W, 17..2**24
    gain: int64 (C,), signed, magnitude of 24 bits with its top bit set, or 0
    shift: int64 (C,), 0..61; slope of a channel = gain * 2**(20 - shift) / E
    beta: int64 (C,), output code of beta (zero point included) with 16 fraction bits, 31 bits
    epsilon: eps in units of the spread with 16 fraction bits, 0..2**28-1
    low, high: inclusive clamp bounds within int8
    """

    count: int
    gain: np.ndarray
    shift: np.ndarray
    beta: np.ndarray
    epsilon: int
    low: int = arith.INT8_MIN
    high: int = arith.INT8_MAX

    def __post_init__(self):
        def put(name, value):
            object.__setattr__(self, name, value)
        chunking(self.count)
        limit = (1 << GAIN_WIDTH) - 1
        put("gain", validate.int_array("Gain", self.gain, np.int64, 1, -limit, limit))
        small = (self.gain != 0) & (abs(self.gain) <= limit >> 1)
        if small.any():
            raise ValueError(f"Gain must be 0 or have a magnitude of {GAIN_WIDTH} bits, "
                             f"not {self.gain[small][0]}")
        put("epsilon", validate.integer("Epsilon", self.epsilon, 0, EPSILON_MAX))
        # The largest slope belongs to spread 1; its shift must not be negative.
        lowest = DENOMINATOR_WIDTH - ((1 << FRACTION_WIDTH) + self.epsilon).bit_length()
        put("shift", validate.int_array("Shift", self.shift, np.int64, 1, lowest, BASE_SHIFT_MAX,
                                        length=len(self.gain)))
        limit = (1 << (BETA_WIDTH - 1)) - 1
        put("beta", validate.int_array("Beta", self.beta, np.int64, 1, -limit, limit,
                                       length=len(self.gain)))
        put("low", validate.integer("Low", self.low, arith.INT8_MIN, arith.INT8_MAX))
        put("high", validate.integer("High", self.high, self.low, arith.INT8_MAX))

    @classmethod
    def from_floats(cls, *, count, gamma, beta, eps, input_scale, output_scale, output_zero_point,
                    constant="code", low=arith.INT8_MIN, high=arith.INT8_MAX) -> "RangeNormConfig":
        """The integer constants for float parameters.

        count: N * H * W; gamma, beta: float (C,); eps >= 0; input_scale, output_scale > 0
        constant: "code", "paper" or the factor itself (see `range_constant`)
        Raises ValueError naming the channel where gamma or beta is too large for the scales.
        """
        length, number = chunking(count)
        factor = constant if isinstance(constant, float) else range_constant(length, constant)
        factor = validate.positive("Range constant", factor)
        input_scale = validate.positive("Input scale", input_scale)
        output_scale = validate.positive("Output scale", output_scale)
        gamma = np.atleast_1d(np.asarray(gamma, np.float64))
        beta = np.atleast_1d(np.asarray(beta, np.float64))
        if not (np.isfinite(gamma).all() and np.isfinite(beta).all()):
            raise ValueError("Gamma and beta must be finite")
        epsilon = eps * number / (input_scale * factor) * 2.0 ** FRACTION_WIDTH + 0.5
        if not 0.5 <= epsilon <= EPSILON_MAX:
            raise ValueError(f"Eps must be at least 0 and below the largest range of the input, "
                             f"{4080 / number * input_scale * factor:.3g}, not {eps}")
        epsilon = math.floor(epsilon)
        lowest = DENOMINATOR_WIDTH - ((1 << FRACTION_WIDTH) + epsilon).bit_length()
        gains, shifts = [], []
        for channel, value in enumerate(gamma):
            mantissa, exponent = math.frexp(
                value * number / (factor * output_scale) * 2.0 ** FRACTION_WIDTH)
            gain = math.floor(abs(mantissa) * 2.0 ** GAIN_WIDTH + 0.5)
            if gain == 1 << GAIN_WIDTH:
                gain, exponent = gain >> 1, exponent + 1
            shift = GAIN_WIDTH - exponent + QUOTIENT_SHIFT - 1
            if gain and shift < lowest:
                raise ValueError(f"Gamma of channel {channel} must give at most 65536 output codes "
                                 f"per input code, not {value} at output scale {output_scale}")
            if gain == 0 or shift > BASE_SHIFT_MAX:
                gain, shift = 0, BASE_SHIFT_MAX
            gains.append(gain if value >= 0 else -gain)
            shifts.append(shift)
        code = beta / output_scale + output_zero_point
        limit = 1 << (BETA_WIDTH - 1 - FRACTION_WIDTH)
        if (abs(code) >= limit - 1).any():
            channel = int(abs(code).argmax())
            raise ValueError(f"Beta of channel {channel} must be within {limit - 1} output codes, "
                             f"not {code[channel]:.6g}")
        codes = np.floor(code * 2.0 ** FRACTION_WIDTH + 0.5).astype(np.int64)
        return cls(count=count, gain=np.array(gains, np.int64), shift=np.array(shifts, np.int64),
                   beta=codes, epsilon=epsilon, low=low, high=high)

    @property
    def n_channels(self) -> int:
        """The number of channels."""
        return len(self.gain)

    @property
    def chunk_length(self) -> int:
        """Codes per chunk; the last chunk may be shorter."""
        return chunking(self.count)[0]

    def parameters(self, total, spread) -> tuple:
        """(m, B, sh), int64 (C,) each, from the sums and spreads of `statistics`."""
        total, spread = np.asarray(total, np.int64), np.asarray(spread, np.int64)
        denominator = (np.maximum(spread, 1) << FRACTION_WIDTH) + self.epsilon
        # frexp gives the bit length exactly: 29 bits fit a float64.
        normalise = DENOMINATOR_WIDTH - np.frexp(denominator.astype(np.float64))[1].astype(np.int64)
        quotient = (abs(self.gain) << QUOTIENT_SHIFT) // (denominator << normalise)
        magnitude = np.minimum(arith.round_shift(quotient, 1), MULTIPLIER_MAX)
        shift = self.shift - normalise
        zero = (spread == 0) | (self.gain == 0) | (shift > SHIFT_MAX)
        magnitude = np.where(zero, 0, magnitude)
        shift = np.where(zero, ZERO_SHIFT, shift)
        sign = np.sign(self.gain)
        mean = ((magnitude * total << GUARD_WIDTH) + (self.count >> 1)) // self.count
        align = shift + GUARD_WIDTH - FRACTION_WIDTH
        beta = (self.beta << np.maximum(align, 0)) >> np.maximum(-align, 0)
        offset = sign * ((magnitude * CODE_OFFSET << GUARD_WIDTH) - mean)
        return sign * magnitude, arith.round_shift(beta + offset, GUARD_WIDTH), shift

    def __call__(self, q):
        """q: int8 (N, C, H, W) or (N, C) with N * H * W = count. Returns int8 of that shape."""
        return self.compute(NUMPY, validate.codes("RangeNorm input", q))

    def compute(self, p, q) -> ExecutorTensor:
        """The same by the primitives `p`."""
        n_codes = p.batch(q) * math.prod(q.shape[2:])
        if q.ndim < 2 or q.shape[1] != self.n_channels or n_codes != self.count:
            raise ValueError(f"RangeNorm must get {self.n_channels} channels of {self.count} "
                             f"values, not shape {tuple(q.shape)}")
        return apply(p, q, *self.parameters(*statistics(q, p)), self.low, self.high)


def range_norm_reference(q, *, gamma, beta, eps, input_scale, output_scale, output_zero_point,
                         constant="code", low=arith.INT8_MIN, high=arith.INT8_MAX) -> np.ndarray:
    """Float64 RangeBN of the same codes, quantized once at the end: what the integers approach.

    Arguments as in `RangeNormConfig.from_floats`; q: int8 (N, C, H, W) or (N, C). Returns int8.
    """
    flat = by_channel(q).astype(np.float64) * input_scale
    length, number = chunking(flat.shape[1])
    factor = constant if isinstance(constant, float) else range_constant(length, constant)
    ranges = np.array([np.ptp(flat[:, i * length:(i + 1) * length], axis=1)
                       for i in range(number)]).mean(axis=0)
    # A channel without range gives beta.
    inverse = np.divide(gamma, ranges * factor + eps, out=np.zeros(len(flat)), where=ranges > 0)
    # The mean of integers is exact before the scale is applied.
    mean = by_channel(q).sum(axis=1, dtype=np.int64) / flat.shape[1] * input_scale
    y = (flat - mean[:, None]) * inverse[:, None] + np.asarray(beta, np.float64)[:, None]
    y = arith.quantize(y, output_scale, output_zero_point, low, high).astype(np.int8)
    shape = (q.shape[1], q.shape[0], *q.shape[2:])
    return np.moveaxis(y.reshape(shape), 0, 1)
