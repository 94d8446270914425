"""RangeBN in evaluation as an integer op of its own, for ``exact`` lowering."""

from golden.ops import RangeNorm
from golden.program import Quantization
from sw.layers.norms import EPSILON
from sw.layers.range_norm import RangeBatchNorm

__all__ = ["range_norm_op"]


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
