"""Rounding of real numbers to integers, the modes of a fixed-point training simulator.

``half_up``, floor(x + 0.5), is the contract of ``golden/arith.py`` and what a lowered program
does. The others exist to compare methods; ``gemmlowp`` on a real number is its tie rule, half away
from zero (its two-step rescaling exists only between integers, in ``golden.arith.requantize``).

Source of pseudo-stochastic rounding: Wang et al., "NITI: Training Integer Neural Networks Using
Integer-only Arithmetic", arXiv 2009.13108, section 3.3, and its code (wangmaolin/niti,
ti_torch.py, PstoShift): the dropped fraction of the magnitude, of 16 bits here, is its own random
number; the magnitude rounds up where the fraction's upper half exceeds its lower half.
"""

import torch
from torch import Tensor

__all__ = ["evaluation_rounding", "round_to_integer"]

_FRACTION_BITS = 16


def _half_up(x: Tensor) -> Tensor:
    return torch.floor(x + 0.5)


def _half_away(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.floor(x.abs() + 0.5)


def _stochastic(x: Tensor) -> Tensor:
    return torch.floor(x + torch.rand_like(x))


def _pseudo_stochastic(x: Tensor) -> Tensor:
    magnitude = x.abs()  # the source shifts towards zero, so that +x and -x round alike
    low = torch.floor(magnitude)
    fraction = torch.floor((magnitude - low) * 2**_FRACTION_BITS).to(torch.int32)
    half = _FRACTION_BITS // 2
    up = (fraction >> half) > (fraction & (2**half - 1))
    return torch.sign(x) * (low + up.to(x.dtype))


_FUNCTIONS = {
    "half_up": _half_up, "gemmlowp": _half_away, "half_away": _half_away,
    "half_even": torch.round, "floor": torch.floor, "stochastic": _stochastic,
    "pseudo_stochastic": _pseudo_stochastic,
}


def round_to_integer(x: Tensor, rounding: str = "half_up") -> Tensor:
    """x rounded to integers of the same float dtype, by a mode of ``sw.quantize.recipe.ROUNDINGS``.

    ``stochastic`` draws from torch's generator; its expected value is x.
    """
    return _FUNCTIONS[rounding](x)


def evaluation_rounding(rounding: str) -> str:
    """The deterministic mode that evaluation uses in place of a random one."""
    return "half_up" if rounding in ("stochastic", "pseudo_stochastic") else rounding
