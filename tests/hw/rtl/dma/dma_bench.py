"""cocotb side of test_dma_verilator: cocotbext-axi's memory behind the engines, random programs.

Words travel outside -> bank (LOAD) -> elsewhere outside (STORE). The store follows the load line
by line, by the words that the load has reported, as the dispatcher does.
"""

import logging
import os
import random
from itertools import cycle

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, First, RisingEdge, Timer
from cocotbext.axi import AxiBus, AxiRam

from hw.isa import FORMAT_WORDS, Format, Opcode, encode

SIZE, N_ROUNDS = 1 << 17, 12


def stall(memory, rng, share):
    def pauses():
        noise = random.Random(rng.random())
        return cycle([noise.random() < share for _ in range(997)])
    for channel in (memory.write_if.aw_channel, memory.write_if.w_channel,
                    memory.write_if.b_channel, memory.read_if.ar_channel,
                    memory.read_if.r_channel):
        channel.set_pause_generator(pauses())


async def start(dut, core, opcode, fields):
    words = encode(opcode, **fields)[:FORMAT_WORDS[Format.TRANSFER]]
    await FallingEdge(dut.clk)
    core("control__words").value = sum(word << 32 * k for k, word in enumerate(words))
    core("control__start").value = 1
    await FallingEdge(dut.clk)
    core("control__start").value = 0


async def completed(dut, core):
    fired = await First(RisingEdge(core("written__complete")), Timer(200, "us"))
    assert not isinstance(fired, Timer), "not complete after 20000 cycles"
    assert core("control__error").value == 0


@cocotb.test()
async def there_and_back(dut):
    logging.getLogger("cocotb.transferpath").setLevel(logging.WARNING)
    rng = random.Random(int(os.environ["LOCKSTEP_SEED"]))
    word, depth = (int(os.environ[f"LOCKSTEP_{name}"]) for name in ("WORD", "DEPTH"))
    load, store = (lambda name, unit=unit: getattr(dut, f"{unit}__{name}")
                   for unit in ("load", "store"))
    for core in load, store:
        for name, value in (("control__start", 0), ("control__abort", 0),
                            ("control__unit_ready", 1), ("region__base", 0),
                            ("region__limit", SIZE)):
            core(name).value = value
    dut.noise.value = int(os.environ["LOCKSTEP_NOISE"])
    dut.rst.value = 1
    Clock(dut.clk, 10, "ns", impl="gpi").start()
    memory = AxiRam(AxiBus.from_prefix(dut, "bus_"), dut.clk, dut.rst, size=SIZE)
    stall(memory, rng, float(os.environ["LOCKSTEP_STALLS"]))
    for _ in range(3):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    loaded = 0

    async def count_words():
        nonlocal loaded
        while True:
            await FallingEdge(dut.clk)
            loaded += int(load("written__progress").value)
    cocotb.start_soon(count_words())

    async def chase(n_words):
        unit = 0
        while True:
            store("control__unit_ready").value = loaded >= (unit + 1) * n_words
            await RisingEdge(dut.clk)
            unit += int(store("control__unit_next").value)

    half = SIZE // 2
    mirror = bytearray(rng.randbytes(half)) + bytearray(half)
    memory.write(0, bytes(mirror))
    for _ in range(N_ROUNDS):
        n_lines, n_words = rng.choice([1, 2, 5]), rng.choice([1, 4, 17, 40])
        steps = [n_words + rng.choice([0, 5, 300]) for _ in range(2)]
        spans = [(n_lines - 1) * step + n_words for step in steps]
        source = word * rng.randrange(half // word - spans[0])
        sink = half + word * rng.randrange(half // word - spans[1])
        local = {"local_memory": rng.randrange(4), "local_step": n_words, "n_lines": n_lines,
                 "local_base": rng.randrange(depth - n_lines * n_words), "line_words": n_words}
        loaded = 0
        chasing = cocotb.start_soon(chase(n_words))
        await start(dut, load, Opcode.LOAD,
                    {"external_base": source, "external_step": steps[0] * word, **local})
        await start(dut, store, Opcode.STORE,
                    {"external_base": sink, "external_step": steps[1] * word, **local})
        await completed(dut, store)
        chasing.cancel()
        for k in range(n_lines):
            here, there = sink + k * steps[1] * word, source + k * steps[0] * word
            mirror[here:here + n_words * word] = mirror[there:there + n_words * word]
        assert memory.read(0, SIZE) == bytes(mirror)
    for _ in range(20):
        await RisingEdge(dut.clk)
    assert not int(load("control__busy").value) and not int(store("control__busy").value)
