"""Synthesize the hardware of a target: resources and, on an ECP5-85, the clock it reaches.

ECP5: yosys once, then nextpnr for each seed; fmax_mhz is the median. The unit sits between shift
registers on a clock of their own, so that its ports need no pins; neither their cells nor their
paths count. zynq-7020: resource counts of yosys alone. A design larger than its device is exit
status 1. Finished steps are kept by content (sim/cache.py).
"""

import argparse
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from cli import command as cli
from golden.errors import LockstepError
from hw.targets import DEFAULT_DEVICE, DEVICES, Device, device_of
from synthesis.cache import CACHE, write_json
from synthesis.design import Design, design_of
from synthesis.report import RESOURCES, excess, implement
from synthesis.tools import NEXTPNR
from synthesis.tops import TOPS, top_design

__all__ = ["CACHE", "default_jobs", "main", "place_and_route", "top_design"]

JOB_BYTES = 3 << 30  # what placing and routing a whole accelerator takes at its peak


def place_and_route(component, directory: Path | str, name: str, *, frequency_mhz: float = 150,
                    seed: int = 1, device: Device = DEVICES[DEFAULT_DEVICE]) -> dict:
    """Synthesize one component, place and route it; returns the report.

    Arguments: `directory` receives NAME.v, the tools' logs and NAME.report.json; `frequency_mhz`
    is what the placer aims at; `device` has a flow that places.

    The report holds luts (as nextpnr counts them), ffs, dsps, brams, fmax_mhz, available,
    critical_path (from, to, ns, steps), ports (ns from and to a register outside), units, and the
    wall seconds of both tools. Raises LockstepError where a tool fails or the design does not fit
    the device.
    """
    design = design_of(component, name)
    report, logs = implement(design, device, seeds=[seed], frequency_mhz=frequency_mhz, cache=CACHE)
    report |= {"seed": seed}
    if not report["fits"]:
        raise LockstepError("; ".join(excess(report)))
    with cli.replacing(directory) as folder:
        _write_files(folder, design, logs)
        write_json(folder / f"{name}.report.json", report)
    return report


def default_jobs(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Seeds that the machine's cores, and the memory that is available now, carry at a time."""
    cores = len(os.sched_getaffinity(0))
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return cores if found is None else max(1, min(cores, 1024 * int(found[1]) // JOB_BYTES))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Command line."""
    from hw.targets import TARGETS

    parser = cli.Parser(prog="flows/synth.py", description=__doc__)
    parser.add_argument("--target", default="ecp5-85k",
                        help=f"{', '.join(TARGETS)} or array-RxC (default %(default)s)")
    parser.add_argument("--top", choices=list(TOPS), default="accelerator",
                        help="the whole accelerator or a part (default %(default)s)")
    placed = parser.add_mutually_exclusive_group()
    placed.add_argument("--seeds", default="1,2,3", metavar="1,2,3",
                        help="of the placer (default %(default)s)")
    placed.add_argument("--count-only", action="store_true",
                        help="count resources, place nothing")
    parser.add_argument("--freq", type=float, default=150, metavar="MHZ",
                        help="what the placer aims at (default 150)")
    parser.add_argument("--jobs", type=int, default=default_jobs(), metavar="N",
                        help="seeds placed at a time (default: the cores, and no more than there "
                        f"is memory for, {JOB_BYTES >> 30} GiB each; here %(default)s)")
    parser.add_argument("--nextpnr", default=NEXTPNR, metavar="PROGRAM",
                        help="a native nextpnr-ecp5, several times faster (default: the pinned "
                        "%(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/synth"), metavar="DIR",
                        help="folder to write into (default %(default)s)")
    args = parser.parse_args(argv)
    if args.count_only:
        args.seeds = []
        return args
    try:
        args.seeds = [int(text) for text in args.seeds.split(",")]
    except ValueError:
        raise LockstepError(f"--seeds must be numbers such as 1,2,3, not {args.seeds}") from None
    if len(set(args.seeds)) != len(args.seeds) or min(args.seeds) < 0:
        raise LockstepError(f"--seeds must be different and not negative, not {args.seeds}")
    if args.jobs < 1:
        raise LockstepError(f"--jobs must be at least 1, not {args.jobs}")
    if not 1 <= args.freq <= 1000:
        raise LockstepError(f"--freq must be in 1..1000 MHz, not {args.freq:g}")
    return args


def _tell(text: str) -> None:
    print(f"  {text}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command; 1 where the design is larger than its device."""
    from hw.targets import get_target
    from synthesis.page import write_page

    args = parse(argv)
    target = get_target(args.target)
    design = top_design(args.top, target)
    device = device_of(target)
    print(f"placing and routing {args.top} of {target.name}, minutes for a whole accelerator"
          if device.places and args.seeds else
          f"synthesizing {args.top} of {target.name} for {device.name}", flush=True)
    report, logs = implement(design, device, seeds=args.seeds, frequency_mhz=args.freq,
                             jobs=args.jobs, cache=CACHE, nextpnr=args.nextpnr, progress=_tell)
    goal = device.goals_mhz.get(target.name) if args.top == "accelerator" else None
    report = {"target": target.name, "top": args.top,
              "configuration_id": target.configuration_id, **report, "goal_mhz": goal,
              "command": _command(args, target)}
    with cli.replacing(args.output) as folder:
        _write_files(folder, design, logs)
        write_json(folder / "report.json", report)
        write_page(folder / "report.html", report)
    _print(report)
    print(f"wrote {args.output / 'report.json'} and report.html")
    for line in excess(report):
        print(f"error: {line}", file=sys.stderr)
    return int(not report["fits"])


def _command(args, target) -> str:
    words = ["python", "flows/synth.py", "--target", args.target]
    words += [] if args.top == "accelerator" else ["--top", args.top]
    if device_of(target).places:
        if args.count_only:
            return shlex.join([*words, "--count-only"])
        words += ["--seeds", ",".join(map(str, args.seeds)), "--freq", f"{args.freq:g}"]
        words += [] if args.nextpnr == NEXTPNR else ["--nextpnr", Path(args.nextpnr).name]
    return shlex.join(words)


def _print(report: dict) -> None:
    for key in RESOURCES:
        print(f"  {key:8} {report[key]:>8} of {report['available'][key]:>6} "
              f"{report['percent'][key]:5.1f} %")
    if report["fmax_mhz"] is None:
        print(f"  fmax     {report.get('fmax_note', 'not placed: larger than the device')}")
        return
    goal = report["goal_mhz"]
    verdict = "" if goal is None else \
        f", goal {goal}: {'met' if report['fmax_mhz'] >= goal else 'NOT MET'}"
    seeds = ", ".join(f"{seed['seed']}: {seed['fmax_mhz']}" for seed in report["seeds"])
    print(f"  fmax     {report['fmax_mhz']} MHz (median of seeds {seeds}){verdict}")
    path = report["critical_path"]
    print(f"  critical path {path['ns']} ns ({path['logic_ns']} logic, {path['routing_ns']} "
          f"routing): {path['from']} -> {path['to']}")


def _write_files(folder: Path, design: Design, logs: list[Path]) -> None:
    (folder / f"{design.name}.v").write_text(design.verilog)
    for log in logs:
        shutil.copy(log, folder / f"{design.name}.{log.name}")


if __name__ == "__main__":
    cli.run(main)
