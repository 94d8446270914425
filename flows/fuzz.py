"""Run random instruction streams on the simulated accelerator and check them against the model.

Every program must end within a bound; sound ones must leave what the instruction-set model says,
noise must leave alone what it does not name. Exit status 0: nothing found; 1: findings; 2: bad
input. The same options give the same programs.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from cli import command as cli
from golden.errors import LockstepError

SESSION = 500  # programs of one simulator process
SHOWN = 20


def parse(argv):
    parser = cli.Parser(prog="flows/fuzz.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", default="sim-4x4", help="hardware target, with small memories "
                        "(default %(default)s)")
    parser.add_argument("--programs", type=int, default=10_000, metavar="N",
                        help="random programs (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stalls", type=int, default=20, metavar="P", help="percent of the cycles "
                        "in which external memory pauses (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
                        help="simulations at a time (default: the cores)")
    arguments = parser.parse_args(argv)
    for name, low, high in (("programs", 1, 10**9), ("jobs", 1, 1000), ("seed", 0, 2**63),
                            ("stalls", 0, 90)):
        if not low <= getattr(arguments, name) <= high:
            raise LockstepError(f"--{name} must be in {low}..{high}, not "
                                f"{getattr(arguments, name)}")
    return arguments


def main(argv=None):
    arguments = parse(argv)
    from hw.targets import get_target
    from sim.design import build_accelerator
    from sim.fuzz import fuzz, small_memories

    target = small_memories(get_target(arguments.target))
    build = build_accelerator(target)
    begin = time.perf_counter()
    sessions = [(first // SESSION, min(SESSION, arguments.programs - first))
                for first in range(0, arguments.programs, SESSION)]
    findings = []
    with (ThreadPoolExecutor(arguments.jobs) as pool,
          tqdm(total=arguments.programs, unit="program", disable=None, leave=False) as bar):
        def run(session):
            number, n_programs = session
            found = fuzz(build, target, n_programs=n_programs, seed=(arguments.seed, number),
                         plusargs={"axi_stalls": arguments.stalls, "axi_seed": number + 1})
            bar.update(n_programs)
            return [f"session {number}, {finding}" for finding in found]
        for found in pool.map(run, sessions):
            findings += found
    for finding in findings[:SHOWN]:
        print(finding)
    if len(findings) > SHOWN:
        print(f"{len(findings) - SHOWN} more")
    seconds = time.perf_counter() - begin
    print(f"{arguments.programs:,} programs on {target.name}, {len(findings):,} findings, "
          f"{arguments.programs / seconds:,.0f} programs/s", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    cli.run(main)
