"""flows/bench.py digits: the rows and their goals, on a short training."""

import json

import pytest

from flows import bench
from golden.errors import LockstepError


@pytest.mark.slow
def test_digits_rows(tmp_path, capsys):
    assert bench.main(["digits", "-o", str(tmp_path), "--seeds", "1", "--epochs", "1"]) == 0
    rows = json.loads((tmp_path / "digits.json").read_text())
    assert all(set(row) == {"name", "value", "unit", "goal", "met", "command", "context"}
               for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert by_name["digits.accuracy.integer_minus_simulated.largest"]["value"] < 5
    assert by_name["digits.differing_codes.first"]["met"]
    assert "goal >= 97.5" in capsys.readouterr().out


def test_unknown_suite():
    with pytest.raises(LockstepError, match="Unknown suite 'digit'; known: digits"):
        bench.main(["digit"])
