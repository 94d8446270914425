"""Turn an already quantized model into a Program.

    python flows/convert.py MODEL.tflite -o PROGRAM
    python flows/convert.py MODEL.onnx -o PROGRAM

Of a TFLite model the program's codes are those of the reference kernels at every tensor; an ONNX
model has float scales and comes near (docs/importing.md). Exit status 2 and one line for a model
that cannot be converted; nothing is written then.
"""

import argparse
from pathlib import Path

from cli import command as cli
from golden.errors import LockstepError
from golden.program import Program

__all__ = ["main"]


def _tflite(path):
    from sw.formats.tflite import import_tflite

    return import_tflite(path)


def _onnx(path):
    from sw.formats.onnx.importer import import_onnx

    return import_onnx(path)


IMPORTERS = {".tflite": _tflite, ".onnx": _onnx}


def convert(path) -> Program:
    """The Program of a model file, by its ending. Raises LockstepError."""
    ending = Path(path).suffix.lower()
    if ending not in IMPORTERS:
        raise LockstepError(f"{path} must end in {' or '.join(IMPORTERS)}")
    return IMPORTERS[ending](path)


def parse(argv) -> argparse.Namespace:
    """Command line."""
    parser = cli.Parser(prog="flows/convert.py",
                        description="Turn an already quantized model into a Program.")
    parser.add_argument("model", metavar="MODEL",
                        help=f"a file that ends in {' or '.join(IMPORTERS)}")
    parser.add_argument("-o", "--output", required=True, metavar="PROGRAM",
                        help="folder of the program")
    return parser.parse_args(argv)


def main(argv=None) -> None:
    """Convert a model; prints what the program is."""
    arguments = parse(argv)
    program = convert(arguments.model)
    program.save(arguments.output)
    layout = f" ({program.input_layout})" if len(program.input_shape) > 1 else ""
    print(f"program {program.name}, sha256 {program.sha256}")
    print(f"input   {program.inputs[0]}, shape {list(program.input_shape)}{layout}, "
          f"scale {program.input.quantization.scale:g}, "
          f"zero point {program.input.quantization.zero_point}")
    print(f"output  {program.outputs[0]}, shape {list(program.output_shape)}")
    for key, when in (("host_input", "before"), ("host_output", "after")):
        for step in program.metadata.get(key, ()):
            print(f"host    {step['operator']} {when} the program (tensor {step['tensor']})")
    for note in program.metadata.get("notes", ()):
        print(f"note    {note}")
    print(f"wrote   {arguments.output}, {len(program.nodes)} nodes")


if __name__ == "__main__":
    cli.run(main)
