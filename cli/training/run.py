"""The run of flows/train.py: train, lower, write, or evaluate a checkpoint."""

import contextlib
import math
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from cli.training.arithmetic import arithmetic_of
from cli.training.options import model_options, parse
from cli.training.outputs import (
    begin_outputs,
    integer_accuracy,
    measured,
    read_csv,
    save_epoch,
    write_outputs,
)
from cli.training.progress import Progress
from cli.training.rehearsal import check_evaluable, is_quantized
from cli.training.setup import Run, agree, choose_device, directory_of, newest_checkpoint, prepare
from golden.errors import LockstepError

__all__ = ["main"]

_FIRST_SPEAKS_SECONDS = 10  #: within which the first process has met the same error


def run_training(run: Run, world, arguments) -> None:
    """Train, saving and reporting after every epoch; rank 0 lowers and writes the outputs."""
    from models import build_model
    from sw.train.checkpoint import make_checkpoint, versions

    config = {"model": run.name, "model_config": run.model_config, "dataset": run.data.name,
              **asdict(run.settings), "norm_lowering": arguments.norm_lowering,
              "processes": world.size, "versions": versions()}
    history = list(run.resumed.history) if run.resumed else []
    telemetry = read_csv(run.directory / "telemetry.csv", len(history)) if run.resumed else []
    if world.main:
        begin_outputs(run.directory, resumed=run.resumed is not None)
    if world.main and run.obstacle:
        print(f"no integer program: {run.obstacle}", file=sys.stderr)
    checkpoint = run.resumed
    progress = Progress(run.directory.name, run.settings.epochs,
                        quiet=arguments.quiet or not world.main)

    def after_epoch(result, state):
        nonlocal checkpoint
        telemetry.extend(run.arithmetic.observe(run, state, result.epoch))  # all ranks: may reduce
        if world.main:
            history.append(asdict(result))
            progress.epoch(result)
            checkpoint = make_checkpoint(
                state, name=run.name, model_config=run.model_config, dataset=run.data.name,
                train_config=run.settings, history=history, world_size=world.size)
            save_epoch(run.directory, checkpoint, telemetry, config)

    with progress:
        run.arithmetic.train(run, world, len(history), progress.step, after_epoch)
    if not world.main:
        return

    model = build_model(run.name, run.model_config)
    checkpoint.restore(model)
    last, program = history[-1], None
    config |= run.arithmetic.facts(checkpoint)
    config["test_loss"] = last["test_loss"]
    config["test_accuracy"] = None if math.isnan(last["test_accuracy"]) else last["test_accuracy"]
    if run.quantized:
        try:
            program = measured(
                run.arithmetic.program(model, checkpoint, run.data, arguments.norm_lowering),
                model, run.data, last["test_accuracy"])
        except LockstepError as error:  # the trained network is kept all the same
            config["no_program"] = str(error)
        else:
            if "accuracy" in program.metadata:
                accuracy = program.metadata["accuracy"]
                config |= {"integer_accuracy": accuracy["integer"],
                           "integer_images": accuracy["integer_images"]}
            config["program_sha256"] = program.sha256
    step = run.arithmetic.step(model, checkpoint, run.data)
    write_outputs(run.directory, checkpoint, {"program": program, "step": step}, config, model,
                  run.data, telemetry,
                  run.arithmetic.step_inputs(step, model, checkpoint, run.data))
    _print_outcome(run.directory, config, run.quantized)
    if run.data.damaged:
        print(f"left out damaged image files: {len(run.data.damaged)}, the first is "
              f"{run.data.damaged[0]}", file=sys.stderr)


def _print_outcome(directory: Path, config: dict, quantized: bool) -> None:
    options = config["model_config"]
    kind = "integers" if config["arithmetic"] == "integer" else \
        "float" if not quantized else options.get("recipe", "8-bit") \
        if "overrides" not in options else f"{options.get('recipe', 'banner')} with overrides"
    words = f"({kind}, {config['dataset']}, seed {config['seed']})"
    if config["test_accuracy"] is None:
        print(f"test loss {config['test_loss']:.4f} {words}")
    else:
        print(f"test accuracy {100 * config['test_accuracy']:.2f} % {words}")
    if "integer_accuracy" in config:
        print(f"integer program accuracy {100 * config['integer_accuracy']:.2f} % "
              f"({config['integer_images']} images)")
    if "no_program" in config:
        print(f"no integer program: {config['no_program']}")
    names = sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))
    print(f"wrote {directory}/ ({', '.join(names)})")


def evaluate(arguments) -> None:
    """Print loss and accuracy of a checkpoint, simulated and as integers; writes nothing."""
    from dataclasses import fields, replace

    from models import build_model
    from sw.data import load_dataset
    from sw.train.checkpoint import load_checkpoint
    from sw.train.engine import TrainConfig
    from sw.train.evaluate import reconstructs

    of_training = {field.name for field in fields(TrainConfig)} - {"device", "workers"}
    for name in sorted({*of_training, "initial"}):
        if getattr(arguments, name) is not None:
            raise LockstepError(f"--{name.replace('_', '-')} has no effect on --evaluate")
    checkpoint = load_checkpoint(arguments.evaluate, model=arguments.model) \
        if arguments.evaluate else newest_checkpoint(directory_of(arguments), arguments.model)
    trained = checkpoint.model_config
    asked = {name: trained[name] for name in ("dataset", "classes") if name in trained} \
        | model_options(arguments, trained)
    agree(checkpoint, "model_config", asked, "--evaluate takes the network as it was trained")
    data = load_dataset(arguments.dataset or checkpoint.dataset, arguments.datasets_dir)
    model = build_model(checkpoint.model, checkpoint.model_config)
    checkpoint.restore(model)
    settings = replace(TrainConfig(**checkpoint.train_config), workers=arguments.workers or 0,
                       device=choose_device(arguments.device))
    check_evaluable(model.to(settings.device), data)
    arithmetic = arithmetic_of(settings.arithmetic)
    loss, accuracy = arithmetic.evaluate(model, checkpoint, data, settings)
    print(f"test loss {loss:.4f} ({data.n_test} images of {data.name}, after "
          f"{checkpoint.epochs_done} epochs)")
    if reconstructs(model):
        return
    print(f"test accuracy {100 * accuracy:.2f} %")
    if is_quantized(model):
        try:
            program = arithmetic.program(model.cpu(), checkpoint, data, arguments.norm_lowering)
        except LockstepError as error:
            print(f"no integer program: {error}")
            return
        share, n_images = integer_accuracy(program, model, data)
        print(f"integer program accuracy {100 * share:.2f} % ({n_images} images)")


def main(argv: list[str] | None = None) -> int:
    """Train, lower, write; prints what was written and where."""
    import torch

    from sw.train.distributed import joined

    arguments = parse(argv)
    torch.set_num_threads(max(1, arguments.threads))
    if arguments.evaluate is not None:
        evaluate(arguments)
        return 0
    try:
        with joined(choose_device(arguments.device), arguments.timeout) as world:
            run_training(prepare(arguments, world), world, arguments)
    except LockstepError:
        if int(os.environ.get("LOCAL_RANK", "0")):
            # The first process of each machine says it. torchrun ends it when another one leaves,
            # and this one when the first has left.
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(_FIRST_SPEAKS_SECONDS)
            return 2
        raise
    return 0

