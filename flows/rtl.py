"""Write the accelerator of a target as Verilog, with its interface as JSON and a C header.

The files name no path, date or machine, and are the same bytes from run to run.
"""

import dataclasses
import hashlib
import json
from importlib import metadata
from pathlib import Path

from cli import command as cli

__all__ = ["main", "write_rtl"]

TOP = "accelerator"


def write_rtl(target, directory: Path | str, *, fresh: bool = False) -> list[Path]:
    """Write accelerator.v, interface.json and lockstep.h; returns their paths.

    target : hw.targets.Target. fresh : generate the Verilog even where this version of the
    hardware has been generated before. Files of the same names are replaced together, at the end.
    """
    from hw import isa
    from hw.rtl.accelerator import Accelerator, AcceleratorSignature
    from hw.rtl.verilog import to_verilog
    from sim.rtl import accelerator_verilog
    from sim.unit import flat_ports

    verilog = to_verilog(Accelerator(target), TOP) if fresh else accelerator_verilog(target)
    header = isa.c_header()
    ports = flat_ports(AcceleratorSignature(target).create())
    interface = {
        "top": TOP,
        "clock": "clk",
        "reset": {"name": "rst", "active": "high", "synchronous": True},
        "target": dataclasses.asdict(target),
        "configuration_id": target.configuration_id,
        "ports": [{"name": name, "direction": direction, "width": shape.width,
                   "signed": shape.signed} for name, (direction, shape) in ports.items()],
        "versions": {name: metadata.version(name) for name in ("lockstep", "amaranth")},
        "sha256": {f"{TOP}.v": _sha256(verilog), "lockstep.h": _sha256(header)},
    }
    files = {f"{TOP}.v": verilog, "lockstep.h": header,
             "interface.json": json.dumps(interface, indent=2) + "\n"}
    directory = Path(directory)
    with cli.replacing(directory) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)
    return [directory / name for name in files]


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    from hw.targets import TARGETS, get_target

    parser = cli.Parser(prog="flows/rtl.py", description=__doc__)
    parser.add_argument("--target", default="ecp5-85k",
                        help=f"{', '.join(TARGETS)} or array-RxC (default %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/rtl"), metavar="DIR",
                        help="folder to write into (default %(default)s)")
    args = parser.parse_args(argv)
    for path in write_rtl(get_target(args.target), args.output, fresh=True):
        print(f"wrote {path} ({path.read_text().count(chr(10))} lines)")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    cli.run(main)
