"""docs/results.md from docs/results/*.json, the rows that flows/bench.py writes."""

import json
import re
import textwrap
from pathlib import Path

from golden.errors import LockstepError

__all__ = ["results_document"]

_INTRO = """\
# Results

Every figure with the command that gives it. `python flows/bench.py SUITE -o docs/results` measures
a suite anew and puts its rows in the place of the recorded ones; `python flows/docs.py` makes this
page of them. Cycles, codes and resources are the same in every run; times and accuracies are of
one machine."""
_RECORDED = "recorded"  # rows of suites that have no file of their own
_KEYS = {"name", "value", "unit", "goal", "met", "command", "context"}


def _rows(path: Path) -> list[dict]:
    """The rows of a file; LockstepError where it holds anything else."""
    try:
        rows = json.loads(path.read_text())
        if all(_KEYS <= set(row) for row in rows):
            return rows
    except (OSError, ValueError, TypeError) as error:
        raise LockstepError(f"{path} cannot be read: {error}") from None
    raise LockstepError(f"{path} holds a row without {', '.join(sorted(_KEYS))}")


def _suite(row: dict) -> str:
    """What measures a row: the suite of flows/bench.py, else the command."""
    found = re.match(r"python flows/(\w+)\.py(?: ([a-z][\w-]*))?|make (\S+)|(\S+)", row["command"])
    flow, first, target, other = found.groups()
    return (first if flow == "bench" else flow) or target or other


def _value(value) -> str:
    """A recorded text as it is; four digits of a number, or all in front of the point."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _section(title: str, rows: list[dict]) -> list[str]:
    lines = [f"## {title}", ""]
    for context in dict.fromkeys(row["context"] for row in rows):
        lines += [textwrap.fill(context, 100, break_long_words=False), ""] if context else []
        lines += ["| figure | value | goal | command |", "| --- | ---: | --- | --- |"]
        for row in rows:
            if row["context"] == context:
                met = {None: "", True: ": met", False: ": missed"}[row["met"]]
                lines.append(f"| {row['name']} | {_value(row['value'])} {row['unit']}".rstrip()
                             + f" | {row['goal'] or ''}{met} | `{row['command']}` |")
        lines.append("")
    return lines


def results_document(folder: Path) -> str:
    """The page of all rows in ``folder``; a suite's own file replaces its recorded rows.

    Raises LockstepError for a file that holds no rows.
    """
    files = {path.stem: _rows(path) for path in sorted(folder.glob("*.json"))}
    sections: dict[str, list[dict]] = {}
    for row in files.pop(_RECORDED, []):
        if _suite(row) not in files:
            sections.setdefault(_suite(row), []).append(row)
    sections |= files
    lines = [_INTRO, ""]
    for title in sorted(sections):
        lines += _section(title, sections[title])
    return "\n".join(lines)
