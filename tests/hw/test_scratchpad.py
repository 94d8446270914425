"""Memories: byte enables, latency, and the fields of the parameter memory."""

import random

import pytest
from amaranth.sim import Simulator

from hw.scratchpad import PARAMETER_LAYOUT, Bank, ParameterMemory, WordMemory


def run(dut, script):
    async def testbench(ctx):
        await script(ctx)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(testbench)
    sim.run()


@pytest.mark.parametrize(("depth", "word_bytes"), [(16, 2), (10, 5), (8, 16)])
def test_bank_writes_the_enabled_bytes_alone(depth, word_bytes):
    dut, rng = Bank(depth=depth, word_bytes=word_bytes), random.Random(depth)
    cells = [[0] * word_bytes for _ in range(depth)]
    expected, seen = [], []

    async def script(ctx):
        for _ in range(200):
            address, read = rng.randrange(depth), rng.randrange(depth)
            word = [rng.randrange(-128, 128) for _ in range(word_bytes)]
            enable = rng.randrange(1 << word_bytes)
            if read == address:  # what a read gives while its word is written is left open
                enable = 0
            ctx.set(dut.read_address, read)
            ctx.set(dut.write_address, address)
            ctx.set(dut.write_data, word)
            ctx.set(dut.write_enable, enable)
            expected.append(list(cells[read]))
            for k in range(word_bytes):
                if enable >> k & 1:
                    cells[address][k] = word[k]
            await ctx.tick()
            seen.append([ctx.get(dut.read_data[k]) for k in range(word_bytes)])

    run(dut, script)
    assert seen[Bank.LATENCY - 1:] == expected[:len(expected) - Bank.LATENCY + 1]


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
    values = [[{"bias": rng.randrange(-1 << 31, 1 << 31), "multiplier": rng.randrange(1 << 31),
                "shift": rng.randrange(64)} for _ in range(lanes)] for _ in range(4)]

    async def script(ctx):
        ctx.set(dut.write_enable, 1)
        for address, word in enumerate(values):
            for lane, fields in enumerate(word):
                for index, name in enumerate(fields):
                    ctx.set(dut.write_address, address)
                    ctx.set(dut.write_lane, lane)
                    ctx.set(dut.write_field, index)
                    ctx.set(dut.write_data, fields[name] & 0xFFFFFFFF)
                    await ctx.tick()
        ctx.set(dut.write_enable, 0)
        for address, word in enumerate(values):
            ctx.set(dut.read_address, address)
            await ctx.tick().repeat(ParameterMemory.LATENCY)
            for lane, fields in enumerate(word):
                assert {name: ctx.get(dut.read_data[lane][name])
                        for name, _ in PARAMETER_LAYOUT} == fields

    run(dut, script)
