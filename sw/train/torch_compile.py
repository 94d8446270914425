"""torch.compile for a training step, where it pays."""

import functools
import os
import subprocess
import sysconfig

import torch
from torch import nn

from golden.errors import LockstepError
from sw.layers import fused
from sw.layers.weighted import QLayer

__all__ = ["check_compilable", "check_narrow", "compile_passes", "compiled"]

_PROBE = "#include <Python.h>\n#include <omp.h>\n"  # what Inductor's files begin with
_SECONDS = 60


def check_compilable(network: nn.Module) -> None:
    """Raise LockstepError where torch.compile would find no working C++ compiler, or where what it
    made of the network would crash."""
    _check_compiler(os.environ.get("CXX") or "g++")  # as Inductor chooses it on Linux
    if not _has_merged_passes(network):
        check_narrow(network, "--compile")


def check_narrow(network: nn.Module, option: str) -> None:
    """Raise LockstepError where an option that changes the memory layout would crash a network:
    for a model's own nn.Conv2d; ``QConv2d._with_geometry`` avoids the kernel."""
    for name, layer in network.named_modules():
        if _is_narrow(layer):
            raise LockstepError(
                f"{option} cannot take layer {name}: torch's weight gradient of a strided 1x1 "
                "convolution of 2 to 6 channels writes past its buffer in the layout of that "
                f"option; train without {option}")


def _is_narrow(layer: nn.Module) -> bool:
    return (isinstance(layer, nn.Conv2d) and layer.weight.shape[2:].numel() == 1
            and 1 < layer.weight.shape[1] < 8 and max(layer.stride) > 1)


def _has_merged_passes(network: nn.Module) -> bool:
    return any(isinstance(layer, QLayer) and fused.supports(layer.config)
               for layer in network.modules())


@functools.cache
def _check_compiler(command: str) -> None:
    arguments = [command, "-x", "c++", "-fopenmp", "-fsyntax-only",
                 f"-I{sysconfig.get_path('include')}", "-"]
    try:
        done = subprocess.run(arguments, input=_PROBE, capture_output=True, text=True,
                              check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    else:
        if done.returncode == 0:
            return
        lines = [*done.stderr.splitlines(), f"exit status {done.returncode}"]
        reason = next((line for line in lines if "error:" in line), lines[0])
    raise LockstepError("--compile needs a C++ compiler (g++, or CXX), OpenMP and Python's "
                        f"headers; {command} says: {reason}")


def compile_passes(network: nn.Module, enable: bool) -> None:
    """Let the layers of a network run their merged passes (``sw/layers/fused.py``) through
    torch.compile from now on, or as they are. Other networks of the process are not touched."""
    for layer in network.modules():
        if isinstance(layer, QLayer):
            layer.compiles_passes = enable


def compiled(network: nn.Module) -> nn.Module:
    """The network to call in place of this one, compiled at its first steps.

    Where its layers take the merged passes of ``sw/layers/fused.py``, those kernels are compiled
    one by one: that is faster than compiling the network (1.4 against 2 times the float32 step of a
    ResNet-8 on two cores), and other layers run as they are. Any other network is compiled as a
    whole. Raises LockstepError as check_compilable.
    """
    check_compilable(network)
    if _has_merged_passes(network):
        compile_passes(network, True)
        return network
    return torch.compile(network)
