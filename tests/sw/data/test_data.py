"""Order, ranks, augmentation and samples of data sets, on digits and a small synthetic CIFAR."""

import os

import numpy as np
import pytest
import torch

from golden.errors import LockstepError
from sw.data import load_dataset
from sw.data.augment import crop_and_flip, draws, resized_crop_box
from sw.data.memory import MemoryDataset

LOCKSTEP_DATA = os.environ.get("LOCKSTEP_DATA")


def synthetic(n_train: int = 60, n_test: int = 23, crop_padding: int = 4) -> MemoryDataset:
    """Noise whose top left red pixel is the image's own number."""
    generator = torch.Generator().manual_seed(5)
    parts = []
    for n in (n_train, n_test):
        images = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
        images[:, 0, 0, 0] = torch.arange(n, dtype=torch.uint8)
        parts.append((images, torch.arange(n) % 10))
    return MemoryDataset(name="noise", train=parts[0], test=parts[1], n_classes=10,
                         mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), crop_padding=crop_padding)


def epoch(data, batch_size=10, **options):
    """All batches of one epoch, concatenated."""
    parts = list(data.batches(batch_size, **({"seed": 1, "epoch": 0} | options)))
    return torch.cat([images for images, _ in parts]), torch.cat([own for _, own in parts])


def test_digits_stay_what_they_were():
    data = load_dataset("digits")
    assert (data.n_train, data.n_test, data.n_classes) == (1437, 360, 10)
    assert data.input_shape == (1, 8, 8)
    images, labels = data.train_sample(1437)
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert images.min() == 0 and images.max() == 1
    assert torch.equal(images * 16, (images * 16).round())
    # Sum and labels of the split that checkpoints before this package were trained on.
    assert (images.double() * 16).sum().item() == 449368
    assert labels[:8].tolist() == [3, 9, 1, 3, 1, 9, 4, 4]
    order = torch.randperm(1437, generator=torch.Generator().manual_seed(3 * 1_000_003 + 2))
    batch, _ = next(data.batches(64, seed=3, epoch=2))
    assert torch.equal(batch, images[order[:64]])


def test_the_order_depends_on_seed_and_epoch():
    data = synthetic()
    images, labels = epoch(data)
    again, labels_again = epoch(data)
    assert torch.equal(images, again) and torch.equal(labels, labels_again)
    assert sorted(labels.tolist()) == sorted(data.train_labels.tolist())
    for other in ({"epoch": 1}, {"seed": 2}):
        assert not torch.equal(labels, epoch(data, **other)[1])


def test_augmentation_differs_between_epochs_and_not_between_batch_sizes():
    data = synthetic()
    views = []
    for number in range(2):
        _, labels = epoch(data, epoch=number)
        order = torch.randperm(60, generator=torch.Generator().manual_seed(1_000_003 + number))
        assert torch.equal(labels, data.train_labels[order])
        views.append(epoch(data, epoch=number)[0][order.argsort()])
    same = (views[0] == views[1]).flatten(1).all(1).sum()
    assert same <= 3  # 1 in 162 draws the same shift and flip
    assert torch.equal(epoch(data, 10)[0], epoch(data, 15)[0])


def test_without_augmentation_batches_hold_the_images_themselves():
    data = synthetic(crop_padding=0)
    images, _ = epoch(data)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1_000_003))
    assert torch.equal(images, data.train_images[order])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_batches_of_one_process(world_size):
    data = synthetic()
    whole = list(data.batches(6 * world_size, seed=4, epoch=2))
    parts = [list(data.batches(6, seed=4, epoch=2, rank=rank, world_size=world_size))
             for rank in range(world_size)]
    assert data.steps(6, world_size) == len(whole) == len(parts[0])
    for step, (images, labels) in enumerate(whole):
        assert torch.equal(images, torch.cat([part[step][0] for part in parts]))
        assert torch.equal(labels, torch.cat([part[step][1] for part in parts]))


def test_test_batches_keep_every_image_in_order():
    data = synthetic()
    images, labels = (torch.cat(parts) for parts in zip(*data.test_batches(10)))
    assert torch.equal(images, data.test_images) and torch.equal(labels, data.test_labels)
    ranks = [torch.cat([own for own, _ in data.test_batches(4, rank=rank, world_size=2)])
             for rank in range(2)]
    assert torch.equal(ranks[0], data.test_images[::2])
    assert torch.equal(ranks[1], data.test_images[1::2])
    assert torch.equal(data.test_sample(5)[0], data.test_images[:5])
    assert torch.equal(data.train_sample(99)[0], data.train_images)


def test_images_are_normalised_per_channel():
    data = synthetic()
    pixels = data._splits["test"][0].double() / 255
    expected = (pixels - torch.tensor([0.5, 0.4, 0.3], dtype=torch.double).view(3, 1, 1))
    expected /= torch.tensor([0.2, 0.25, 0.3], dtype=torch.double).view(3, 1, 1)
    assert (data.test_images - expected).abs().max() < 1e-6


def test_input_size_resizes_every_batch():
    data = synthetic()
    images, _ = epoch(data, input_size=24)
    assert images.shape == (60, 3, 24, 24)
    assert next(data.test_batches(5, input_size=40))[0].shape == (5, 3, 40, 40)
    mean = epoch(data)[0].mean((2, 3))
    assert (images.mean((2, 3)) - mean).abs().max() < 0.1


def test_crops_are_windows_of_the_padded_image():
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5) + 1
    uniform = np.array([[0.0, 0.999, 0.9], [0.5, 0.5, 0.1]])  # corner (0, 4); centre, mirrored
    crops = crop_and_flip(images, uniform, 2)
    assert torch.equal(crops[0, :, 2:, :3], images[0, :, :2, 2:])
    assert crops[0, :, :2].max() == 0 and crops[0, :, :, 3:].max() == 0
    assert torch.equal(crops[1], images[1].flip(2))


def test_draws_are_uniform_and_their_own_for_every_key():
    base = draws(0, 0, np.arange(20_000), 4)
    assert 0 <= base.min() and base.max() < 1
    counts = np.histogram(base, bins=10, range=(0, 1))[0]
    assert np.abs(counts / 8000 - 1).max() < 0.06
    assert len(np.unique(base)) == base.size
    correlation = np.corrcoef(np.vstack([base.T, draws(0, 1, np.arange(20_000), 4).T,
                                         draws(-1, 0, np.arange(20_000), 4).T]))
    assert np.abs(correlation - np.eye(12)).max() < 0.04
    assert np.array_equal(draws(0, 0, np.array([7, 3]), 4), base[[7, 3]])


@pytest.mark.parametrize("size", [(500, 375), (40, 400), (1, 9), (3, 1)])
def test_random_boxes_fit_the_picture(size):
    boxes = [resized_crop_box(*size, uniform) for uniform in draws(0, 0, np.arange(300), 23)]
    areas = [(right - left) * (bottom - top) / (size[0] * size[1])
             for left, top, right, bottom in boxes]
    assert all(0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
               for left, top, right, bottom in boxes)
    if size == (500, 375):
        assert 0.07 < min(areas) < 0.1 and 0.9 < max(areas) <= 1
        assert len(set(boxes)) > 290


@pytest.mark.parametrize(("options", "message"), [
    ({"batch_size": 0}, "Batch size must be at least 1, not 0"),
    ({"batch_size": 61}, "Batch size 61 is larger than the 60 training images of noise"),
    ({"batch_size": 31, "world_size": 2}, "31 times 2 processes is larger than the 60"),
    ({"batch_size": 4, "rank": 2, "world_size": 2}, r"Rank must be in 0\.\.1, not 2"),
    ({"batch_size": 4, "workers": -1}, "at least 0, not -1"),
    ({"batch_size": 4, "input_size": 0}, "at least 1 pixel, not 0"),
])
def test_impossible_batches(options, message):
    with pytest.raises(LockstepError, match=message):
        synthetic().batches(**options, seed=0, epoch=0)


@pytest.mark.parametrize(("labels", "message"), [
    ([0, 10], r"the training label 10; its labels are 0\.\.9"),
    ([0, -1], "the training label -1"),
    ([0, 8], "10 classes, but its training labels end at 8"),
    ([9], "2 training images and 1 labels"),
])
def test_labels_that_do_not_fit(labels, message):
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(LockstepError, match=message):
        MemoryDataset(name="x", train=(images, torch.tensor(labels)),
                      test=(images, torch.tensor([0, 9])), n_classes=10)


def test_unknown_and_absent_sets(tmp_path, monkeypatch):
    monkeypatch.delenv("LOCKSTEP_DATA", raising=False)
    with pytest.raises(LockstepError, match="Unknown dataset 'digit'; known datasets: digits"):
        load_dataset("digit")
    for name, expected in (("cifar10", "cifar-10-python.tar.gz"), ("mnist", "train-images-idx3"),
                           ("cifar100", "cifar-100-python.tar.gz"), ("folder", "train/CLASS/"),
                           ("imagenet", "ILSVRC2012_img_val.tar")):
        with pytest.raises(LockstepError, match=f"{name} is not in {tmp_path}; .*{expected}"):
            load_dataset(name, tmp_path)
        with pytest.raises(LockstepError, match="none is given"):
            load_dataset(name)


@pytest.mark.long
@pytest.mark.skipif(not LOCKSTEP_DATA, reason="LOCKSTEP_DATA is not set")
def test_the_real_cifar10(tmp_path):
    data = load_dataset("cifar10", tmp_path)  # found through LOCKSTEP_DATA
    assert (data.n_train, data.n_test, data.damaged) == (50_000, 10_000, [])
    assert data.train_labels.bincount().tolist() == [5000] * 10
    images, labels = next(data.batches(128, seed=0, epoch=0))
    assert images.shape == (128, 3, 32, 32) and images.dtype == torch.float32
    sample, _ = data.train_sample(10_000)
    assert sample.mean((0, 2, 3)).abs().max() < 0.05
    assert (sample.std((0, 2, 3)) - 1).abs().max() < 0.1
