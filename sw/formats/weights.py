"""The numbers of a Program for other tools: an npz of all parameters and C headers.

Every writer gives the same bytes for the same Program: fixed member times, sorted names.
"""

import dataclasses
import re

import numpy as np

from golden.program.encoding import npz

__all__ = ["c_array", "c_name", "parameters", "quantizations", "vectors_header",
           "weights_header", "weights_npz"]

C_TYPES = {"int8": "int8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t"}
LINE_WIDTH = 100


def parameters(program) -> dict[str, np.ndarray]:
    """Dict "NODE.FIELD" to int array: weights, biases, multipliers, shifts, zero points, bounds.

    Nested parameter objects give dotted names: conv0.rescale.multiplier.
    """
    found = {}

    def collect(prefix, op):
        for field in dataclasses.fields(op):
            value, name = getattr(op, field.name), f"{prefix}.{field.name}"
            if dataclasses.is_dataclass(value):
                collect(name, value)
            elif isinstance(value, np.ndarray):
                found[name] = value
            elif isinstance(value, (int, tuple)) and not isinstance(value, bool):
                found[name] = np.asarray(value, dtype=np.int64)

    for node in program.nodes:
        collect(node.name, node.op)
    return found


def quantizations(program) -> dict[str, np.ndarray]:
    """Dict "TENSOR.scale" to float64 and "TENSOR.zero_point" to int64, both of shape ()."""
    found = {}
    for name, tensor in program.tensors.items():
        found[f"{name}.scale"] = np.asarray(tensor.quantization.scale, dtype=np.float64)
        found[f"{name}.zero_point"] = np.asarray(tensor.quantization.zero_point, dtype=np.int64)
    return found


def weights_npz(program) -> bytes:
    """weights.npz: members of `parameters` under "node/", of `quantizations` under "tensor/"."""
    arrays = {f"node/{name}": value for name, value in parameters(program).items()}
    arrays.update({f"tensor/{name}": value for name, value in quantizations(program).items()})
    return npz(dict(sorted(arrays.items())))


def c_name(name) -> str:
    """A name of the program as part of a C identifier."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def c_array(name, array) -> str:
    """`static const TYPE name[N] = {...};`, elements in C order, with the shape as a comment."""
    values, lines, line = np.asarray(array), [], " "
    for value in values.ravel().tolist():
        text = f" {value},"
        if len(line) + len(text) > LINE_WIDTH:
            lines.append(line)
            line = " "
        line += text
    lines.append(line)
    shape = " x ".join(map(str, values.shape)) or "scalar"
    return (f"/* {shape} */\nstatic const {C_TYPES[str(values.dtype)]} {name}[{values.size}] = {{\n"
            + "\n".join(lines) + "\n};\n")


def _header(guard, title, body):
    return (f"/* {title} */\n#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n"
            f"{body}\n#endif\n")


def _narrow(array):
    """Parameters held as int64 in the smallest type that fits, so that headers stay small."""
    if array.dtype != np.int64 or array.size == 0:
        return array
    low, high = int(array.min()), int(array.max())
    for dtype in (np.int8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return array.astype(dtype)
    return array


def weights_header(program) -> str:
    """weights.h: every parameter array and every tensor's scale and zero point."""
    lines = [f'#define LOCKSTEP_PROGRAM_SHA256 "{program.sha256}"\n']
    lines.append("/* real = scale * (code - zero_point) */")
    for name, tensor in program.tensors.items():
        prefix = f"LOCKSTEP_{c_name(name).upper()}"
        lines.append(f"#define {prefix}_SCALE {tensor.quantization.scale!r}")
        lines.append(f"#define {prefix}_ZERO_POINT ({tensor.quantization.zero_point})")
    lines.append("")
    for name, array in parameters(program).items():
        lines.append(c_array(f"lockstep_{c_name(name)}", _narrow(array)))
    return _header("LOCKSTEP_WEIGHTS_H", f"Parameters of program {program.name}.",
                   "\n".join(lines))


def vectors_header(program, inputs, outputs) -> str:
    """vectors.h: int8 input codes (N, ...) and the output codes the program gives for them."""
    size = [int(np.prod(codes.shape[1:])) for codes in (inputs, outputs)]
    body = (f"#define LOCKSTEP_N_VECTORS {len(inputs)}\n#define LOCKSTEP_INPUT_SIZE {size[0]}\n"
            f"#define LOCKSTEP_OUTPUT_SIZE {size[1]}\n\n"
            + c_array("lockstep_inputs", inputs) + "\n" + c_array("lockstep_outputs", outputs))
    return _header("LOCKSTEP_VECTORS_H", f"Test vectors of program {program.name}, int8 codes in "
                   "N, C, H, W order.", body)
