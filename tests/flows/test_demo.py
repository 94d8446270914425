"""flows/demo.py: what it does with the summary; the parts it runs have tests of their own."""

import json

import pytest

from flows import demo


@pytest.mark.parametrize(("differences", "status"), [(0, 0), (3, 1)])
def test_the_summary_is_kept_and_differences_set_the_status(tmp_path, monkeypatch, capsys,
                                                            differences, status):
    summary = {"differences": differences}
    monkeypatch.setattr(demo, "demo", lambda arguments: summary)
    monkeypatch.setattr(demo, "print_summary", lambda summary: None)
    assert demo.main(["--runs-dir", str(tmp_path)]) == status
    path = tmp_path / "demo" / "summary.json"
    assert json.loads(path.read_text()) == summary
    assert str(path) in capsys.readouterr().out
