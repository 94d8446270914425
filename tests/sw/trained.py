"""Briefly trained models, shared by the tests that need one: trained once by all processes."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import golden
import models
import sw
from models import build_model
from sim.cache import CACHE, cached, content_key, sources_key
from sw.data import Dataset, load_dataset
from sw.train.engine import TrainConfig, train


@functools.cache
def digits() -> Dataset:
    """The digits data set."""
    return load_dataset("digits")


def train_once(make: Callable[[], nn.Module], *facts: object) -> nn.Module:
    """The model that `make` trains, kept by the sources that it may depend on and by facts.

    facts: all that `make` takes from its caller, with a repr.
    """
    sources = sources_key(golden, sw, models, facts=(torch.__version__, _processor()))
    key = content_key(make.__module__, make.__qualname__, facts, sources,
                      Path(make.__code__.co_filename).read_bytes())
    folder = cached(CACHE / "trained", key, lambda work: torch.save(make(), work / "model.pt"))
    return torch.load(folder / "model.pt", weights_only=False)


def _processor() -> str:
    """Float sums of another order, on another processor, become another network."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith(("model name", "flags"))]
    return repr((names[:2], os.environ.get("OMP_NUM_THREADS")))


@functools.cache
def trained_digits(epochs: int = 6, width: int = 8):
    """A resnet_digits trained for a few epochs with seed 0. Do not change it."""
    def make():
        torch.manual_seed(0)
        model = build_model("resnet_digits", {"width": width})
        train(model, digits(), TrainConfig(epochs=epochs, lr=0.2, batch_size=32,
                                           schedule="cosine"))
        return model
    return train_once(make, epochs, width)
