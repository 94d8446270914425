"""What the vector engine must compute, in numpy, and a bench of memories and lanes around it.

    banks = Memories(target, seed)
    expected = model(banks, fields)          # a copy of the banks, as they must be afterwards
    report = run(target, banks, [fields])    # on the hardware; changes the banks
"""

import random
from dataclasses import dataclass, field

import numpy as np
from amaranth.sim import Simulator

from golden import arith
from hw.isa import FIELDS, FORMAT_WORDS, Format, Opcode, encode
from hw.vector import VectorEngine, Which, vector_item_layout

WORD_MASK = 0xFFFF
CLOCK_PERIOD = 1e-8


class WatchdogError(AssertionError):
    """The engine did not finish."""


class Memories:
    """Four banks of random codes, and parameters of random channels."""

    def __init__(self, target, seed=0, n_parameters=256):
        rng = np.random.default_rng(seed)
        self.target = target
        self.banks = [rng.integers(-128, 128, (words, target.columns)).astype(np.int8)
                      for words in target.bank_words]
        self.bias = rng.integers(-20000, 20000, n_parameters)
        self.multiplier = rng.integers(1 << 30, 1 << 31, n_parameters)
        self.shift = rng.integers(36, 42, n_parameters)

    def copy(self):
        other = Memories.__new__(Memories)
        vars(other).update(vars(self), banks=[bank.copy() for bank in self.banks])
        return other


def all_fields(opcode, **values):
    """The values of all fields of a vector instruction, 0 where not given."""
    return {f.name: 0 for f in FIELDS[Format.VECTOR]} | values | {"opcode": opcode}


def _rounding(f):
    return arith.Rounding.GEMMLOWP if f["gemmlowp"] else arith.Rounding.HALF_UP


def _line_and_size(f):
    """Output lines and pixels per line."""
    if f["opcode"] == Opcode.ADD:
        return f["out_width"], 1
    if f["opcode"] == Opcode.LINEAR:
        return 1, 1
    return f["out_height"], f["out_width"]


def _window(memories, f, oy, ox, chunk):
    """(kernel rows, kernel columns, channels) of one output, and how many words were read."""
    depthwise = f["opcode"] == Opcode.DEPTHWISE
    height, width = (3, 3) if depthwise else (f["kernel_height"], f["kernel_width"])
    dy, dx = (1, 1) if depthwise else (f["dilation_y"], f["dilation_x"])
    window = np.full((height, width, memories.target.columns), f["pad"], np.int64)
    for ky in range(height):
        for kx in range(width):
            iy = oy * f["stride_y"] - f["top"] + ky * dy
            ix = ox * f["stride_x"] - f["left"] + kx * dx
            if 0 <= iy < f["height"] and 0 <= ix < f["width"]:
                address = f["x_base"] + iy * f["line_step"] + ix * f["n_chunks"] + chunk
                window[ky, kx] = memories.banks[f["x_bank"]][address & WORD_MASK]
    return window


def reads_per_unit(f, columns):
    """How many words each unit reads through port v."""
    n_lines, _ = _line_and_size(f)
    if f["opcode"] == Opcode.ADD:
        return [2 * f["n_chunks"]] * n_lines
    if f["opcode"] == Opcode.LINEAR:
        return [f["n_chunks"] * -(-f["n_inputs"] // columns)]
    counts = []
    for oy in range(n_lines):
        if f["opcode"] == Opcode.DEPTHWISE:
            xs = [c - f["left"] for c in range((f["out_width"] - 1) * f["stride_x"] + 3)]
            ys = [oy * f["stride_y"] - f["top"] + k for k in range(3)]
        else:
            xs = [o * f["stride_x"] - f["left"] + k * f["dilation_x"]
                  for o in range(f["out_width"]) for k in range(f["kernel_width"])]
            ys = [oy * f["stride_y"] - f["top"] + k * f["dilation_y"]
                  for k in range(f["kernel_height"])]
        counts.append(f["n_chunks"] * sum(0 <= x < f["width"] for x in xs)
                      * sum(0 <= y < f["height"] for y in ys))
    return counts


def model(memories, f):
    """The memories after the instruction."""
    result = memories.copy()
    columns, banks = memories.target.columns, memories.banks
    n_lines, n_pixels = _line_and_size(f)
    out = result.banks[f["out_bank"]]
    for line in range(n_lines):
        for pixel in range(n_pixels):
            for chunk in range(f["n_chunks"]):
                position = line * n_pixels + pixel
                address = (f["out_base"] + position * f["out_step"] + chunk) & WORD_MASK
                channel = chunk * columns + np.arange(columns)
                written = (f["first_channel"] <= channel) & (channel < f["n_channels"])
                if f["opcode"] == Opcode.MAXPOOL:
                    out[address] = _window(memories, f, line, pixel, chunk).max((0, 1))
                    continue
                if f["opcode"] == Opcode.ADD:
                    value = _add(banks, f, line * f["n_chunks"] + chunk)
                else:
                    sums = _sums(memories, f, line, pixel, chunk)
                    index = (f["parameter_base"] * memories.target.lanes + channel) % len(
                        memories.bias)
                    value = arith.requantize(
                        sums + memories.bias[index], memories.multiplier[index],
                        memories.shift[index], f["zero_point"], f["low"], f["high"],
                        _rounding(f))
                out[address] = np.where(written, value, out[address])
    return result


def _sums(memories, f, line, pixel, chunk):
    weights = memories.banks[f["w_bank"]].astype(np.int64)
    if f["opcode"] == Opcode.LINEAR:
        k = np.arange(f["n_inputs"])
        x = memories.banks[f["x_bank"]].astype(np.int64).reshape(-1)
        x = x[f["x_base"] * memories.target.columns + k]
        first = f["w_base"] + chunk * f["n_inputs"]
        return x @ weights[first:first + f["n_inputs"]]
    window = _window(memories, f, line, pixel, chunk)
    taps = window.reshape(-1, memories.target.columns)
    first = f["w_base"] + chunk * len(taps)
    if f["same_weights"] and f["opcode"] == Opcode.WINDOW:
        return taps.sum(0) * weights[f["w_base"]]
    return (taps * weights[first:first + len(taps)]).sum(0)


def _add(banks, f, index):
    terms = []
    for which, bank, base in (0, "x_bank", "x_base"), (1, "y_bank", "y_base"):
        code = banks[f[bank]][(f[base] + index) & WORD_MASK].astype(np.int64)
        terms.append(arith.requantize(
            (code - f[f"zero_point_{which}"]) << f["left_shift"], f[f"multiplier_{which}"],
            f[f"shift_{which}"], 0, arith.INT32_MIN, arith.INT32_MAX, _rounding(f)))
    return arith.requantize(sum(terms), f["multiplier_2"], f["shift_2"], f["zero_point"],
                            f["low"], f["high"], _rounding(f))


@dataclass(kw_only=True)
class Report:
    """What happened during a run; cycles are counted from the first start."""

    cycles: int = 0
    done: list = field(default_factory=list)  # cycle of each done
    complete: list = field(default_factory=list)  # (cycle, instruction)
    progress: list = field(default_factory=list)  # (cycle, amount)
    errors: list = field(default_factory=list)
    n_reads: int = 0
    n_weight_reads: int = 0
    items: list = field(default_factory=list)  # cycle in which each entered the lanes
    n_units: int = 0


class _ReadPort:
    """One of the crossbar's read ports, with random waits."""

    def __init__(self, port, banks, rng, stalls, latency, pair):
        self.port, self.banks, self.rng = port, banks, rng
        self.stalls, self.latency, self.pair = stalls, latency, pair
        self.waiting = []
        self.n_reads = 0
        self.last_bank = None

    def cycle(self, ctx, now, on_read=None):
        responding = bool(self.waiting and self.waiting[0][0] <= now
                          and self.rng.random() >= self.stalls)
        ctx.set(self.port.response_valid, responding)
        if responding:
            ctx.set(self.port.data, self.waiting.pop(0)[1])
        ready = self.rng.random() >= self.stalls
        ctx.set(self.port.ready, ready)
        if ready and ctx.get(self.port.valid):
            address, bank = ctx.get(self.port.address), self.banks[ctx.get(self.port.bank)]
            if on_read:
                on_read(self.n_reads)
            self.n_reads += 1
            words = [[int(code) for code in bank[a % len(bank)]] for a in (address, address ^ 1)]
            self.waiting.append((now + self.latency, words if self.pair else words[0]))


def _item_fields(target):
    layout = vector_item_layout(target)
    return {name: (item.offset, item.shape) for name, item in layout}


class Lanes:
    """The rescaler lanes: items in, bytes into the banks and inputs of additions back."""

    def __init__(self, dut, memories, rng, stalls, latency, report):
        self.dut, self.memories, self.rng = dut, memories, rng
        self.stalls, self.latency, self.report = stalls, latency, report
        self.fields = _item_fields(memories.target)
        self.under_way = []

    def _decode(self, bits):
        item = {}
        for name, (offset, shape) in self.fields.items():
            if name == "sums":
                item[name] = np.array([_signed(bits >> offset + 32 * k, 32) for k in range(4)])
            elif name in ("zero_point", "low", "high"):
                item[name] = _signed(bits >> offset, 8)
            else:
                width = getattr(shape, "width", shape) if not isinstance(shape, int) else shape
                width = 2 if name == "which" else width
                item[name] = bits >> offset & (1 << width) - 1
        return item

    def _result(self, item):
        lanes = self.memories.target.lanes
        if item["which"] == Which.PARAMETERS.value:
            index = (item["parameter"] * lanes + np.arange(lanes)) % len(self.memories.bias)
            bias, multiplier, shift = (v[index] for v in (
                self.memories.bias, self.memories.multiplier, self.memories.shift))
        else:
            bias, multiplier, shift = 0, item["multiplier"], item["shift"]
        zero_point, low, high = item["zero_point"], item["low"], item["high"]
        if item["wide"]:
            zero_point, low, high = 0, arith.INT32_MIN, arith.INT32_MAX
        return arith.requantize(item["sums"] + bias, multiplier, shift, zero_point, low, high,
                                _rounding(item))

    def _retire(self, ctx, now, item):
        values = self._result(item)
        if item["which"] in (Which.FIRST_INPUT.value, Which.SECOND_INPUT.value):
            assert item["wide"] and not item["mask"]
            assert not item["progress"] and not item["instruction_end"]
            ctx.set(self.dut.returned.valid, 1)
            ctx.set(self.dut.returned.which, Which(item["which"]))
            ctx.set(self.dut.returned.values, [int(v) for v in values])
            return
        assert not item["wide"]
        word = self.memories.banks[item["bank"]][item["address"]]
        for lane, value in enumerate(values):
            if item["mask"] >> lane & 1:
                word[item["group"] * 4 + lane] = value
        if item["progress"]:
            self.report.progress.append((now, item["progress"]))
        if item["instruction_end"]:
            self.report.complete.append(now)

    def cycle(self, ctx, now):
        ctx.set(self.dut.returned.valid, 0)
        if self.under_way and self.under_way[0][0] <= now:
            self._retire(ctx, now, self.under_way.pop(0)[1])
        ready = self.rng.random() >= self.stalls
        ctx.set(self.dut.vector.ready, ready)
        if ready and ctx.get(self.dut.vector.valid):
            item = self._decode(ctx.get(self.dut.vector.payload.as_value()))
            self.under_way.append((now + self.latency, item))
            self.report.items.append(now)


class WritePort:
    """The crossbar's write port `m`."""

    def __init__(self, dut, memories, rng, stalls, report):
        self.port, self.dut, self.memories = dut.m, dut, memories
        self.rng, self.stalls, self.report = rng, stalls, report
        self.under_way = []

    def cycle(self, ctx, now):
        port = self.port
        ctx.set(port.written, 0)
        ctx.set(port.written_progress, 0)
        ctx.set(port.written_end, 0)
        if self.under_way and self.under_way[0][0] <= now:
            _, bank, address, word, progress, end = self.under_way.pop(0)
            self.memories.banks[bank][address] = word
            ctx.set(port.written, 1)
            ctx.set(port.written_progress, progress)
            ctx.set(port.written_end, end)
            if progress:
                self.report.progress.append((now, progress))
            if end:
                self.report.complete.append(now)
        ready = self.rng.random() >= self.stalls
        ctx.set(port.ready, ready)
        if ready and ctx.get(port.valid):
            columns = self.memories.target.columns
            assert ctx.get(port.enable) == (1 << columns) - 1
            self.under_way.append((now + 2, ctx.get(port.bank), ctx.get(port.address),
                                   [ctx.get(port.data[k]) for k in range(columns)],
                                   ctx.get(port.progress), ctx.get(port.instruction_end)))


def _signed(value, width):
    value &= (1 << width) - 1
    return value - (1 << width) if value >> width - 1 else value


def run(target, memories, instructions, *, stalls=0.0, seed=0, unit_cycles=0, latency=6,
        lane_latency=15, watchdog=20000, abort_at=None, dut=None):
    """Run instructions one after the other; returns the Report. The memories are changed.

    stalls : probability of a pause per cycle, on each port. unit_cycles : mean cycles until the
    next unit may begin. latency, lane_latency : of reads and of the lanes, in cycles.
    abort_at : cycle in which everything is given up; the instructions then run once again.
    """
    dut = dut or VectorEngine(target)
    report = Report()
    rng = random.Random(seed)

    async def testbench(ctx):
        lanes = Lanes(dut, memories, rng, stalls, lane_latency, report)
        v = _ReadPort(dut.v, memories.banks, rng, stalls, latency, pair=False)
        w = _ReadPort(dut.w, memories.banks, rng, stalls, latency, pair=True)
        m = WritePort(dut, memories, rng, stalls, report)
        queue = list(instructions)
        now, n_done, aborted_until = 0, 0, None
        chase = None
        while n_done < len(instructions) or len(report.complete) < len(instructions):
            if now > watchdog:
                raise WatchdogError(f"Not done after {now} cycles: {report}")
            starts = chase is None and bool(queue) and aborted_until is None
            ctx.set(dut.start, starts)
            if starts:
                f = queue.pop(0)
                words = encode(**f)[:FORMAT_WORDS[Format.VECTOR]]
                ctx.set(dut.words, words)
                chase = Chase(f, memories.target.columns, rng, unit_cycles, v.n_reads)
            v.cycle(ctx, now, chase.check if chase else None)
            w.cycle(ctx, now)
            lanes.cycle(ctx, now)
            m.cycle(ctx, now)
            if chase:
                ctx.set(dut.unit_ready, chase.cycle(ctx.get(dut.unit_next)))
            if now == abort_at:
                aborted_until = now + 50
                queue, chase = list(instructions), None
                report.__init__()
                n_done = 0
            ctx.set(dut.abort, aborted_until is not None)
            if aborted_until is not None:
                aborted_until = None if now >= aborted_until else aborted_until
                assert not (now > abort_at + 2 and (ctx.get(dut.busy) or ctx.get(dut.v.valid)
                                                    or ctx.get(dut.vector.valid)))
                report.__init__()
            await ctx.tick()
            now += 1
            if ctx.get(dut.done):
                report.done.append(now)
                n_done += 1
                assert chase.n_begun == len(chase.reads), "not every unit was begun"
                report.n_units += chase.n_begun
                chase = None
            if error := ctx.get(dut.error):
                report.errors.append(error)
                break
        for _ in range(2):
            await ctx.tick()
        assert not ctx.get(dut.busy)
        report.cycles = now
        report.n_reads, report.n_weight_reads = v.n_reads, w.n_reads

    sim = Simulator(dut)
    sim.add_clock(CLOCK_PERIOD)
    sim.add_testbench(testbench)
    sim.run()
    return report


class Chase:
    """Lets one unit after the other begin, and sees that none is read before."""

    LATENCY = 2  # cycles from unit_next until unit_ready is that of the next unit

    def __init__(self, f, columns, rng, unit_cycles, n_reads):
        self.reads = reads_per_unit(f, columns)
        self.ends = np.cumsum(self.reads) + n_reads
        self.rng, self.unit_cycles = rng, unit_cycles
        self.n_allowed = len(self.reads) if not unit_cycles else 0
        self.n_begun = 0
        self.shown = []

    def check(self, n_reads):
        unit = int(np.searchsorted(self.ends, n_reads, side="right"))
        assert unit < len(self.reads), "a word too many was read"
        assert unit < self.n_allowed, f"unit {unit} was read before it was there"

    def cycle(self, unit_next):
        """unit_ready, which lags by LATENCY."""
        if self.n_allowed < len(self.reads) and self.rng.random() * self.unit_cycles < 1:
            self.n_allowed += 1
        self.n_begun += unit_next
        assert self.n_begun <= len(self.reads), "a unit too many was begun"
        self.shown.append(self.n_allowed > self.n_begun or not self.unit_cycles)
        return int(self.shown[max(0, len(self.shown) - 1 - self.LATENCY)])
