"""Runs LOAD and STORE instructions on a transfer engine: bus, crossbar port, dispatcher."""

import random
from dataclasses import dataclass, field

from hw.isa import FORMAT_WORDS, Format, LocalMemory, Opcode, encode, local_depths
from hw.rtl.dma import LoadEngine
from tests.hw.rtl.dma.axi_slaves import Memory, ReadSlave, Stands, Traffic, WriteSlave
from tests.hw.simulate import run_testbench

BASE = 0x1000_0000
READ_LATENCY = 8


@dataclass
class Log:
    """What happened, with the cycle it happened in."""

    starts: list = field(default_factory=list)
    done: list = field(default_factory=list)
    complete: list = field(default_factory=list)
    progress: list = field(default_factory=list)  # (cycle, words)
    errors: list = field(default_factory=list)  # (cycle, code, previous)
    units: list = field(default_factory=list)
    writes: list = field(default_factory=list)  # (cycle, memory, address, data)
    n_bytes: int = 0
    idle: int | None = None  # the cycle in which busy was low for good
    slave: object = None


def load(**fields):
    return Opcode.LOAD, {"local_memory": 0, "n_lines": 1, "external_base": BASE, **fields}


def store(**fields):
    return Opcode.STORE, {"local_memory": 0, "n_lines": 1, "external_base": BASE, **fields}


def lines(fields, target):
    """(external address, local address, words) of each line."""
    for k in range(fields["n_lines"]):
        yield (fields["external_base"] + k * fields.get("external_step", 0),
               fields.get("local_base", 0) + k * fields.get("local_step", 0),
               fields["line_words"])


def expected_writes(target, memory, fields):
    """(memory, address, data) that a LOAD writes, in order."""
    which = fields["local_memory"]
    if fields.get("nibbles"):
        return _expected_unpacked(target, memory, fields)
    size = target.word_bytes if which < 4 else 4
    writes = []
    for outside, inside, n_words in lines(fields, target):
        for k in range(n_words * target.word_bytes // size):
            data = memory.data[memory.span(outside + k * size, size)]
            writes.append((which, inside + k, int.from_bytes(data, "little")))
    return writes


def _expected_unpacked(target, memory, fields):
    writes = []
    for outside, inside, n_words in lines(fields, target):
        data = memory.data[memory.span(outside, n_words * target.word_bytes)]
        codes = [(nibble - 16 * (nibble > 7) << fields["nibble_shift"]) & 0xFF
                 for byte in data for nibble in (byte & 15, byte >> 4)]
        for k in range(2 * n_words):
            word = codes[k * target.word_bytes:(k + 1) * target.word_bytes]
            writes.append((fields["local_memory"], inside + k, int.from_bytes(word, "little")))
    return writes


def run(dut, program, *, memory, traffic=None, banks=None, stalls=0.0, region=None,
        ready=lambda instruction, unit, cycle: True, abort_at=None, abort_cycles=1, go_on=False,
        not_before=None, seed=0, watchdog=2000, extra=60):
    """Run (opcode, fields) instructions one after the other; returns a Log.

    traffic : of the bus. stalls : share of cycles in which the crossbar port is not ready.
    banks : lists of words that a STORE reads. ready(instruction, unit, cycle) : the chase.
    abort_at : cycle of an abort; an error is answered by one, too. go_on : afterwards, start the
    instructions that are left once the engine is not busy; without it nothing more is started.
    not_before : the cycle of the earliest start of some instructions, by their number.
    The run ends when the engine has been idle for ``extra`` cycles, in which nothing may happen.
    """
    log, rng = Log(), random.Random(f"run {seed}")
    traffic = traffic or Traffic()
    is_load = isinstance(dut, LoadEngine)
    slave_class = ReadSlave if is_load else WriteSlave
    slave = log.slave = slave_class(dut.bus, memory, traffic, bus_bytes=dut.bus_bytes,
                                    max_beats=dut.max_beats, outstanding=dut.outstanding)
    low, high = region or (memory.base, memory.base + len(memory.data))
    depths = local_depths(dut.target)

    async def testbench(ctx):
        ctx.set(dut.region.base, low)
        ctx.set(dut.region.limit, high)
        control, written_lines = dut.control, dut.written
        core = [control.done, control.unit_next, control.error, control.error_previous,
                control.busy, written_lines.progress, written_lines.complete, dut.bytes]
        if is_load:
            port = [dut.l.valid, dut.l.bank, dut.l.address, dut.l.data.as_value(), dut.l.enable,
                    dut.l.progress, dut.l.instruction_end,
                    dut.small.valid, dut.small.is_instructions, dut.small.address, dut.small.data]
        else:
            port = [dut.s.valid, dut.s.bank, dut.s.address]
        stands = Stands("crossbar port")
        n_started, unit, unit_known_at, quiet, answers = 0, 0, 0, 0, []
        buffered, written = [], None
        abort_windows = [] if abort_at is None else [(abort_at, abort_at + abort_cycles)]
        pending_start, may_start, port_ready, cycle, last_event = True, True, 0, 0, 0
        while quiet < extra:
            # What the inputs are in this cycle.
            starts = (may_start and pending_start and n_started < len(program) and cycle > 2
                      and cycle >= (not_before or {}).get(n_started, 0))
            ctx.set(dut.control.start, int(starts))
            if starts:
                opcode, fields = program[n_started]
                for k, word in enumerate(encode(opcode, **fields)[:FORMAT_WORDS[Format.TRANSFER]]):
                    ctx.set(dut.control.words[k], word)
                log.starts.append(cycle)
                n_started, unit, unit_known_at, pending_start = n_started + 1, 0, cycle + 3, False
            aborts = any(first <= cycle < last for first, last in abort_windows)
            ctx.set(dut.control.abort, int(aborts))
            if aborts:
                may_start, pending_start = False, True
            # Right after a start or unit_next the condition is still that of another unit.
            ctx.set(dut.control.unit_ready, int(ready(n_started - 1, unit, cycle))
                    if cycle >= unit_known_at else rng.getrandbits(1))
            port_ready = int(rng.random() >= stalls)
            if is_load:
                # The crossbar buffers two words; what it writes is reported a cycle later.
                port_ready = int(len(buffered) < 2)
                ctx.set(dut.l.ready, port_ready)
                ctx.set(dut.l.written, int(written is not None))
                ctx.set(dut.l.written_progress, written[0] if written else 0)
                ctx.set(dut.l.written_end, written[1] if written else 0)
                written = None
                if buffered and rng.random() >= stalls:
                    at, *written = buffered.pop(0)
                    log.writes.append((cycle, *at))
            else:
                ctx.set(dut.s.ready, port_ready)
                due = bool(answers) and answers[0][0] <= cycle
                ctx.set(dut.s.response_valid, int(due))
                ctx.set(dut.s.data, answers.pop(0)[1] if due
                        else rng.getrandbits(8 * dut.target.word_bytes))
            for name, value in slave.outputs.items():
                ctx.set(getattr(dut.bus, name), value)

            _, _, *values = await ctx.tick().sample(*core, *port, *slave.signals())
            done, unit_next, error, previous, busy, progress, complete, n_bytes = (
                int(v) for v in values[:len(core)])
            port_values = [int(v) for v in values[len(core):len(core) + len(port)]]
            slave.step(*(int(v) for v in values[len(core) + len(port):]))
            if done:
                log.done.append(cycle)
                pending_start = True
            if unit_next:
                log.units.append(cycle)
                unit, unit_known_at = unit + 1, cycle + 3
            if complete:
                log.complete.append(cycle)
            if progress:
                log.progress.append((cycle, progress))
            if error:
                log.errors.append((cycle, error, previous))
                may_start, pending_start = False, False
                abort_windows.append((cycle + 2, cycle + 5))
            if go_on and not may_start and not busy and not aborts:
                may_start = True
            log.n_bytes += n_bytes
            if is_load:
                valid, bank, address, data, enable, words, ends, *small = port_values
                if stands(valid, port_ready, bank, address, data, enable, words, ends):
                    assert enable == (1 << dut.target.word_bytes) - 1
                    buffered.append(((bank, address, data), words, ends))
                if small[0]:
                    assert not buffered and written is None, "parameters overtake words"
                    which = LocalMemory.INSTRUCTIONS if small[1] else LocalMemory.PARAMETERS
                    log.writes.append((cycle, which, small[2], small[3]))
                if progress or complete:
                    arrived = sum(dut.target.word_bytes if w[1] < 4 else 4 for w in log.writes)
                    reported = sum(words for _, words in log.progress) * dut.target.word_bytes
                    assert arrived >= reported, "progress before its words are written"
                for _, which, address, _ in log.writes[-2:]:
                    assert address < depths[which], f"write of word {address} of {which}"
            else:
                valid, bank, address = port_values
                if stands(valid, port_ready, bank, address):
                    assert address < depths[bank], f"read of word {address} of bank {bank}"
                    at = max(cycle + READ_LATENCY, answers[-1][0] + 1 if answers else 0)
                    answers.append((at, banks[bank][address]))
            happened = (done or unit_next or complete or progress or error or n_bytes or starts
                        or slave.n_open() or any(port_values[:1]))
            if happened:
                last_event, quiet = cycle, 0
                log.idle = None
            over = not busy and not (may_start and pending_start and n_started < len(program))
            if over and log.idle is None:
                log.idle = cycle
            quiet = quiet + 1 if over and cycle > 4 else 0
            assert cycle - last_event <= watchdog, (
                f"nothing moved for {watchdog} cycles, {n_started} started, done {log.done}, "
                f"complete {log.complete}, {slave.n_beats} beats")
            cycle += 1

    run_testbench(dut, testbench)
    assert slave.n_open() == 0, "bursts were left open"
    return log


def filled(n_bytes, seed=0, base=BASE, refused=()):
    """A Memory of random bytes."""
    return Memory(base, bytearray(random.Random(f"memory {seed}").randbytes(n_bytes)),
                  list(refused))
