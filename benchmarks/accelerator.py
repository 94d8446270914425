"""accelerator: cycles and utilisation of whole networks on the RTL of the routed targets.

Each network (random int8 weights of the right shapes) is compiled for a target, one image runs on
the simulated RTL from start to done, and the result must be golden's. Beside the cycles stand the
floors of the same program (hw.compiler.scheduling.floors). With the report of flows/synth.py of the
same Verilog come MACs per DSP and cycle (all DSPs of the routed design counted) and inferences per
second at the routed clock; without it the cycles still do.

Rows of a network are called FIGURE.TARGET.NETWORK, published ones published.FIGURE.BOARD.NETWORK.
"""

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.accelerator_page import page
from benchmarks.peers import PEERS
from benchmarks.rows import row
from benchmarks.training_products import training_rows
from cli.rtl_backend import SimulationFailure
from golden.errors import LockstepError
from golden.program import Program
from hw.compiler import compile_program
from hw.compiler.scheduling.floors import Floors, floors
from hw.targets import get_target

__all__ = ["DEFAULT_TARGETS", "MOST_CYCLES", "ON_CHIP", "measure", "page"]

ON_CHIP = ("resnet8", "ds_cnn", "mobilenet_v1_025", "autoencoder")
EXTERNAL = ("resnet18",)  # larger than the memory of a chip
TRAINING = "training"  # the products of a training step, in place of a network
DEFAULT_TARGETS = ("ecp5-85k", "ecp5-85k-packed")  # training: on the first one
EXTERNAL_TARGET = "zynq-7020"
DEFAULT_SYNTHESIS = ",".join(f"build/{folder}/report.json"
                             for folder in ("synth", "synth-packed", "synth-zynq"))
MOST_CYCLES = {
    "ecp5-85k": {"resnet8": 110_000, "ds_cnn": 30_000, "mobilenet_v1_025": 98_000,
                 "autoencoder": 12_500},
    "ecp5-85k-packed": {"resnet8": 53_000, "ds_cnn": 11_200, "mobilenet_v1_025": 60_000,
                        "autoencoder": 4_000}}
LEAST_UTILISATION = {"resnet18": 0.87}
_BESIDE = "depthwise layers run beside the array and count, so utilisation can pass 1"
#: Networks whose images may share an instruction run as many as the array has rows, too.
BATCHED = ("autoencoder",)
NOTES = {"ds_cnn": _BESIDE, "mobilenet_v1_025": _BESIDE,
         "resnet18": "AXI4, 128 bits, 40 cycles latency, all transfers counted"}
EXTERNAL_MEMORY = {"axi_read_latency": 40, "axi_write_latency": 40}  # plusargs of sim
MOST_DSPS = {"ecp5-85k": 156, "ecp5-85k-packed": 156, "zynq-7020": 220}


class Disagreement(SimulationFailure):
    """The RTL gives other bits than golden, or a floor is above its cycles: no figure."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One run of one network on the RTL. batch: its images; cycles: from start to done; macs:
    useful ones of an image; floors: of the program that ran.
    """

    network: str
    target: str
    batch: int
    macs: int
    cycles: int
    floors: Floors
    utilisation: float
    seconds: float


def measure(arguments: argparse.Namespace, command: str) -> list[dict]:
    """The rows of this suite; each part of it is one function that gives some.

    By default the networks of the chip run on all DEFAULT_TARGETS and the training products on the
    first of them; with ``--target``, on that one. ``--networks`` has "training" for the training
    products.
    """
    targets = [get_target(name) for name in
               ([arguments.target] if arguments.target else DEFAULT_TARGETS)]
    if arguments.networks:
        names = arguments.networks.split(",")
    elif targets[0].name == DEFAULT_TARGETS[0]:
        names = [*ON_CHIP, *EXTERNAL, TRAINING]
    else:
        names = [*ON_CHIP, *(EXTERNAL if targets[0].bus_bits else ())]
    networks = [name for name in names if name != TRAINING]
    rows = networks_rows(arguments, networks, targets, command) if networks else []
    return rows + (training_rows(targets[0], command) if TRAINING in names else [])


def networks_rows(arguments: argparse.Namespace, names: list[str], targets: list,
                  command: str) -> list[dict]:
    """Rows of whole networks, batch 1, and of the routed designs they ran on."""
    known = (*ON_CHIP, *EXTERNAL, TRAINING)
    for name in names:
        if name not in known:
            raise LockstepError(f"Unknown network {name!r}; known: {', '.join(known)}")
    with_bus = [target for target in targets if target.bus_bits] or [get_target(EXTERNAL_TARGET)]
    runs = {name: targets if name in ON_CHIP else with_bus for name in names}
    used = {target.name: target for on in runs.values() for target in on}
    synthesized = {name: synthesis_report(target, arguments.synthesis)
                   for name, target in used.items()}
    rows = []
    for name, on in runs.items():
        for target in on:
            measured = _measure_network(name, target)
            print(_progress(measured), file=sys.stderr, flush=True)
            rows += _network_rows(measured, synthesized[target.name], target, command)
            if name in BATCHED:
                measured = _measure_network(name, target, target.rows)
                print(_progress(measured), file=sys.stderr, flush=True)
                rows += _batch_rows(measured, synthesized[target.name], target, command)
        rows += _published_rows(name, measured.macs, command)
    for name, report in synthesized.items():
        rows += _design_rows(report, used[name]) if report else []
    return rows


def _progress(measured: Measurement) -> str:
    least = measured.floors
    each = ", ".join(f"{what} {cycles:,}" for what, cycles in asdict(least).items() if cycles)
    images = f", {measured.batch} images" if measured.batch > 1 else ""
    return (f"{measured.network} on {measured.target}{images}: {measured.cycles:,} cycles, "
            f"{measured.utilisation:.1%}, as golden; floors: {each}; bound by {least.bound}, "
            f"{measured.cycles / least.cycles:.3f} times; {measured.seconds:.0f} s")


def synthesis_report(target, paths: str | None) -> dict | None:
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


def simulate(program, x, image) -> tuple[np.ndarray, int]:
    """(the last tensor, cycles from start to done) of one run of a compiled image on the RTL."""
    from sim import rtl
    from sim.runner import SimulationError

    target, reports = image.target, []
    memory = {"plusargs": EXTERNAL_MEMORY} if target.bus_bits else {}
    try:
        trace = rtl.run(program, x, target=target, image=image, trace=False, report=reports,
                        **memory)
    except SimulationError as error:
        raise SimulationFailure(f"{program.name} on {target.name}: {error}") from error
    return trace[program.outputs[0]], reports[0].cycles


def _measure_network(name: str, target, batch: int = 1) -> Measurement:
    from cli.inputs import load_inputs
    from golden.program.interpreter import run
    from golden.program.verify import verify

    program = network_program(name)
    x = load_inputs(program, None, batch)
    expected = run(program, x)[program.outputs[0]]
    image = compile_program(program, target, batch)
    begin = time.perf_counter()
    result, cycles = simulate(program, x, image)
    if result.shape != expected.shape or (result != expected).any():
        n = int((result != expected).sum()) if result.shape == expected.shape else "all"
        raise Disagreement(f"{name} on {target.name}: {n} of {expected.size} outputs of the RTL "
                           f"differ from golden's (to look closer: flows/sim.py)")
    macs, least = verify(program).macs, floors(image)
    if cycles < least.cycles:
        raise Disagreement(f"{name} on {target.name}: {cycles:,} cycles are fewer than the "
                           f"{least.cycles:,} of the floor '{least.bound}': an instruction's "
                           f"record is wrong")
    return Measurement(network=name, target=target.name, batch=batch, macs=macs, cycles=cycles,
                       floors=least, utilisation=batch * macs / (target.n_macs * cycles),
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


def _context(measured: Measurement, report: dict | None, target) -> str:
    """What ran where, in words."""
    name = measured.network
    design = _design(report, target) if report else f"{_configured(target)}, not routed"
    return (f"{design}; {name}, {measured.macs / 1e6:.2f} M MACs, random int8 weights, batch "
            f"{measured.batch}, RTL from start to done, the output as golden's, {target.n_macs} "
            f"MACs per cycle" + (f" ({NOTES[name]})" if name in NOTES else ""))


def _batch_rows(measured: Measurement, report: dict | None, target, command: str) -> list[dict]:
    """Rows of a batch of images of one network on one target."""
    label, context = f"{target.name}.{measured.network}", _context(measured, report, target)
    cycles = measured.cycles / measured.batch
    rows = [row(f"cycles_per_image.{label}", cycles, "cycles", command, context=context)]
    if report and report["fmax_mhz"] is not None:
        rows.append(row(f"batch_inferences_per_second.{label}", report["fmax_mhz"] * 1e6 / cycles,
                        "1/s", command, context=context))
    return rows


def _network_rows(measured: Measurement, report: dict | None, target, command: str) -> list[dict]:
    """Rows of one network on one target."""
    name, cycles, least = measured.network, measured.cycles, measured.floors
    context = _context(measured, report, target)
    rows = []

    def add(figure, value, unit, goal=None, met=None, context=context):
        rows.append(row(f"{figure}.{target.name}.{name}", value, unit, command, goal=goal, met=met,
                        context=context))

    most = MOST_CYCLES.get(target.name, {}).get(name)
    utilisation = LEAST_UTILISATION.get(name)
    add("cycles", cycles, "cycles", *((f"<= {most}", cycles <= most) if most else ()))
    add("utilisation", measured.utilisation, "of the array",
        *((f">= {utilisation}", measured.utilisation >= utilisation) if utilisation else ()))
    if report:
        add("mac_per_dsp_cycle", measured.macs / (report["dsps"] * cycles), "MAC/DSP/cycle")
        if report["fmax_mhz"] is not None:
            add("inferences_per_second", report["fmax_mhz"] * 1e6 / cycles, "1/s")
    used = (f"{_configured(target)}; {name}, cycles below which the program cannot get, by what "
            f"its instructions use of each resource; bound by {least.bound}")
    for what, value in asdict(least).items():
        if what != "external" or target.bus_bits:
            add(f"floor.{what}", value, "cycles", context=used)
    add("cycles_over_floor", cycles / least.cycles, "of the largest floor", context=used)
    return rows


def _published_rows(name: str, macs: int, command: str) -> list[dict]:
    """Rows of what others published of one network."""
    rows = []
    for peer in PEERS.get(name, ()):
        context = f"published, not measured here: {name}, {peer.design}, {peer.board}" + (
            f", {peer.dsps} DSPs at {peer.mhz} MHz" if peer.dsps else "")
        label = f"{peer.board.lower()}.{name}"
        value = peer.mac_per_dsp_cycle(macs)
        if value is not None:
            rows.append(row(f"published.mac_per_dsp_cycle.{label}", value, "MAC/DSP/cycle",
                            command, context=context))
        rows.append(row(f"published.inferences_per_second.{label}", peer.inferences_per_second,
                        "1/s", command, context=context))
    return rows


def _configured(target) -> str:
    return f"{target.name} (configuration 0x{target.configuration_id:08x})"


def _design(report: dict, target) -> str:
    clock = "no clock: not placed" if report["fmax_mhz"] is None else (
        f"{report['fmax_mhz']} MHz at speed grade {report['speed_grade']}, median of "
        f"{len(report['seeds'])} seeds")
    return (f"{target.name} (configuration 0x{target.configuration_id:08x}, Verilog "
            f"{report['verilog_sha256'][:12]}) on {report['device']}: {report['dsps']} DSPs, "
            f"{report['luts']} LUTs, {report['brams']} block RAMs, {clock}")
