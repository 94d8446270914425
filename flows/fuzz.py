"""Run random instruction streams on the simulated accelerator and check them against the model.

Every program must end within a bound; sound ones must leave what the instruction-set model says,
noise must leave alone what it does not name.

With --layers N: compile N random layers for each target, run them on the instruction-set model (and
with --rtl on the simulated accelerator) and compare every tensor with golden; a layer must run or
be refused by the compiler's own exceptions.

Exit status 0: nothing found; 1: findings; 2: bad input. The same options give the same programs.
"""

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from tqdm import tqdm

from cli import command as cli
from golden.errors import LockstepError

if TYPE_CHECKING:
    from sim.layer_fuzz import LayerFinding

__all__ = ["main", "parse"]

SESSION = 500  # programs of one simulator process
LAYERS = 25  # of one session
SHOWN = 20
PROGRAMS = 10_000
TARGET = "sim-4x4"


def parse(argv) -> argparse.Namespace:
    """Command line."""
    parser = cli.Parser(prog="flows/fuzz.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", help=f"hardware target: of instructions, with small memories "
                        f"(default {TARGET}); of layers, as it is and with small memories "
                        "(default all)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--programs", type=int, default=PROGRAMS, metavar="N",
                      help="random programs of instructions (default %(default)s)")
    what.add_argument("--layers", type=int, metavar="N", help="instead: random layers for each "
                      "target, compiled, on the instruction-set model against golden")
    parser.add_argument("--rtl", action="store_true",
                        help="layers: on the simulated accelerator as well")
    parser.add_argument("--first", type=int, default=0, metavar="K",
                        help="layers: number of the first one (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stalls", type=int, default=20, metavar="P", help="percent of the cycles "
                        "in which external memory pauses (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
                        help="simulations at a time (default: the cores)")
    arguments = parser.parse_args(argv)
    for name, low, high in (("programs", 1, 10**9), ("layers", 1, 10**9), ("first", 0, 10**9),
                            ("jobs", 1, 1000), ("seed", 0, 2**63), ("stalls", 0, 90)):
        value = getattr(arguments, name)
        if value is not None and not low <= value <= high:
            raise LockstepError(f"--{name} must be in {low}..{high}, not {value}")
    for name in ("rtl", "first"):
        if getattr(arguments, name) and not arguments.layers:
            raise LockstepError(f"--{name} goes with --layers")
    return arguments


def main(argv=None) -> int:
    """Run random programs or layers; prints the findings, 1 where there are any."""
    arguments = parse(argv)
    begin = time.perf_counter()
    findings, done = layers(arguments) if arguments.layers else programs(arguments)
    for finding in findings[:SHOWN]:
        print(finding)
    if len(findings) > SHOWN:
        print(f"{len(findings) - SHOWN} more")
    seconds = time.perf_counter() - begin
    print(f"{done}, {len(findings):,} findings, {seconds:,.0f} s", file=sys.stderr)
    return 1 if findings else 0


def programs(arguments) -> tuple[list[str], str]:
    """(findings, what was done) of random instructions."""
    from hw.targets import get_target
    from sim.design import build_accelerator
    from sim.fuzz import fuzz, small_memories

    target = small_memories(get_target(arguments.target or TARGET))
    build = build_accelerator(target)

    def run(session):
        number, n_programs = session
        found = fuzz(build, target, n_programs=n_programs, seed=(arguments.seed, number),
                     plusargs={"axi_stalls": arguments.stalls, "axi_seed": number + 1})
        return n_programs, [f"session {number}, {finding}" for finding in found]

    sessions = [(first // SESSION, min(SESSION, arguments.programs - first))
                for first in range(0, arguments.programs, SESSION)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        findings = _collect(pool.map(run, sessions), arguments.programs, "program")
    return findings, f"{arguments.programs:,} programs on {target.name}"


def layers(arguments) -> "tuple[list[LayerFinding], str]":
    """(findings, what was done) of random layers."""
    from hw.targets import TARGETS, get_target
    from sim.layer_fuzz import fuzz_layers

    names = [get_target(arguments.target).name] if arguments.target else list(TARGETS)
    end = arguments.first + arguments.layers
    sessions = [(name, range(first, min(end, first + LAYERS)))
                for first in range(arguments.first, end, LAYERS) for name in names]
    outcomes = Counter()

    def results(pool):
        run = partial(fuzz_layers, seed=arguments.seed, rtl=arguments.rtl)
        futures = [pool.submit(run, name, numbers=numbers) for name, numbers in sessions]
        for (_, numbers), future in zip(sessions, futures):
            found, counts = future.result()
            outcomes.update(counts)
            yield len(numbers), found

    with ProcessPoolExecutor(arguments.jobs) as pool:
        findings = _collect(results(pool), arguments.layers * len(names), "layer")
    counts = ", ".join(f"{name} {n:,}" for name, n in sorted(outcomes.items()))
    return findings, f"{arguments.layers:,} layers on {', '.join(names)}: {counts}"


def _collect(results, n_total, unit):
    """All findings of (number done, findings), with a bar."""
    findings = []
    with tqdm(total=n_total, unit=unit, disable=None, leave=False) as bar:
        for n_done, found in results:
            findings += found
            bar.update(n_done)
    return findings


if __name__ == "__main__":
    cli.run(main)
