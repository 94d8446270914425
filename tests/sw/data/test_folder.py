"""Folders of images: layout, crops, damaged files, and the same numbers for any workers."""

import numpy as np
import pytest
import torch
from PIL import Image

from golden.errors import LockstepError
from sw.data import load_dataset
from sw.data.files import DAMAGED, decode
from sw.data.folder import centre_view, random_view

SIZE = 16
CLASSES = ("cat", "dog", "elk")


@pytest.fixture(autouse=True)
def _no_other_data(monkeypatch):
    monkeypatch.delenv("LOCKSTEP_DATA", raising=False)


@pytest.fixture
def root(tmp_path):
    """8 training and 3 test pictures per class, of several sizes, formats and modes."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 8), ("val", 3)):
        for name in CLASSES:
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (20 + 3 * i, 30, 3), dtype=np.uint8)
                image = Image.fromarray(pixels).convert("L" if i == 1 else "RGB")
                image.save(folder / f"{i}.{'png' if i % 2 else 'JPEG'}")
            (folder / "notes.txt").write_text("no picture")
            (folder / "._0.JPEG").write_bytes(b"what one file manager leaves")
    return tmp_path


def epoch(data, batch_size=6, **options):
    parts = list(data.batches(batch_size, **({"seed": 1, "epoch": 0} | options)))
    return torch.cat([images for images, _ in parts]), torch.cat([own for _, own in parts])


def test_layout(root):
    data = load_dataset("folder", root, size=SIZE)
    assert (data.n_train, data.n_test, data.n_classes) == (24, 9, 3)
    assert data.input_shape == (3, SIZE, SIZE) and data.classes == list(CLASSES)
    images, labels = data.test_sample(9)
    assert images.shape == (9, 3, SIZE, SIZE) and images.dtype == torch.float32
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and labels.dtype == torch.int64
    with Image.open(root / "val" / "cat" / "1.png") as image:
        view = torch.from_numpy(centre_view(image.convert("RGB"), SIZE).copy()).permute(2, 0, 1)
    mean, std = (torch.tensor(own).view(3, 1, 1) for own in (data.mean, data.std))
    assert (images[1] - (view / 255 - mean) / std).abs().max() < 1e-5
    assert load_dataset("folder", root).input_shape == (3, 224, 224)
    (root / "val").rename(root / "test")
    assert load_dataset("imagenet", root, size=SIZE).n_test == 9


def test_the_same_numbers_for_any_workers_and_ranks(root):
    data = load_dataset("folder", root, size=SIZE)
    state = torch.get_rng_state()
    alone = epoch(data, workers=0)
    forked = epoch(data, workers=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(alone[0], forked[0]) and torch.equal(alone[1], forked[1])
    ranks = [list(data.batches(3, seed=1, epoch=0, rank=rank, world_size=2)) for rank in range(2)]
    merged = torch.cat([part[0] for pair in zip(*ranks) for part in pair])
    assert torch.equal(alone[0], merged)
    plain = [torch.cat([own for own, _ in data.test_batches(4, workers=workers)])
             for workers in (0, 2)]
    assert torch.equal(plain[0], plain[1]) and len(plain[0]) == 9


def test_augmentation_differs_between_epochs_and_stops_on_request(root):
    data = load_dataset("folder", root, size=SIZE)
    views = []
    for number in range(2):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(1_000_003 + number))
        views.append(epoch(data, epoch=number)[0][order.argsort()])
    assert not (views[0] == views[1]).flatten(1).all(1).any()
    plain = load_dataset("folder", root, augment=False, size=SIZE)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1_000_003))
    assert torch.equal(epoch(plain)[0][order.argsort()], data.train_sample(24)[0])


def test_input_size_is_the_size_of_the_crop(root):
    data = load_dataset("folder", root, size=SIZE)
    assert epoch(data, input_size=12)[0].shape == (24, 3, 12, 12)
    assert next(data.test_batches(9, input_size=20))[0].shape == (9, 3, 20, 20)


@pytest.mark.parametrize("size", [(40, 30), (30, 90), (9, 5), (1, 1)])
def test_views_have_the_size_of_the_crop(size):
    image = Image.fromarray(np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(
        size[1], size[0], 3))
    assert centre_view(image, 14).shape == (14, 14, 3)
    assert random_view(image, 14, np.full(23, 0.3)).shape == (14, 14, 3)


def test_views_show_the_part_that_they_should():
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (100, 200, 3))
    image = Image.fromarray(np.ascontiguousarray(ramp))
    centre = centre_view(image, 100)[50, :, 0].astype(int)
    assert abs(centre[50] - 100) <= 1 and centre[0] in range(54, 60)
    uniform = np.full(23, 0.5)
    uniform[0] = 0.3  # 0.08 + 0.92 * 0.3 of the area: a square of 84 pixels
    uniform[20:22] = 0  # in the left top corner
    plain = random_view(image, 100, uniform)[50, :, 0]
    assert plain[0] <= 1 and 82 <= plain[-1] <= 83
    uniform[-1] = 0.4
    assert np.array_equal(random_view(image, 100, uniform)[50, :, 0], plain[::-1])


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_files_are_named_and_replaced(root, workers):
    data = load_dataset("folder", root, size=SIZE)
    whole, labels = epoch(data)
    cut, nonsense = root / "train" / "dog" / "2.JPEG", root / "train" / "elk" / "7.png"
    cut.write_bytes(cut.read_bytes()[:200])
    nonsense.write_bytes(b"nonsense")
    test = root / "val" / "cat" / "0.JPEG"
    Image.new("RGB", (30, 30)).save(test, "PCX")  # a format that is not let in
    images, labels_now = epoch(data, workers=workers)
    assert sorted(data.damaged) == sorted(map(str, [cut, nonsense]))
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1_000_003)).argsort()
    images, labels_now, whole, labels = (x[order] for x in (images, labels_now, whole, labels))
    same = (images == whole).flatten(1).all(1)
    assert (~same).nonzero().flatten().tolist() == [10, 23]
    assert torch.equal(images[10], images[11]) and torch.equal(images[23], images[0])
    assert labels_now[23] == 0 and labels[23] == 2
    shown = torch.cat([own for _, own in data.test_batches(2, workers=workers)])
    assert shown.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    epoch(data)
    assert len(data.damaged) == 3


def test_nothing_but_damaged_files(root):
    data = load_dataset("folder", root, size=SIZE)
    for path in [*root.glob("*/*/*.png"), *root.glob("*/*/*.JPEG")]:
        path.write_bytes(b"")
    for workers in (0, 2):
        with pytest.raises(LockstepError, match="in a row cannot be decoded, the last one") as one:
            epoch(data, workers=workers)
        with pytest.raises(LockstepError, match="None of the 9 images of folder can be decoded"):
            list(data.test_batches(workers=workers))
        assert "\n" not in str(one.value)


def test_wrong_layouts(root):
    (root / "val" / "yak").mkdir()
    with pytest.raises(LockstepError, match="Class folder .*yak has no image files"):
        load_dataset("folder", root)
    Image.new("RGB", (4, 4)).save(root / "val" / "yak" / "a.png")
    with pytest.raises(LockstepError, match="train has 3 classes and lacks yak; .* must agree"):
        load_dataset("folder", root)
    (root / "val" / "yak").rename(root / "train" / "yak")
    with pytest.raises(LockstepError, match="val has 3 classes and lacks yak; .* must agree"):
        load_dataset("folder", root)
    with pytest.raises(LockstepError, match="at least 1 pixel, not 0"):
        (root / "train" / "yak").rename(root / "yak")
        load_dataset("folder", root, size=0)
    (root / "val").rename(root / "validation")
    with pytest.raises(LockstepError, match="has train/ but neither val/ nor test/"):
        load_dataset("folder", root)
    (root / "val").mkdir()
    (root / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"")
    with pytest.raises(LockstepError, match="val has no class folders; put the images of each"):
        load_dataset("imagenet", root)


def test_16_bit_grey_is_scaled_and_other_deep_grey_is_damaged(tmp_path):
    values = np.array([[0, 128, 129, 257 * 100, 257 * 200 + 128, 65535]], dtype=np.uint16)
    shown = [0, 0, 1, 100, 200, 255]
    for name, image in (("a.png", Image.fromarray(values)), ("b.tif", Image.fromarray(values)),
                        ("c.pgm", Image.fromarray(values.astype(np.int32)))):
        image.save(tmp_path / name)
        picture = np.asarray(decode(str(tmp_path / name)))
        assert picture.shape == (1, 6, 3)
        assert all(picture[0, :, channel].tolist() == shown for channel in range(3))
    for dtype in (np.int32, np.float32):
        Image.fromarray(values.astype(dtype)).save(tmp_path / "d.tif")
        with pytest.raises(DAMAGED, match="grey of 32 bits"):
            decode(str(tmp_path / "d.tif"))
