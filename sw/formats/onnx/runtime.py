"""The ONNX executor: the exported integer program run by ONNX Runtime, every tensor an output."""


import numpy as np
import onnxruntime

from golden.program.plain import beyond_plain
from golden.program.sources import source_codes
from sw.formats.onnx.exporter.integer import export_integer

__all__ = ["run", "session"]

BATCH = 64  # int64 intermediates: keeps the memory of large networks bounded


def session(model, *, optimize=True, threads=1) -> onnxruntime.InferenceSession:
    """An onnxruntime.InferenceSession on the CPU for an onnx.ModelProto."""
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options,
                                        providers=["CPUExecutionProvider"])


def run(program, x, *, state=None, optimize=True, threads=1) -> dict[str, np.ndarray]:
    """Execute the program through ONNX Runtime.

    program: a `golden.program.Program`; x and state: as of `golden.program.interpreter.run`.
    Returns the trace, dict of arrays by tensor name, the codes of inputs and state included.
    """
    trace = source_codes(program, x, state)
    runner = session(export_integer(program, trace=True), optimize=optimize, threads=threads)
    names = [output.name for output in runner.get_outputs()]
    n_images = max(map(len, trace.values()))
    step = BATCH if beyond_plain(program) is None else max(n_images, 1)
    pieces = [runner.run(names, {name: codes[i:i + step] for name, codes in trace.items()})
              for i in range(0, max(n_images, 1), step)]
    trace.update({name: np.concatenate(parts) for name, parts in zip(names, zip(*pieces))})
    return trace
