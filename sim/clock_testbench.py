"""The cocotb side of whole-network runs: start the clock, wait for `finished`, nothing else.

The clock runs inside the simulator's interface (impl="gpi"), so Python is out of the cycle loop;
memory images, inputs and results pass through plusargs and files of the SystemVerilog testbench.
"""

import json
import os
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import First, RisingEdge, Timer
from cocotb.utils import get_sim_time

PERIOD_NS = 10


@cocotb.test()
async def run_to_finish(dut):
    """Run until dut.finished rises; fails after $LOCKSTEP_MAX_CYCLES clock cycles."""
    max_cycles = int(os.environ["LOCKSTEP_MAX_CYCLES"])
    finished = RisingEdge(dut.finished)
    Clock(dut.clk, PERIOD_NS, "ns", impl="gpi").start()
    fired = await First(finished, Timer(PERIOD_NS * max_cycles, "ns"))
    cycles = int(get_sim_time("ns") // PERIOD_NS)
    Path(os.environ["LOCKSTEP_RUN_RESULT"]).write_text(json.dumps({"cycles": cycles}))
    assert fired is finished, f"not finished after {max_cycles} cycles"
