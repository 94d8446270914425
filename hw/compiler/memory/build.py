"""From tasks to an image: places, parameters, synchronisation, encoding."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from hw.compiler.lowering.task import vector_share
from hw.compiler.memory.allocate import Conflicts, Item, allocate
from hw.compiler.memory.batch import Batch
from hw.compiler.memory.image import Block, Image, NodeStep
from hw.compiler.refusals import DoesNotFit
from hw.compiler.scheduling.estimate import estimate_fields
from hw.compiler.scheduling.schedule import Scheduler
from hw.isa import (
    ENGINE_OF,
    INSTRUCTIONS,
    N_WORDS,
    Engine,
    Opcode,
    decode,
    encode,
    fields_of,
)
from hw.targets import Target

__all__ = ["assemble", "encode_program", "owners", "results", "step_of"]

_SLACK = 3  # tasks that a buffer outlives its last reader, so that none waits for it
#: Parts of the room that buffers may fill by outliving their readers: the more do, the less is left
#: to keep apart what is read side by side.
_FILLS = (1, 0.9, 0.8, 0.7, 0.6, 0.5)
_STALL = 0.35  # cycles lost per cycle of conflict, of which the costs are upper bounds
_NEAR = 3  # tasks of two engines that may run side by side are at most so far apart
_ONCE = -1  # before the first task


def encode_program(program: str, fields: list[dict]) -> np.ndarray:
    """uint32 words of instructions; DoesNotFit naming a field whose value is too large."""
    try:
        return np.array([encode(**f) for f in fields], "<u4").ravel()
    except ValueError as error:
        if any(_is_too_large(f) for f in fields):
            raise DoesNotFit(f"Program '{program}': {error}") from error
        raise


def _is_too_large(fields):
    return any(value > field.high or field.signed and value < field.low
               for field in fields_of(fields["opcode"])
               if (value := fields.get(field.name)) is not None)


class _Constants:
    """Weights and parameters of tasks, each kept once."""

    def __init__(self):
        self.weights, self.parameters = {}, {}
        self.n_channels = 0
        self._keys = {}

    def _key(self, array):
        if id(array) not in self._keys:  # the array is kept, so its id stays its own
            digest = hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()
            self._keys[id(array)] = digest, array
        return self._keys[id(array)][0]

    def add(self, task):
        if task.weights is not None:
            self.weights.setdefault(self._key(task.weights), task.weights)
        if task.parameters is not None:
            key = self._key(task.parameters)
            if key not in self.parameters:
                self.parameters[key] = (self.n_channels, task.parameters)
                self.n_channels += len(task.parameters)

    def weight_key(self, task):
        return None if task.weights is None else self._key(task.weights)

    def parameter_base(self, task, lanes):
        if task.parameters is None:
            return 0
        return self.parameters[self._key(task.parameters)][0] // lanes


def _sequence(order, tasks, batch):
    """[(image, node, [task])] in the order in which they run, image after image.

    Where they are gathered node after node: image None is all of them at once.
    """
    if not batch.gathered:
        return [(image, node, tasks[node.name]) for image in range(batch.size) for node in order]
    return [(image, node, tasks[node.name]) for node in order
            for image in ([None] if node.name in batch.whole else range(batch.size))]


class _Slots:
    """Which tensors of which images lie in one piece, and where in it they are."""

    def __init__(self, program, batch):
        self.program, self.batch = program, batch
        self.owner = owners(program)

    def of(self, name, image):
        """The key of the piece in which a tensor of an image lies."""
        is_shared = self.batch.gathered or not self.program.tensors[name].batched
        return self.owner[name], 0 if is_shared else image

    def copies(self, name):
        """How many images a piece holds."""
        gathered = self.batch.gathered and self.program.tensors[name].batched
        return self.batch.size if gathered else 1

    def n_words(self, name, layout):
        """Words of a piece, with those behind it that are read as well."""
        return self.copies(name) * layout[name].n_words + layout[name].spare

    def place(self, name, image, layout, where):
        """The Placement of a tensor of an image; where: {key: (bank, base)}."""
        bank, base = where[self.of(name, image or 0)]
        index = image if image and self.copies(name) > 1 else 0
        return layout[name].at(bank, base + index * layout[name].n_words)

    def placements(self, layout, where):
        """All of them, by name."""
        places = {}
        for image in range(self.batch.size):
            for name in layout:
                if not image or self.program.tensors[name].batched:
                    places[f"{name}#{image}" if image else name] = self.place(
                        name, image, layout, where)
        return places


def owners(program) -> dict[str, str]:
    """The tensor in whose place each tensor lies."""
    owner = {name: name for name in program.sources}
    for node in program.nodes:
        for name in node.outputs:
            owner[name] = owner[node.inputs[0]] if node.op.in_place else name
    return owner


def results(program) -> tuple[str, ...]:
    """What the host reads after a run: the outputs, and what renews the state."""
    renewing = (state.renewed_by for state in program.state.values())
    return tuple(dict.fromkeys((*program.outputs, *renewing)))


def _lifetimes(program, sequence, slots):
    """{(tensor, image): [first, last] task}, weights not among them."""
    lives, position = {}, 0
    n_tasks = sum(len(tasks) for _, _, tasks in sequence)
    for image in range(slots.batch.size):
        for name in program.sources:
            lives[slots.of(name, image)] = [_ONCE, _ONCE]
    for image, _, tasks in sequence:
        for task in tasks:
            for name in task.inputs:
                lives[slots.of(name, image)][1] = position
            lives.setdefault(slots.of(task.output, image), [position, position])[1] = position
            position += 1
    for image in range(slots.batch.size):
        for name in results(program):
            lives[slots.of(name, image)][1] = n_tasks
    return lives


def _conflicts(flat, constants, slots, target):
    """What should not share a bank; flat: [(image, task)]."""
    conflicts = Conflicts()
    costs = [INSTRUCTIONS[task.opcode].cost({"wide": 0, **task.fields}, target).total
             for _, task in flat]
    for index, (image, task) in enumerate(flat):
        x, w = slots.of(task.inputs[0], image), constants.weight_key(task)
        if ENGINE_OF[task.opcode] == Engine.ARRAY:
            conflicts.forbid(x, slots.of(task.inputs[1], image) if w is None else w)
            continue
        if w is not None:
            beside_input, beside_array = INSTRUCTIONS[task.opcode].weight_shares(task.fields)
            conflicts.add(x, w, beside_input * costs[index])
        for near in range(max(0, index - _NEAR), min(len(flat), index + _NEAR + 1)):
            other_image, other = flat[near]
            if ENGINE_OF[other.opcode] != Engine.ARRAY:
                continue
            cycles = min(costs[index], costs[near])
            a, b = slots.of(other.inputs[0], other_image), constants.weight_key(other)
            if b is None:
                b = slots.of(other.inputs[1], other_image)
            load = min(1, target.rows / other.fields["slots"])
            for name in task.inputs:
                mine = slots.of(name, image)
                conflicts.add(mine, b, cycles)
                conflicts.add(mine, a, cycles * load / 2)
            if w is not None and beside_array:
                conflicts.add(w, b, beside_array * cycles)
                conflicts.add(w, a, beside_array * load * cycles / 2)
    return conflicts


def _arrangements(program, target, sequence, constants, slots, places):
    """(conflicts, {tensor or weight: (bank, base)}), different ones, up to one without conflicts;
    DoesNotFit where there is no room."""
    lives = _lifetimes(program, sequence, slots)
    flat = [(image, task) for image, _, tasks in sequence for task in tasks]
    even = {constants.weight_key(task) for _, task in flat
            if "w_base" in INSTRUCTIONS[task.opcode].even}
    conflicts = _conflicts(flat, constants, slots, target)
    weights = [Item(name=key, n_words=len(words), first=_ONCE, last=len(flat),
                    align=2 if key in even else 1)
               for key, words in constants.weights.items()]
    room = sum(target.bank_words) - sum(item.n_words for item in weights)
    tensors = [Item(name=key, n_words=slots.n_words(key[0], places), first=first, last=last)
               for key, (first, last) in lives.items()]
    least = allocate(weights + tensors, target, conflicts)
    if least is None:
        _refuse(program, target, weights, tensors)
    seen = []
    for fill in _FILLS:
        found = allocate(weights + _outliving(tensors, fill * room), target, conflicts)
        if found and found not in seen:
            seen.append(found)
            yield found
            if found[0] == 0:
                return
    yield least


def _outliving(tensors, room):
    """The same items, each living on for up to _SLACK tasks while all alive take at most ``room``
    words: first one task for all of them, in the order in which they end, then the next."""
    begin = min(item.first for item in tensors)
    used = np.zeros(max(item.last for item in tensors) + _SLACK + 1 - begin, np.int64)
    for item in tensors:
        used[item.first - begin:item.last + 1 - begin] += item.n_words
    last = [item.last for item in tensors]
    order = sorted(range(len(tensors)), key=lambda k: last[k])
    for more in range(1, _SLACK + 1):
        for k in order:
            item, at = tensors[k], last[k] + 1 - begin
            if last[k] == item.last + more - 1 and used[at] + item.n_words <= room:
                used[at] += item.n_words
                last[k] += 1
    return [replace(item, last=end) for item, end in zip(tensors, last)]


def _refuse(program, target, weights, tensors):
    n_weights = sum(item.n_words for item in weights)
    last = max(item.last for item in tensors)
    peak = max((sum(item.n_words for item in tensors if item.first <= at <= item.last)
                for at in range(_ONCE, last + 1)), default=0)
    available = sum(target.bank_words)
    where = (f"there are {available}" if n_weights + peak > available else
             f"which do not fit the banks of {', '.join(map(str, target.bank_words))}")
    raise DoesNotFit(
        f"Program '{program.name}' does not fit target {target.name}: weights and activations "
        f"need {n_weights} + {peak} scratchpad words of {target.word_bytes} bytes, {where}")


def _check_capacity(program, target, n_channels, n_instructions):
    for what, needed, available in (
            ("per-channel parameters need {} channels", n_channels,
             target.parameter_words * target.lanes),
            ("instructions need {} words", n_instructions * N_WORDS,
             target.instruction_words // N_WORDS * N_WORDS)):
        if needed > available:
            raise DoesNotFit(f"Program '{program.name}' does not fit target {target.name}: "
                             f"{what.format(needed)}, there are {available}")


def assemble(program, target: Target, order, tasks, layout, batch: Batch) -> tuple[float, Image]:
    """An image of a batch of images of a program whose nodes run in ``order``, behind its cost:
    the cycles that are expected, what conflicts of banks cost among them.

    tasks: by node name; layout: Placements of which only bank and base are open. The estimate of
    its cycles without conflicts is in the image's metadata.
    """
    sequence = _sequence(order, tasks, batch)
    constants = _Constants()
    for _, _, node_tasks in sequence:
        for task in node_tasks:
            constants.add(task)
    n_tasks = sum(len(node_tasks) for _, _, node_tasks in sequence)
    _check_capacity(program, target, constants.n_channels, n_tasks + 1)
    slots = _Slots(program, batch)
    best = None
    for conflicts, places in _arrangements(program, target, sequence, constants, slots, layout):
        candidate = _scheduled(program, target, sequence, constants, slots, layout, places)
        cycles = estimate_fields(candidate, target).cycles
        if best is None or cycles + _STALL * conflicts < best:
            best, estimated, fields, where = (cycles + _STALL * conflicts, cycles, candidate,
                                              places)
    steps, first = [], 0
    for image, node, node_tasks in sequence:
        steps.append(step_of(program, node, first, len(node_tasks), image,
                             vector_share(node_tasks), batch.size))
        first += len(node_tasks)
    rows = [rows for _, rows in constants.parameters.values()]
    parameters = np.concatenate(rows) if rows else np.zeros((1, 3), np.int64)
    return best, Image(
        program=program.name, program_sha256=program.sha256, target=target,
        instructions=encode_program(program.name, fields),
        parameters=(parameters & 0xFFFFFFFF).astype("<u4"),
        blocks=_blocks(constants.weights, where), placements=slots.placements(layout, where),
        steps=tuple(steps), inputs=program.sources, outputs=results(program), batch=batch.size,
        metadata={"estimated_cycles": estimated})


def _scheduled(program, target, sequence, constants, slots, layout, where):
    """The instructions of a sequence of tasks, with what each waits for; where: of everything."""
    scheduler, fields = Scheduler(target=target), []
    for image, node, node_tasks in sequence:
        here = {name: slots.place(name, image, layout, where)
                for name in (*node.inputs, *node.outputs)}
        for task in node_tasks:
            key = constants.weight_key(task)
            bound = task.bind(here, where[key] if key else None,
                              constants.parameter_base(task, target.lanes))
            fields.append(scheduler.add(_decoded(program.name, bound)))
    return [*fields, decode(encode(opcode=Opcode.HALT))]


def _decoded(program, bound):
    """All fields of an instruction, those that are 0 too."""
    return decode([int(word) for word in encode_program(program, [bound])])


def step_of(program, node, first, n, image, share=0, size=1) -> NodeStep:
    """The NodeStep of a node of image ``image``, None for all: n instructions from ``first`` on.

    share: of its MACs that the vector engine computes; size: images of all
    """
    shapes = [program.tensors[name].shape for name in node.inputs]
    suffix = f"#{image}" if image else ""
    macs, outputs = int(node.op.macs(*shapes)), tuple(name + suffix for name in node.outputs)
    if image is None:
        macs *= size
        outputs = tuple(f"{name}#{k}" if k else name for name in node.outputs
                        for k in range(size if program.tensors[name].batched else 1))
    return NodeStep(node=node.name + suffix, op=type(node.op).__name__, first_instruction=first,
                n_instructions=n, outputs=outputs, macs=macs, vector_macs=int(macs * share))


def _blocks(weights, where):
    """Weights of neighbouring places in one block."""
    blocks = []
    for key, words in sorted(weights.items(), key=lambda entry: where[entry[0]]):
        bank, base = where[key]
        last = blocks[-1] if blocks else None
        if last and last.bank == bank and last.base + len(last.words) == base:
            blocks[-1] = Block(bank=bank, base=last.base,
                               words=np.concatenate([last.words, words]))
        else:
            blocks.append(Block(bank=bank, base=base, words=words))
    return tuple(blocks)
