"""Write everything that puts a program on the accelerator, with a manifest of hashes.

The folder holds Verilog, the memory image, weights, headers, both ONNX models, test vectors with
the expected outputs, and the program itself. The same program, target and inputs give the same
bytes. A folder that is no earlier deployment is never overwritten.
"""

import argparse
import dataclasses
import hashlib
import io
import json
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np

from cli import command as cli
from cli.inputs import find_inputs, load_inputs
from cli.rtl_backend import DEFAULT_TARGET, check_batch
from flows.rtl import write_rtl
from golden.errors import LockstepError
from golden.program import Program
from golden.program.interpreter import run as golden_run
from golden.program.layout import to_file
from golden.program.plain import check_plain
from golden.program.verify import verify

__all__ = ["DEFAULT_VECTORS", "PACKAGES", "deploy", "main"]

FORMAT, VERSION = "lockstep-deployment", 1
MANIFEST = "manifest.json"
PACKAGES = ("lockstep", "amaranth", "numpy", "onnx")
DEFAULT_VECTORS = 16

README = """\
Deployment of a Lockstep program; manifest.json lists every file with its sha256.

rtl/accelerator.v        the accelerator; rtl/interface.json describes its ports and shape
include/lockstep.h       registers and instructions
include/weights.h        parameters, scales and zero points of every tensor
include/vectors.h        test vectors, int8 codes
memory/                  the memory image: instructions, weights, per-channel parameters
weights/weights.npz      the same parameters for NumPy
onnx/model_integer.onnx  int8 codes in and out, the same bits as the hardware
onnx/model_qdq.onnx      float model with quantize-dequantize pairs; approximate by nature
vectors/                 inputs.npy (codes, batch first) and the outputs.npy they must give
program/                 the integer program, as flows/sim.py reads it

Simulate the Verilog and the memory image as deployed, and compare with every other backend:
  python flows/sim.py --program DIR/program --inputs DIR/vectors/inputs.npy \\
    --image DIR/memory --verilog DIR/rtl/accelerator.v
"""


def _npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def write_software(program, x, folder) -> None:
    """Weights, headers, ONNX models, vectors and the program itself: what needs no hardware."""
    from sw.formats import weights as weights_export
    from sw.formats.onnx.exporter.integer import export_integer, export_qdq

    trace = golden_run(program, x)
    inputs, outputs = trace[program.inputs[0]], trace[program.outputs[0]]
    files = {
        "include/weights.h": weights_export.weights_header(program).encode(),
        "include/vectors.h": weights_export.vectors_header(program, inputs, outputs).encode(),
        "weights/weights.npz": weights_export.weights_npz(program),
        "onnx/model_integer.onnx": export_integer(program).SerializeToString(deterministic=True),
        "onnx/model_qdq.onnx": export_qdq(program).SerializeToString(deterministic=True),
        "vectors/inputs.npy": _npy(to_file(inputs, program.input_layout)),
        "vectors/outputs.npy": _npy(program.output_array(outputs)),
        "README.txt": README.encode(),
    }
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    program.save(folder / "program")


def write_hardware(program, target, folder, batch=1) -> None:
    """Verilog, interface, register header and memory image. LockstepError if it does not fit."""
    from hw.compiler import compile_program

    image = compile_program(program, target, batch)
    image.save(folder / "memory")
    write_rtl(target, folder / "rtl")
    (folder / "include").mkdir(exist_ok=True)
    os.replace(folder / "rtl" / "lockstep.h", folder / "include" / "lockstep.h")


def write_manifest(program, target, folder) -> None:
    """manifest.json: what was deployed where, and the sha256 and size of every other file."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        files[path.relative_to(folder).as_posix()] = {
            "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest = {
        "format": FORMAT, "version": VERSION,
        "program": {"name": program.name, "sha256": program.sha256},
        "target": dataclasses.asdict(target),
        "configuration_id": target.configuration_id,
        "accuracy": program.metadata.get("accuracy"),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def check_destination(directory) -> None:
    """LockstepError unless `directory` is absent, empty, or an earlier deployment."""
    directory = Path(directory)
    if not directory.exists():
        return
    if directory.is_dir():
        if not any(directory.iterdir()):
            return
        try:
            if json.loads((directory / MANIFEST).read_text())["format"] == FORMAT:
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass
    raise LockstepError(f"{directory} is not an earlier deployment and is left as it is")


def deploy(program, target, x, directory, batch=1) -> Path:
    """Write the deployment of a program on a `hw.targets.Target` and return its path.

    x: inputs of the test vectors, as `program.quantize_input` takes them; batch: images that one
    run computes. The folder appears by
    one rename; an interruption leaves an earlier deployment intact.
    Raises LockstepError for a program that is not sound or does not fit, and a foreign folder.
    """
    directory = Path(os.path.abspath(directory))
    check_destination(directory)
    verify(program)
    check_plain(program, "A deployment")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    except OSError as error:
        raise LockstepError(f"Cannot write to {directory.parent}: {error.strerror}") from None
    try:
        new = temporary / "new"
        new.mkdir()
        write_hardware(program, target, new, batch)
        write_software(program, x, new)
        write_manifest(program, target, new)
        with cli.uninterrupted():
            if directory.exists():
                os.rename(directory, temporary / "old")
            os.rename(new, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def parse(argv) -> argparse.Namespace:
    """Command line."""
    parser = cli.Parser(
        prog="flows/deploy.py", description="Write the deployment folder of a program.")
    parser.add_argument("--program", required=True, metavar="PROGRAM", help="folder of the program")
    parser.add_argument("--target", default=DEFAULT_TARGET, metavar="T",
                        help=f"hardware target (default {DEFAULT_TARGET})")
    parser.add_argument("-o", "--output", default="build/deploy", metavar="DIR",
                        help="folder to write (default build/deploy)")
    parser.add_argument("--inputs", metavar="X.npy", help="inputs of the test vectors, batch first "
                        "(default: those beside the program, else random codes)")
    parser.add_argument("--images", type=int, default=DEFAULT_VECTORS, metavar="N",
                        help=f"test vectors to write (default {DEFAULT_VECTORS})")
    parser.add_argument("--batch", type=int, metavar="N", help="images that one run of the "
                        "accelerator computes (default 1)")
    return parser.parse_args(argv)


def main(argv=None) -> None:
    """Write a deployment; prints its files."""
    arguments = parse(argv)
    from hw.targets import get_target

    target = get_target(arguments.target)
    if arguments.images < 1:
        raise LockstepError(f"--images must be at least 1, not {arguments.images}")
    program = Program.load(arguments.program)
    x = load_inputs(program, find_inputs(arguments.program, arguments.inputs), arguments.images)
    check_batch(program, arguments.batch)
    deploy(program, target, x, arguments.output, arguments.batch or 1)
    manifest = json.loads((Path(arguments.output) / MANIFEST).read_text())
    print(f"program {program.name}, sha256 {program.sha256}, target {target.name}")
    for name, entry in manifest["files"].items():
        print(f"  {entry['bytes']:>10,}  {name}")
    print(f"wrote {len(manifest['files'])} files and {MANIFEST} to {arguments.output}")


if __name__ == "__main__":
    cli.run(main)
