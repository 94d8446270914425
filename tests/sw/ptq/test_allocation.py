"""Bits per channel: the mean is the target, the rule is the paper's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden.errors import LockstepError
from sw.ptq.allocation import allocate_bits


@given(bits=st.integers(2, 8), seed=st.integers(0, 2**20), n=st.integers(1, 300),
       decades=st.floats(0, 6), repeats=st.booleans())
def test_the_mean_is_the_target(bits, seed, n, decades, repeats):
    generator = torch.Generator().manual_seed(seed)
    spread = 10 ** (decades * torch.rand(n, generator=generator))
    if repeats:
        spread[n // 2:] = spread[0]
    allocated = allocate_bits(spread, bits)
    assert abs(allocated.double().mean().item() - bits) <= 0.01
    assert allocated.min() >= 2
    assert allocated.max() <= 8


@given(seed=st.integers(0, 2**20), n=st.integers(2, 200))
def test_wider_channels_get_no_fewer_bits(seed, n):
    spread = torch.rand(n, generator=torch.Generator().manual_seed(seed)) * 10
    allocated = allocate_bits(spread, 4)
    in_order = allocated[spread.argsort()]
    assert (in_order[1:] >= in_order[:-1]).all()


def test_eight_times_the_spread_is_two_bits():
    # a^(2/3) = 1, 4, 16, so the unrounded bits are two apart
    assert allocate_bits(torch.tensor([1.0, 8.0, 64.0]), 4).tolist() == [2, 4, 6]


def test_the_rule_is_that_of_the_paper_where_its_mean_is_the_target():
    spread = torch.tensor([1.0, 8.0] * 4, dtype=torch.float64)
    shares = spread.pow(2 / 3)
    by_equation = torch.floor(torch.log2(8 * 2**4 * shares / shares.sum()) + 0.5)
    assert by_equation.mean() == 4  # so that no iteration is needed
    assert allocate_bits(spread, 4).tolist() == by_equation.tolist()


def test_channels_without_values():
    assert allocate_bits(torch.tensor([0.0, 0.0, 0.0]), 5).tolist() == [5, 5, 5]
    assert allocate_bits(torch.tensor([0.0, 1.0]), 4).tolist() == [2, 6]


@pytest.mark.parametrize("spread", [-1.0, float("nan"), float("inf")])
def test_a_spread_that_cannot_be(spread):
    with pytest.raises(LockstepError, match="must be finite and not negative"):
        allocate_bits(torch.tensor([1.0, spread]), 4)
