"""train-speed: what a training step costs, as a ratio to float32 in the same run.

A step is forward, backward and update on one batch in channels_last. On a CPU the networks take
turns, one step each per repetition, and the figure is the median over the repetitions of the ratio
of CPU times (of all threads), so that other load on the machine cancels; compilation is excluded.
On CUDA: ResNet-18, wall time by events, beside float32 with TF32 off and on and bfloat16 autocast.
Peak memory is that of a fresh process per network (CPU) or of torch's allocator (CUDA).
"""

import argparse
import importlib.util
import multiprocessing
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from benchmarks.rows import row

__all__ = ["measure", "measure_cpu"]

Step = Callable[[], None]


def _network(kind: str):
    """The network of a kind: float, banner or brevitas, optionally ending in _compiled."""
    import torch

    from models import build_model

    torch.manual_seed(0)
    name = kind.removesuffix("_compiled")
    if name == "brevitas":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Brevitas's own
            from benchmarks.brevitas_resnet8 import BrevitasResNet8
        return BrevitasResNet8()
    recipe = {"float": "float", "banner": "banner"}[name]
    return build_model("resnet", {"depth": 8, "recipe": recipe})


def _step(model, images, labels, *, amp: bool = False, compiled: bool = False) -> Step:
    import torch
    import torch.nn.functional as F

    from sw.train.torch_compile import compiled as compile_network

    device = images.device.type
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    network = compile_network(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            loss = F.cross_entropy(network(images).float(), labels)
        loss.backward()
        optimizer.step()
    return step


def _batch(size: int, side: int, classes: int, device: str):
    import torch

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, side, side, generator=generator)
    labels = torch.randint(0, classes, (size,), generator=generator)
    return images.to(device, memory_format=torch.channels_last), labels.to(device)


def _integer_step(images, labels) -> Step:
    """Of ``flows/train.py --arithmetic integer``, with the codes of the images."""
    import numpy as np

    from cli.training.arithmetic import fused_passes
    from golden import arith
    from models import build_model
    from sw.integer.layers import LABEL
    from sw.integer.runner import Runner
    from sw.integer.step import host_inputs, integer_step

    program = integer_step(build_model("resnet", {"depth": 8}), len(images), input_exponent=-5)
    runner, images = Runner(program, passes=fused_passes()), images.contiguous()
    host = host_inputs(rate=0.1, decay=1e-4, n_images=len(images), seed=0, step=0)
    labels = labels.numpy().astype(np.int8)[:, None]

    def step() -> None:
        codes = arith.quantize(images.numpy(), 2.0**-5, 0).astype(np.int8)
        runner({"input": codes, LABEL: labels} | host)
    return step


def _cpu_step(kind: str, batch_size: int) -> Step:
    if kind == "integer":
        return _integer_step(*_batch(batch_size, 32, 10, "cpu"))
    return _step(_network(kind), *_batch(batch_size, 32, 10, "cpu"),
                 compiled=kind.endswith("_compiled"))


def _peak_resident() -> int:
    """KiB; ru_maxrss would be that of the process which started this one."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def _peak(kind: str, batch_size: int, threads: int, result) -> None:
    import torch

    torch.set_num_threads(threads)
    step = _cpu_step(kind.removesuffix("_compiled"), batch_size)
    Path("/proc/self/clear_refs").write_text("5")  # the peak restarts at what is resident now
    before = _peak_resident()
    for _ in range(2):
        step()
    result.put((_peak_resident() - before) / 1024)


def _peak_memory(kind: str, batch_size: int, threads: int) -> float:
    """MiB that two eager steps add to a fresh process."""
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(target=_peak, args=(kind, batch_size, threads, result))
    process.start()
    value = result.get(timeout=300)
    process.join()
    return value


def _has_brevitas() -> bool:
    return importlib.util.find_spec("brevitas") is not None


def measure_cpu(batch_size: int, repetitions: int, threads: int, command: str) -> list[dict]:
    """Rows of ResNet-8 on the CPU."""
    import torch

    torch.set_num_threads(threads)
    kinds = ["float", "float_compiled", "banner", "banner_compiled", "integer"]
    kinds += ["brevitas"] if _has_brevitas() else []
    steps, seconds_to_compile = {}, {}
    for kind in kinds:
        print(f"{kind}: first steps", file=sys.stderr, flush=True)
        start = time.perf_counter()
        steps[kind] = _cpu_step(kind, batch_size)
        for _ in range(3):
            steps[kind]()
        seconds_to_compile[kind] = time.perf_counter() - start
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repetitions):
        for kind, step in steps.items():
            start = time.process_time()
            step()
            times[kind].append(time.process_time() - start)
    context = (f"ResNet-8, batch {batch_size}, channels_last, {threads} threads, CPU time, median "
               f"of {repetitions} interleaved steps" +
               ("" if "brevitas" in kinds else "; Brevitas is not installed (extra bench)"))
    rows = []

    def add(name, value, unit, **goal):
        rows.append(row(f"train_speed.resnet8.{name}", float(value), unit, command,
                        context=context, **goal))

    def ratio(kind: str, to: str) -> float:
        return statistics.median(a / b for a, b in zip(times[kind], times[to]))

    fastest_float = min(("float", "float_compiled"), key=lambda k: statistics.median(times[k]))
    value = ratio("banner_compiled", fastest_float)
    add("ratio_to_float32", value, "x", goal="<= 1.7", met=value <= 1.7)
    add("ratio_to_float32_eager", ratio("banner_compiled", "float"), "x")
    add("ratio_to_float32_compiled", ratio("banner_compiled", "float_compiled"), "x")
    add("eager_ratio_to_float32_eager", ratio("banner", "float"), "x")
    value = ratio("integer", "float")
    add("integer_ratio_to_float32_eager", value, "x", goal="<= 2", met=value <= 2)
    add("integer_ratio_to_float32_compiled", ratio("integer", "float_compiled"), "x")
    if "brevitas" in kinds:
        value = ratio("brevitas", "banner_compiled")
        add("ratio_to_brevitas", value, "times faster", goal=">= 2", met=value >= 2)
        add("brevitas_ratio_to_float32_eager", ratio("brevitas", "float"), "x")
    for kind in kinds:
        add(f"{kind}.milliseconds", 1000 * statistics.median(times[kind]), "ms CPU")
        add(f"{kind}.first_steps", seconds_to_compile[kind], "s")
    for kind in [kind for kind in kinds if not kind.endswith("_compiled")]:
        add(f"{kind}.peak_memory", _peak_memory(kind, batch_size, threads), "MiB")
    return rows


def measure_cuda(batch_size: int, repetitions: int, command: str) -> list[dict]:
    """Rows of ResNet-18 under torch.compile on CUDA."""
    import torch

    from models import build_model

    images, labels = _batch(batch_size, 224, 1000, "cuda")
    kinds = {"float32_tf32_off": ("float", False, False), "float32_tf32_on": ("float", True, False),
             "amp_bf16": ("float", True, True), "banner": ("banner", True, False)}
    times, memory, steps = {}, {}, {}

    def set_tf32(enabled: bool) -> None:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = enabled

    for kind, (recipe, tf32, amp) in kinds.items():
        torch.manual_seed(0)
        set_tf32(tf32)
        steps[kind] = _step(build_model("resnet", {"depth": 18, "recipe": recipe}), images, labels,
                            amp=amp, compiled=True)
        torch.cuda.reset_peak_memory_stats()
        for _ in range(5):
            steps[kind]()
        memory[kind] = torch.cuda.max_memory_allocated() / 2**20
        times[kind] = []
    for _ in range(repetitions):
        for kind, (_, tf32, _) in kinds.items():
            set_tf32(tf32)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            steps[kind]()
            end.record()
            torch.cuda.synchronize()
            times[kind].append(begin.elapsed_time(end))
    context = (f"ResNet-18, 224x224, batch {batch_size}, channels_last, torch.compile, "
               f"{torch.cuda.get_device_name()}, median of {repetitions} interleaved steps")
    rows = []
    for kind in list(kinds)[:-1]:
        value = statistics.median(a / b for a, b in zip(times["banner"], times[kind]))
        name, goal = f"cuda_ratio_to_{kind}", {}
        if kind == "float32_tf32_on":
            name, goal = "cuda_ratio_to_float32", {"goal": "<= 1.3", "met": value <= 1.3}
        rows.append(row(f"train_speed.resnet18.{name}", value, "x", command, context=context,
                        **goal))
    for kind in kinds:
        for name, value, unit in (("milliseconds", statistics.median(times[kind]), "ms"),
                                  ("peak_memory", memory[kind], "MiB")):
            rows.append(row(f"train_speed.resnet18.{kind}.{name}", value, unit, command,
                            context=context))
    return rows


def measure(arguments: argparse.Namespace, command: str) -> list[dict]:
    """Rows of the CPU, and of CUDA where there is a device."""
    import torch

    from cli.training.setup import choose_device

    device = choose_device(arguments.device)
    if device == "cuda":
        return measure_cuda(arguments.batch_size or 256, arguments.repetitions, command)
    torch.set_num_threads(arguments.threads)
    return measure_cpu(arguments.batch_size or 128, arguments.repetitions, arguments.threads,
                       command)
