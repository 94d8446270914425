"""accelerator: cycles and utilisation of whole networks on the RTL of the routed target.

Each network (random int8 weights of the right shapes) is compiled for the target, one image runs
on the simulated RTL from start to done, and the result must be golden's. With the report of
flows/synth.py of the same Verilog come MACs per DSP and cycle (all DSPs of the routed design
counted) and inferences per second at the routed clock; without it the cycles still do.
"""

import argparse
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers import PEERS
from benchmarks.rows import results_page, row
from benchmarks.training_products import training_rows
from cli.rtl_backend import SimulationFailure
from golden.errors import LockstepError
from golden.program import Program

__all__ = ["MOST_CYCLES", "ON_CHIP", "measure", "page"]

ON_CHIP = ("resnet8", "ds_cnn", "mobilenet_v1_025", "autoencoder")
EXTERNAL = ("resnet18",)  # larger than the memory of a chip
TRAINING = "training"  # the products of a training step, in place of a network
DEFAULT_TARGET, EXTERNAL_TARGET = "ecp5-85k", "zynq-7020"
DEFAULT_SYNTHESIS = "build/synth/report.json,build/synth-zynq/report.json"
MOST_CYCLES = {"resnet8": 110_000, "ds_cnn": 30_000, "mobilenet_v1_025": 98_000,
               "autoencoder": 12_500}
LEAST_UTILISATION = {"resnet18": 0.87}
_BESIDE = "depthwise layers run beside the array and count, so utilisation can pass 1"
NOTES = {"autoencoder": "9,000 cycles are the goal beyond",
         "ds_cnn": _BESIDE, "mobilenet_v1_025": _BESIDE,
         "resnet18": "AXI4, 128 bits, 40 cycles latency, all transfers counted"}
EXTERNAL_MEMORY = {"axi_read_latency": 40, "axi_write_latency": 40}  # plusargs of sim
MOST_DSPS = {"ecp5-85k": 156, "ecp5-85k-packed": 156, "zynq-7020": 220}


class Disagreement(SimulationFailure):
    """The RTL gives other bits than golden: a finding, no figure."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One image of one network on the RTL. cycles: from start to done; macs: useful ones."""

    network: str
    target: str
    macs: int
    cycles: int
    utilisation: float
    seconds: float


def measure(arguments: argparse.Namespace, command: str) -> list[dict]:
    """The rows of this suite; each part of it is one function that gives some.

    The training products run by default on the default target, and where ``--networks`` has
    "training".
    """
    from hw.targets import get_target

    target = get_target(arguments.target or DEFAULT_TARGET)
    if arguments.networks:
        names = arguments.networks.split(",")
    elif target.name == DEFAULT_TARGET:
        names = [*ON_CHIP, *EXTERNAL, TRAINING]
    else:
        names = [*ON_CHIP, *(EXTERNAL if target.bus_bits else ())]
    networks = [name for name in names if name != TRAINING]
    rows = networks_rows(arguments, networks, command) if networks else []
    return rows + (training_rows(target, command) if TRAINING in names else [])


def networks_rows(arguments: argparse.Namespace, names: list[str], command: str) -> list[dict]:
    """Rows of whole networks, batch 1, and of the routed designs they ran on."""
    from hw.targets import get_target

    known = (*ON_CHIP, *EXTERNAL, TRAINING)
    for name in names:
        if name not in known:
            raise LockstepError(f"Unknown network {name!r}; known: {', '.join(known)}")
    chosen = get_target(arguments.target or DEFAULT_TARGET)
    targets = {name: chosen if name in ON_CHIP or chosen.bus_bits else
               get_target(EXTERNAL_TARGET) for name in names}
    routed = {target.name: routed_report(target, arguments.synthesis)
              for target in dict.fromkeys(targets.values())}
    rows = []
    for name in names:
        measurement = _measure_network(name, targets[name])
        print(f"{name} on {measurement.target}: {measurement.cycles:,} cycles, "
              f"{measurement.utilisation:.1%}, as golden; {measurement.seconds:.0f} s",
              file=sys.stderr, flush=True)
        rows += _network_rows(measurement, routed[measurement.target], targets[name], command)
    for name, report in routed.items():
        rows += _design_rows(report, get_target(name)) if report else []
    return rows


def routed_report(target, paths: str | None) -> dict | None:
    """The report of flows/synth.py for exactly the RTL that is simulated, or None with a line why.

    paths: report.json files, comma-separated; None: where `make synth` puts them. A report that
    was asked for and does not fit is an error.
    """
    for path in map(Path, (paths or DEFAULT_SYNTHESIS).split(",")):
        try:
            report = json.loads(path.read_text())
            named, fits = (report["target"], report["top"]), report["fits"]
        except OSError as error:
            if paths:
                raise LockstepError(f"{path}: {error.strerror}") from None
            continue
        except (ValueError, KeyError, TypeError):
            raise LockstepError(f"{path} is no report of flows/synth.py") from None
        if named != (target.name, "accelerator"):
            continue
        if not fits:
            problem = f"{path} is of a design larger than its device"
        elif report["verilog_sha256"] != simulated_sha256(target):
            problem = (f"{path} is of other hardware than the {target.name} of these sources: run "
                       f"{report['command']} again")
        else:
            return report
        if paths:
            raise LockstepError(problem)
        print(problem, file=sys.stderr)
    print(f"skipped for {target.name}: MACs per DSP and inferences per second, there is no report "
          f"of the routed design (python flows/synth.py --target {target.name} -o DIR, then "
          f"--synthesis DIR/report.json)", file=sys.stderr)
    return None


def simulated_sha256(target) -> str:
    """Of the Verilog that sim.rtl simulates for a target."""
    from sim.rtl import accelerator_verilog

    return hashlib.sha256(accelerator_verilog(target).encode()).hexdigest()


def network_program(name: str) -> Program:
    """The network as a golden Program."""
    from benchmarks import networks

    return getattr(networks, name)()


def simulate(program, x, target) -> tuple[np.ndarray, int]:
    """(the last tensor, cycles from start to done) of one image on the RTL."""
    from sim import rtl
    from sim.runner import SimulationError

    reports: list = []
    memory = {"plusargs": EXTERNAL_MEMORY} if target.bus_bits else {}
    try:
        trace = rtl.run(program, x, target=target, trace=False, report=reports, **memory)
    except SimulationError as error:
        raise SimulationFailure(f"{program.name} on {target.name}: {error}") from error
    return trace[program.outputs[0]], reports[0].cycles


def _measure_network(name: str, target) -> Measurement:
    from cli.inputs import load_inputs
    from golden.program.interpreter import run
    from golden.program.verify import verify

    program = network_program(name)
    x = load_inputs(program, None, 1)
    expected = run(program, x)[program.outputs[0]]
    begin = time.perf_counter()
    result, cycles = simulate(program, x, target)
    if result.shape != expected.shape or (result != expected).any():
        n = int((result != expected).sum()) if result.shape == expected.shape else "all"
        raise Disagreement(f"{name} on {target.name}: {n} of {expected.size} outputs of the RTL "
                           f"differ from golden's (to look closer: flows/sim.py)")
    macs = verify(program).macs
    return Measurement(network=name, target=target.name, macs=macs, cycles=cycles,
                       utilisation=macs / (target.n_macs * cycles),
                       seconds=time.perf_counter() - begin)


def _design_rows(report: dict, target) -> list[dict]:
    """fmax and DSPs of a routed design."""
    rows, context = [], _design(report, target)
    if report["fmax_mhz"] is not None:
        goal = report["goal_mhz"]
        rows.append(row(f"fmax_mhz.{target.name}", report["fmax_mhz"], "MHz", report["command"],
                        goal=None if goal is None else f">= {goal}",
                        met=None if goal is None else report["fmax_mhz"] >= goal,
                        context=context))
    most = MOST_DSPS.get(target.name)
    rows.append(row(f"dsps.{target.name}", report["dsps"], "DSP", report["command"],
                    goal=None if most is None else f"<= {most}",
                    met=None if most is None else report["dsps"] <= most, context=context))
    return rows


def _network_rows(measured: Measurement, report: dict | None, target, command: str) -> list[dict]:
    """Rows of one network, and beside them the published ones."""
    name, cycles = measured.network, measured.cycles
    design = _design(report, target) if report else (
        f"{target.name} (configuration 0x{target.configuration_id:08x}), not routed")
    context = (f"{design}; {name}, {measured.macs / 1e6:.2f} M MACs, random int8 weights, batch 1, "
               f"RTL from start to done, the output as golden's, {target.n_macs} MACs per cycle"
               + (f" ({NOTES[name]})" if name in NOTES else ""))
    rows = []

    def add(figure, value, unit, goal=None, met=None):
        rows.append(row(f"{figure}.{name}", value, unit, command, goal=goal, met=met,
                        context=context))

    most, least = MOST_CYCLES.get(name), LEAST_UTILISATION.get(name)
    add("cycles", cycles, "cycles", *((f"<= {most}", cycles <= most) if most else ()))
    add("utilisation", measured.utilisation, "of the array",
        *((f">= {least}", measured.utilisation >= least) if least else ()))
    if report:
        add("mac_per_dsp_cycle", measured.macs / (report["dsps"] * cycles), "MAC/DSP/cycle")
        if report["fmax_mhz"] is not None:
            add("inferences_per_second", report["fmax_mhz"] * 1e6 / cycles, "1/s")
    for peer in PEERS.get(name, ()):
        where = f"{peer.design}, {peer.board}"
        published = f"published, not measured here: {name}, {where}" + (
            f", {peer.dsps} DSPs at {peer.mhz} MHz" if peer.dsps else "")
        label = f"{name}.{peer.board.lower()}"
        value = peer.mac_per_dsp_cycle(measured.macs)
        if value is not None:
            rows.append(row(f"published.mac_per_dsp_cycle.{label}", value, "MAC/DSP/cycle",
                            command, context=published))
        rows.append(row(f"published.inferences_per_second.{label}", peer.inferences_per_second,
                        "1/s", command, context=published))
    return rows


def _design(report: dict, target) -> str:
    clock = "no clock: not placed" if report["fmax_mhz"] is None else (
        f"{report['fmax_mhz']} MHz at speed grade {report['speed_grade']}, median of "
        f"{len(report['seeds'])} seeds")
    return (f"{target.name} (configuration 0x{target.configuration_id:08x}, Verilog "
            f"{report['verilog_sha256'][:12]}) on {report['device']}: {report['dsps']} DSPs, "
            f"{report['luts']} LUTs, {report['brams']} block RAMs, {clock}")


def page(suite: str, rows: list[dict]) -> str:
    """The results page: ours beside the published ones, then every measured row."""
    measured = [item for item in rows if not item["name"].startswith("published.")]
    values = {item["name"]: item for item in rows}
    lines = ["| network | design | DSPs | MHz | inferences/s | MAC/DSP/cycle |",
             "| --- | --- | ---: | ---: | ---: | ---: |"]
    for name in (item["name"].removeprefix("cycles.") for item in measured
                 if item["name"].startswith("cycles.")):
        design = values[f"cycles.{name}"]["context"].partition(" ")[0]
        figures = [values.get(key) for key in (
            f"dsps.{design}", f"fmax_mhz.{design}", f"inferences_per_second.{name}",
            f"mac_per_dsp_cycle.{name}")]
        lines.append(_line(name, f"**Lockstep {design}**",
                           *(item and item["value"] for item in figures)))
        for peer in PEERS.get(name, ()):
            per_dsp = values.get(f"published.mac_per_dsp_cycle.{name}.{peer.board.lower()}")
            lines.append(_line(name, f"{peer.design}, {peer.board} (published)", peer.dsps,
                               peer.mhz, peer.inferences_per_second,
                               per_dsp and per_dsp["value"]))
    text = results_page(suite, measured)
    head, _, rest = text.partition("\n\n")
    if not any(item["name"].startswith("cycles.") for item in measured):
        return text  # training products alone
    return "\n".join([head, "", *lines, "", rest])


def _line(name, design, dsps, mhz, inferences, per_dsp) -> str:
    def cell(value, form):
        return "" if value is None else format(value, form)
    return (f"| {name} | {design} | {cell(dsps, ',.0f')} | {cell(mhz, '.1f')} "
            f"| {cell(inferences, ',.0f')} | {cell(per_dsp, '.2f')} |")
