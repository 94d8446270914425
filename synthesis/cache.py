"""Finished steps kept by content: a folder's name holds the hash of all that decides its content.

A step works in FOLDER.partial and is renamed when it is complete, so that a killed run leaves
nothing that counts, and the next one goes on with the steps that were finished. The partial
folder of a failed step stays until its next attempt: its logs say why.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / "build" / "synthesis"


def content_key(*facts) -> str:
    """A hash of facts that have a repr."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def cached(root: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The folder root/name, made by `make(folder)` where it does not exist yet.

    Concurrent makers of one step wait for each other.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = root / name
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            work = root / f"{name}.partial"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            make(work)
            os.replace(work, folder)
    return folder


def write_json(path: Path, content) -> None:
    """Write a file into a folder that is not yet in place."""
    path.write_text(json.dumps(content, indent=1) + "\n")
