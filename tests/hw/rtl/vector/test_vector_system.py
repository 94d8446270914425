# amaranth: UnusedElaboratable=no
"""The vector engine on the real crossbar and lanes, which the array uses too."""

import random

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import connect

from hw.isa import FORMAT_WORDS, Format, Opcode, encode
from hw.rtl.lanes.lanes import Lanes
from hw.rtl.memory.crossbar import Crossbar
from hw.rtl.vector import VectorEngine
from hw.targets import Target
from tests.hw.rtl.vector.vector_model import Memories, all_fields, model
from tests.hw.simulate import run_testbench

TARGET = Target(name="system", rows=2, columns=4, bank_words=(64,) * 4, parameter_words=8)
WATCHDOG = 600
IMAGE = {"x_base": 3, "w_base": 5, "n_chunks": 2, "n_channels": 7, "width": 3, "height": 3,
         "line_step": 6, "out_width": 3, "out_height": 3, "left": 1, "top": 1, "kernel_width": 3,
         "kernel_height": 3, "stride_x": 1, "stride_y": 1, "dilation_x": 1, "dilation_y": 1,
         "out_step": 2, "pad": -9}
ADD = {"x_base": 3, "y_base": 20, "out_width": 5, "n_chunks": 2, "n_channels": 8, "out_step": 3,
       "left_shift": 18, "multiplier_0": 1 << 30, "multiplier_1": (1 << 30) + 12345,
       "multiplier_2": 1 << 30, "shift_0": 31, "shift_1": 32, "shift_2": 49, "zero_point_0": 5,
       "zero_point_1": -9}
MUL = {"x_base": 3, "y_base": 20, "out_width": 5, "n_chunks": 2, "n_channels": 7, "out_step": 3,
       "multiplier_2": 1 << 30, "shift_2": 37, "zero_point_0": 5, "zero_point_1": -9}
LOOKUP = {"x_base": 3, "out_width": 5, "n_chunks": 2, "n_channels": 8, "out_step": 2}
INSTRUCTIONS = [(Opcode.DEPTHWISE, IMAGE, 0), (Opcode.WINDOW, IMAGE, 18),
                (Opcode.MAXPOOL, IMAGE | {"pad": -128}, 36), (Opcode.ADD, ADD, 30),
                (Opcode.MUL, MUL, 33), (Opcode.MUL, MUL | {"broadcast": 1}, 48),
                (Opcode.LOOKUP, LOOKUP, 42),
                (Opcode.LINEAR, {"x_base": 7, "w_base": 10, "n_inputs": 10, "n_chunks": 2,
                                 "n_channels": 8}, 60)]


@pytest.mark.slow
def test_operations_on_the_real_memories_and_lanes():
    m = Module()
    m.submodules.vector = vector = VectorEngine(TARGET)
    m.submodules.crossbar = crossbar = Crossbar(TARGET)
    m.submodules.lanes = lanes = Lanes(TARGET)
    connect(m, vector.v, crossbar.v)
    connect(m, vector.w, crossbar.w)
    connect(m, vector.m, crossbar.m)
    connect(m, lanes.r, crossbar.r)
    connect(m, vector.vector, lanes.vector)
    connect(m, lanes.returned, vector.returned)
    rng = random.Random(0)
    memories = Memories(TARGET, n_parameters=TARGET.parameter_words * TARGET.lanes)

    async def fill(ctx):
        ctx.set(crossbar.h_write.enable, ~0)
        for bank, words in enumerate(memories.banks):
            for address, word in enumerate(words):
                ctx.set(crossbar.h_write.valid, 1)
                ctx.set(crossbar.h_write.bank, bank)
                ctx.set(crossbar.h_write.address, address)
                ctx.set(crossbar.h_write.data, [int(code) for code in word])
                await ctx.tick().until(crossbar.h_write.ready)
        ctx.set(crossbar.h_write.valid, 0)
        for channel in range(TARGET.parameter_words * TARGET.lanes):
            for index, values in enumerate((memories.bias, memories.multiplier, memories.shift)):
                ctx.set(lanes.parameters.valid, 1)
                ctx.set(lanes.parameters.address, 4 * channel + index)
                ctx.set(lanes.parameters.data, int(values[channel]) & 0xFFFFFFFF)
                await ctx.tick()
        ctx.set(lanes.parameters.valid, 0)

    async def read(ctx, bank, address):
        ctx.set(crossbar.h.valid, 1)
        ctx.set(crossbar.h.bank, bank)
        ctx.set(crossbar.h.address, address)
        await ctx.tick().until(crossbar.h.ready)
        ctx.set(crossbar.h.valid, 0)
        data, = await ctx.tick().sample(crossbar.h.data).until(crossbar.h.response_valid)
        return [data[k] for k in range(TARGET.columns)]

    async def testbench(ctx):
        nonlocal memories
        await fill(ctx)
        ctx.set(vector.control.unit_ready, 1)
        for opcode, fields, out_base in INSTRUCTIONS:
            f = all_fields(opcode, **{"x_bank": 0, "w_bank": 1, "y_bank": 3, "out_bank": 2,
                                      "low": -120, "high": 115, "zero_point": -4,
                                      "first_channel": 1} | fields | {"out_base": out_base})
            memories = model(memories, f)
            ctx.set(vector.control.words, encode(**f)[:FORMAT_WORDS[Format.VECTOR]])
            ctx.set(vector.control.start, 1)
            done = complete = cycles = 0
            while not complete:
                ctx.set(lanes.array.valid, rng.random() < 0.5)  # items without effect
                await ctx.tick()
                ctx.set(vector.control.start, 0)
                cycles += 1
                assert cycles < WATCHDOG
                done += ctx.get(vector.control.done)
                complete += ctx.get(lanes.vector_written.complete) + ctx.get(crossbar.m.written_end)
                assert not ctx.get(crossbar.address_error)
                assert not ctx.get(lanes.address_error)
            assert done == complete == 1
            await ctx.tick().repeat(3)
            assert not ctx.get(vector.busy)
        words = [await read(ctx, 2, address) for address in range(TARGET.bank_words[2])]
        assert (np.array(words) == memories.banks[2]).all()

    run_testbench(m, testbench)
