"""digits: accuracy of float RangeBN, of the 8-bit simulation and of the integer program over
several seeds, and how far the program's codes are from the simulation's, tensor by tensor."""

import argparse
import sys
import time

from benchmarks.rows import row

__all__ = ["measure"]


def _trained(data, seed: int, epochs: int, quantize: bool, bar):
    import torch

    from models import build_model
    from sw.train.engine import TrainConfig, train

    torch.manual_seed(seed)
    model = build_model("resnet_digits", {"quantize": quantize})
    results = train(model, data, TrainConfig(epochs=epochs, seed=seed),
                    on_epoch=lambda result, optimizer: bar.update())
    return model, 100 * results[-1].test_accuracy


def _one_seed(data, seed: int, epochs: int, bar) -> dict:
    """Accuracies in percent and, per tensor, (share, largest difference) of differing codes."""
    from golden.program.interpreter import run
    from sw.lower.network import lower
    from sw.lower.simulate import differing_codes, simulate

    _, float_accuracy = _trained(data, seed, epochs, False, bar)
    model, simulated_accuracy = _trained(data, seed, epochs, True, bar)
    program = lower(model, "fold")
    trace = run(program, data.test_images.numpy())
    right = trace[program.outputs[0]].argmax(1) == data.test_labels.numpy()
    codes = {name: differing_codes(simulate(model, data.test_images, program=program,
                                            int32_bias=int32_bias), trace)
             for name, int32_bias in (("codes", False), ("codes_int32_bias", True))}
    return {"float": float_accuracy, "simulated": simulated_accuracy,
            "integer": 100 * float(right.mean()), **codes}


def measure(arguments: argparse.Namespace, command: str) -> list[dict]:
    """Train float and 8-bit for every seed; returns the rows."""
    import numpy as np
    import torch
    from tqdm import tqdm

    from sw.data import load_dataset

    torch.set_num_threads(1)
    data = load_dataset("digits")
    start, n_seeds, epochs = time.perf_counter(), arguments.seeds, arguments.epochs
    with tqdm(total=2 * n_seeds * epochs, unit="epoch", file=sys.stderr) as bar:
        seeds = [_one_seed(data, seed, epochs, bar) for seed in range(n_seeds)]
    context = (f"resnet_digits, {epochs} epochs, seeds 0..{n_seeds - 1}, "
               f"{len(data.test_labels)} test images")
    rows = []

    def add(name, value, unit, **goal):
        rows.append(row(f"digits.{name}", value, unit, command, context=context, **goal))

    for kind in ("float", "simulated", "integer"):
        values = [seed[kind] for seed in seeds]
        goal = {"goal": ">= 97.5", "met": np.mean(values).item() >= 97.5} \
            if kind == "integer" else {}
        add(f"accuracy.{kind}.mean", float(np.mean(values)), "%", **goal)
        for index, value in enumerate(values):
            add(f"accuracy.{kind}.seed{index}", value, "%")
    paired = [seed["integer"] - seed["simulated"] for seed in seeds]
    largest = max(map(abs, paired))
    add("accuracy.integer_minus_simulated.mean", float(np.mean(paired)), "points",
        goal="within 0.5", met=bool(abs(np.mean(paired)) <= 0.5))
    add("accuracy.integer_minus_simulated.largest", largest, "points",
        goal="within 0.5", met=largest <= 0.5)
    tensors = list(seeds[0]["codes"])
    for name in tensors:
        add(f"differing_codes.{name}", 100 * max(seed["codes"][name][0] for seed in seeds), "%")
    computed = tensors[1:]
    shares = {name: max(seed["codes"][name][0] for seed in seeds) for name in computed}
    worst = max(shares.values())
    codes = max(seed["codes"][name][1] for seed in seeds for name in computed)
    add("differing_codes.first", 100 * shares[computed[0]], "%", goal="<= 0.1",
        met=shares[computed[0]] <= 0.001)
    add("differing_codes.any", 100 * worst, "%", goal="<= 6", met=worst <= 0.06)
    add("differing_codes.largest", codes, "codes", goal="<= 4", met=codes <= 4)
    exact = [difference for seed in seeds for difference in seed["codes_int32_bias"].values()]
    add("differing_codes_int32_bias.any", 100 * max(share for share, _ in exact), "%")
    add("differing_codes_int32_bias.largest", max(largest for _, largest in exact), "codes")
    add("seconds", time.perf_counter() - start, "s")
    return rows
