"""Benchmarks: `python flows/bench.py SUITE -o DIR` writes DIR/SUITE.json, a list of rows
{name, value, unit, goal, met, command, context}, and the results page DIR/SUITE.md.

`python flows/bench.py --help` lists the suites, `python flows/bench.py SUITE --help` the options of
one; an option that a suite has no use for is refused.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks import print_rows, results_page
from benchmarks.suites import SUITES, add_suite, command_of
from cli import command as cli
from cli.rtl_backend import SimulationFailure
from golden.errors import LockstepError

__all__ = ["main", "parse"]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; LockstepError for an unknown suite, none first, or an option it lacks."""
    parser = cli.Parser(prog="flows/bench.py",
                        description="Measure; write JSON and a results page.")
    # Not `choices`: the complaint about a suite that is not known names those that are.
    suites = parser.add_subparsers(dest="suite", metavar="SUITE", required=True)
    for name, suite in SUITES.items():
        one = suites.add_parser(name, help=suite.about, description=suite.about)
        one.add_argument("-o", "--output", default="build/bench", metavar="DIR",
                         help="folder to write (default %(default)s)")
        add_suite(one, suite)
    given = sys.argv[1:] if argv is None else argv
    if given and given[0] not in ("-h", "--help", *SUITES):
        wrong = "A suite must come before" if given[0].startswith("-") else "Unknown suite"
        raise LockstepError(f"{wrong} {given[0]!r}; known: {', '.join(SUITES)}")
    return parser.parse_args(given)


def main(argv: list[str] | None = None) -> int:
    """Run a suite, print its rows, write DIR/SUITE.json and the page DIR/SUITE.md.

    Returns 1 and writes nothing where simulated hardware fails or disagrees with golden.
    """
    arguments = parse(argv)
    suite = SUITES[arguments.suite].load()
    try:
        rows = suite.measure(arguments, command_of(arguments.suite, arguments))
    except SimulationFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    print_rows(rows)
    output, page = Path(arguments.output), getattr(suite, "page", results_page)
    with cli.replacing(output) as temporary:
        (temporary / f"{arguments.suite}.json").write_text(json.dumps(rows, indent=1) + "\n")
        (temporary / f"{arguments.suite}.md").write_text(page(arguments.suite, rows))
    print(f"wrote {output / arguments.suite}.json and {arguments.suite}.md")
    return 0


if __name__ == "__main__":
    cli.run(main)
