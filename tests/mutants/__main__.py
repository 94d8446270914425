"""Plants each fault of `tests.mutants.faults` in a copy of the tree; `make test` must catch it.

For every fault the tests named with it run, without the long ones, once on the sources as they are
(they must pass) and once with the fault (one must fail). Exits with 0 where all are killed, with 1
where one survives, with 2 where a fault's old text no longer stands exactly once in its file or its
tests fail without it.
"""

import argparse
import concurrent.futures
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.faults import FAULTS, Fault

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "build", "runs", "__pycache__", "*.egg-info")
TIME_LIMIT = 1800  # seconds for the tests of a fault; one that hangs is killed


def main(argv: list[str] | None = None) -> int:
    """Run the faults whose file or name holds one of the given words, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.split(
        "\n")[0])
    parser.add_argument("words", nargs="*", help="only faults whose file or name holds one")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default 2)")
    parser.add_argument("--check", action="store_true",
                        help="only look whether every fault can still be planted")
    args = parser.parse_args(argv)
    faults = [fault for fault in FAULTS if not args.words
              or any(word in f"{fault.file} {fault.name}" for word in args.words)]
    lost = [fault for fault in faults if _occurrences(fault) != 1]
    for fault in lost:
        print(f"error: fault '{fault.name}': its text does not stand exactly once in {fault.file}")
    if lost or args.check:
        return 2 if lost else 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lockstep-mutants-") as folder:
        trees = queue.SimpleQueue()
        for number in range(args.jobs):
            trees.put(shutil.copytree(ROOT, Path(folder) / str(number), ignore=LEFT_OUT))
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            selections = sorted({fault.tests for fault in faults})
            before = dict(zip(selections, pool.map(lambda tests: _failure(trees, tests),
                                                   selections)))
            for tests, failure in before.items():
                if failure:
                    print(f"error: {' '.join(tests)} fail without a fault: {failure}")
            faults = [fault for fault in faults if not before[fault.tests]]
            survivors = []
            for fault, failure in zip(faults, pool.map(
                    lambda fault: _failure(trees, fault.tests, fault), faults)):
                print(f"{'killed  ' if failure else 'SURVIVED'} {fault.name}: "
                      f"{failure or ' '.join(fault.tests)}", flush=True)
                survivors += [] if failure else [fault]
    print(f"{len(faults) - len(survivors)} of {len(faults)} faults killed, "
          f"{(time.monotonic() - started) / 60:.1f} minutes")
    return 2 if any(before.values()) else bool(survivors)


def _occurrences(fault: Fault) -> int:
    path = ROOT / fault.file
    return path.read_text().count(fault.old) if path.exists() else 0


def _failure(trees: queue.SimpleQueue, tests: tuple[str, ...], fault: Fault | None = None) -> str:
    """What the tests fail with in a tree, with a fault or without; "" where they pass."""
    tree = trees.get()
    try:
        if fault is None:
            return _run(tree, tests)
        path = tree / fault.file
        right = path.read_text()
        path.write_text(right.replace(fault.old, fault.new))
        try:
            return _run(tree, tests)
        finally:
            path.write_text(right)
    finally:
        trees.put(tree)


def _run(tree: Path, tests: tuple[str, ...]) -> str:
    # Compiled modules are told apart by size and second: a fault may change neither.
    env = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=line", "-m",
               "not long", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    try:
        done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True,
                              check=False, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return f"no end after {TIME_LIMIT} s"
    if done.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (.*)$", done.stdout, re.MULTILINE)
    return failed[1][:150] if failed else f"pytest exited with {done.returncode}"


if __name__ == "__main__":
    raise SystemExit(main())
