"""Runs one hardware unit on Verilator with random stalls on its streams.

    assert run_stream(Rescaler(op), items) == [op(x) for x in items]

The unit is any `wiring.Component` whose members are `stream.Signature`s (and, at most, constant
plain inputs). Payloads are Python values: an int, a dict for a struct, a list for an array.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from amaranth.hdl import Shape
from amaranth.lib import data, wiring

from hw.rtl.verilog import RESET, component_ports, convert
from sim.runner import BUILD_ROOT, build, run_cocotb

__all__ = ["component_verilog", "flat_ports", "pack", "run_stream", "run_streams", "unpack"]


def run_stream(component: wiring.Component, items: Sequence, *, n_outputs: int | None = None,
               **options) -> list:
    """Send `items` through `component.i` and return the payloads that leave `component.o`.

    Arguments: `n_outputs` to wait for (default: as many as items); `options` as in `run_streams`.
    """
    n_outputs = len(items) if n_outputs is None else n_outputs
    return run_streams(component, {"i": items}, {"o": n_outputs}, **options)["o"]


def run_streams(component: wiring.Component, inputs: Mapping[str, Sequence],
                n_outputs: Mapping[str, int], *, idle: float = 0.3, backpressure: float = 0.3,
                seed: int = 1, constants: Mapping[str, int] | None = None, watchdog: int = 1000,
                n_extra_cycles: int = 50, waves: Path | str | None = None,
                build_root: Path | str = BUILD_ROOT, report: dict | None = None) -> dict[str, list]:
    """Drive all streams of a component at once; returns the payloads of each output stream.

    Arguments: `inputs` the items of each input stream; `n_outputs` how many payloads to take
    from each output stream; `idle` and `backpressure` the share of cycles in which a source or
    a sink pauses; `constants` the values of plain inputs; `watchdog` the cycles without any
    transfer after which the run fails; `n_extra_cycles` run on to catch surplus outputs; `waves`
    a folder that receives dump.vcd; `report` receives "cycles" (from the first to the last
    transfer).

    Raises SimulationError for a hang, a surplus output, or an output that is withdrawn or
    changed while it waits for ready; ValueError for an item that does not fit its payload.
    """
    text, toplevel = component_verilog(component)
    members = component.signature.members
    shapes = {name: members[name].signature.members["payload"].shape
              for name in [*inputs, *n_outputs]}
    job = {
        "inputs": {name: [pack(shapes[name], item) for item in items]
                   for name, items in inputs.items()},
        "outputs": dict(n_outputs),
        "constants": {name: pack(members[name].shape, value)
                      for name, value in (constants or {}).items()},
        "idle": idle, "backpressure": backpressure, "seed": seed, "watchdog": watchdog,
        "n_extra_cycles": n_extra_cycles,
    }
    with tempfile.TemporaryDirectory(prefix="lockstep-unit-") as temporary:
        folder = Path(temporary)
        source = folder / f"{toplevel}.v"
        source.write_text(text)
        (folder / "job.json").write_text(json.dumps(job))
        built = build([source], toplevel, build_root=build_root, waves=waves is not None)
        run_cocotb(built, "sim.unit_testbench", seed=seed, waves=waves is not None,
                   run_dir=waves, env={"LOCKSTEP_UNIT_JOB": str(folder)})
        result = json.loads((folder / "result.json").read_text())
    if report is not None:
        report["cycles"] = result["cycles"]
    return {name: [unpack(shapes[name], bits) for bits in result["outputs"][name]]
            for name in n_outputs}


def component_verilog(component: wiring.Component, name: str | None = None) -> tuple[str, str]:
    """A component's Verilog, without paths of the machine, and its module's name."""
    name = name or type(component).__name__.lower()
    return convert(component, name), name


def flat_ports(component: wiring.Component) -> dict[str, tuple[str, Shape]]:
    """The Verilog ports of a component: name to ("in" or "out", shape); without clk and rst."""
    return {port: ("in" if flow == wiring.In else "out", signal.shape())
            for port, flow, signal in component_ports(component) if port != RESET}


def pack(shape, value) -> int:
    """The bits of a payload, fields LSB first; raises ValueError where a number does not fit."""
    if (layout := _layout(shape)) is not None:
        if isinstance(value, data.Const):
            return value.as_bits()
        keys = [key for key, _ in layout]
        given = list(value) if isinstance(value, Mapping) else list(range(len(value)))
        if set(given) != set(keys) and not isinstance(layout, data.UnionLayout):
            raise ValueError(f"Payload has fields {given}, not {keys}")
        bits = 0
        for key in given:
            field = layout[key]
            bits |= pack(field.shape, value[key]) << field.offset
        return bits
    shape = Shape.cast(shape)
    number = int(getattr(value, "value", value))  # of a constant or an enum member
    low, high = (-(1 << shape.width - 1), (1 << shape.width - 1) - 1) if shape.signed else (
        0, (1 << shape.width) - 1)
    if not low <= number <= high:
        raise ValueError(f"Payload must be in {low}..{high}, not {number}")
    return number & ((1 << shape.width) - 1)


def unpack(shape, bits: int) -> int | dict | list:
    """The payload of given bits: a dict for a struct, a list for an array, else an int."""
    if (layout := _layout(shape)) is not None:
        values = {key: unpack(field.shape, bits >> field.offset) for key, field in layout}
        return list(values.values()) if isinstance(layout, data.ArrayLayout) else values
    cast = Shape.cast(shape)
    number = bits & ((1 << cast.width) - 1)
    if cast.signed and number >> (cast.width - 1):
        number -= 1 << cast.width
    return number


def _layout(shape) -> data.Layout | None:
    try:
        return data.Layout.cast(shape)
    except TypeError:
        return None
