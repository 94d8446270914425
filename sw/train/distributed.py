"""Training on many devices, as ``torchrun`` starts it: a thin layer over torch.distributed.

Gradients are averaged by DistributedDataParallel; what is here joins the process group that
torchrun's environment describes and reduces the figures that a report needs.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from golden.errors import LockstepError

__all__ = ["ALONE", "World", "joined", "restarted", "started_by_torchrun"]


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all: rank of size, and its number local_rank on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """True in the process that writes the outputs."""
        return self.rank == 0

    def mean(self, figures: Tensor) -> Tensor:
        """The mean over all processes of a float tensor."""
        return self.sum(figures) / self.size

    def sum(self, figures: Tensor) -> Tensor:
        """The sum over all processes of a tensor."""
        if self.size > 1:
            dist.all_reduce(figures)
        return figures

    def gather(self, value: Any) -> list:
        """The values of all processes, by rank; value: anything that pickles."""
        if self.size == 1:
            return [value]
        values: list = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @torch.no_grad()
    def share(self, tensors: list[Tensor]) -> None:
        """Give every process the float tensors of rank 0, in place, in one exchange."""
        if self.size > 1 and tensors:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.broadcast(flat, 0)
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors])):
                tensor.copy_(part.view(tensor.shape))

    def share_buffers(self, *models: nn.Module) -> None:
        """Give every process the buffers (running statistics and ranges) of rank 0."""
        if self.size > 1:
            for model in models:
                for buffer in model.buffers():
                    dist.broadcast(buffer, 0)


ALONE = World()


def started_by_torchrun() -> bool:
    """True if torchrun's environment variables are present."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ and "MASTER_ADDR" in os.environ


def restarted() -> bool:
    """True if torchrun has started this process again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextlib.contextmanager
def joined(device: str, timeout: float) -> Iterator[World]:
    """Join the process group of torchrun, or be alone without one; leave it at the end.

    device: "cpu" (gloo) or "cuda" (nccl). timeout: seconds that a process waits for the others
    before it ends with an error. A lost connection becomes a LockstepError.
    """
    if not started_by_torchrun():
        yield ALONE
        return
    world = World(rank=int(os.environ["RANK"]), size=int(os.environ["WORLD_SIZE"]),
                  local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    if device == "cuda":
        if world.local_rank >= torch.cuda.device_count():
            raise LockstepError(f"Process {world.local_rank} of this machine has no CUDA device: "
                                f"there are {torch.cuda.device_count()}")
        torch.cuda.set_device(world.local_rank)
    limit = timedelta(seconds=timeout)
    try:
        # torchrun's store outlives a restart and still holds the dead processes' addresses
        store, rank, size = next(rendezvous("env://", timeout=limit))
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        dist.init_process_group("nccl" if device == "cuda" else "gloo", rank=rank,
                                world_size=size, timeout=limit,
                                store=dist.PrefixStore(f"restart_{restarts}", store))
        yield world
    except RuntimeError as error:
        if not _is_about_peers(error):
            raise
        raise LockstepError(f"Process {world.rank} of {world.size} lost another process: "
                            f"{str(error).splitlines()[0]}") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_about_peers(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, dist.DistError) or any(
        word in text for word in ("gloo", "Gloo", "Connection closed by peer", "Connection reset",
                                  "Timed out waiting", "NCCL"))
