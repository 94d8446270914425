"""Results that take long, kept by content outside the checkout: compiled simulations, generated
Verilog, steps of synthesis, networks that tests train.

A folder's name holds the hash of all that decides its content, so nothing in the cache can be out
of date, and checkouts share it. It lies in `$LOCKSTEP_CACHE`, else in `$XDG_CACHE_HOME/lockstep`
or `~/.cache/lockstep`, and is bounded: what was used longest ago goes first.

A step works in FOLDER.partial and is renamed when it is complete, so that a killed run leaves
nothing that counts, and the next one goes on with the steps that were finished. The partial
folder of a failed step stays until its next attempt: its logs say why.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["CACHE", "cached", "content_key", "main", "sources_key", "trim"]

CACHE = Path(os.environ.get("LOCKSTEP_CACHE") or Path(
    os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "lockstep")).absolute()
LIMIT_BYTES = 4 << 30
#: What was used within this many seconds stays, whatever the size: it may be in use.
RECENT = 24 * 3600


def content_key(*facts: object) -> str:
    """A hash of facts that have a repr."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def sources_key(*packages, facts: object = None) -> str:
    """A hash of every Python source in the folders of packages, and of facts with a repr."""
    digest = hashlib.sha256(repr(facts).encode())
    for folder in (Path(package.__file__).parent for package in packages):
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder.parent)}".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def cached(root: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The folder root/name, made by `make(folder)` where it does not exist yet.

    Concurrent makers of one step wait for each other.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = root / name
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.utime(lock.name)  # the time of the last use
        if not folder.exists():
            work = root / f"{name}.partial"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            make(work)
            os.replace(work, folder)
            if root.parent == CACHE:
                trim()
    return folder


def trim(limit_bytes: int = LIMIT_BYTES, recent: float = RECENT) -> None:
    """Remove what was used longest ago until the cache is within its limit."""
    folders = [folder for kind in CACHE.glob("*") for folder in kind.glob("*/")]
    kept = sorted((_last_use(folder), folder, _size(folder)) for folder in folders)
    total = sum(size for _, _, size in kept)
    for used, folder, size in kept:
        if total <= limit_bytes or used > time.time() - recent:
            return
        total -= size
        shutil.rmtree(folder, ignore_errors=True)


def _last_use(folder: Path) -> float:
    """Seconds since the epoch: the time of the lock, or of a folder that has none; now, where
    another process renames or removes it."""
    for path in folder.with_name(f"{folder.name}.lock"), folder:
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_mtime
    return time.time()


def _size(folder: Path) -> int:
    """Bytes of the files in a folder, less those that another process takes away meanwhile."""
    size = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(os.path.join(directory, name)).st_size
    return size


def main(argv: list[str] | None = None) -> int:
    """Say where the cache is and how large; with --clear remove all of it."""
    parser = argparse.ArgumentParser(prog="python -m sim.cache", description=main.__doc__)
    parser.add_argument("--clear", action="store_true", help="remove all that is kept")
    args = parser.parse_args(argv)
    size = _size(CACHE)
    if args.clear:
        for kind in CACHE.glob("*"):
            shutil.rmtree(kind, ignore_errors=True)
    print(f"{CACHE}: {size / 2**20:.0f} MiB{' removed' if args.clear else ''}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
