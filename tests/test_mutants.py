"""Every fault of `make mutants` can be planted, and a survivor would be found."""

import pytest

from tests.mutants import __main__ as mutants
from tests.mutants.faults import FAULTS, Fault


def test_every_fault_can_be_planted():
    assert mutants.main(["--check"]) == 0
    assert len(FAULTS) >= 40
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    for room in ("golden/", "sw/", "hw/rtl/", "hw/compiler/", "sim/"):
        assert any(fault.file.startswith(room) for fault in FAULTS), room


@pytest.mark.slow
@pytest.mark.parametrize(("new", "status"), [("return 3 * x", 0), ("return x * 2", 1)])
def test_a_survivor_and_a_killed_one(tmp_path, monkeypatch, capsys, new, status):
    (tmp_path / "source.py").write_text("def twice(x):\n    return 2 * x\n")
    (tmp_path / "test_twice.py").write_text(
        "from source import twice\n\n\ndef test_twice():\n    assert twice('a') == 'aa'\n")
    fault = Fault(name="twice", file="source.py", old="return 2 * x", new=new,
                  tests=("test_twice.py",))
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "FAULTS", (fault,))
    assert mutants.main([]) == status
    assert ("SURVIVED" if status else "1 of 1 faults killed") in capsys.readouterr().out
    (tmp_path / "source.py").write_text("")
    assert mutants.main([]) == 2
    assert "does not stand exactly once in source.py" in capsys.readouterr().out
