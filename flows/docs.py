"""Regenerate the tables of docs/hardware.md that come from the code.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end: NAME -->`; everything
else in the file is left as it is. With --check nothing is written, and a stale part is reported
with exit status 1.
"""

import os
import re
import sys
from pathlib import Path

from flows import cli
from golden.errors import LockstepError

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "hardware.md"


def instruction_table() -> str:
    """The fields of an instruction, from hw.isa."""
    from hw.isa import N_WORDS, markdown_table

    return f"An instruction has {N_WORDS} words of 32 bits.\n\n{markdown_table()}"


def code_table() -> str:
    """Opcodes, feeds, error codes and address windows with their numbers."""
    from hw.isa import ErrorCode, Feed, Opcode, Window

    rows = ["| kind | name | number |", "| --- | --- | --- |"]
    for kind, items in (("operation", Opcode), ("feed", Feed), ("error", ErrorCode),
                        ("address window (top four bits)", Window)):
        rows += [f"| {kind} | `{item.name}` | {item.value} |" for item in items]
    return "\n".join(rows) + "\n"


def target_table() -> str:
    """Shapes, memories and derived timing of the named targets."""
    from hw.accelerator import flush_cycles
    from hw.isa import N_WORDS
    from hw.targets import TARGETS

    rows = [
        "| target | rows x columns | lanes | word bytes | bank 0, bank 1 words "
        "| parameter channels | instructions | flush cycles | configuration id |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for name, target in TARGETS.items():
        rows.append(
            f"| `{name}` | {target.rows} x {target.columns} | {target.lanes} "
            f"| {target.word_bytes} | {target.bank_words[0]}, {target.bank_words[1]} "
            f"| {target.parameter_words * target.lanes} | {target.instruction_words // N_WORDS} "
            f"| {flush_cycles(target)} | `0x{target.configuration_id:08x}` |")
    return "\n".join(rows) + "\n"


PARTS = {"instructions": instruction_table, "codes": code_table, "targets": target_table}


def regenerated(text: str) -> str:
    """`text` with every generated part made anew; LockstepError where a marker is missing."""
    for name, make in PARTS.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise LockstepError(f"The document must hold one part between {begin} and {end}")
        new = f"{begin}\n\n{make()}\n{end}"
        text = pattern.sub(lambda match, new=new: new, text)
    return text


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = cli.Parser(prog="flows/docs.py", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 where stale")
    parser.add_argument("--document", type=Path, default=DOCUMENT, metavar="FILE.md",
                        help="file to regenerate (default docs/hardware.md)")
    arguments = parser.parse_args(argv)
    path = arguments.document
    try:
        before = path.read_text()
    except OSError as error:
        raise LockstepError(f"{path}: {error.strerror}") from None
    after = regenerated(before)
    if arguments.check:
        if after != before:
            print(f"{path} is stale: run python flows/docs.py", file=sys.stderr)
        return int(after != before)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(after)
    os.replace(temporary, path)
    print(f"wrote {path}" + (" (unchanged)" if after == before else ""))
    return 0


if __name__ == "__main__":
    cli.run(main)
