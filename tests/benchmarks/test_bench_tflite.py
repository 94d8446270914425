"""flows/bench.py tflite: its rows on small models and pictures, and what is missing."""

import json

import numpy as np
import pytest
import torch

from benchmarks import tflite
from flows import bench
from golden.errors import LockstepError
from tests.sw.formats.tflite.networks import Network


class _Pictures:
    test_pixels = torch.arange(12 * 3 * 36).reshape(12, 3, 6, 6).to(torch.uint8)
    test_labels = torch.arange(12) % 5


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with small models under the names of the real ones."""
    monkeypatch.delenv("LOCKSTEP_DATA", raising=False)
    monkeypatch.setattr("sw.data.load_dataset", lambda *args: _Pictures())
    pictures, vectors = Network((1, 6, 6, 3)), Network((1, 20))
    logits = pictures.fully_connected(pictures.conv(pictures.input, 4), 5)
    contents = {"resnet8": pictures.finish(logits),
                "ad01": vectors.finish(vectors.fully_connected(vectors.input, 7))}
    (tmp_path / tflite.FOLDER).mkdir()
    for name, content in contents.items():
        (tmp_path / tflite.FOLDER / tflite.MODELS[name]).write_bytes(content)
    return tmp_path


def rows_of(folder):
    assert bench.main(["tflite", "--datasets-dir", str(folder), "-o", str(folder / "out")]) == 0
    return {row["name"]: row for row in json.loads((folder / "out" / "tflite.json").read_text())}


def test_rows(folder):
    rows = rows_of(folder)
    # Of the ResNet-8 the input and the tensors of the convolution and the classifier.
    for model, n_codes in (("resnet8", 12 * (3 * 36 + 4 * 36 + 5)),
                           ("ad01", tflite.IMAGES * (20 + 7))):
        assert rows[f"tflite.{model}.codes.compared"]["value"] == n_codes
        for backend in ("golden", "torch", "onnx"):
            assert rows[f"tflite.{model}.differing_codes.{backend}"]["met"]
    accuracy = {name: rows[f"tflite.resnet8.accuracy.{name}"]["value"]
                for name in ("program", "litert", "litert_softmax")}
    assert len(set(accuracy.values())) == 1
    assert rows["tflite.resnet8.accuracy.program_minus_litert"]["met"]


def test_a_difference_is_counted_and_misses_the_goal(folder, monkeypatch):
    from golden.program import interpreter

    def wrong(program, x):
        trace = interpreter.run(program, x)
        trace[program.outputs[0]] = trace[program.outputs[0]] ^ 1
        return trace
    monkeypatch.setattr("sw.executor.run", wrong)
    row = rows_of(folder)["tflite.ad01.differing_codes.torch"]
    assert (row["value"], row["met"]) == (tflite.IMAGES * 7, False)


def test_pixels_become_codes():
    pixels = np.array([0, 127, 128, 255], np.uint8).reshape(1, 4, 1, 1)
    assert tflite.pixel_codes(pixels).ravel().tolist() == [-128, -1, 0, 127]


def test_a_missing_model_is_named(folder):
    (folder / tflite.FOLDER / tflite.MODELS["ad01"]).unlink()
    with pytest.raises(LockstepError, match="ad01_int8.tflite is not in .* nor in a folder"):
        bench.main(["tflite", "--datasets-dir", str(folder), "-o", str(folder / "out")])
