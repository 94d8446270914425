"""The ONNX executor: the exported integer program run by ONNX Runtime, every tensor an output."""


import numpy as np
import onnxruntime

from sw.formats.onnx.exporter.integer import export_integer

BATCH = 64  # int64 intermediates: keeps the memory of large networks bounded


def session(model, *, optimize=True, threads=1):
    """An onnxruntime.InferenceSession on the CPU for an onnx.ModelProto."""
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options,
                                        providers=["CPUExecutionProvider"])


def run(program, x, *, optimize=True, threads=1):
    """Execute the program through ONNX Runtime.

    program: a `golden.program.Program`; x: what `program.quantize_input` takes, batch first.
    Returns the trace, dict of int8 arrays by tensor name, the input's codes included.
    """
    codes = np.ascontiguousarray(program.quantize_input(x))
    runner = session(export_integer(program, trace=True), optimize=optimize, threads=threads)
    names = [output.name for output in runner.get_outputs()]
    pieces = [runner.run(names, {program.inputs[0]: codes[i:i + BATCH]})
              for i in range(0, max(len(codes), 1), BATCH)]
    trace = {program.inputs[0]: codes}
    trace.update({name: np.concatenate(parts) for name, parts in zip(names, zip(*pieces))})
    return trace
