"""The files of a run: the live ones, rewritten after every epoch, and those of its end.

Every file is written under another name and then renamed. ``.partial.pt`` is the state after the
last epoch, from which --resume continues; ``.partial-best.pt`` becomes best.pt.
"""

import json
import math
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

from cli import command as cli
from cli.training.report import write_report
from golden.program import Program

__all__ = ["PARTIAL", "begin_outputs", "integer_accuracy", "measured", "read_csv", "save_epoch",
           "write_outputs"]

TEST_IMAGES = 1000  # at most so many are kept beside the program, for flows/sim.py
PAGE_SECONDS = 10  # a running training rewrites its page no more often; writing takes 1-2 s
PARTIAL, PARTIAL_BEST = ".partial.pt", ".partial-best.pt"


def begin_outputs(directory: Path, *, resumed: bool) -> None:
    """Make the folder; forget the state of an earlier unfinished run, unless it continues."""
    directory.mkdir(parents=True, exist_ok=True)
    if not resumed:
        _discard_partial(directory)
    elif not (directory / PARTIAL_BEST).is_file() and (directory / "best.pt").is_file():
        shutil.copyfile(directory / "best.pt", directory / PARTIAL_BEST)


def _discard_partial(directory: Path) -> None:
    for name in (PARTIAL, PARTIAL_BEST):
        (directory / name).unlink(missing_ok=True)


def _badness(row: dict) -> float:
    """What the best epoch has least of: wrong answers, or loss where there are no answers."""
    return row["test_loss"] if math.isnan(row["test_accuracy"]) else -row["test_accuracy"]


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write a table in one rename."""
    import pandas

    temporary = path.with_name(f".{path.name}.writing")
    pandas.DataFrame(rows).to_csv(temporary, index=False)
    os.replace(temporary, path)


def read_csv(path: Path, epochs: int) -> list[dict]:
    """The rows of the first epochs of a table, [] if there is none."""
    import pandas

    if not path.is_file():
        return []
    rows = pandas.read_csv(path)
    return rows[rows["epoch"] < epochs].to_dict("records")


def save_epoch(directory: Path, checkpoint, telemetry: list[dict], config: dict) -> None:
    """After an epoch: best state, results.csv, telemetry.csv, report.html, then .partial.pt.

    The last is what counts for --resume; the others are of that epoch or one later. The page,
    which reloads itself, is left for a later epoch where epochs are shorter than its writing.
    """
    *earlier, newest = checkpoint.history
    if _badness(newest) < min(map(_badness, earlier), default=math.inf):
        checkpoint.save(directory / PARTIAL_BEST)
    write_csv(directory / "results.csv", checkpoint.history)
    write_csv(directory / "telemetry.csv", telemetry)
    page = directory / "report.html"
    if not page.is_file() or not earlier or time.time() - page.stat().st_mtime > PAGE_SECONDS:
        write_report(page, checkpoint.history, config, telemetry, running=True)
    checkpoint.save(directory / PARTIAL)


def integer_accuracy(program, model, data) -> tuple[float, int]:
    """(share of right answers of an inference program, images) over all test images."""
    from cli.training.arithmetic import fused_passes
    from sw.integer.runner import Runner
    from sw.train.evaluate import prepared

    runner, right = Runner(program, passes=fused_passes()), 0
    for images, labels in data.test_batches():
        codes = program.quantize_input(prepared(model, images).numpy())
        logits = runner({program.inputs[0]: codes})[program.outputs[0]]
        right += int((logits.argmax(1) == labels).sum())
    return right / data.n_test, data.n_test


def measured(program, model, data, simulated: float) -> Program:
    """The program with its accuracies in the metadata, over all test images."""
    from sw.train.evaluate import reconstructs

    if reconstructs(model):
        return program
    share, n_images = integer_accuracy(program, model, data)
    accuracy = {"dataset": data.name, "simulated": simulated, "integer": share,
                "integer_images": n_images}
    return replace(program, metadata=program.metadata | {"accuracy": accuracy})


def write_outputs(directory: Path, checkpoint, programs: dict, config: dict, model, data,
                  telemetry: list[dict], step_inputs: dict) -> None:
    """All files of a finished run, in one go.

    programs: Program by the name of its folder, None for one that there is not; step_inputs: arrays
    by name for the one in step/
    """
    import numpy

    from sw.train.evaluate import prepared

    images, labels = data.test_sample(TEST_IMAGES)
    best = directory / PARTIAL_BEST
    with cli.replacing(directory) as temporary:
        checkpoint.save(temporary / "checkpoint.pt")
        if best.is_file():
            shutil.copyfile(best, temporary / "best.pt")
        write_csv(temporary / "results.csv", checkpoint.history)
        write_csv(temporary / "telemetry.csv", telemetry)
        write_report(temporary / "report.html", checkpoint.history, config, telemetry)
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        numpy.save(temporary / "test_inputs.npy", prepared(model, images).numpy())
        numpy.save(temporary / "test_labels.npy", labels.numpy())
        if step_inputs:
            numpy.savez(temporary / "step_inputs.npz", **step_inputs)
        for name, program in programs.items():
            if program is not None:
                program.save(temporary / name)
    for name, program in programs.items():
        if program is None:  # that of an earlier run under this name
            shutil.rmtree(directory / name, ignore_errors=True)
    if not step_inputs:
        (directory / "step_inputs.npz").unlink(missing_ok=True)
    _discard_partial(directory)
