"""The accelerator at its bus: products in every feed mode, and what it answers to misuse."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from golden.ops import Rescale
from hw.accelerator import Accelerator
from hw.compiler.image import from_bus, to_bus
from hw.host import OKAY, SLVERR
from hw.isa import MAGIC, N_WORDS, VERSION, ErrorCode, Feed, Opcode, Register, Window, encode
from hw.targets import Target, get_target
from sim.rtl import RUN_ALL, RUN_ONE, _Commands, _play, build_accelerator

TINY = Target(name="tiny", rows=2, columns=2, bank_words=(64, 64), parameter_words=16,
              instruction_words=4 * N_WORDS)
BANK_WINDOWS = (Window.BANK_0, Window.BANK_1)
FAR = 32  # of TINY's bank words: where outputs go
FEEDS = [(a, b) for a in Feed for b in Feed]


# Matrix products, encoded by hand: port a holds (rows of the result, depth), port b (columns of
# the result, depth).


def words_of(operand, feed, n_lanes, word_bytes):
    """Scratchpad words of an operand int8 (n, depth): by lane, or by step of the reduction."""
    n, depth = operand.shape
    if feed == Feed.TRANSPOSING:
        return operand.reshape(n * depth // word_bytes, word_bytes)
    padded = np.zeros((depth, -(-n // word_bytes) * word_bytes), np.int8)
    padded[:, :n] = operand.T
    return padded.reshape(-1, word_bytes)


def port_fields(port, operand, feed, target):
    """Walker fields of a port whose operand starts at address 0 of its own bank."""
    n, depth = operand.shape
    n_periods = depth // target.word_bytes
    if feed == Feed.TRANSPOSING:
        fields = {"x_step": n_periods, "group": 1, "k0_count": n_periods, "k0_step": 1}
    else:  # one walk over the whole reduction
        fields = {"x_step": -(-n // target.word_bytes), "group": n_periods, "k0_count": 1}
    fields |= {"feed": feed, "bank": "ab".index(port), "x_count": 0xFFFF, "k1_count": 1}
    return {f"{port}_{name}": value for name, value in fields.items()}


def matmul(a, b, feeds, target, **fields):
    """The words of a MATMUL whose output goes to bank 1."""
    return encode(**{
        "opcode": Opcode.MATMUL, "slots": target.word_bytes,
        "period_count": a.shape[1] // target.word_bytes,
        "inner_count": -(-len(a) // target.rows), "outer_count": -(-len(b) // target.columns),
        "out_bank": 1, "n_pixels": len(a), "n_channels": len(b),
        "out_step": -(-len(b) // target.word_bytes),
        **port_fields("a", a, feeds[0], target), **port_fields("b", b, feeds[1], target),
        **fields})


def run_instructions(target, instructions, banks, answer, parameters=()):
    """Load and run on Verilator; return ``answer`` = (bank, first word, n words) as int8."""
    commands = _Commands()
    program = [word for words in (*instructions, encode(opcode=Opcode.HALT)) for word in words]
    commands.write(Window.INSTRUCTIONS << 28, program)
    commands.write(Window.PARAMETERS << 28, [value for row in parameters for value in (*row, 0)])
    for window, words in zip(BANK_WINDOWS, banks):
        commands.write(window << 28, to_bus(words, target.host_word_bytes))
    commands.start(RUN_ALL)
    status = commands.read(Register.STATUS, 1)
    bank, first, n_words = answer
    where = commands.read((BANK_WINDOWS[bank] << 28) + first * target.host_word_bytes,
                          n_words * target.host_word_bytes // 4)
    answers, _ = _play(build_accelerator(target), commands)
    assert answers[status] == 0b10
    return from_bus(answers[where], target.word_bytes, target.host_word_bytes)


def operands(target, n_rows, n_columns, n_periods, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(-128, 128, (n, n_periods * target.word_bytes)).astype(np.int8)
            for n in (n_rows, n_columns)]


def wide_product(target, a, b, feeds, swap=0):
    """The raw int32 product (rows of a, rows of b), from the four byte planes."""
    banks = [words_of(operand, feed, n, target.word_bytes)
             for operand, feed, n in zip((a, b), feeds, (target.rows, target.columns))]
    n_pixels, n_channels = (len(b), len(a)) if swap else (len(a), len(b))
    chunks = -(-n_channels // target.word_bytes)
    plane, base = n_pixels * chunks, len(banks[1])
    instruction = matmul(a, b, feeds, target, wide=1, out_base=base, plane_step=plane, swap=swap,
                         out_step=chunks, n_pixels=n_pixels, n_channels=n_channels)
    planes = run_instructions(target, [instruction], banks, (1, base, 4 * plane))
    planes = planes.reshape(4, n_pixels, -1)[:, :, :n_channels]
    sums = np.ascontiguousarray(planes.transpose(1, 2, 0)).view("<i4")[:, :, 0]
    return sums.T if swap else sums


def check_wide(target, feeds, swap):
    lengths = (3 * target.rows + 1, 2 * target.columns + 1)
    a, b = operands(target, *lengths, n_periods=3)
    a[0], b[0] = -128, -128
    want = a.astype(np.int64) @ b.T.astype(np.int64)
    assert np.array_equal(wide_product(target, a, b, feeds, swap), want)
    b[-1, -1] ^= 1
    assert not np.array_equal(wide_product(target, a, b, feeds, swap), want)


@pytest.mark.parametrize("swap", [0, 1])
@pytest.mark.parametrize("feeds", FEEDS)
def test_raw_sums_of_every_feed_mode_equal_numpy(feeds, swap):
    check_wide(get_target("sim-4x4"), feeds, swap)


@pytest.mark.parametrize("slots", [1, 5, 255])
def test_direct_ports_take_a_reduction_of_any_depth(slots):
    """With both ports direct a period has no natural length: depth = slots * periods."""
    target, n_periods = get_target("sim-4x4"), 3
    rng = np.random.default_rng(slots)
    a, b = (rng.integers(-128, 128, (n, slots * n_periods)).astype(np.int8) for n in (11, 7))
    banks = [words_of(x, Feed.DIRECT, 4, 4) for x in (a, b)]
    walks = {f"{port}_group": n_periods for port in "ab"}
    base, plane = len(banks[1]), 11 * 2
    instruction = matmul(a, b, (Feed.DIRECT, Feed.DIRECT), target, wide=1, out_base=base,
                         plane_step=plane, slots=slots, period_count=n_periods, **walks)
    planes = run_instructions(target, [instruction], banks, (1, base, 4 * plane))
    sums = planes.reshape(4, 11, 8)[:, :, :7].transpose(1, 2, 0).copy().view("<i4")[:, :, 0]
    assert np.array_equal(sums, a.astype(np.int64) @ b.T.astype(np.int64))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["array-4x2", "array-2x16"])
def test_narrow_sides_take_their_groups_of_lanes_from_a_word(name):
    """Sides narrower than a word: a direct port brings several tiles from the same words."""
    for feeds in FEEDS:
        for swap in 0, 1:
            check_wide(get_target(name), feeds, swap)


@pytest.mark.parametrize("feeds", FEEDS)
def test_rescaled_products_of_every_feed_mode_equal_golden(feeds):
    target = get_target("sim-4x4")
    a, b = operands(target, 9, 6, n_periods=4, seed=1)
    rng = np.random.default_rng(2)
    multiplier = rng.integers(1 << 30, 1 << 31, len(b))
    shift, bias = rng.integers(37, 41, len(b)), rng.integers(-20000, 20000, len(b))
    rescale = Rescale(multiplier=multiplier, shift=shift, zero_point=-7, low=-100, high=90)
    banks = [words_of(a, feeds[0], 4, 4), words_of(b, feeds[1], 4, 4)]
    base = len(banks[1])
    instruction = matmul(a, b, feeds, target, out_base=base, zero_point=-7, low=-100, high=90)
    parameters = np.stack([bias & 0xFFFFFFFF, multiplier, shift], axis=1)
    codes = run_instructions(target, [instruction], banks, (1, base, len(a) * 2), parameters)
    sums = bias + a.astype(np.int64) @ b.T.astype(np.int64)
    assert np.array_equal(codes.reshape(9, 8)[:, :6], rescale(sums))


# Misuse, in Amaranth's simulator.


class Bus:
    """An AXI4-Lite master: ``write`` and ``read`` return the response (and the data)."""

    def __init__(self, ctx, dut):
        self.ctx, self.dut, self.bus = ctx, dut, dut.bus

    async def _until(self, signal):
        for _ in range(100):
            *_, seen = await self.ctx.tick().sample(signal)
            if seen:
                return
        raise AssertionError("the bus does not answer")

    async def write(self, address, value):
        ctx, bus = self.ctx, self.bus
        for signal, value_ in ((bus.awaddr, address), (bus.wdata, value & 0xFFFFFFFF),
                               (bus.wstrb, 0xF), (bus.awvalid, 1), (bus.wvalid, 1),
                               (bus.bready, 0)):
            ctx.set(signal, value_)
        await self._until(bus.awready & bus.wready)
        ctx.set(bus.awvalid, 0)
        ctx.set(bus.wvalid, 0)
        await self.ctx.tick().repeat(3)  # an answer waits for ready
        assert ctx.get(bus.bvalid)
        ctx.set(bus.bready, 1)
        response = ctx.get(bus.bresp)
        await ctx.tick()
        assert not ctx.get(bus.bvalid)
        return response

    async def read(self, address):
        ctx, bus = self.ctx, self.bus
        ctx.set(bus.araddr, address)
        ctx.set(bus.arvalid, 1)
        ctx.set(bus.rready, 1)
        await self._until(bus.arready)
        ctx.set(bus.arvalid, 0)
        for _ in range(20):
            *_, valid, response, data = await ctx.tick().sample(bus.rvalid, bus.rresp, bus.rdata)
            if valid:
                return response, data
        raise AssertionError("the bus does not answer")

    async def load(self, address, values):
        for index, value in enumerate(np.asarray(values).ravel()):
            assert await self.write(address + 4 * index, int(value)) == OKAY

    async def register(self, register):
        response, value = await self.read(register)
        assert response == OKAY
        return value

    async def finish(self):
        """Wait for the interrupt; the status."""
        for _ in range(3000):
            if self.ctx.get(self.dut.interrupt):
                return await self.register(Register.STATUS)
            await self.ctx.tick()
        raise AssertionError("the run does not end")


class TinyRun:
    """A product on a 2x2 array, for its results to be looked at after some misuse."""

    def __init__(self, n_rows=4, n_columns=4, n_periods=3):
        self.a, self.b = operands(TINY, n_rows, n_columns, n_periods)
        feeds = (Feed.TRANSPOSING, Feed.TRANSPOSING)
        self.banks = [words_of(x, Feed.TRANSPOSING, 2, 2) for x in (self.a, self.b)]
        self.instruction = matmul(self.a, self.b, feeds, TINY, low=-128, high=127, out_base=FAR)
        rescale = Rescale(multiplier=np.array([1 << 30]), shift=np.array([39]), zero_point=0)
        self.parameters = np.array([[0, 1 << 30, 39, 0]] * n_columns)
        self.want = rescale(self.a.astype(np.int64) @ self.b.T.astype(np.int64))

    async def load(self, bus, instructions):
        await bus.load(Window.INSTRUCTIONS << 28, instructions)
        await bus.load(Window.PARAMETERS << 28, self.parameters)
        for window, words in zip(BANK_WINDOWS, self.banks):
            await bus.load(window << 28, to_bus(words, TINY.host_word_bytes))

    async def results(self, bus):
        chunks = -(-self.want.shape[1] // 2)
        first = (Window.BANK_1 << 28) + FAR * TINY.host_word_bytes
        words = [await bus.read(first + 4 * k) for k in range(len(self.want) * chunks)]
        assert {response for response, _ in words} == {OKAY}
        codes = from_bus(np.array([data for _, data in words], "<u4"), 2, 4)
        return codes.reshape(len(self.want), -1)[:, :self.want.shape[1]]

    async def check(self, bus):
        assert np.array_equal(await self.results(bus), self.want)


def on_tiny(script):
    """Run ``await script(bus)`` against the accelerator of TINY."""
    dut = Accelerator(TINY)

    async def testbench(ctx):
        await script(Bus(ctx, dut))

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(testbench)
    sim.run()


HALT = encode(opcode=Opcode.HALT)


@pytest.mark.parametrize("opcode", [max(Opcode) + 1, 15])
def test_an_undefined_opcode_stops_with_its_index(opcode):
    run = TinyRun()

    async def script(bus):
        await run.load(bus, [*run.instruction, *encode(opcode=opcode), *HALT])
        await bus.write(Register.CONTROL, RUN_ALL)
        assert await bus.finish() == ErrorCode.OPCODE << 8 | 0b110
        assert await bus.register(Register.INSTRUCTION_INDEX) == 1
        await run.check(bus)
        # The next run is right, and clears the error.
        await bus.load(Window.BANK_1 << 28, to_bus(run.banks[1], TINY.host_word_bytes))
        await bus.load((Window.BANK_1 << 28) + FAR * 4, [0] * 8)
        await bus.load((Window.INSTRUCTIONS << 28) + 4 * N_WORDS, HALT)
        await bus.write(Register.PROGRAM_ADDRESS, 0)
        await bus.write(Register.CONTROL, RUN_ALL)
        assert await bus.finish() == 0b10
        await run.check(bus)

    on_tiny(script)


def test_misuse_while_busy_is_refused_and_harms_nothing():
    run = TinyRun(n_rows=8, n_columns=8, n_periods=2)

    async def script(bus):
        await run.load(bus, [*run.instruction, *HALT])
        await bus.write(Register.CONTROL, RUN_ALL)
        n_polls = 0
        while (status := await bus.register(Register.STATUS)) & 1:
            n_polls += 1
            address = (*BANK_WINDOWS, Window.INSTRUCTIONS, Window.PARAMETERS)[n_polls % 4] << 28
            assert await bus.read(address) == (SLVERR, 0)
            assert await bus.write(address, 0x55555555) == SLVERR
            assert (await bus.register(Register.CYCLES_LOW)) > 0
            if n_polls == 2:
                assert await bus.write(Register.CONTROL, RUN_ALL) == OKAY
        assert n_polls > 4, "the run has to be longer than the misuse"
        assert status == ErrorCode.START_WHILE_BUSY << 8 | 0b110
        await run.check(bus)
        for window, words in zip(BANK_WINDOWS, run.banks):
            assert await bus.read(window << 28) == (OKAY, to_bus(words, 4)[0, 0])
        await bus.write(Register.PROGRAM_ADDRESS, 0)
        await bus.write(Register.CONTROL, RUN_ALL)
        assert await bus.finish() == 0b10, "an accepted start clears the error"
        await run.check(bus)

    on_tiny(script)


def test_unknown_addresses_are_refused():
    ends = {Window.INSTRUCTIONS: 4 * TINY.instruction_words,
            Window.PARAMETERS: 16 * TINY.lanes * TINY.parameter_words,
            Window.BANK_0: 4 * TINY.bank_words[0], Window.BANK_1: 4 * TINY.bank_words[1]}

    async def script(bus):
        for register, value in ((Register.MAGIC, MAGIC), (Register.VERSION, VERSION),
                                (Register.CONFIGURATION, TINY.configuration_id),
                                (Register.STATUS, 0)):
            assert await bus.register(register) == value
        unknown = [max(Register) + 4, 0x1C, 0x100, 3 << 28, 6 << 28, 15 << 28]
        unknown += [(window << 28) + end for window, end in ends.items()]
        for address in unknown:
            assert await bus.read(address) == (SLVERR, 0), hex(address)
            assert await bus.write(address, -1) == SLVERR, hex(address)
        for window, end in ends.items():
            last = (window << 28) + end - 4
            assert await bus.write(last, 0x12345678) == OKAY, hex(last)
            assert (await bus.read(last))[0] == OKAY, hex(last)

    on_tiny(script)


def test_single_steps_stop_after_each_instruction():
    run = TinyRun()

    async def script(bus):
        await run.load(bus, [*encode(opcode=Opcode.MAXPOOL, slots=1, inner_count=1, outer_count=1,
                                     period_count=1, emit_periods=1, out_base=63, a_x_count=1,
                                     a_group=1, a_k0_count=1, a_k1_count=1),
                             *run.instruction, *HALT])
        for index in 1, 2:
            await bus.write(Register.CONTROL, RUN_ONE)
            assert await bus.finish() == 0b10
            assert await bus.register(Register.PROGRAM_ADDRESS) == index
        await run.check(bus)
        assert await bus.read((Window.BANK_0 << 28) + 4 * 63) == await bus.read(Window.BANK_0 << 28)

    on_tiny(script)
