"""Two processes of sw/train/engine.py over gloo: what they share and what each draws for itself."""


import pytest
import torch
import torch.distributed as dist

from models import build_model
from sw.data import load_dataset
from sw.train import engine
from sw.train.distributed import World
from sw.train.engine import TrainConfig, _epoch_seed, train
from tests.processes import two_processes


def _worker(rank, port, fault, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    if fault:
        World.share = lambda self, tensors: None
    noise = []
    rounded = engine.round_stored_weights

    def watched(model):
        state = torch.get_rng_state()
        noise.append(torch.rand(4).tolist())
        torch.set_rng_state(state)
        rounded(model)
    engine.round_stored_weights = watched
    try:
        torch.manual_seed(0)
        model = build_model("resnet_digits", {
            "width": 4, "recipe": "wage", "overrides": {"update.rounding": "stochastic"}})
        train(model, load_dataset("digits"), TrainConfig(epochs=1, batch_size=256),
              world=World(rank=rank, size=2, local_rank=rank))
        weights = [parameter.tolist() for parameter in model.parameters()]
        results[rank] = weights, noise
    finally:
        dist.destroy_process_group()


def run(fault=False):
    results = two_processes(_worker, fault)
    return [results[rank] for rank in range(2)]


@pytest.mark.slow
def test_stored_weights_are_equal_and_noise_is_not():
    (weights, noise), (other_weights, other_noise) = run()
    assert weights == other_weights
    assert len(noise) == 2
    assert all(mine != other for mine, other in zip(noise, other_noise, strict=True))


@pytest.mark.long
def test_without_the_exchange_stored_weights_drift_apart():
    (weights, _), (other_weights, _) = run(fault=True)
    assert weights != other_weights


def test_every_rank_seeds_torch_differently():
    draws = set()
    for rank in range(4):
        for epoch in range(3):
            torch.manual_seed(_epoch_seed(7, epoch, rank))
            draws.add(tuple(torch.rand(4).tolist()))
    assert len(draws) == 12
    assert _epoch_seed(7, 2, 0) == 7 * 1_000_003 + 2  # the numbers of one process stay
