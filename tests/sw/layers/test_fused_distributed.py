"""Synchronised statistics of sw/layers/fused.py: two processes compute what the modules compute
there."""


import pytest
import torch
import torch.distributed as dist

from sw.layers import fused
from sw.layers.fused import FusedNorm
from tests.processes import two_processes
from tests.sw.layers.test_fused import Composed, example

CHUNKS = 4


def _worker(rank, port, given, results):
    fault, range_gradient = given
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        x, gamma, beta = example((16, 4, 6, 6), seed=rank)
        gamma, beta = example((16, 4, 6, 6), seed=7)[1:]
        weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(rank))
        modules = Composed(gamma, beta, "relu", **{
            "activation.range": "min_max",
            "norm.chunks": CHUNKS, "norm.quantize_gradient": False, "norm.synchronise": True,
            "norm.range_gradient": range_gradient, "norm.momentum": 1.0})
        x.requires_grad_()
        expected = modules(x)
        reference = torch.autograd.grad(
            (expected * weights).sum(), [x, modules.norm.weight, modules.norm.bias])
        inputs = [v.detach().clone().requires_grad_() for v in (x, gamma, beta)]
        norm = FusedNorm(activation="relu", chunks=CHUNKS, quantize_gradient=False,
                         range_gradient=range_gradient, synchronise=fault != "statistics")
        found = fused.norm_activation_quantize(*inputs, norm)
        if fault == "gradient":
            fused._average = lambda *vectors: vectors
        mine = torch.autograd.grad((found.output * weights).sum(), inputs)
        errors = [((a - b).abs().max() / b.abs().max()).item()
                  for a, b in zip(mine, reference, strict=True)]
        results[rank] = (torch.equal(found.mean, modules.norm.running_mean)
                         and torch.equal(found.scale, modules.norm.running_scale)
                         and torch.equal(found.output, expected)), max(errors)
    finally:
        dist.destroy_process_group()


def run(fault=None, range_gradient="extremes"):
    results = two_processes(_worker, (fault, range_gradient))
    return [results[rank] for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("range_gradient", ["extremes", "deviation"])
def test_synchronised_statistics_and_gradients(range_gradient):
    for equal, error in run(range_gradient=range_gradient):
        assert equal and error < 2e-5


@pytest.mark.long
@pytest.mark.parametrize("fault", [
    "statistics", pytest.param("gradient", marks=pytest.mark.long)])
def test_without_an_exchange_they_differ(fault):
    for equal, error in run(fault):
        assert equal == (fault == "gradient") and error > 1e-3
