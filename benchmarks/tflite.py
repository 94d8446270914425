"""tflite: imported int8 models against LiteRT's reference kernels, code by code and in accuracy.

The models are those of MLPerf Tiny: pretrainedResnet_quant.tflite (ResNet-8) on CIFAR-10's test
pictures, and ad01_int8.tflite on random codes.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.litert import Reference
from benchmarks.rows import row
from golden.errors import LockstepError

__all__ = ["FOLDER", "IMAGES", "MODELS", "measure", "pixel_codes"]

MODELS = {"resnet8": "pretrainedResnet_quant.tflite", "ad01": "ad01_int8.tflite"}
FOLDER = "mlperf_tiny"
IMAGES = 200        # of which every tensor is compared
BATCH = 500         # images that golden holds at a time


def find_model(name: str, directory: str | None) -> Path:
    """The file of a model of MODELS, in DIR/mlperf_tiny, DIR, or the same under LOCKSTEP_DATA."""
    from sw.data.files import roots

    for root in roots(Path(directory) if directory else None, FOLDER):
        if (root / MODELS[name]).is_file():
            return root / MODELS[name]
    raise LockstepError(f"Model {MODELS[name]} is not in {directory} or LOCKSTEP_DATA, nor in a "
                        f"folder {FOLDER} there")


def pixel_codes(pixels) -> np.ndarray:
    """uint8 (N, C, H, W) to int8 (N, H, W, C): scale 1 and zero point -128 on both sides."""
    return np.ascontiguousarray((pixels ^ 0x80).view(np.int8).transpose(0, 2, 3, 1))


def differing_codes(program, reference, x) -> dict[str, int]:
    """Codes that differ from the reference's, over all tensors, by backend; and all compared."""
    from golden.program.interpreter import run
    from sw import executor
    from sw.formats.onnx import runtime as onnx_runtime

    expected = reference.trace(x, program.tensors)
    counts = {"compared": sum(codes.size for codes in expected.values())}
    for name, backend in (("golden", run), ("torch", executor.run), ("onnx", onnx_runtime.run)):
        trace = backend(program, x)
        counts[name] = sum(int((trace[tensor] != codes).sum())
                           for tensor, codes in expected.items())
    return counts


def accuracies(program, reference, x, labels) -> dict[str, float]:
    """Percent: of the program, of the reference at the program's output and at its own."""
    from tqdm import tqdm

    from golden.program.interpreter import run

    right = {"program": 0, "litert": 0, "litert_softmax": 0}
    output = program.outputs[0]
    for start in tqdm(range(0, len(x), BATCH), unit="batch", file=sys.stderr, disable=None):
        part, truth = x[start:start + BATCH], labels[start:start + BATCH]
        results = {"program": run(program, part)[output],
                   **reference.results(part, {"litert": output, "litert_softmax": None})}
        for name, codes in results.items():
            right[name] += int((codes.argmax(1) == truth).sum())
    return {name: 100 * count / len(x) for name, count in right.items()}


def measure(arguments: argparse.Namespace, command: str) -> list[dict]:
    """Import both models, compare every tensor, and classify the whole test set of CIFAR-10."""
    from sw.data import load_dataset
    from sw.formats.tflite import import_tflite

    rows = []
    for name in MODELS:
        path = find_model(name, arguments.datasets_dir)
        program, reference = import_tflite(path), Reference(path.read_bytes())
        x = np.random.default_rng(0).integers(-128, 128, (IMAGES, *program.input_shape))
        x, inputs = x.astype(np.int8), "random codes"
        if name == "resnet8":
            data = load_dataset("cifar10", arguments.datasets_dir)
            codes = pixel_codes(data.test_pixels.numpy())
            x, inputs = codes[:IMAGES], "pictures of CIFAR-10's test set"
        context = f"{path.name}, every tensor of {IMAGES} {inputs}, LiteRT's reference kernels"
        for kind, count in differing_codes(program, reference, x).items():
            goal = {} if kind == "compared" else {"goal": "0", "met": count == 0}
            rows.append(row(f"tflite.{name}.{'' if kind == 'compared' else 'differing_'}codes."
                            f"{kind}", count, "codes", command, context=context, **goal))
        if name == "resnet8":
            rows += _accuracy_rows(path, accuracies(program, reference, codes,
                                                    data.test_labels.numpy()), len(codes), command)
    return rows


def _accuracy_rows(path, values, n_images, command):
    context = f"{path.name}, {n_images} test pictures of CIFAR-10, codes = pixels - 128"
    rows = [row(f"tflite.resnet8.accuracy.{name}", value, "%", command, context=context)
            for name, value in values.items()]
    difference = values["program"] - values["litert"]
    rows.append(row("tflite.resnet8.accuracy.program_minus_litert", difference, "points", command,
                    context=context, goal="0", met=difference == 0))
    return rows
