"""The accelerator suite: rows, goals, published peers, and what it refuses, on played runs."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import accelerator
from benchmarks.accelerator_page import summary
from benchmarks.peers import PEERS
from benchmarks.rows import row
from cli.rtl_backend import SimulationFailure
from flows import bench
from golden.errors import LockstepError
from golden.program.interpreter import run
from hw.compiler import compile_program
from hw.compiler.scheduling.floors import floors
from hw.isa.instructions.matmul import MatMulInstruction
from hw.targets import get_target
from tests.programs import linear_net, residual_net

CYCLES = 5_000
PLAIN, PACKED = accelerator.DEFAULT_TARGETS
SHA = "ab" * 32


def synthesis(**changes):
    return {"target": "ecp5-85k", "top": "accelerator", "verilog_sha256": SHA, "device":
            "LFE5U-85F", "speed_grade": 6, "dsps": 150, "luts": 40_000, "brams": 180,
            "fits": True, "fmax_mhz": 112.5, "goal_mhz": 110, "seeds": [{}, {}, {}],
            "command": "python flows/synth.py"} | changes


@pytest.fixture
def played(tmp_path, monkeypatch):
    """A small network under every name, of single pixels where images share instructions; the RTL
    is golden, always in CYCLES per image."""
    program = residual_net()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(accelerator, "network_program", lambda name:
                        linear_net() if name in accelerator.BATCHED else program)
    monkeypatch.setattr(accelerator, "simulated_sha256", lambda target: SHA)
    monkeypatch.setattr(accelerator, "simulate", lambda program, x, image: (
        run(program, x)[program.outputs[0]], CYCLES * image.batch))
    monkeypatch.setattr(accelerator, "training_rows", lambda target, command: [
        row(f"utilisation.training.{target.name}", 0.9, "of the array", command)])
    (tmp_path / "report.json").write_text(json.dumps(synthesis()))
    return program


def measured(*arguments):
    assert bench.main(["accelerator", "-o", "out", *arguments]) == 0
    return {row["name"]: row for row in json.loads(Path("out/accelerator.json").read_text())}


def test_rows_with_a_routed_design(played):
    from golden.program.verify import verify

    rows = measured("--synthesis", "report.json")
    macs = verify(played).macs
    assert rows["cycles.ecp5-85k.resnet8"] | {"context": ""} == {
        "name": "cycles.ecp5-85k.resnet8", "value": CYCLES, "unit": "cycles", "goal": "<= 110000",
        "met": True, "command": "python flows/bench.py accelerator", "context": ""}
    assert rows["utilisation.ecp5-85k.ds_cnn"]["value"] == pytest.approx(macs / (128 * CYCLES))
    assert rows["mac_per_dsp_cycle.ecp5-85k.resnet8"]["value"] == pytest.approx(
        macs / (150 * CYCLES))
    assert rows["inferences_per_second.ecp5-85k.autoencoder"]["value"] == pytest.approx(
        112.5e6 / CYCLES)
    batch = rows["cycles_per_image.ecp5-85k.autoencoder"]
    assert batch["value"] == CYCLES and "batch 8," in batch["context"]
    assert rows["batch_inferences_per_second.ecp5-85k.autoencoder"]["value"] == pytest.approx(
        112.5e6 / CYCLES)
    assert "batch 16," in rows["cycles_per_image.ecp5-85k-packed.autoencoder"]["context"]
    assert "cycles_per_image.ecp5-85k.resnet8" not in rows
    assert rows["fmax_mhz.ecp5-85k"]["met"] is True
    assert rows["fmax_mhz.ecp5-85k"]["goal"] == ">= 110"
    assert rows["dsps.ecp5-85k"]["value"] == 150
    context = rows["cycles.ecp5-85k.resnet8"]["context"]
    assert all(text in context for text in ("0x08100810", "150 DSPs", "112.5 MHz", SHA[:12]))


def test_the_networks_of_the_chip_run_on_both_targets(played):
    rows = measured()
    assert {name for name in rows if name.startswith("cycles.")} == {
        f"cycles.{target}.{name}" for target in (PLAIN, PACKED) for name in accelerator.ON_CHIP
    } | {"cycles.zynq-7020.resnet18"}
    for target, goals in accelerator.MOST_CYCLES.items():
        assert set(goals) == set(accelerator.ON_CHIP)
        for name, most in goals.items():
            assert rows[f"cycles.{target}.{name}"]["goal"] == f"<= {most}"
    assert rows[f"utilisation.{PACKED}.resnet8"]["value"] == pytest.approx(
        rows[f"utilisation.{PLAIN}.resnet8"]["value"] / 2)


def test_both_designs_have_their_own_report(played, tmp_path):
    (tmp_path / "packed.json").write_text(json.dumps(synthesis(target=PACKED, dsps=152,
                                                               fmax_mhz=100.0)))
    rows = measured("--networks", "ds_cnn", "--synthesis", "report.json,packed.json")
    macs = [rows[f"mac_per_dsp_cycle.{name}.ds_cnn"]["value"] for name in (PLAIN, PACKED)]
    assert macs[0] / macs[1] == pytest.approx(152 / 150)
    assert rows[f"inferences_per_second.{PACKED}.ds_cnn"]["value"] == 100e6 / CYCLES
    assert rows[f"dsps.{PACKED}"]["value"] == 152
    page = Path("out/accelerator.md").read_text().splitlines()
    ours = [line for line in page if line.startswith("| ds_cnn | ") and "published" not in line]
    assert ours[0].startswith("| ds_cnn | **Lockstep ecp5-85k** | 150 | 112.5 | 22,500 |")
    assert ours[1].startswith("| ds_cnn | **Lockstep ecp5-85k-packed** | 152 | 100.0 | 20,000 |")
    assert page.index(ours[1]) == page.index(ours[0]) + 1


def test_the_floors_are_those_of_the_program_that_ran(played, capsys):
    rows, printed = measured("--networks", "resnet8,resnet18"), capsys.readouterr().err
    for target, name in ((PLAIN, "resnet8"), (PACKED, "resnet8"), ("zynq-7020", "resnet18")):
        least = floors(compile_program(played, get_target(target)))
        found = {what: rows.get(f"floor.{what}.{target}.{name}") for what in (
            "array", "lanes", "vector", "weight_banks", "weight_ports", "external")}
        assert found.pop("external") is None or target == "zynq-7020"
        for what, item in found.items():
            assert item["value"] == getattr(least, what) and item["unit"] == "cycles"
            assert target in item["context"] and f"bound by {least.bound}" in item["context"]
        share = rows[f"cycles_over_floor.{target}.{name}"]["value"]
        assert share == pytest.approx(CYCLES / least.cycles)
        assert f"array {least.array:,}, lanes" in printed
        assert f"bound by {least.bound}, {share:.3f} times" in printed
    page = Path("out/accelerator.md").read_text()
    least = floors(compile_program(played, get_target(PLAIN)))
    assert (f"| resnet8 | ecp5-85k | 5,000 | {least.array:,} | {least.lanes:,} | {least.vector:,} "
            f"| {least.weight_banks:,} | {least.weight_ports:,} |  | {least.bound} "
            f"| {CYCLES / least.cycles:.3f} |") in page
    assert "| network | target | cycles | array | lanes |" in page


def test_the_page_names_the_largest_floor():
    def item(name, value):
        return row(name, value, "cycles", "python flows/bench.py accelerator")
    rows = [item(f"{name}.t.n", value) for name, value in (
        ("cycles", 40), ("floor.array", 9), ("floor.lanes", 20), ("floor.external", 10),
        ("cycles_over_floor", 2))]
    page = accelerator.page("accelerator", [*rows, item("cycles.u.n", 50)])
    assert ("| n | t | 40 | 9 | 20 | 10 | lanes | 2.000 |  |\n"
            "| n | u | 50 |  |  |  |  |  |  |\n") in page


def test_the_summary_shows_targets_side_by_side():
    rows = [{"name": name, "value": value} for name, value in (
        ("cycles.t.n", 4000), ("mac_per_dsp_cycle.t.n", 1.5), ("inferences_per_second.t.n", 1234),
        ("floor.array.t.n", 9), ("floor.lanes.t.n", 20), ("cycles.u.n", 50), ("cycles.u.o", 7),
        ("published.mac_per_dsp_cycle.a.n", 0.5), ("published.mac_per_dsp_cycle.b.n", 0.75),
        ("published.inferences_per_second.c.n", 9))]
    assert summary(rows) == (
        "| network | `t` | `u` | bound by | published, at most |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| n | 4,000 cycles, 1.50, 1,234/s | 50 cycles | lanes | 0.75 |\n"
        "| o |  | 7 cycles |  |  |\n")


def test_fewer_cycles_than_a_floor_are_no_figure(played, monkeypatch, capsys):
    """A record that counts too much is found by the first run."""
    right = MatMulInstruction.cost

    def wrong(self, f, target):
        cost = right(self, f, target)
        return replace(cost, slots=1000 * cost.slots)
    monkeypatch.setattr(MatMulInstruction, "cost", wrong)
    assert bench.main(["accelerator", "-o", "out", "--networks", "resnet8"]) == 1
    assert re.search("error: resnet8 on ecp5-85k: 5,000 cycles are fewer than the [0-9,]+ of the "
                     "floor 'array'", capsys.readouterr().err)
    assert not Path("out").exists()


def test_peers_stand_beside_and_are_marked(played):
    rows = measured("--synthesis", "report.json", "--networks", "resnet8,ds_cnn")
    published = {name: row for name, row in rows.items() if name.startswith("published.")}
    assert "published.mac_per_dsp_cycle.zedboard.resnet8" in published
    assert "published.mac_per_dsp_cycle.pynq-z2.resnet8" not in published  # DSPs unknown
    assert published["published.inferences_per_second.pynq-z2.resnet8"]["value"] == 131
    assert all("published, not measured here" in row["context"] for row in published.values())
    page = Path("out/accelerator.md").read_text()
    assert "| ds_cnn | fpgaConvNet v1.1, ZedBoard (published) | 188 | 143.0 | 3,087 |" in page
    assert "| resnet8 | **Lockstep ecp5-85k** | 150 | 112.5 | 22,500 |" in page
    assert page.count("| resnet8 | fpgaConvNet v1.1, ZedBoard (published) |") == 1
    assert "| cycles.ecp5-85k.resnet8 | 5,000 | cycles | <= 110000 | yes |" in page
    assert "published." not in page
    assert page.startswith("# accelerator\n\n| network | design |")
    assert "\n`python flows/bench.py accelerator --networks resnet8,ds_cnn`\n" in page


@pytest.mark.parametrize("network, macs, board, figure", [
    ("resnet8", 12.5e6, "ZyBo", 0.41), ("resnet8", 12.5e6, "ZedBoard", 1.01),
    ("resnet8", 12.5e6, "ZC706", 0.86), ("ds_cnn", 2.66e6, "ZyBo", 0.16),
    ("ds_cnn", 2.66e6, "ZedBoard", 0.31), ("mobilenet_v1_025", 7.5e6, "ZedBoard", 0.04),
    ("mobilenet_v1_025", 7.5e6, "ZC706", 0.09)])
def test_peers_figures_are_those_published(network, macs, board, figure):
    peer = next(peer for peer in PEERS[network] if peer.board == board)
    assert round(peer.mac_per_dsp_cycle(macs), 2) == figure


def test_without_a_routed_design_the_cycles_are_still_measured(played, capsys):
    rows = measured("--networks", "resnet8")
    assert {f"{figure}.{target}.resnet8" for figure in ("cycles", "utilisation")
            for target in (PLAIN, PACKED)} == {
        name for name in rows if not name.startswith(("published.", "floor.", "cycles_over"))}
    assert "not routed" in rows["cycles.ecp5-85k.resnet8"]["context"]
    error = capsys.readouterr().err
    assert "skipped for ecp5-85k: MACs per DSP and inferences per second" in error
    page = Path("out/accelerator.md").read_text()
    assert "| resnet8 | **Lockstep ecp5-85k** |  |  |  |  |" in page


def test_training_products_run_by_default_and_by_name(played):
    assert "utilisation.training.ecp5-85k" in measured()
    assert "utilisation.training.ecp5-85k" not in measured("--networks", "resnet8")
    assert not any(name.startswith("utilisation.training")
                   for name in measured("--target", "zynq-7020"))
    rows = measured("--networks", "training", "--target", "zynq-7020")
    assert set(rows) == {"utilisation.training.zynq-7020"}


def test_a_missed_goal_is_not_met(played, monkeypatch):
    monkeypatch.setitem(accelerator.MOST_CYCLES, PACKED, {"resnet8": CYCLES - 1})
    rows = measured("--networks", "resnet8")
    assert [rows[f"cycles.{name}.resnet8"]["met"] for name in (PLAIN, PACKED)] == [True, False]


def test_another_target_runs_what_it_can(played):
    rows = measured("--target", "sim-8x8")
    assert {name for name in rows if name.startswith("cycles.")} == {
        f"cycles.sim-8x8.{name}" for name in accelerator.ON_CHIP}
    assert rows["cycles.sim-8x8.resnet8"]["goal"] is None  # they are those of a design
    rows = measured("--target", "sim-8x8-axi")
    assert "sim-8x8-axi" in rows["cycles.sim-8x8-axi.resnet18"]["context"]
    rows = measured("--target", PLAIN)
    assert not any(PACKED in name for name in rows)
    assert {"cycles.zynq-7020.resnet18", f"utilisation.training.{PLAIN}"} <= set(rows)


def test_a_stale_report_counts_for_nothing(played, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(accelerator, "simulated_sha256", lambda target: "cd" * 32)
    with pytest.raises(LockstepError, match="report.json is of other hardware than the ecp5-85k"):
        measured("--synthesis", "report.json")
    (tmp_path / "build/synth").mkdir(parents=True)
    (tmp_path / "build/synth/report.json").write_text(json.dumps(synthesis()))
    assert "mac_per_dsp_cycle.ecp5-85k.resnet8" not in measured()
    assert "is of other hardware" in capsys.readouterr().err


def test_a_design_that_does_not_fit_has_no_figures(played, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(synthesis(fits=False, fmax_mhz=None)))
    with pytest.raises(LockstepError, match="report.json is of a design larger than its device"):
        measured("--synthesis", "report.json")


def test_a_network_beyond_the_chip_runs_from_external_memory(played, tmp_path):
    (tmp_path / "zynq.json").write_text(json.dumps(synthesis(
        target="zynq-7020", device="xc7z020", fmax_mhz=None, goal_mhz=None, dsps=148)))
    rows = measured("--networks", "resnet8,resnet18", "--synthesis", "report.json,zynq.json")
    assert rows["utilisation.zynq-7020.resnet18"]["goal"] == ">= 0.87"
    assert rows["utilisation.zynq-7020.resnet18"]["met"] is False
    assert "zynq-7020" in rows["utilisation.zynq-7020.resnet18"]["context"]
    assert "no clock" in rows["utilisation.zynq-7020.resnet18"]["context"]
    assert "mac_per_dsp_cycle.zynq-7020.resnet18" in rows
    assert "inferences_per_second.zynq-7020.resnet18" not in rows
    assert "fmax_mhz.zynq-7020" not in rows


def test_other_bits_than_goldens_are_an_error(played, monkeypatch, capsys):
    def simulate(program, x, image):
        result = np.array(run(program, x)[program.outputs[0]])
        result.flat[0] ^= 1
        return result, CYCLES
    monkeypatch.setattr(accelerator, "simulate", simulate)
    assert bench.main(["accelerator", "-o", "out"]) == 1
    assert "error: resnet8 on ecp5-85k: 1 of " in capsys.readouterr().err


def test_hardware_that_stops_is_an_error(played, monkeypatch, tmp_path, capsys):
    def simulate(program, x, image):
        raise SimulationFailure("resnet8 on ecp5-85k: the accelerator stopped with error WATCHDOG")
    monkeypatch.setattr(accelerator, "simulate", simulate)
    assert bench.main(["accelerator", "-o", "out"]) == 1
    assert "stopped with error WATCHDOG" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments, message", [
    (["--networks", "resnet9"], "Unknown network 'resnet9'; known: resnet8, ds_cnn"),
    (["--target", "ecp6"], "Unknown target 'ecp6'"),
    (["--target", "ecp5-85k,ecp5-85k-packed"], "Unknown target 'ecp5-85k,ecp5-85k-packed'"),
    (["--synthesis", "nothing.json"], "nothing.json: No such file"),
    (["--synthesis", "bad.json"], "bad.json is no report of flows/synth.py"),
])
def test_bad_options(played, tmp_path, arguments, message):
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(LockstepError, match=message):
        bench.main(["accelerator", "-o", "out", *arguments])
