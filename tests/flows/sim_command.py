"""Runs flows/sim.py as its entry point does, with a stand-in for the simulated Verilog."""

import pytest

from cli import command as cli
from flows import sim
from golden.program.interpreter import run as golden_run


def fake_rtl(monkeypatch, change=lambda trace: trace):
    """Put golden's trace with a change in place of the simulated Verilog's."""
    monkeypatch.setattr(sim, "run_rtl", lambda program, x, options:
                        (change(golden_run(program, x)), None))


def exit_of(argv, capsys):
    """(status, stdout, stderr) of the command, as the entry point gives them."""
    with pytest.raises(SystemExit) as stop:
        cli.run(sim.main, argv)
    return (stop.value.code, *capsys.readouterr())


def one_line(result, *words):
    status, out, err = result
    assert status == 2
    assert out == "" or out.startswith("program")
    lines = [line for line in err.splitlines() if "images ..." not in line]
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]
