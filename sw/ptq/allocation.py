"""Bits per channel: Banner, Nahshan, Soudry, arXiv 1810.05723, section 4 and appendix A.

For channels of spread a_i and a budget of n channels times M bits::

    M_i = round(log2(B a_i^(2/3) / sum a^(2/3)))         B = n 2^M

minimises the sum of the squared errors for a fixed sum of 2^M_i. Rounding and the bounds of the
machine move the mean of M_i, so B is scaled until it is M again.
"""

import math

import torch
from torch import Tensor

from golden.errors import LockstepError
from sw.ptq.config import BITS

__all__ = ["allocate_bits"]

_HALVINGS = 60


def allocate_bits(spread: Tensor, bits: int) -> Tensor:
    """Bits of each channel, int64 (C,), from 2 to 8, their sum exactly C * bits.

    spread: (C,) a standard deviation or mean absolute deviation; channels of spread 0 get the
    fewest. Channels whose unrounded bits tie differ in one bit where the sum needs it. Raises
    LockstepError for a spread that is negative or not finite.
    """
    spread = spread.double()
    if not torch.isfinite(spread).all() or (spread < 0).any():
        raise LockstepError("The spread of every channel must be finite and not negative")
    total = len(spread) * bits
    share = torch.log2(spread.pow(2 / 3).clamp_min(1e-30))
    if not spread.any():
        return torch.full((len(spread),), bits, dtype=torch.int64)

    def rounded(budget: float) -> Tensor:  # budget: log2 of B / sum a^(2/3)
        return torch.floor(share + budget + 0.5).clamp(*BITS)

    low, high = BITS[0] - share.max().item() - 1, BITS[1] - share.min().item() + 1
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rounded(middle).sum() <= total else (low, middle)
    result = rounded(low)
    missing = int(total - result.sum().item())
    if missing:  # channels that all pass their rounding threshold at the same B
        room = torch.where(result < BITS[1], share + low - result, -math.inf)
        result[room.argsort(descending=True, stable=True)[:missing]] += 1
    return result.to(torch.int64)
