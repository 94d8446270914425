"""RangeBN in evaluation as numbers: the affine map, and the integer op that keeps it separate."""

import numpy as np

from golden.ops import RangeNorm
from golden.program import Quantization
from sw.range_norm import EPSILON, RangeBatchNorm


def norm_factor(norm: RangeBatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """``y = factor * x + offset`` of the running statistics, float64 (C,) each, in real units."""
    gamma, beta, mean, scale = (
        tensor.detach().cpu().double().numpy()
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_scale))
    factor = gamma / (scale + EPSILON)
    return factor, beta - mean * factor


def range_norm_op(norm: RangeBatchNorm, source: Quantization, target: Quantization,
                  low: int, high: int) -> RangeNorm:
    """The integer op of the running statistics on int8 codes, with clamp bounds low and high."""
    gamma, beta, mean, sigma = (
        tensor.detach().cpu().double().numpy()
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_scale))
    return RangeNorm.from_running(
        mean=mean, sigma=sigma, gamma=gamma, beta=beta, eps=EPSILON, input_scale=source.scale,
        input_zero_point=source.zero_point, output_scale=target.scale,
        output_zero_point=target.zero_point, low=low, high=high)
