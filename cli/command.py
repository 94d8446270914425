"""What every entry point shares: error reporting, argument literals, atomic outputs."""

import argparse
import ast
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from golden.errors import LockstepError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Parser", "check_file", "literal_dict", "read_array", "read_arrays", "replacing", "run",
           "uninterrupted"]


def run(main: Callable[..., int | None], argv: list[str] | None = None) -> None:
    """Run an entry point and exit: 2 with one line on bad input, 130 when interrupted.

    main(argv) returns the exit status, None meaning 0. SIGTERM interrupts as Ctrl-C does. A process
    of torchrun leaves at once: threads of torch may outlive its static objects, which ends one in
    seven with SIGABRT, and torchrun then stops the others.
    """
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        status = main(argv)
    except LockstepError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        status = 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:
        where = f": {error.filename}" if error.filename is not None else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted: no output is half written", file=sys.stderr)
        status = 130
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)
    sys.exit(status or 0)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is a LockstepError: one line, exit 2."""

    def error(self, message) -> NoReturn:
        raise LockstepError(f"{message} (see {self.prog} --help)")


def literal_dict(text: str, option: str) -> dict:
    """Parse a Python literal dict such as ``{'depth': 18, 'quantize': True}``.

    Raises LockstepError naming the option when the text is anything else.
    """
    try:
        value = ast.literal_eval(text.strip() or "{}")
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise LockstepError(f"{option} is not a Python literal: {text}") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise LockstepError(f"{option} must be a dict with string keys, not {text}")
    return value


def read_array(path: str | Path) -> "np.ndarray":
    """The array of a .npy file, without pickles; LockstepError for any other file."""
    import numpy as np

    try:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise LockstepError(f"Inputs {path}: {error.strerror}") from None
    except Exception:  # NumPy evaluates the header, and meets whatever it holds
        raise LockstepError(f"Inputs {path}: not a NumPy .npy array") from None


def read_arrays(path: str | Path) -> dict:
    """The arrays of a .npz file by name, without pickles; LockstepError for any other file."""
    import numpy as np

    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise LockstepError(f"Inputs {path}: {error.strerror or error}") from None
    except Exception:  # NumPy evaluates the headers, and meets whatever they hold
        raise LockstepError(f"Inputs {path}: not a NumPy .npz file of arrays") from None


def check_file(path: str | Path) -> None:
    """LockstepError where a file to write is a folder, a device or a link, such as /dev/stdout."""
    path = Path(path)
    if path.is_dir():
        raise LockstepError(f"{path} is a folder, not a file to write")
    if path.is_symlink() or path.exists() and not path.is_file():
        raise LockstepError(f"{path} is a device or a link, not a file to write")


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put SIGINT and SIGTERM off to the end of the block, for the renames that belong together."""
    if threading.current_thread() is not threading.main_thread():  # signals never come here
        yield
        return
    waiting = []
    handlers = {number: signal.signal(number, lambda number, frame: waiting.append(number))
                for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in waiting[:1]:
            signal.raise_signal(number)


@contextlib.contextmanager
def replacing(directory: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside ``directory``; on success move its entries into place.

    Each entry replaces the one of the same name by rename; others stay. On an error or an
    interruption nothing in ``directory`` has changed.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=directory))
    except OSError as error:
        raise LockstepError(f"Cannot write to {directory}: {error.strerror}") from None
    try:
        yield temporary
        with uninterrupted():
            for source in sorted(temporary.iterdir()):
                target = directory / source.name
                if target.is_dir() and not target.is_symlink():
                    target.rename(temporary / f".old-{source.name}")
                os.replace(source, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
