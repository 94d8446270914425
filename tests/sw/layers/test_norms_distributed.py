"""Synchronised normalization: two processes compute what one does with both batches."""

import warnings

import pytest
import torch
import torch.distributed as dist

from sw.layers import norms
from sw.layers.norms import make_norm
from sw.quantize.recipes import make_recipe
from tests.processes import two_processes


def norm_of(kind):
    return make_norm(3, make_recipe("float", overrides={
        "norm.kind": kind, "norm.synchronise": True, "norm.momentum": 1.0}))


def example():
    """Values (8, 3, 2, 2) whose mean is 1e5 times their deviation, and a gradient."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, 2, 2, generator=generator) * 0.001 + 100
    return x, torch.randn(x.shape, generator=generator)


def reference(kind):
    """The output and the gradient to x, float64, of one process with the whole batch."""
    x, gradient = (value.double() for value in example())
    x.requires_grad_()
    centred = x - x.mean((0, 2, 3), keepdim=True)
    if kind == "batch":
        sigma = torch.sqrt(centred.square().mean((0, 2, 3), keepdim=True) + 1e-5)
    else:
        sigma = (torch.pi / 2)**0.5 * centred.abs().mean((0, 2, 3), keepdim=True) + 1e-5
    y = centred / sigma
    y.backward(gradient)
    return y.detach(), x.grad


def test_a_large_mean_does_not_cancel():
    norm = norm_of("batch")
    x, _ = example()
    y = norm(x)
    assert (y - reference("batch")[0]).abs().max() < 0.02  # a float32 step of x is 7.6e-6
    assert torch.allclose(norm.running_variance, x.double().transpose(0, 1).flatten(1).var(1)
                          .float(), rtol=0.02)


def _worker(rank, port, fault, results):
    torch.set_num_threads(1)
    warnings.simplefilter("error", FutureWarning)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    if fault:
        norms.SumOverProcessesFunction.backward = staticmethod(lambda ctx, gradient: gradient)
    try:
        mine = slice(4 * rank, 4 * rank + 4)
        for kind in ("batch", "l1"):
            norm = norm_of(kind)
            x, gradient = (value[mine].clone() for value in example())
            y = norm(x.requires_grad_())
            y.backward(gradient)
            expected = [value[mine] for value in reference(kind)]
            errors = [((a - b).abs().max() / b.abs().max()).item()
                      for a, b in zip((y.detach(), x.grad), expected, strict=True)]
            if kind == "batch":
                results[rank, "variance"] = norm.running_variance.tolist()
            results[rank, kind] = errors
    finally:
        dist.destroy_process_group()


def run(fault=False):
    return two_processes(_worker, fault)


@pytest.mark.slow
def test_two_processes_are_one():
    found = run()
    unbiased = example()[0].double().transpose(0, 1).flatten(1).var(1).tolist()
    for rank in range(2):
        assert max(found[rank, "batch"] + found[rank, "l1"]) < 0.02
        assert found[rank, "variance"] == pytest.approx(unbiased, rel=0.01)  # its own 16 / 15: +3 %


@pytest.mark.long
def test_without_the_other_process_the_gradient_differs():
    found = run(fault=True)
    assert min(found[rank, kind][1] for rank in range(2) for kind in ("batch", "l1")) > 0.05
