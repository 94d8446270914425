# amaranth: UnusedElaboratable=no
"""Regenerate the documents that come from the code and from measurements.

docs/results.md is made of docs/results/*.json, docs/overview.svg is the README's picture. A
generated part of docs/hardware.md and of README.md stands between `<!-- generated: NAME -->` and
`<!-- end: NAME -->`; everything else in those files is left as it is. With --check nothing is
written, and what is stale is reported with exit status 1.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from cli import command as cli
from cli.documents.picture import picture
from cli.documents.results import results_document
from golden.errors import LockstepError

__all__ = ["DOCUMENT", "generated", "main", "regenerated", "results_document"]

DOCS = Path(__file__).resolve().parents[1] / "docs"
DOCUMENT = DOCS / "hardware.md"


def instruction_table() -> str:
    """The fields of an instruction, common ones and those of each format, from hw.isa."""
    from hw.isa import FORMAT_WORDS, N_COMMON, N_WORDS, markdown_table

    lengths = ", ".join(f"{n} ({format_.name.lower()})" for format_, n in FORMAT_WORDS.items())
    return (f"An instruction takes {N_WORDS} words of 32 bits in memory; the first {N_COMMON} mean "
            f"the\nsame in all. Fetched are as many as its format has: {lengths}.\n\n"
            f"{markdown_table()}")


def code_table() -> str:
    """Opcodes, engines, feeds, memories, error codes and address windows with their numbers."""
    from hw.isa import AddressWindow, Engine, ErrorCode, Feed, LocalMemory, Opcode

    rows = ["| kind | name | number |", "| --- | --- | --- |"]
    for kind, items in (("operation", Opcode), ("engine", Engine), ("feed", Feed),
                        ("memory of a transfer", LocalMemory), ("error", ErrorCode),
                        ("address window (top four bits)", AddressWindow)):
        rows += [f"| {kind} | `{item.name}` | {item.value} |" for item in items]
    return "\n".join(rows) + "\n"


REGISTERS = {
    "MAGIC": ("r", "`0x{magic:08X}`"),
    "VERSION": ("r", "of the instruction set, {version}"),
    "CONFIGURATION": ("r", "rows, columns, lanes, word bytes, one byte each from the top"),
    "CONTROL": ("rw", "bit 0 start, bit 1 stop after one instruction, bit 2 abort"),
    "STATUS": ("r", "bit 0 busy, 1 done, 2 error; bits 15:8 error code"),
    "PROGRAM_ADDRESS": ("rw", "index of the next instruction to run"),
    "INSTRUCTION_INDEX": ("r", "the refused or halting instruction; after a stop the next one"),
    "REGION_BASE": ("rw", "external addresses from here on, and"),
    "REGION_LIMIT": ("rw", "below here are allowed; after reset 0 and `0xFFFFFFFF`"),
    "WATCHDOG": ("rw", "cycles without progress that end a run"),
    "CYCLE_LIMIT": ("rw", "cycles after which a run is ended; 0 for none"),
    "FEATURES": ("r", "bits 15:0 width of the external bus, bit 16 packed"),
    "COUNTERS": ("r", "{n_counters} counters of 64 bits, low word first"),
}


def register_table() -> str:
    """The control registers."""
    from hw.isa import MAGIC, VERSION, Counter, Register

    rows = ["| offset | register | access | meaning |", "| --- | --- | --- | --- |"]
    for register in Register:
        access, meaning = REGISTERS[register.name]
        meaning = meaning.format(magic=MAGIC, version=VERSION, n_counters=len(Counter))
        rows.append(f"| 0x{register.value:02X} | `{register.name}` | {access} | {meaning} |")
    return "\n".join(rows) + "\n"


COUNTERS = {
    "CYCLES": "from start to done",
    "ARRAY_BUSY": "a slot of a `MATMUL`, useful or not",
    "ARRAY_DRAIN": "a product waits, before a tile's last period, for the results of the tile "
                   "before to be read",
    "ARRAY_CHASE": "a product waits for the progress of the producer that it follows",
    "ARRAY_WAIT_ARRAY": "the next product waits for an earlier one's last results",
    "ARRAY_WAIT_VECTOR": "it waits for a vector instruction, and for no product",
    "ARRAY_WAIT_LOAD": "it waits for a load, and for none of the above",
    "ARRAY_WAIT_STORE": "it waits for a store alone",
    "ARRAY_FETCH": "no product is there: not fetched yet, being handed over, or none left",
    "VECTOR_BUSY": "the vector engine runs an instruction, its own waits for progress included",
    "LANES_BUSY": "the rescaler lanes give a group of results",
    "LOAD_BYTES": "bytes that came in over the external bus",
    "STORE_BYTES": "bytes that went out",
}


def counter_table() -> str:
    """The performance counters."""
    from hw.isa import Counter, Register

    rows = ["| offset | counter | counts |", "| --- | --- | --- |"]
    rows += [f"| 0x{Register.COUNTERS + 8 * counter:02X} | `{counter.name}` "
             f"| {COUNTERS[counter.name]} |" for counter in Counter]
    return "\n".join(rows) + "\n"


def target_table() -> str:
    """Shapes and memories of the named targets."""
    from hw.isa import N_WORDS
    from hw.targets import TARGETS

    rows = [
        "| target | rows x columns | lanes | words of banks 0 to 3 | scratchpad "
        "| parameter channels | instructions | external bus | device | configuration id |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for name, target in TARGETS.items():
        packed = " packed" if target.packed else ""
        bus = f"{target.bus_bits} bit" if target.bus_bits else "none"
        rows.append(
            f"| `{name}` | {target.rows} x {target.columns}{packed} | {target.lanes} "
            f"| {', '.join(map(str, target.bank_words))} "
            f"| {sum(target.bank_words) * target.word_bytes // 1024} KiB "
            f"| {target.parameter_words * target.lanes} "
            f"| {target.instruction_words // N_WORDS} | {bus} | {target.device or 'any'} "
            f"| `0x{target.configuration_id:08x}` |")
    return "\n".join(rows) + "\n"


def timing_table() -> str:
    """Latencies, by the names that they have in the code."""
    from hw.rtl.array import engine as array_engine
    from hw.rtl.array.array import MacArray
    from hw.rtl.array.feeder import Feeder
    from hw.rtl.array.walker import AddressWalker
    from hw.rtl.control import dispatcher
    from hw.rtl.lanes.lanes import Lanes
    from hw.rtl.lanes.rescaler import RescalerPipeline
    from hw.rtl.memory.crossbar import Crossbar
    from hw.rtl.memory.scratchpad import Bank, ParameterMemory, WordMemory

    # Only asked for their latencies, never built.
    plain, packed = (MacArray(rows=2, columns=4, packed=packed) for packed in (False, True))
    values = [
        ("AddressWalker.LATENCY", AddressWalker.LATENCY, "slot to address"),
        ("Crossbar.READ_LATENCY", Crossbar.READ_LATENCY, "address to word, for the array's ports"),
        ("Crossbar.WAITING_READ_LATENCY", Crossbar.WAITING_READ_LATENCY,
         "the same for `v` and `w` where nothing waits; `s` and `h` one more"),
        ("Crossbar.WRITE_TO_READ", Crossbar.WRITE_TO_READ,
         "a read that enters so long after a write to `r` sees it"),
        ("Bank.LATENCY", Bank.LATENCY, "of which the memory itself takes"),
        ("array_engine.WORD_LATENCY", array_engine.WORD_LATENCY, "slot to word at the feeders"),
        ("Feeder.LATENCY", Feeder.LATENCY, "word to lane 0's first byte"),
        ("MacArray.product_latency", f"{plain.product_latency}, packed {packed.product_latency}",
         "operands to a sum's adder"),
        ("MacArray.result_latency", "product_latency + columns", "`last` to the first legal `pop`"),
        ("MacArray.pop_latency", MacArray.pop_latency, "`pop` to the row"),
        ("MacArray.POP_SPACING", MacArray.POP_SPACING, "smallest distance of two pops"),
        ("RescalerPipeline.LATENCY", RescalerPipeline.LATENCY, "sum to code"),
        ("Lanes.LATENCY", Lanes.LATENCY, "item to write, parameters and rescaler included"),
        ("ParameterMemory.LATENCY", ParameterMemory.LATENCY,
         "channel to bias, multiplier, shift"),
        ("WordMemory.LATENCY", WordMemory.LATENCY, "address to word of the instruction memory"),
        ("dispatcher.FLUSH_CYCLES", dispatcher.FLUSH_CYCLES,
         "from an error until the run is over, open bursts aside"),
    ]
    rows = ["| constant | cycles | meaning |", "| --- | --- | --- |"]
    rows += [f"| `{name}` | {value} | {meaning} |" for name, value, meaning in values]
    return "\n".join(rows) + "\n"


PARTS = {"instructions": instruction_table, "codes": code_table, "registers": register_table,
         "counters": counter_table, "targets": target_table, "timing": timing_table}


def readme_parts(results: Path) -> dict:
    """Of README.md. results: the folder of results/*.json."""
    from benchmarks.accelerator_page import summary

    return {"accelerator": lambda: summary(json.loads(_read(results / "accelerator.json")))}


def regenerated(text: str, parts: Mapping[str, Callable[[], str]] = PARTS) -> str:
    """`text` with every generated part made anew; LockstepError where a marker is missing."""
    for name, make in parts.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise LockstepError(f"The document must hold one part between {begin} and {end}")
        new = f"{begin}\n\n{make()}\n{end}"
        text = pattern.sub(lambda match, new=new: new, text)
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise LockstepError(f"{path}: {error.strerror}") from None


def generated(document: Path, docs: Path = DOCS) -> dict[Path, str]:
    """What every generated file should hold, by its path.

    document: with generated parts; docs: the folder of results/*.json and of what is made of them
    """
    readme = docs.parent / "README.md"
    return {document: regenerated(_read(document)),
            readme: regenerated(_read(readme), readme_parts(docs / "results")),
            docs / "results.md": results_document(docs / "results"),
            docs / "overview.svg": picture()}


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = cli.Parser(prog="flows/docs.py", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 where stale")
    parser.add_argument("--document", type=Path, default=DOCUMENT, metavar="FILE.md",
                        help="file with generated parts (default docs/hardware.md)")
    arguments = parser.parse_args(argv)
    status = 0
    for path, after in generated(arguments.document).items():
        before = path.read_text() if path.exists() else None
        if arguments.check and after != before:
            print(f"{path} is stale: run python flows/docs.py", file=sys.stderr)
            status = 1
        if arguments.check:
            continue
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_text(after)
        os.replace(temporary, path)
        print(f"wrote {path}" + (" (unchanged)" if after == before else ""))
    return status


if __name__ == "__main__":
    cli.run(main)
