"""MNIST's idx files, CIFAR's python archives and parquet, as small synthetic files."""

import gzip
import io
import pickle
import struct
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from golden.errors import LockstepError
from sw.data import load_dataset

N = 20  # images per file


@pytest.fixture(autouse=True)
def _no_other_data(monkeypatch):
    monkeypatch.delenv("LOCKSTEP_DATA", raising=False)


def python2_pickle(images: np.ndarray, labels: list[int], label_key: bytes) -> bytes:
    """What Python 2's cPickle wrote for {"data": images, "labels": labels}, as published."""
    def text(content: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(content)) + content

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = (b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R("
             + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb")
    shape = b"(" + b"".join(map(number, images.shape)) + b"t"
    array = (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(" + number(0) + b"t"
             + text(b"b") + b"\x87R(" + number(1) + shape + dtype + b"\x89"
             + text(images.tobytes()) + b"tb")
    numbers = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(label_key) + numbers + b"u."


def cifar_files(n_classes: int) -> dict[str, bytes]:
    """Name in the archive -> content; pixel 0 of image i of file f is 10 f + i % 10."""
    names = {10: [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"],
             100: ["train", "test"]}[n_classes]
    key = {10: b"labels", 100: b"fine_labels"}[n_classes]
    folder = {10: "cifar-10-batches-py", 100: "cifar-100-python"}[n_classes]
    files = {}
    for number, name in enumerate(names):
        images = np.random.default_rng(number).integers(0, 256, (N, 3072), dtype=np.uint8)
        images[:, 0] = 10 * number + np.arange(N) % 10
        labels = [n_classes - 1 - i % 10 for i in range(N)]
        files[f"{folder}/{name}"] = python2_pickle(images, labels, key)
    return files | {f"{folder}/readme.html": b"<html>"}


def write_folder(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def write_archive(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("n_classes", [10, 100])
def test_python_archive_packed_and_unpacked(n_classes, tmp_path):
    name, files = f"cifar{n_classes}", cifar_files(n_classes)
    (tmp_path / "packed" / name).mkdir(parents=True)
    (tmp_path / "unpacked").mkdir()
    short = {10: "cifar-10", 100: "cifar-100"}[n_classes]
    write_archive(tmp_path / "packed" / name / f"{short}-python.tar.gz", files)
    write_folder(tmp_path / "unpacked", files)
    for where in ("packed", "unpacked"):
        data = load_dataset(name, tmp_path / where)
        n_files = len(files) - 2
        assert (data.n_train, data.n_test, data.n_classes) == (n_files * N, N, n_classes)
        assert data.test_labels[:3].tolist() == [n_classes - 1, n_classes - 2, n_classes - 3]
        images = data.train_images
        pixels = images[:, 0] * data.std[0] + data.mean[0]
        expected = [10 * file + i % 10 for file in range(n_files) for i in range(N)]
        assert (pixels[:, 0, 0] * 255).round().int().tolist() == expected
        # Planes of red, green, blue, each row by row.
        raw = np.random.default_rng(0).integers(0, 256, (N, 3072), dtype=np.uint8)
        green = (images[2, 1] * data.std[1] + data.mean[1]) * 255
        assert green.round().int().flatten().tolist() == raw[2, 1024:2048].tolist()


def test_a_pickle_of_todays_python_is_read_too(tmp_path):
    files = cifar_files(100)
    part = {b"data": np.zeros((N, 3072), np.uint8), b"fine_labels": [99] * N}
    files["cifar-100-python/train"] = pickle.dumps(part, protocol=2)
    write_folder(tmp_path, files)
    assert load_dataset("cifar100", tmp_path).train_labels.tolist() == [99] * N


class Payload:
    """Unpickled without care, this would run a command."""

    def __reduce__(self):
        import os
        return os.system, ("echo owned > owned",)


@pytest.mark.parametrize(("part", "message"), [
    (Payload(), r"test_batch is not a file of CIFAR's python archive: it names posix\.system"),
    ([1, 2], "test_batch must hold data and labels"),
    ({b"data": np.zeros((2, 3072), np.uint8)}, "must hold data and labels"),
    ({b"data": np.zeros((2, 3072)), b"labels": [0, 9]}, r"must be \(2, 3072\) uint8"),
    ({b"data": np.zeros((2, 300), np.uint8), b"labels": [0, 9]}, r"must be \(2, 3072\) uint8"),
    ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, "x"]}, "must be integers"),
    ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}, "the test label 10"),
])
def test_wrong_content_of_a_python_file(part, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path, cifar_files(10))
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(part, protocol=2))
    with pytest.raises(LockstepError, match=message) as caught:
        load_dataset("cifar10", tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_incomplete_python_archives(tmp_path):
    files = cifar_files(10)
    archive = tmp_path / "cifar-10-python.tar.gz"
    write_archive(archive, files)
    whole = archive.read_bytes()
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # in the checksum
    for damaged in (whole[:10], whole[:len(whole) // 2], whole[:-12], whole[:-3], b"", flipped):
        archive.write_bytes(damaged)
        with pytest.raises(LockstepError, match=r"tar\.gz is damaged or cut short"):
            load_dataset("cifar10", tmp_path)
    del files["cifar-10-batches-py/data_batch_3"]
    write_archive(archive, files)
    with pytest.raises(LockstepError, match="lacks cifar-10-batches-py/data_batch_3; download"):
        load_dataset("cifar10", tmp_path)
    write_folder(tmp_path, files)
    with pytest.raises(LockstepError, match="batches-py lacks data_batch_3; unpack cifar-10-py"):
        load_dataset("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"\x80\x02}(")
    with pytest.raises(LockstepError, match="data_batch_3 is not a file of CIFAR's"):
        load_dataset("cifar10", tmp_path)


def picture(colour: int, size=(32, 32), mode="RGB") -> bytes:
    """An encoded PNG of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, (colour, 100, 0)).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path, pictures: list, labels: list, image="image", label="label"):
    path.parent.mkdir(exist_ok=True)
    rows = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(pictures)]
    pyarrow.parquet.write_table(pyarrow.table({image: rows, label: labels}), path)


@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "fine_label")])
@pytest.mark.parametrize("folder", ["cifar10", "."])
def test_parquet(image, label, folder, tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / folder / f"{split}.parquet",
                      [picture(10 * i) for i in range(10)], list(range(10)), image, label)
    data = load_dataset("cifar10", tmp_path)
    assert (data.n_train, data.n_test, data.damaged) == (10, 10, [])
    red = (data.train_images[:, 0, 5, 5] * data.std[0] + data.mean[0]) * 255
    assert red.round().int().tolist() == list(range(0, 100, 10))
    green = (data.test_images[:, 1] * data.std[1] + data.mean[1]) * 255
    assert (green.round() == 100).all()
    assert data.train_labels.tolist() == list(range(10))


def test_parquet_is_found_through_the_environment(tmp_path, monkeypatch):
    for split in ("train", "test"):
        write_parquet(tmp_path / "cifar10" / f"{split}.parquet", [picture(0)], [9])
    monkeypatch.setenv("LOCKSTEP_DATA", str(tmp_path))
    assert load_dataset("cifar10", tmp_path / "absent").n_train == 1


def test_damaged_pictures_are_named_and_left_out(tmp_path):
    pictures = [picture(10 * i) for i in range(10)]
    pictures[3] = pictures[3][:40]
    pictures[5] = b"not a picture"
    pictures[6] = None
    pictures[8] = picture(7, mode="L")  # grey, not damaged
    write_parquet(tmp_path / "train.parquet", pictures, list(range(10)))
    write_parquet(tmp_path / "test.parquet", [picture(0)], [9])
    data = load_dataset("cifar10", tmp_path)
    assert data.damaged == ["train.parquet:3.png", "train.parquet:5.png", "train.parquet:6.png"]
    assert data.train_labels.tolist() == [0, 1, 2, 4, 7, 8, 9]
    write_parquet(tmp_path / "test.parquet", [b"x", b""], [1, 2])
    with pytest.raises(LockstepError, match=r"None of the 2 pictures of .*test\.parquet"):
        load_dataset("cifar10", tmp_path)


def test_wrong_parquet(tmp_path):
    train, test = tmp_path / "train.parquet", tmp_path / "test.parquet"
    write_parquet(train, [picture(0)], [9])
    cases = [
        (lambda: None, "lacks test.parquet"),
        (lambda: write_parquet(test, [picture(0)], [9], image="pixels"),
         "has no column image or img; its columns are pixels, label"),
        (lambda: write_parquet(test, [picture(0)], [9], label="y"),
         "has no column label or fine_label; its columns are image, y"),
        (lambda: write_parquet(test, [picture(0)], ["cat"]), "must hold integers, not string"),
        (lambda: write_parquet(test, [picture(0)] * 2, [9, None]), "has empty rows"),
        (lambda: write_parquet(test, [picture(0, (28, 32))], [9]), "28x32 pixels, not 32x32"),
        (lambda: write_parquet(test, [picture(0)], [10]), "test label 10"),
        (lambda: pyarrow.parquet.write_table(pyarrow.table({"image": [b"x"], "label": [0]}), test),
         r"must be struct\{bytes, path\}, not binary"),
        (lambda: test.write_bytes(train.read_bytes()[:200]), "not a readable parquet file"),
        (lambda: test.write_bytes(b""), "not a readable parquet file"),
    ]
    for prepare, message in cases:
        prepare()
        with pytest.raises(LockstepError, match=message) as caught:
            load_dataset("cifar10", tmp_path)
        assert "\n" not in str(caught.value)
    write_parquet(test, [picture(0)], [9])
    with pytest.raises(LockstepError, match="cifar100 has 100 classes, but .* end at 9"):
        load_dataset("cifar100", tmp_path)


def mnist_files() -> dict[str, bytes]:
    files = {}
    for prefix, n in (("train", 30), ("t10k", 10)):
        images = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        files[f"{prefix}-images-idx3-ubyte"] = (struct.pack(">4i", 0x803, n, 28, 28)
                                                + images.tobytes())
        files[f"{prefix}-labels-idx1-ubyte"] = struct.pack(">2i", 0x801, n) + labels.tobytes()
    return files


@pytest.mark.parametrize(("folder", "packed"),
                         [("mnist", True), (".", False), ("MNIST/raw", False)])
def test_mnist(folder, packed, tmp_path):
    root = tmp_path / folder
    root.mkdir(parents=True, exist_ok=True)
    for name, content in mnist_files().items():
        if packed:
            (root / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (root / name).write_bytes(content)
    data = load_dataset("mnist", tmp_path)
    assert (data.n_train, data.n_test, data.input_shape) == (30, 10, (1, 28, 28))
    assert data.test_labels.tolist() == list(range(10))
    raw = np.random.default_rng(30).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    expected = (raw / 255 - 0.1307) / 0.3081
    assert np.abs(data.train_images[:, 0].numpy() - expected).max() < 1e-6


@pytest.mark.parametrize(("change", "message"), [
    (lambda f: f[:-1], "has 7855 bytes; its header says 7856"),
    (lambda f: b"\0\0\x0d" + f[3:], "is not an idx file of bytes in 3 dimensions"),
    (lambda f: f[:6], "is not an idx file"),
    (None, r"lacks t10k-images-idx3-ubyte\.gz; get it from"),
])
def test_damaged_mnist(change, message, tmp_path):
    files = mnist_files()
    content = files.pop("t10k-images-idx3-ubyte")
    if change:
        files["t10k-images-idx3-ubyte"] = change(content)
    write_folder(tmp_path, files)
    with pytest.raises(LockstepError, match=message):
        load_dataset("mnist", tmp_path)


def test_mnist_archive_cut_short(tmp_path):
    write_folder(tmp_path, mnist_files())
    path = tmp_path / "train-labels-idx1-ubyte"
    packed = gzip.compress(path.read_bytes())
    path.unlink()
    for content in (packed[:-9], b"no gzip"):
        path.with_name(f"{path.name}.gz").write_bytes(content)
        with pytest.raises(LockstepError, match=r"idx1-ubyte\.gz is damaged or cut short"):
            load_dataset("mnist", tmp_path)
