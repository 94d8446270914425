"""The array engine gives what the instruction-set model says, for random walks of its ports."""

from collections import deque

import numpy as np
import pytest

from hw.isa import FORMAT_WORDS, Feed, Format, Opcode, encode
from hw.machine import Machine
from hw.rtl.array.engine import ArrayEngine
from hw.rtl.memory.crossbar import Crossbar
from hw.targets import get_target
from sim.random_programs import random_parameters
from tests.hw.machine.test_machine_array import random_product
from tests.hw.simulate import component, run_testbench

pytestmark = pytest.mark.slow

#: With one tile of results and as many as there may be, close to each other and not.
TARGETS = [get_target(name) for name in ("sim-4x4", "array-3x4", "array-2x8", "array-6x8")]
OUT_BASE, OUT_STEP = 500, 9
DRAIN_CYCLES, WATCHDOG, ABORT_CYCLES = 400, 20000, 255
SLOT_CYCLES = 5  # from done to the next start, at least (hw.rtl.control.slot)


def operands(machine, requests):
    """What the crossbar answers to (port, valid, bank, address)."""
    answers, n_bytes = {}, machine.target.word_bytes
    for port, valid, bank, address in requests:
        content = np.append(machine.banks[bank].reshape(-1), np.zeros(n_bytes, np.int8))
        first = address if port == "a" else n_bytes * address
        answers[port] = content[first:first + n_bytes].tolist() if valid else [0] * n_bytes
    return answers


def run(machine, instructions, abort_at=None):
    """Items that the engine gives for instructions that follow each other at once.

    abort_at: the cycle of an abort. Behind it all instructions run from the first one on.
    """
    dut = component(ArrayEngine, machine.target)
    items = []

    async def testbench(ctx):
        waiting, todo, quiet, cycles = deque(), list(instructions), 0, 0
        ctx.set(dut.control.unit_ready, 1)
        idle, rest = True, 0
        while quiet < DRAIN_CYCLES:
            quiet = 0 if todo or not idle else quiet + 1
            aborts = abort_at is not None and abort_at <= cycles < abort_at + ABORT_CYCLES
            ctx.set(dut.control.abort, aborts)
            if aborts:
                todo, idle = list(instructions), True
                items.clear()
            assert not ctx.get(dut.control.error)
            cycles += 1
            assert cycles < WATCHDOG, "not done"
            starts = idle and bool(todo) and not aborts and not rest
            rest = max(0, rest - 1)
            ctx.set(dut.control.start, starts)
            if starts:
                ctx.set(dut.control.words, encode(**todo.pop(0))[:FORMAT_WORDS[Format.ARRAY]])
                idle = False
            if ctx.get(dut.control.done):
                idle, rest = True, SLOT_CYCLES - 1
            waiting.append([(port, ctx.get(bus.valid), ctx.get(bus.bank), ctx.get(bus.address))
                            for port, bus in (("a", dut.a), ("b", dut.b))])
            if len(waiting) > Crossbar.READ_LATENCY:
                for port, word in operands(machine, waiting.popleft()).items():
                    ctx.set(getattr(dut, port).data, word)
            if ctx.get(dut.items.valid):
                item = dut.items.payload
                items.append({name: ctx.get(item[name]) for name in (
                    "bank", "address", "group", "mask", "parameter", "plane", "wide",
                    "instruction_end")} | {"sums": [ctx.get(item.sums[k]) for k in range(4)]})
            await ctx.tick()

    run_testbench(dut, testbench)
    return items


def write(machine, f, items):
    """What the lanes make of items; returns (codes between the bounds, codes) of 8 bits."""
    lane, n_between, n_codes = np.arange(4), 0, 0
    for item in items:
        sums = np.array(item["sums"])
        if item["wide"]:
            codes = (sums >> 8 * item["plane"]).astype(np.int8)
        else:
            codes = machine.rescale(f, sums[None], np.array([[item["parameter"]]]))[0]
        mask = item["mask"] >> lane & 1 == 1
        if not item["wide"]:
            n_between += ((f["low"] < codes) & (codes < f["high"]))[mask].sum()
            n_codes += mask.sum()
        word = machine.banks[item["bank"]][item["address"]]
        word[4 * item["group"] + lane[mask]] = codes[mask]
    return np.array([n_between, n_codes])


def random_instruction(rng, target, shortest):
    """A product; with ``shortest`` its tiles follow each other as closely as can be."""
    inner, outer = (int(n) for n in rng.integers(1, 4, 2))
    f = random_product(rng, target) | {
        "opcode": Opcode.MATMUL, "wide": int(rng.integers(6) == 0), "out_base": OUT_BASE,
        "out_step": OUT_STEP, "out_x_count": int(rng.integers(0, 5)), "inner_count": inner,
        "outer_count": outer, "out_line_step": int(rng.integers(9, 12)), "plane_step": 2,
        "low": -100, "high": 99, "n_channels": int(rng.integers(1, inner * target.columns + 2)),
        "first_channel": int(rng.integers(4)) * int(rng.integers(2)),
        "n_pixels": int(rng.integers(1, outer * target.rows + 1)),
        "parameter_base": int(rng.integers(0, 20))}
    if shortest:
        f |= {"a_feed": Feed.DIRECT, "b_feed": Feed.DIRECT, "slots": int(rng.integers(2, 6)),
              "period_count": int(rng.integers(1, 3))}
    return f


@pytest.mark.parametrize(("target", "abort_at"), [pytest.param(
    target, abort_at, id=f"{target.name}-{abort_at}",
    marks=() if abort_at in (None, once) else pytest.mark.long)
    for target, once in zip(TARGETS, (70, 121, 180, None)) for abort_at in (None, 70, 121, 180)])
def test_array_engine_equals_the_model(target, abort_at):
    rng = np.random.default_rng(abort_at or 0)
    machine, other = Machine(target), Machine(target)
    for k in range(4):
        machine.banks[k][:] = rng.integers(-128, 128, machine.banks[k].shape)
        other.banks[k][:] = machine.banks[k]
    for m in machine, other:
        m.parameters[:] = random_parameters(np.random.default_rng(9), len(m.parameters))
    instructions = [random_instruction(rng, target, k % 4) for k in range(8)]
    items = run(machine, instructions, abort_at)
    n_changes, counts = 0, 0
    for f in instructions:
        end = 1 + next(k for k, item in enumerate(items) if item["instruction_end"])
        counts += write(other, f, items[:end])
        items = items[end:]
        before = machine.banks[2].copy()
        machine.execute(encode(**f))
        n_changes += not np.array_equal(machine.banks[2], before)
        assert np.array_equal(machine.banks[2], other.banks[2])
    assert counts[0] > counts[1] / 4  # results that tell of their sums
    assert not items and n_changes > len(instructions) // 2
