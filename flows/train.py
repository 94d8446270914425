"""Train a network in 8 bits: runs/RUN/{checkpoint.pt, results.csv, report.html, config.json,
test_inputs.npy, test_labels.npy, program/}.

Outputs appear when training ends, each by rename. While it runs, the state after every epoch is
kept in runs/RUN/.partial.pt, from which --resume continues after an interruption.
"""

import argparse
import copy
import json
import platform
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

from flows import cli
from flows.report import write_report
from golden.errors import LockstepError

TEST_IMAGES = 1000  # at most so many are kept beside the program, for flows/sim.py


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Command line; options left out are None and come from the checkpoint on --resume."""
    parser = cli.Parser(
        prog="flows/train.py", description="Train a network in 8 bits and lower it to integers.")
    parser.add_argument("--model", help="registered name, or path/to/file.py:function")
    parser.add_argument("--model-config", metavar="DICT",
                        help="Python dict of the model's options, e.g. \"{'quantize': True}\"")
    parser.add_argument("--dataset", help="data set name (default digits)")
    parser.add_argument("--datasets-dir", default="data", help="where data sets are kept")
    parser.add_argument("--save", metavar="RUN", help="name of the run (default the model's)")
    parser.add_argument("--runs-dir", default="runs", help="folder of the runs")
    parser.add_argument("-b", "--batch-size", type=int, help="images per step (default 64)")
    parser.add_argument("--epochs", type=int, help="passes over the data (default 20)")
    parser.add_argument("--lr", type=float, help="initial learning rate (default the model's)")
    parser.add_argument("--seed", type=int, help="of weights, order and rounding (default 0)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--norm-lowering", default="fold", choices=("fold", "exact"),
                        help="how RangeBN becomes integers in program/")
    parser.add_argument("--resume", action="store_true", help="continue the run named by --save")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def choose_device(name: str) -> str:
    """``cpu`` or ``cuda``; LockstepError when CUDA is asked for and absent."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise LockstepError("Device cuda is not available on this machine")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def _resume_point(directory: Path, arguments: argparse.Namespace):
    """The newest checkpoint of a run, checked against what the command line asks for."""
    from sw.checkpoint import load_checkpoint

    partial = directory / ".partial.pt"
    path = partial if partial.is_file() else directory / "checkpoint.pt"
    checkpoint = load_checkpoint(path, model=arguments.model)
    asked = {"dataset": arguments.dataset}
    if arguments.model_config is not None:
        asked["model_config"] = cli.literal_dict(arguments.model_config, "--model-config")
    for field, value in asked.items():
        if value is not None and value != getattr(checkpoint, field):
            raise LockstepError(f"Checkpoint {path} was trained with {field} "
                                f"{getattr(checkpoint, field)!r}, not {value!r}")
    return checkpoint


def _rehearse(model, data, norm_lowering: str | None) -> None:
    """One batch through a copy of the model and, with norm_lowering, its lowering.

    Raises LockstepError, before a long training would, for a model that does not fit the data set
    or has a layer that cannot be lowered.
    """
    import torch

    from sw.lower import lower

    model = copy.deepcopy(model).train()
    images = data.train_images[:32]
    try:
        with torch.no_grad():
            logits = model(images)
    except RuntimeError as error:
        raise LockstepError(f"Model {type(model).__name__} does not take images of shape "
                            f"{tuple(images.shape[1:])} of data set {data.name}: "
                            f"{error}") from error
    if norm_lowering:
        lower(model, norm_lowering)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise LockstepError(f"Model {type(model).__name__} has no parameters to train")
    shape = tuple(getattr(logits, "shape", ()))
    if len(shape) != 2 or shape[1] < data.n_classes:
        raise LockstepError(f"Model {type(model).__name__} must return (N, {data.n_classes}) "
                            f"logits for data set {data.name}, not {shape}")


def _versions() -> dict:
    import numpy
    import torch

    return {"python": platform.python_version(), "torch": torch.__version__,
            "numpy": numpy.__version__}


def _measured(program, data, simulated: float):
    """The program with its accuracies in the metadata, over the test images that are kept."""
    from golden.interpreter import run

    images, labels = data.test_images[:TEST_IMAGES], data.test_labels[:TEST_IMAGES].numpy()
    right = run(program, images.numpy())[program.outputs[0]].argmax(1) == labels
    accuracy = {"dataset": data.name, "simulated": simulated, "integer": float(right.mean()),
                "integer_images": len(labels)}
    return replace(program, metadata=program.metadata | {"accuracy": accuracy})


def _write_outputs(directory: Path, checkpoint, program, config: dict, data) -> None:
    import numpy
    import pandas

    with cli.replacing(directory) as temporary:
        checkpoint.save(temporary / "checkpoint.pt")
        pandas.DataFrame(checkpoint.history).to_csv(temporary / "results.csv", index=False)
        write_report(temporary / "report.html", checkpoint.history, config)
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        numpy.save(temporary / "test_inputs.npy", data.test_images[:TEST_IMAGES].numpy())
        numpy.save(temporary / "test_labels.npy", data.test_labels[:TEST_IMAGES].numpy())
        if program is not None:
            program.save(temporary / "program")
    if program is None:  # that of an earlier run under this name
        shutil.rmtree(directory / "program", ignore_errors=True)


def _train(arguments: argparse.Namespace) -> Path:
    import torch
    from tqdm import tqdm

    from models import build_model
    from sw.checkpoint import make_checkpoint
    from sw.data import load_dataset
    from sw.lower import lower
    from sw.train import TrainConfig, train

    torch.set_num_threads(max(1, arguments.threads))
    resumed = None
    if arguments.resume:
        if not (arguments.save or arguments.model):
            raise LockstepError("--resume needs --save RUN (or --model)")
        run_name = arguments.save or arguments.model
        resumed = _resume_point(Path(arguments.runs_dir) / run_name, arguments)
        name, model_config = resumed.model, resumed.model_config
        dataset_name = resumed.dataset
        settings = TrainConfig(**resumed.train_config)
    else:
        if arguments.model is None:
            raise LockstepError("--model is missing")
        name, dataset_name = arguments.model, arguments.dataset or "digits"
        run_name = arguments.save or Path(name.partition(":")[0]).stem
        model_config = cli.literal_dict(arguments.model_config or "{}", "--model-config")
        settings = TrainConfig()
    asked = {"epochs": arguments.epochs, "batch_size": arguments.batch_size, "lr": arguments.lr,
             "seed": arguments.seed, "device": choose_device(arguments.device)}
    settings = replace(settings, **{k: v for k, v in asked.items() if v is not None})
    directory = Path(arguments.runs_dir) / run_name

    torch.manual_seed(settings.seed)
    model = build_model(name, model_config)
    data = load_dataset(dataset_name, arguments.datasets_dir)
    history = list(resumed.history) if resumed else []
    optimizer_state = resumed.optimizer if resumed else None
    if resumed:
        resumed.restore(model)
    quantized = model_config.get("quantize", True)
    _rehearse(model, data, arguments.norm_lowering if quantized else None)
    checkpoint = resumed
    partial = directory / ".partial.pt"
    directory.mkdir(parents=True, exist_ok=True)
    steps = len(data.train_labels) // settings.batch_size
    bar = tqdm(total=settings.epochs * steps, initial=len(history) * steps, unit="step",
               desc=run_name, disable=arguments.quiet, mininterval=0.5,
               file=sys.stderr, dynamic_ncols=True)

    def after_epoch(result, optimizer):
        nonlocal checkpoint
        history.append(asdict(result))
        bar.set_postfix(epoch=result.epoch + 1, loss=f"{result.train_loss:.4f}",
                        test=f"{100 * result.test_accuracy:.2f}%")
        checkpoint = make_checkpoint(model, optimizer, name=name, model_config=model_config,
                                     dataset=dataset_name, train_config=settings, history=history)
        checkpoint.save(partial)

    with bar:
        train(model, data, settings, start_epoch=len(history), optimizer_state=optimizer_state,
              on_batch=lambda done, total: bar.update(), on_epoch=after_epoch)

    config = {"model": name, "model_config": model_config, "dataset": dataset_name,
              **asdict(settings), "norm_lowering": arguments.norm_lowering,
              "versions": _versions(), "test_accuracy": history[-1]["test_accuracy"]}
    program = None
    if quantized:
        program = lower(model.cpu(), norm_lowering=arguments.norm_lowering)
        program = _measured(program, data, config["test_accuracy"])
        config["integer_accuracy"] = program.metadata["accuracy"]["integer"]
        config["program_sha256"] = program.sha256
    _write_outputs(directory, checkpoint, program, config, data)
    partial.unlink(missing_ok=True)
    return directory


def main(argv: list[str] | None = None) -> int:
    """Train, lower, write; prints what was written and where."""
    directory = _train(parse(argv))
    config = json.loads((directory / "config.json").read_text())
    print(f"test accuracy {100 * config['test_accuracy']:.2f} % "
          f"({'8-bit' if config['model_config'].get('quantize', True) else 'float'}, "
          f"{config['dataset']}, seed {config['seed']})")
    if "integer_accuracy" in config:
        print(f"integer program accuracy {100 * config['integer_accuracy']:.2f} %")
    names = sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))
    print(f"wrote {directory}/ ({', '.join(names)})")
    return 0


if __name__ == "__main__":
    cli.run(main)
