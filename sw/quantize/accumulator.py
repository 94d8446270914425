"""A sum of products in a narrow accumulator: what overflow does to a network.

The integer sum is ``acc = sum w * (q - Z)`` in units of S_x * S_w[channel]. ``wrap`` keeps its low
bits in two's complement, which is what any sequence of additions in that width gives;
``saturate`` clamps the finished sum. The gradient passes straight through.

Source of the model: Sakr et al., arXiv 1901.06588, and Colbert et al., arXiv 2301.13376.
"""

import torch
from torch import Tensor

from golden.errors import LockstepError
from sw.quantize.quantizers import StraightThroughFunction, weight_scales

__all__ = ["narrow_sum", "overflowed"]


def overflowed(total: Tensor, bits: int, overflow: str) -> Tensor:
    """Integer-valued float64 sums as an accumulator of ``bits`` bits holds them."""
    high = 2.0 ** (bits - 1)
    if overflow == "saturate":
        return total.clamp(-high, high - 1)
    return torch.remainder(total + high, 2 * high) - high


def narrow_sum(layer, x: Tensor, weight: Tensor, quantized: Tensor, bias: Tensor | None) -> Tensor:
    """``layer.product`` in the accumulator of layer.config, float32; the bias is added in it.

    weight: stored, quantized: its fake-quantized values. The sum is exact while the input is not
    quantized yet (``activation.delay``): it has no integers. Raises LockstepError for a layer whose
    input's step is unknown (``sw.layers.connect.connect`` finds it).
    """
    recipe = layer.config.accumulator
    exact = layer.product(x, quantized, bias)
    if layer.source and layer.source[0].waits:
        return exact
    scale = layer.source[0].scale if layer.source else None
    if scale is None:
        raise LockstepError(f"Layer {layer.owner} has a {recipe.bits}-bit accumulator but its "
                            f"input's scale is unknown; call sw.layers.connect.connect(model) "
                            f"first")
    with torch.no_grad():
        scales = weight_scales(weight, layer.config.tensor("weight")).flatten().double()
        unit = (scale.double() * scales).reshape(1, -1, *[1] * (exact.dim() - 2))
        with torch.autocast(x.device.type, enabled=False):
            wide = layer.product(x.detach().double(), quantized.detach().double(),
                                 None if bias is None else bias.detach().double())
        total = torch.floor(wide / unit + 0.5)
        value = (overflowed(total, recipe.bits, recipe.overflow) * unit).to(exact.dtype)
    return StraightThroughFunction.apply(exact, value)
