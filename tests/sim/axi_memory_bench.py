"""cocotb side of test_axi_memory: cocotbext-axi's master against sim/axi_memory.sv."""

import logging
import os
import random
from itertools import cycle

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiMaster, AxiResp

BASE, BYTES = 0x8000_0000, 1 << 16


async def started(dut):
    logging.getLogger("cocotb.axi_memory").setLevel(logging.WARNING)
    Clock(dut.clk, 10, "ns", impl="gpi").start()
    master = AxiMaster(AxiBus.from_entity(dut), dut.clk, dut.rst, max_burst_len=16)
    dut.rst.value = 1
    for _ in range(3):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    return master


def stall(master, rng, share):
    def pauses(seed):
        noise = random.Random(seed)
        return cycle([noise.random() < share for _ in range(999)])
    for channel in (master.write_if.aw_channel, master.write_if.w_channel,
                    master.write_if.b_channel, master.read_if.ar_channel,
                    master.read_if.r_channel):
        channel.set_pause_generator(pauses(rng.random()))


@cocotb.test()
async def keeps_what_is_written(dut):
    rng = random.Random(int(os.environ["LOCKSTEP_SEED"]))
    master = await started(dut)
    stall(master, rng, float(os.environ["LOCKSTEP_STALLS"]))
    mirror = bytearray(BYTES)
    await master.write(BASE, bytes(BYTES))
    for _ in range(20):
        at = rng.randrange(0, BYTES - 700, 16)
        data = rng.randbytes(rng.choice([1, 3, 16, 64, 700]))
        mirror[at:at + len(data)] = data
        assert (await master.write(BASE + at, data)).resp == AxiResp.OKAY
        at = rng.randrange(0, BYTES - 900, 16)
        read = await master.read(BASE + at, rng.choice([5, 128, 900]))
        assert read.data == mirror[at:at + len(read.data)]
    both = [cocotb.start_soon(master.read(BASE + 4096 * k, 4096)) for k in range(16)]
    for k, reading in enumerate(both):
        assert (await reading).data == mirror[4096 * k:4096 * (k + 1)]


@cocotb.test()
async def refuses_a_window_and_what_it_does_not_hold(dut):
    master = await started(dut)
    await master.write(BASE + 0x0F00, bytes(range(256)) * 2)
    assert (await master.write(BASE + 0x1000, bytes(16))).resp == AxiResp.SLVERR
    assert (await master.write(BASE + 0x1100, bytes(16))).resp == AxiResp.OKAY
    assert (await master.read(BASE + 0x0FF0, 16)).resp == AxiResp.OKAY
    read = await master.read(BASE + 0x0F00, 0x200)
    assert read.resp == AxiResp.SLVERR
    assert read.data[:256] == bytes(range(256))
    assert (await master.read(BASE + BYTES, 16)).resp == AxiResp.DECERR
    assert (await master.write(BASE - 16, bytes(16))).resp == AxiResp.DECERR


@cocotb.test()
async def answers_after_its_latency(dut):
    master = await started(dut)
    taken, offered = [], []

    async def watch():
        for now in range(100):
            await RisingEdge(dut.clk)
            if dut.arvalid.value and dut.arready.value:
                taken.append(now)
            if dut.rvalid.value and dut.rready.value:
                offered.append(now)
    watching = cocotb.start_soon(watch())
    await master.read(BASE, 32)
    await watching
    beats = 32 * 8 // len(dut.rdata)
    latency = int(os.environ["LOCKSTEP_LATENCY"])
    assert offered == [taken[0] + latency + k for k in range(beats)]


@cocotb.test()
async def sees_an_unaligned_burst(dut):
    master = await started(dut)
    await master.write(BASE + 1, bytes(16))
