"""Crossbar: connects the engines to the scratchpad banks.

A bank reads one row (an even word and the odd one behind it) and writes one word per cycle.
Different banks serve different ports in the same cycle; where several ports want the same bank,
the first of ``a, b, v, w, s, h`` reads and the first of ``r, m, l, h`` writes. The array's ports
``a`` and ``b`` and the lanes' port ``r`` never wait; the others have a small buffer in which a
request stays until its bank is free. Port ``h`` reads only in cycles in which ``s`` has nothing to
read, whatever the bank.

One stage each: request, choice of each bank's port, choice of what that port says, a register
beside the RAM, RAM, its output register, order of the two words (the addressed one first), choice
of each port's bank, and for ``a`` two more that rotate the bytes to an unaligned address.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.common.pipeline import delayed, one_of, registered
from hw.rtl.common.stream import SkidBuffer
from hw.rtl.memory.ports import (
    ARRAY_ADDRESS_WIDTH,
    PORT_PROGRESS_WIDTH,
    WORD_ADDRESS_WIDTH,
    ArrayRead,
    Read,
    WaitingWrite,
    Write,
)
from hw.rtl.memory.scratchpad import Bank, exact_bits, word_layout
from hw.rtl.memory.waiting import WaitingQueue
from hw.targets import N_BANKS

__all__ = ["ARRAY_ADDRESS_WIDTH", "WORD_ADDRESS_WIDTH", "ArrayRead", "Crossbar", "Read",
           "WaitingWrite", "Write"]

_WAITING_WRITES = ("m", "l", "h_write")
_PORTS = ("a", "b", "v", "w", "s", "h", "r", *_WAITING_WRITES)


class Crossbar(wiring.Component):
    """The banks of a target behind their ports.

    Members
    -------
    a : ArrayRead, byte addresses: `columns` bytes from any byte on, over the end of the word.
    b : ArrayRead, word addresses.
    v, s, h : Read, one word. w : Read, the pair of words at an even address.
    r : Write. m, l, h_write : WaitingWrite.
    conflict : ``a`` and ``b`` wanted the same bank in the same cycle; ``b`` got anything.
    address_error : a request lay beyond the end of its bank. Such a write is dropped, such a read
        gives anything; the last word read by ``a`` may reach over the end.
    address_errors : which port's request did, one cycle earlier.

    A read that enters WRITE_TO_READ cycles after a write to ``r``, or later, sees it; for the
    other writes see WaitingWrite. A read of ``v`` or ``w`` takes at least WAITING_READ_LATENCY
    cycles, one of ``s`` or ``h`` one more. conflict and address_error come two cycles after the
    request.
    """

    READ_LATENCY = 10
    WAITING_READ_LATENCY = 8
    WRITE_TO_READ = 1

    def __init__(self, target):
        self.target = target
        word = target.word_bytes
        one = word_layout(word)
        super().__init__({
            "a": In(ArrayRead(word)), "b": In(ArrayRead(word)),
            "v": In(Read(one)), "w": In(Read(data.ArrayLayout(one, 2))),
            "s": In(Read(one)), "h": In(Read(one)),
            "r": In(Write(word)), "m": In(WaitingWrite(word)), "l": In(WaitingWrite(word)),
            "h_write": In(WaitingWrite(word)),
            "conflict": Out(1), "address_error": Out(1),
            "address_errors": Out(data.StructLayout(dict.fromkeys(_PORTS, 1)))})
        self._ports = {"a": self.a, "b": self.b, "v": self.v, "w": self.w, "s": self.s, "h": self.h,
                       "r": self.r, "m": self.m, "l": self.l, "h_write": self.h_write}
        self._row_width = exact_bits(max(target.bank_words) // 2) or 1
        self._request = data.StructLayout({
            "banks": N_BANKS, "even_row": self._row_width, "odd_row": self._row_width, "odd": 1})
        self._write = data.StructLayout({
            "banks": N_BANKS, "row": self._row_width, "enable_even": word, "enable_odd": word,
            "data": 8 * word, "progress": PORT_PROGRESS_WIDTH, "instruction_end": 1})

    def _select_bank(self, m, name, address) -> tuple:
        """The bank that a port wants, one-hot; as a second value the same, 0 beyond its end."""
        port = self._ports[name]
        banks = Cat(port.bank == k for k in range(N_BANKS))
        inside = banks & Cat(address < depth for depth in self.target.bank_words)
        ready = port.ready if "ready" in port.signature.members else 1
        m.d.sync += self.address_errors[name].eq(port.valid & ready & ~inside.any())
        return banks, inside

    def _waiting(self, m, name, buffer, fields) -> stream.Interface:
        """A buffer for a port that may wait: its output stream, whose ready is still open."""
        port = self._ports[name]
        m.submodules[f"{name}_buffer"] = buffer
        m.d.comb += [buffer.i.valid.eq(port.valid), port.ready.eq(buffer.i.ready)]
        m.d.comb += [buffer.i.payload[key].eq(value) for key, value in fields.items()]
        return buffer.o

    def _array_request(self, m, name, word_address) -> data.View:
        """The registered request of port a or b, for a word and the one behind it."""
        request = Signal(self._request, name=f"{name}_request")
        banks, _ = self._select_bank(m, name, word_address)
        m.d.sync += [
            request.banks.eq(Mux(self._ports[name].valid, banks, 0)),
            request.odd.eq(word_address[0]), request.odd_row.eq(word_address[1:]),
            request.even_row.eq((word_address + 1)[1:])]
        return request

    def _read_requests(self, m) -> tuple:
        """Registered requests of all read ports, the most urgent first, and what frees them."""
        byte_bits = exact_bits(self.target.word_bytes)
        a = self._array_request(m, "a", self.a.address[byte_bits:])
        b = self._array_request(m, "b", self.b.address)
        heads = {}
        for name in "vwsh":
            address = self._ports[name].address
            banks, _ = self._select_bank(m, name, address)
            heads[name] = self._waiting(m, name, SkidBuffer(self._request), {
                "banks": banks, "even_row": address[1:], "odd_row": address[1:],
                "odd": address[0]})
        # s and h become one request, and share the data path back.
        s, h = heads["s"], heads["h"]
        m.submodules.shared_buffer = buffer = SkidBuffer(data.StructLayout({
            "request": self._request, "is_host": 1}))
        m.d.comb += [
            buffer.i.valid.eq(s.valid | h.valid), buffer.i.payload.is_host.eq(~s.valid),
            buffer.i.payload.request.eq(Mux(s.valid, s.payload, h.payload)),
            s.ready.eq(buffer.i.ready), h.ready.eq(buffer.i.ready & ~s.valid)]
        shared = buffer.o
        v, w = heads["v"], heads["w"]
        requests = {"a": (1, a, None), "b": (1, b, None),
                    "v": (v.valid, v.payload, v.ready), "w": (w.valid, w.payload, w.ready),
                    "s": (shared.valid, shared.payload.request, shared.ready)}
        return requests, shared.payload.is_host

    def _grant(self, m, requests, layout, suffix="") -> dict:
        """What is granted: {port: (one-hot by bank, request)}, registered; drives ready.

        A write beyond its bank wants no bank at all; it is granted none and let go.
        """
        granted, taken = {}, 0
        for name, (valid, request, ready) in requests.items():
            grant = Signal(N_BANKS, name=f"{name}_grant{suffix}")
            late = Signal(layout, name=f"{name}_granted{suffix}", reset_less=True)
            wanted = Mux(valid, request.banks, 0)
            m.d.sync += [grant.eq(wanted & ~taken), late.eq(request)]
            if ready is not None:
                m.d.comb += ready.eq(~(request.banks & taken).any())
            granted[name] = grant, late
            taken = taken | wanted
        return granted

    def _write_side(self, m, banks) -> None:
        """Choose for every bank what it writes; registered, so the RAM sees registers."""
        word = self.target.word_bytes

        def fields(name):
            port = self._ports[name]
            odd = port.address[0]
            _, inside = self._select_bank(m, name, port.address)
            return {"banks": inside, "row": port.address[1:], "data": port.data.as_value(),
                    "enable_even": Mux(odd, 0, port.enable),
                    "enable_odd": Mux(odd, port.enable, 0)}

        direct = Signal(self._write, name="r_request", reset_less=True)
        m.d.sync += [direct[key].eq(value) for key, value in fields("r").items()]
        with m.If(~self.r.valid):
            m.d.sync += direct.banks.eq(0)
        requests = {"r": (1, direct, None)}
        for name in _WAITING_WRITES:
            port = self._ports[name]
            head = self._waiting(m, name, WaitingQueue(self._write), fields(name) | {
                "progress": port.progress, "instruction_end": port.instruction_end})
            requests[name] = (head.valid, head.payload, head.ready)
        granted = self._grant(m, requests, self._write, "_write")
        for k, bank in enumerate(banks):
            row = Signal(self._row_width, name=f"write_row_{k}", reset_less=True)
            content = Signal(8 * word, name=f"write_data_{k}", reset_less=True)
            enables = [Signal(word, name=f"write_enable_{parity}_{k}") for parity in range(2)]

            def choose(field, k=k):
                return one_of((grant[k], request[field]) for grant, request in granted.values())

            m.d.sync += [row.eq(choose("row")), content.eq(choose("data")),
                         enables[0].eq(choose("enable_even")), enables[1].eq(choose("enable_odd"))]
            m.d.comb += [bank.write_row.eq(row), bank.write_data.eq(content),
                         bank.write_enable.eq(Cat(enables))]
        for name in _WAITING_WRITES:
            port = self._ports[name]
            valid, _, ready = requests[name]
            _, request = granted[name]
            passed = Signal(name=f"{name}_passed")
            m.d.sync += [
                passed.eq(valid & ready), port.written.eq(passed),
                port.written_progress.eq(Mux(passed, request.progress, 0)),
                port.written_end.eq(passed & request.instruction_end)]

    def _read_side(self, m, banks) -> tuple:
        """From requests to the two ordered words of every bank, and who they belong to."""
        requests, shared_is_host = self._read_requests(m)
        granted = self._grant(m, requests, self._request)
        m.d.sync += self.conflict.eq((requests["a"][1].banks & requests["b"][1].banks).any())
        words = []
        for k, bank in enumerate(banks):
            chosen = {field: Signal(self._request[field].shape, name=f"{field}_{k}",
                                    reset_less=True) for field in ("even_row", "odd_row", "odd")}
            for field, register in chosen.items():
                m.d.sync += register.eq(one_of(
                    (grant[k], request[field]) for grant, request in granted.values()))
            m.d.comb += [bank.read_rows[0].eq(chosen["even_row"]),
                         bank.read_rows[1].eq(chosen["odd_row"])]
            odd = delayed(m, chosen["odd"], Bank.LATENCY, f"odd_{k}", reset_less=True)
            even_data, odd_data = bank.read_data
            ordered = [Signal(8 * self.target.word_bytes, name=f"word_{k}_{n}", reset_less=True)
                       for n in range(2)]
            m.d.sync += [ordered[0].eq(Mux(odd, odd_data, even_data)),
                         ordered[1].eq(Mux(odd, even_data, odd_data))]
            words.append(ordered)
        # From the grant to the ordered words: choice of what the port says, bank, order.
        owners = {name: delayed(m, grant, 2 + Bank.LATENCY, f"{name}_owner")
                  for name, (grant, _) in granted.items()}
        is_host = delayed(m, shared_is_host, 3 + Bank.LATENCY, "is_host", reset_less=True)
        return words, owners, is_host

    def elaborate(self, platform) -> Module:
        m = Module()
        banks = []
        for k, depth in enumerate(self.target.bank_words):
            bank = Bank(depth=depth, word_bytes=self.target.word_bytes)
            m.submodules[f"bank_{k}"] = bank
            banks.append(bank)
        self._write_side(m, banks)
        words, owners, is_host = self._read_side(m, banks)
        m.d.sync += self.address_error.eq(self.address_errors.as_value().any())

        def chosen(name, index):
            return one_of((owners[name][k], words[k][index]) for k in range(N_BANKS))

        for name, port in (("v", self.v), ("w", self.w)):
            m.d.sync += port.response_valid.eq(owners[name].any())
        shared_data = Signal(word_layout(self.target.word_bytes), reset_less=True)
        m.d.sync += [
            registered(m, self.v.data).eq(chosen("v", 0)),
            registered(m, self.w.data).eq(Cat(chosen("w", 0), chosen("w", 1))),
            shared_data.eq(chosen("s", 0)),
            self.s.response_valid.eq(owners["s"].any() & ~is_host),
            self.h.response_valid.eq(owners["s"].any() & is_host)]
        m.d.comb += [self.s.data.eq(shared_data), self.h.data.eq(shared_data)]
        pair = Signal(16 * self.target.word_bytes, reset_less=True)
        b_word = Signal(8 * self.target.word_bytes, reset_less=True)
        m.d.sync += [pair.eq(Cat(chosen("a", 0), chosen("a", 1))), b_word.eq(chosen("b", 0))]
        rotated = self._rotate(m, pair)
        m.d.comb += [self.a.data.eq(rotated),
                     self.b.data.eq(delayed(m, b_word, _ROTATE_STAGES, "b_data", reset_less=True))]
        return m

    def _rotate(self, m, pair) -> Value:
        """The word that begins at port a's byte of a pair: whole fours of bytes, then the rest."""
        word = self.target.word_bytes
        bits = exact_bits(word)
        offset = delayed(m, self.a.address[:bits], self.READ_LATENCY - _ROTATE_STAGES, "a_offset",
                         reset_less=True)
        coarse = Signal(8 * (word + 3), reset_less=True)
        m.d.sync += coarse.eq(Array(
            [pair[32 * k:][:8 * (word + 3)] for k in range(word // 4)])[offset[2:]]
            if word > 4 else pair[:8 * (word + 3)])
        fine = Signal(2, reset_less=True)
        rotated = Signal(8 * word, reset_less=True)
        m.d.sync += [fine.eq(offset[:2]),
                     rotated.eq(Array([coarse[8 * k:][:8 * word] for k in range(4)])[fine])]
        return rotated


_ROTATE_STAGES = 2
