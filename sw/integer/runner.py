"""Runs a Program again and again on a torch device, its state and weights kept there.

Every node computes by `sw.executor.Torch`, as in `sw.executor.run`; nothing is kept that no later
node reads. Under torchrun every process runs its part of the batch, and sums, maxima and counters
are those of the whole, so that the state is the same whatever the number of processes.
"""

import numpy as np
import torch
import torch.distributed as dist

from golden.program import Program
from sw.executor import TORCH, Torch
from sw.integer.passes import FusedPasses
from sw.train.distributed import ALONE, World

__all__ = ["Runner"]


class _Part(Torch):
    """The primitives of one process's part of a batch."""

    def __init__(self, world):
        self._world = world

    def part(self) -> tuple[int, int]:
        return self._world.rank, self._world.size

    def all_sum(self, value) -> torch.Tensor:
        return self._reduced(value, dist.ReduceOp.SUM)

    def all_max(self, value) -> torch.Tensor:
        return self._reduced(value, dist.ReduceOp.MAX)

    def _reduced(self, value, how):
        value = value.contiguous().clone()
        dist.all_reduce(value, how)
        return value


class Runner:
    """The runs of a Program that follow each other.

    program: its initial state is the first; state: codes by name in place of that
    device: of torch; world: the processes that share each batch in equal parts
    passes: a `sw.integer.passes.FusedPasses`, the same bits faster, on a CPU; in several processes
        where all have the same kind, else in none
    Members: state, dict of name to tensor on the device, (1, ...) or (N, ...)
    """

    def __init__(self, program: Program, device: str = "cpu", state: dict | None = None,
                 world: World = ALONE, passes: FusedPasses | None = None):
        self.program, self.device = program, torch.device(device)
        self._primitives = TORCH if world.size == 1 else _Part(world)
        self._passes = passes if self._agree(passes) else None
        self.state = self._tensors({name: entry.initial[None] for name, entry in
                                    program.state.items()} if state is None else state)
        last = {name: index for index, node in enumerate(program.nodes) for name in node.inputs}
        kept = {*program.outputs, *(entry.renewed_by for entry in program.state.values())}
        self._done_after = [[] for _ in program.nodes]
        for name, index in last.items():
            if name not in kept:
                self._done_after[index].append(name)

    def _agree(self, passes):
        """Whether all processes have the same passes: what they exchange depends on it."""
        kind = {None: 0, "float": 1, "int": 2}[passes and passes.kind]
        ends = self._primitives.all_max(torch.tensor([kind, -kind], device=self.device))
        return int(ends.sum()) == 0

    def _tensors(self, arrays):
        return {name: value.to(self.device) if torch.is_tensor(value)
                else torch.from_numpy(np.array(value)).to(self.device)
                for name, value in arrays.items()}

    def _compute(self, op, inputs):
        results = self._passes(op, inputs, self._primitives) if self._passes else None
        if results is None:
            results = op.compute(self._primitives, *inputs)
        return results if isinstance(results, tuple) else (results,)

    @torch.inference_mode()
    def __call__(self, inputs: dict) -> dict[str, torch.Tensor]:
        """One run: the outputs by name; the state is renewed.

        inputs: codes by name, arrays or tensors, (N, ...) of this process's part; what has no batch
            axis as `Program.quantize_inputs` takes it
        """
        trace = self._tensors({name: value if self.program.tensors[name].batched else value[None]
                               for name, value in inputs.items()}) | self.state
        for node, done in zip(self.program.nodes, self._done_after, strict=True):
            results = self._compute(node.op, [trace[name] for name in node.inputs])
            trace.update(zip(node.outputs, results, strict=True))
            for name in done:
                del trace[name]
        self.state = {name: trace[entry.renewed_by]
                      for name, entry in self.program.state.items()}
        return {name: trace[name] for name in self.program.outputs}
