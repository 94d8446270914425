"""The jobs of a tiled program: in which order, with which buffers and transfers."""

from __future__ import annotations

from collections import deque

import numpy as np

from hw.compiler.lowering.nibbles import pack_nibbles
from hw.compiler.memory.build import owners, results
from hw.compiler.memory.external import ExternalMemory
from hw.compiler.memory.placement import Placement
from hw.compiler.memory.pool import Pool
from hw.compiler.tiling.plan import channel_groups, row_stripes, stripe_of, stripe_tasks
from hw.compiler.tiling.state import Job, NodeState, StoredWeights, TensorState
from hw.compiler.tiling.stream import Stream
from hw.isa import ENGINE_OF, FIELDS_PER_CHANNEL, Engine, LocalMemory, Opcode

__all__ = ["Work"]

_PARAMETER_BYTES = 4 * FIELDS_PER_CHANNEL


class Work:
    """Writes a program job by job.

    Members
    -------
    external : ExternalMemory.
    """

    def __init__(self, program, target, order, batch, budget, layout):
        self.program, self.target, self.layout = program, target, layout
        self.external = ExternalMemory(target.word_bytes)
        self.banks = Pool(target.bank_words, "the scratchpad")
        self.parameters = Pool([target.parameter_words], "parameters")
        self.root = owners(program)
        by_size = sorted(range(len(target.bank_words)), key=lambda k: target.bank_words[k])
        self.orders = {"x": by_size[1::-1] + by_size[:1:-1], "y": by_size, "w": by_size[::-1]}
        self.last_instruction = {}
        self.tensors = {(name, image): self._tensor(name, budget)
                        for image in range(batch) for name in layout if self.root[name] == name}
        self.nodes = [self._node(image, node, budget) for image in range(batch)
                      for node in order if not node.op.in_place]
        for owner in self.nodes:
            for name in owner.node.inputs:
                self._of(owner, name).readers += 1

    def _tensor(self, name, budget):
        place = self.layout[name]
        ends = {self.root[n] for n in (*self.program.sources, *results(self.program))}
        if name not in ends and place.n_words <= budget.resident:
            return TensorState(place, None)
        rows = place.stored[1] if name in self.program.sources else 0
        return TensorState(place, self.external.room(place.n_words * place.word_bytes), rows=rows)

    def _of(self, owner, name) -> TensorState:
        return self.tensors[self.root[name], owner.image]

    def _node(self, image, node, budget):
        def stays(name):
            return self.tensors[self.root[name], image].address is None

        stripes = row_stripes(node, self.target, self.layout, budget, stays)
        stripes = [stripe_of(node, self.layout, *rows) for rows in stripes]
        # The first one that reads anything has the most padding: it decides on the engine.
        first = next((stripe for stripe in stripes if any(stripe.inputs[0])), stripes[0])
        tasks = stripe_tasks(node, self.target, self.layout, first, None)
        groups = channel_groups(tasks, self.target.columns, budget, len(stripes))
        return NodeState(image, node, stripes, groups,
                     any(ENGINE_OF[task.opcode] == Engine.ARRAY for task in tasks),
                     keeps_weights=groups == [None])

    def last_instructions(self) -> dict:
        """The last instruction by (image, node); -1 where what lies in place is the input."""
        last = dict(self.last_instruction)
        written = {(image, node.outputs[0]): index for (image, node), index in last.items()}
        for image in sorted({image for _, image in self.tensors}):
            for node in self.program.nodes:
                if node.op.in_place:
                    index = written.get((image, self.root[node.outputs[0]]), -1)
                    last[image, node] = index
        return last

    def placements(self) -> dict[str, Placement]:
        """Where every tensor is; of those on the chip where it was."""
        places = {}
        for image in {image for _, image in self.tensors}:
            for name, place in self.layout.items():
                tensor = self.tensors[self.root[name], image]
                where = (Placement(**vars(place) | {"base": tensor.address, "external": True})
                         if tensor.buffer is None else
                         place.at(tensor.buffer.bank, tensor.buffer.base))
                places[f"{name}#{image}" if image else name] = where
        return places

    # The order of the jobs

    def write(self, stream: Stream) -> Stream:
        """Write all jobs to the stream, and return it."""
        self.stream = stream
        array, vector = deque(), deque()
        for owner in self.nodes:
            (array if owner.on_array else vector).extend(
                Job(owner, stripe, group) for stripe in range(len(owner.stripes))
                for group in range(len(owner.groups)))
        unstored = None
        while array or vector or unstored:
            if array and self._is_ready(array[0]):
                job = array.popleft()
                self._compute(job)
                if unstored:
                    self._store(unstored)
                unstored = job if job.ends_stripe else None
                if unstored and self._output(job).address is None:
                    self._store(unstored)
                    unstored = None
            elif unstored:
                self._store(unstored)
                unstored = None
            elif not (vector and self._is_ready(vector[0])):
                raise RuntimeError("No job of the program can go on")
            self._turn()
            while vector and self._is_ready(vector[0]):
                job = vector.popleft()
                self._compute(job)
                self._store(job)
            if array and self._is_ready(array[0]):
                self._load(array[0])
        return stream

    def _turn(self):
        self.banks.now += 1
        self.parameters.now += 1

    def _is_ready(self, job):
        stripe = job.owner.stripes[job.stripe]
        return all(self._written(job.owner, name) >= max(1, end * self.layout[name].stored[2])
                   for name, (_, end) in zip(job.owner.node.inputs, stripe.inputs))

    def _written(self, owner, name):
        """Pixels of a tensor that are there; behind a reshape its rows have another length."""
        tensor = self._of(owner, name)
        return tensor.rows * tensor.layout.stored[2]

    def _output(self, job):
        return self._of(job.owner, job.owner.node.outputs[0])

    # Parts of a job

    def _tasks(self, job):
        if job.tasks is None:
            owner = job.owner
            job.tasks = stripe_tasks(owner.node, self.target, self.layout,
                                     owner.stripes[job.stripe], owner.groups[job.group],
                                     owner.memo)
        return job.tasks

    def _load(self, job):
        """Everything that the job reads and is not on the chip."""
        if job.loaded:
            return
        job.loaded = True
        owner = job.owner
        for task in self._tasks(job):
            if task.parameters is not None:
                self._load_parameters(owner, task)
        resident = {self._of(owner, name).buffer.bank for name in owner.node.inputs
                    if self._of(owner, name).address is None}
        taken = resident | {buffer.bank for buffer in owner.inputs.values() if buffer}
        for task in job.tasks:
            if task.weights is not None:
                self._load_weights(owner, task, taken)
        avoid = {buffer.bank for buffer in owner.weights.values()} if owner.on_array else set()
        if job.group == 0:
            owner.inputs = {}
            for name, rows in zip(owner.node.inputs, owner.stripes[job.stripe].inputs):
                if name not in owner.inputs:
                    owner.inputs[name] = self._load_rows(job, name, rows, avoid)

    def _load_parameters(self, owner, task):
        values = task.parameters
        address = self.external.constant(_parameter_words(values))
        if address in owner.parameters:
            return
        n_words = len(values) // self.target.lanes
        buffer = owner.parameters[address] = self.parameters.take(n_words, [0])
        self.stream.add({
            "opcode": Opcode.LOAD, "external_base": address,
            "local_memory": LocalMemory.PARAMETERS,
            "local_base": buffer.base * self.target.lanes * FIELDS_PER_CHANNEL, "n_lines": 1,
            "line_words": len(values) * _PARAMETER_BYTES // self.target.word_bytes})

    def _load_weights(self, owner, task, taken):
        stored = self._stored(owner, task.weights)
        if stored.key in owner.weights:
            return
        others = [bank for bank in self.orders["w"] if bank not in taken]
        if not owner.on_array:  # the same bank is slower, but works
            others += [bank for bank in self.orders["w"] if bank in taken]
        buffer = owner.weights[stored.key] = self.banks.take(
            stored.n_words << stored.fields["nibbles"], others, align=2)
        self._transfer(Opcode.LOAD, stored.address, buffer, 1, stored.n_words, **stored.fields)

    def _stored(self, owner, words) -> StoredWeights:
        """Weights in external memory, packed once."""
        if id(words) not in owner.stored:  # the array is kept, so its id stays its own
            packed = pack_nibbles(words)
            codes, shift = (words, 0) if packed is None else packed
            owner.stored[id(words)] = StoredWeights(
                words=words, address=self.external.constant(codes), n_words=len(codes),
                fields={"nibbles": int(packed is not None), "nibble_shift": shift})
        return owner.stored[id(words)]

    def _load_rows(self, job, name, rows, avoid):
        """A buffer with rows of a tensor in external memory; None where it is on the chip."""
        tensor = self._of(job.owner, name)
        if tensor.address is None:
            return None
        first, n_lines, line = self._extent(job, self.layout[name], rows)
        order = [bank for bank in self.orders["x"] if bank not in avoid]
        if not n_lines:  # nothing is read, but it has a bank
            return self.banks.take(1, order)
        buffer = self.banks.take(n_lines * line, order)
        self._transfer(Opcode.LOAD, tensor.address + first * self.target.word_bytes, buffer,
                       n_lines, line)
        return buffer

    def _extent(self, job, place, rows):
        """(first word, lines, words in a line) of rows of a tensor in external memory."""
        first, end = rows
        if not place.dense:
            line = place.stored[2] * place.n_chunks
            return first * line, end - first, line
        low, high = self._dense_bytes(job, place)
        low //= self.target.word_bytes
        return low, 1, -(-high // self.target.word_bytes) - low

    def _dense_bytes(self, job, place):
        """(first, end) byte of what a convolution reads of a dense tensor, its border included."""
        op, (first, end) = job.owner.node.op, job.owner.stripes[job.stripe].rows
        pitch, below = place.dense.y_step, (op.kernel[0] - 1) * op.dilation[0]
        # What is read of a line may be longer than the distance of two.
        height = self._output(job).layout.stored[1]
        line = place.dense.n_bytes - ((height - 1) * op.stride[0] + below) * pitch
        low = first * op.stride[0] * pitch
        return low, low + ((end - first - 1) * op.stride[0] + below) * pitch + line

    def _transfer(self, opcode, address, buffer, n_lines, line_words, **more):
        step = line_words * self.target.word_bytes
        self.stream.add({
            "opcode": opcode, "external_base": address, "external_step": step,
            "local_memory": buffer.bank, "local_base": buffer.base, "n_lines": n_lines,
            "line_words": line_words, "local_step": line_words, **more})

    def _compute(self, job):
        self._load(job)
        owner, stripe = job.owner, job.owner.stripes[job.stripe]
        places = {}
        for name, rows in zip(owner.node.inputs, stripe.inputs):
            places[name] = self._view(owner, name, rows, owner.inputs[name])
        output = owner.node.outputs[0]
        tensor = self._output(job)
        if tensor.address is None:
            if tensor.buffer is None:
                tensor.buffer = self.banks.take(tensor.layout.n_words, self.orders["y"])
        elif job.stripe not in owner.outputs:
            line = tensor.layout.stored[2] * tensor.layout.n_chunks
            owner.outputs[job.stripe] = self.banks.take(
                (stripe.rows[1] - stripe.rows[0]) * line, self.orders["y"])
        places[output] = self._view(owner, output, stripe.rows, owner.outputs.get(job.stripe))
        for task in self._tasks(job):
            weights = None
            if task.weights is not None:
                buffer = owner.weights[self._stored(owner, task.weights).key]
                weights = buffer.bank, buffer.base
            parameters = 0
            if task.parameters is not None:
                parameters = owner.parameters[self.external.constant(
                    _parameter_words(task.parameters))].base
            fields = task.bind(places, weights, parameters)
            x = places[task.inputs[0]]
            if x.dense:
                fields["a_base"] += self._dense_bytes(job, x)[0] % x.word_bytes
            self.last_instruction[owner.image, owner.node] = self.stream.add(fields)
        job.tasks = None
        self._release(job)

    def _view(self, owner, name, rows, buffer):
        """The Placement of rows of a tensor that are on the chip."""
        tensor, place = self._of(owner, name), self.layout[name]
        if buffer is not None:
            return place.at(buffer.bank, buffer.base)
        line = place.stored[2] * place.n_chunks
        return place.at(tensor.buffer.bank, tensor.buffer.base + rows[0] * line)

    def _release(self, job):
        owner = job.owner
        if job.ends_stripe:
            for buffer in owner.inputs.values():
                if buffer is not None:
                    self.banks.give_back(buffer)
            owner.inputs = {}
        if not owner.keeps_weights or job.ends_node:
            for buffer in owner.weights.values():
                self.banks.give_back(buffer)
            owner.weights = {}
        if job.ends_node:
            owner.memo, owner.stored = {}, {}
            for buffer in owner.parameters.values():
                self.parameters.give_back(buffer)
            for name in owner.node.inputs:
                tensor = self._of(owner, name)
                tensor.readers -= 1
                if tensor.address is None and not tensor.readers:
                    self.banks.give_back(tensor.buffer)

    def _store(self, job):
        """The rows of a stripe that is computed are where others find them."""
        owner, (first, end) = job.owner, job.owner.stripes[job.stripe].rows
        tensor = self._output(job)
        if tensor.address is not None:
            line = tensor.layout.stored[2] * tensor.layout.n_chunks
            buffer = owner.outputs.pop(job.stripe)
            self._transfer(Opcode.STORE, tensor.address + first * line * self.target.word_bytes,
                           buffer, end - first, line)
            self.last_instruction[owner.image, owner.node] = len(self.stream.fields) - 1
            self.banks.give_back(buffer)
        tensor.rows = end


def _parameter_words(values) -> np.ndarray:
    """int64 (channels, 3) as LOAD brings them: uint32 (channels, 4)."""
    words = np.zeros((len(values), 4), "<u4")
    words[:, :3] = values & 0xFFFFFFFF
    return words
