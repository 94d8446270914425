"""Lockstep's ONNX exports of a trained network: what ONNX Runtime computes of them, and what the
import gives back, with the program in the metadata and without it."""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.rows import row
from golden.program import Program

__all__ = ["measure"]

IMAGES = 200


def trained_program() -> tuple[Program, np.ndarray]:
    """The demo's network on the digits, a few epochs in 8 bits, and test images."""
    import torch

    from models import build_model
    from sw.data import load_dataset
    from sw.lower.network import lower
    from sw.train.engine import TrainConfig, train

    torch.manual_seed(0)
    data = load_dataset("digits")
    model = build_model("resnet_digits", {"width": 8})
    train(model, data, TrainConfig(epochs=4, lr=0.2, batch_size=32, schedule="cosine"))
    return lower(model.eval()), data.test_sample(IMAGES)[0].numpy()


def _unlike(first, second) -> dict[str, float]:
    """Share of codes that differ in percent, and the largest difference."""
    apart = [np.abs(first[name].astype(np.int16) - codes) for name, codes in second.items()]
    return {"differing_codes": 100 * sum(int((a > 0).sum()) for a in apart)
            / sum(a.size for a in apart), "largest_difference": max(int(a.max()) for a in apart)}


def measure(command: str) -> list[dict]:
    """Rows onnx.exported.*."""
    import onnx

    from benchmarks.onnx import reference_trace
    from golden.program.interpreter import run
    from sw.formats.onnx import runtime as onnx_runtime
    from sw.formats.onnx.exporter.integer import export_integer, export_qdq
    from sw.formats.onnx.importer import import_onnx

    program, x = trained_program()
    trace, results = run(program, x), {}
    for optimize in (False, True):
        name = f"integer_in_onnxruntime.{'optimised' if optimize else 'plain'}"
        results[name] = _unlike(trace, onnx_runtime.run(program, x, optimize=optimize))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for form, export in (("integer", export_integer), ("qdq", export_qdq)):
            model = export(program)
            onnx.save(model, path)
            again = import_onnx(path)
            results[f"{form}_imported"] = _unlike(run(again, x), trace)
        # Of the QDQ file the codes have names of their own.
        names = {f"{name}_codes": name for name in program.tensors}
        del model.metadata_props[:]
        onnx.save(model, path)
        again = import_onnx(path)
        for inputs, values in (("codes", program.quantize_input(x)), ("floats", x)):
            found = run(again, values)
            results[f"qdq_without_metadata_imported.{inputs}"] = _unlike(
                {names[name]: codes for name, codes in found.items() if name in names},
                {name: trace[name] for code, name in names.items() if code in found})
        results["qdq_without_metadata_against_onnxruntime"] = _unlike(
            found, reference_trace(path, again, x))
    rows = []
    for name, found in results.items():
        exact = "without_metadata" not in name
        for figure, value in found.items():
            goal = {"goal": "0", "met": value == 0} if exact else {}
            rows.append(row(f"onnx.exported.{name}.{figure}", value,
                            "%" if figure == "differing_codes" else "codes", command,
                            context=f"resnet_digits, trained for 4 epochs, every tensor of "
                                    f"{IMAGES} test images", **goal))
    return rows
