"""Briefly trained models, shared by the tests that need one."""

import functools

import torch

from models import build_model
from sw.data import Dataset, load_dataset
from sw.train.engine import TrainConfig, train


@functools.cache
def digits() -> Dataset:
    """The digits data set."""
    return load_dataset("digits")


@functools.cache
def trained_digits(epochs: int = 6, width: int = 8):
    """A resnet_digits trained for a few epochs with seed 0. Do not change it."""
    torch.manual_seed(0)
    model = build_model("resnet_digits", {"width": width})
    train(model, digits(), TrainConfig(epochs=epochs, lr=0.2, batch_size=32, schedule="cosine"))
    return model
