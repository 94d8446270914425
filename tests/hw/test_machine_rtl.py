"""The array engine gives what the instruction-set model says, for random walks of its ports."""

from collections import deque

import numpy as np
import pytest
from amaranth.sim import Simulator

from hw.array_engine import ArrayEngine
from hw.crossbar import Crossbar
from hw.isa import FORMAT_WORDS, Format, Opcode, encode
from hw.machine import Machine
from hw.targets import get_target
from tests.hw.test_machine_array import random_product

TARGET = get_target("sim-4x4")
OUT_BASE, OUT_STEP = 500, 9
DRAIN_CYCLES, WATCHDOG = 400, 20000


def operands(machine, requests):
    """What the crossbar answers to (port, valid, bank, address)."""
    answers = {}
    for port, valid, bank, address in requests:
        content = np.append(machine.banks[bank].reshape(-1), np.zeros(4, np.int8))
        first = address if port == "a" else 4 * address
        answers[port] = content[first:first + 4].tolist() if valid else [0] * 4
    return answers


def run(machine, instructions):
    """Items that the engine gives for instructions that follow each other at once."""
    dut = ArrayEngine(TARGET)
    items = []

    async def testbench(ctx):
        waiting, todo, quiet, cycles = deque(), list(instructions), 0, 0
        ctx.set(dut.unit_ready, 1)
        idle = True
        while quiet < DRAIN_CYCLES:
            quiet = 0 if todo or not idle else quiet + 1
            assert not ctx.get(dut.error)
            cycles += 1
            assert cycles < WATCHDOG, "not done"
            starts = idle and bool(todo)
            ctx.set(dut.start, starts)
            if starts:
                ctx.set(dut.words, encode(**todo.pop(0))[:FORMAT_WORDS[Format.ARRAY]])
                idle = False
            if ctx.get(dut.done):
                idle = True
            waiting.append([(port, ctx.get(bus.valid), ctx.get(bus.bank), ctx.get(bus.address))
                            for port, bus in (("a", dut.a), ("b", dut.b))])
            if len(waiting) > Crossbar.READ_LATENCY:
                for port, word in operands(machine, waiting.popleft()).items():
                    ctx.set(getattr(dut, port).data, word)
            if ctx.get(dut.item_valid):
                items.append({name: ctx.get(getattr(dut, f"item_{name}")) for name in (
                    "bank", "address", "group", "mask", "parameter", "plane", "wide",
                    "instruction_end")} | {"sums": [ctx.get(dut.item_sums[k]) for k in range(4)]})
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(testbench)
    sim.run()
    return items


def write(machine, f, items):
    """What the lanes make of items."""
    lane = np.arange(4)
    for item in items:
        sums = np.array(item["sums"])
        if item["wide"]:
            codes = (sums >> 8 * item["plane"]).astype(np.int8)
        else:
            codes = machine.rescale(f, sums[None], np.array([[item["parameter"]]]))[0]
        mask = item["mask"] >> lane & 1 == 1
        word = machine.banks[item["bank"]][item["address"]]
        word[4 * item["group"] + lane[mask]] = codes[mask]


@pytest.mark.parametrize("seed", range(2))
def test_array_engine_equals_the_model(seed):
    rng = np.random.default_rng(seed)
    machine, other = Machine(TARGET), Machine(TARGET)
    for k in range(4):
        machine.banks[k][:] = rng.integers(-128, 128, machine.banks[k].shape)
        other.banks[k][:] = machine.banks[k]
    for m in machine, other:
        m.parameters[:] = np.random.default_rng(9).integers(0, 1 << 31, m.parameters.shape)
        m.parameters[:, 2] = 40 + m.parameters[:, 2] % 5
    instructions = []
    for _ in range(8):
        instructions.append(random_product(rng, TARGET) | {
            "opcode": Opcode.MATMUL, "wide": int(rng.integers(2)), "out_base": OUT_BASE,
            "out_step": OUT_STEP, "out_x_count": int(rng.integers(0, 5)),
            "out_line_step": int(rng.integers(9, 12)), "plane_step": 2, "low": -100, "high": 99,
            "n_channels": int(rng.integers(1, 9)), "first_channel": int(rng.integers(0, 4)),
            "n_pixels": int(rng.integers(1, 13)), "parameter_base": int(rng.integers(0, 20))})
    items = run(machine, instructions)
    n_changes = 0
    for f in instructions:
        end = 1 + next(k for k, item in enumerate(items) if item["instruction_end"])
        write(other, f, items[:end])
        items = items[end:]
        before = machine.banks[2].copy()
        machine.execute(encode(**f))
        n_changes += not np.array_equal(machine.banks[2], before)
        assert np.array_equal(machine.banks[2], other.banks[2])
    assert not items and n_changes > len(instructions) // 2
