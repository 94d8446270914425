"""The arrows between the packages: golden <- sw <- models, golden <- hw <- sim,
all of them <- cli <- synthesis, benchmarks <- flows; and one class for each name."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "golden": {"golden"},
    "sw": {"golden", "sw"},
    "models": {"golden", "sw", "models"},
    "hw": {"golden", "hw"},
    "sim": {"golden", "hw", "sim"},
    "cli": {"golden", "sw", "models", "hw", "sim", "cli"},
    "synthesis": {"golden", "hw", "sim", "cli", "synthesis"},
    "benchmarks": {"golden", "sw", "models", "hw", "sim", "cli", "benchmarks"},
    "flows": {"golden", "sw", "models", "hw", "sim", "cli", "synthesis", "benchmarks", "flows"},
}


def imports(path: Path) -> set[str]:
    """The top-level names that a file imports, inside functions too."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    names += [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.level == 0]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_along_the_arrows(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        wrong = imports(path) & {*ALLOWED, "tests"} - ALLOWED[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("package", ["golden", "hw", "sim"])
def test_torch_stays_in_software(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        assert "torch" not in imports(path), f"{path.relative_to(ROOT)} imports torch"


def test_a_class_has_its_name_for_itself():
    """A name says which class is meant wherever it is read."""
    names = Counter(node.name for package in ALLOWED
                    for path in sorted((ROOT / package).rglob("*.py"))
                    for node in ast.walk(ast.parse(path.read_text()))
                    if isinstance(node, ast.ClassDef))
    assert not [name for name, times in names.items() if times > 1]
