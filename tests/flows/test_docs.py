"""The documentation agrees with the code: generated tables, examples, registers, links."""

import doctest
import json
import re
from pathlib import Path

import pytest

from flows import docs
from golden.errors import LockstepError
from hw.isa import ErrorCode, Register

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_generated_tables_are_fresh():
    text = docs.DOCUMENT.read_text()
    assert docs.regenerated(text) == text, "docs/hardware.md is stale: run python flows/docs.py"


def test_a_stale_table_is_noticed_and_repaired(tmp_path, capsys):
    good = docs.DOCUMENT.read_text()
    copy = tmp_path / "hardware.md"
    copy.write_text(good.replace("| `opcode` |", "| `operation` |"))
    assert docs.main(["--check", "--document", str(copy)]) == 1
    assert "is stale" in capsys.readouterr().err
    assert docs.main(["--document", str(copy)]) == 0
    assert copy.read_text() == good
    assert docs.main(["--check", "--document", str(copy)]) == 0


def test_generated_documents_are_fresh():
    for path, text in docs.generated(docs.DOCUMENT).items():
        assert path.read_text() == text, f"{path.name} is stale: run python flows/docs.py"


def test_results_of_a_suite_replace_its_recorded_ones(tmp_path):
    (tmp_path / "results").mkdir()
    row = {"name": "digits.accuracy", "value": 98.5, "unit": "%", "goal": ">= 97.5", "met": True,
           "command": "python flows/bench.py digits", "context": "5 seeds"}
    (tmp_path / "results" / "recorded.json").write_text(json.dumps([row | {"value": "97 %"}]))
    old = docs.results_document(tmp_path / "results")
    assert "| digits.accuracy | 97 % % | >= 97.5: met | `python flows/bench.py digits` |" in old
    (tmp_path / "results" / "digits.json").write_text(json.dumps([row]))
    new = docs.results_document(tmp_path / "results")
    assert "| digits.accuracy | 98.5 % |" in new and "97 %" not in new
    (tmp_path / "results" / "noise.json").write_text("[{}]")
    with pytest.raises(LockstepError, match="noise.json holds a row without"):
        docs.results_document(tmp_path / "results")


def test_a_missing_marker_is_an_error():
    with pytest.raises(LockstepError, match="generated: instructions"):
        docs.regenerated("no markers")


def test_every_register_and_error_is_described():
    text = docs.DOCUMENT.read_text()
    for register in Register:
        assert f"| 0x{register.value:02X} | `{register.name}` |" in text, register.name
    for code in ErrorCode:
        assert f"`{code.name}`" in text, code.name


@pytest.mark.parametrize("page", ["guide.md", "numerics.md"])
def test_examples_give_what_the_page_says(page):
    failures, attempts = doctest.testfile(str(ROOT / "docs" / page), module_relative=False)
    assert attempts
    assert not failures, f"{failures} of {attempts} examples of docs/{page} give something else"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_keeps_to_100_columns(page):
    for number, line in enumerate(page.read_text().splitlines(), 1):
        assert len(line) <= 100 or line.startswith("|"), f"{page.name}:{number}"
