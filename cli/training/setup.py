"""From the command line to a run: what to train, checked before training begins."""

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.training.arithmetic import Arithmetic, arithmetic_of
from cli.training.options import fill_in, model_options, train_options
from cli.training.outputs import PARTIAL
from cli.training.rehearsal import is_quantized
from golden.errors import LockstepError

if TYPE_CHECKING:
    from torch import nn

    from sw.train.checkpoint import Checkpoint

__all__ = ["Run", "agree", "choose_device", "directory_of", "load_network", "newest_checkpoint",
           "prepare"]

MATCHED_BATCHES = 32  # of which norms of another kind take their measure


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that may begin: network (torch.nn.Module), data set, settings (TrainConfig), teacher
    (a network or None), and the checkpoint that it continues from (or None). obstacle: why the
    recipe gives no integer program, or None."""

    directory: Path
    name: str
    model_config: dict
    model: Any
    quantized: bool
    obstacle: str | None
    data: Any
    settings: Any
    arithmetic: Arithmetic
    teacher: Any
    resumed: Any


def choose_device(name: str) -> str:
    """``cpu`` or ``cuda``; LockstepError when CUDA is asked for and absent."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise LockstepError("Device cuda is not available on this machine")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def directory_of(arguments) -> Path:
    """The folder of the run that the command line names."""
    if not arguments.save and not arguments.model:
        option = "--evaluate" if arguments.evaluate is not None else "--resume"
        raise LockstepError(f"{option} needs --save RUN (or --model)"
                            if arguments.resume or arguments.evaluate is not None
                            else "--model is missing")
    return Path(arguments.runs_dir) / (arguments.save
                                       or Path(arguments.model.partition(":")[0]).stem)


def newest_checkpoint(directory: Path, model: str | None = None) -> "Checkpoint":
    """Of an unfinished run the state of its last epoch, else checkpoint.pt."""
    from sw.train.checkpoint import load_checkpoint

    partial = directory / PARTIAL
    return load_checkpoint(partial if partial.is_file() else directory / "checkpoint.pt",
                           model=model)


def agree(checkpoint, field: str, asked, reason: str = "--resume continues the same run") -> None:
    """Raise LockstepError where the command line asks for another network or data set than the
    checkpoint's; reason: why it must not, the end of the message."""
    trained = getattr(checkpoint, field)
    if field == "model_config":
        defaults = {"recipe": "banner", "overrides": {}}
        before, now = ({name: default if options.get(name) is None else options[name]
                        for name, default in defaults.items()} for options in (trained, asked))
        for name in defaults:
            if before[name] != now[name]:
                field, trained, asked = name, before[name], now[name]
                break
        else:
            if trained | before == asked | now:
                return
    elif asked == trained:
        return
    raise LockstepError(f"The checkpoint was trained with {field} {trained!r}, not {asked!r}; "
                        f"{reason}")


def prepare(arguments, world) -> Run:
    """Build what the command line asks for, or what the resumed checkpoint holds.

    A worker that torchrun has started again continues from the last epoch if there was one.
    Raises LockstepError for options that cannot work together or do not fit the data.
    """
    import torch

    from models import build_model
    from sw.data import load_dataset
    from sw.train.distributed import restarted
    from sw.train.engine import TrainConfig
    from sw.train.torch_compile import check_compilable, check_narrow

    directory = directory_of(arguments)
    resumed = None
    if arguments.resume or (restarted() and (directory / PARTIAL).is_file()):
        resumed = newest_checkpoint(directory, arguments.model)
    elif not arguments.model:
        raise LockstepError("--model is missing")
    name = resumed.model if resumed else arguments.model
    dataset = arguments.dataset or (resumed.dataset if resumed else "digits")
    if resumed:
        agree(resumed, "dataset", dataset)
    data = load_dataset(dataset, arguments.datasets_dir)
    model_config = model_options(arguments, resumed.model_config if resumed else {})
    model_config = fill_in(name, model_config, data)
    if resumed:
        agree(resumed, "model_config", model_config)
        model_config = resumed.model_config

    device = choose_device(arguments.device)
    if device == "cuda" and world.size > 1:
        device = f"cuda:{world.local_rank}"
    settings = TrainConfig(**resumed.train_config) if resumed else TrainConfig()
    settings = replace(settings, **train_options(arguments) | {"device": device})
    if resumed and settings.epochs < resumed.epochs_done:
        raise LockstepError(f"Epochs must be at least {resumed.epochs_done}, which the run has "
                            f"done, not {settings.epochs}")

    if resumed:
        before = TrainConfig(**resumed.train_config).arithmetic
        if settings.arithmetic != before:
            raise LockstepError(f"The checkpoint was trained with arithmetic {before}, not "
                                f"{settings.arithmetic}; --initial begins from its weights")
    torch.manual_seed(settings.seed)
    model = build_model(name, model_config)
    if settings.compile:
        check_compilable(model)
    if settings.channels_last:
        check_narrow(model, "--channels-last")
    if resumed:
        resumed.restore_training(model)
    quantized = is_quantized(model)
    if settings.amp and quantized:
        raise LockstepError("--amp is for float networks only: bfloat16 keeps fewer bits than the "
                            "codes of this recipe have; use --recipe float")
    teacher = load_network(settings.teacher) if settings.teacher else None
    arithmetic = arithmetic_of(settings.arithmetic)
    if settings.arithmetic == "integer":
        _check_recipe(model_config)
    if not resumed:
        arithmetic.begin(model, settings)
    if arguments.initial is not None:
        if resumed:
            raise LockstepError("--initial has no effect on a run that is resumed")
        _begin_from(arguments.initial, model, data, settings, world)
    obstacle = arithmetic.obstacle(model, data, settings,
                                   arguments.norm_lowering if quantized else None, teacher, world)
    if obstacle and not (model_config.get("recipe") or model_config.get("overrides")):
        raise LockstepError(obstacle)
    return Run(directory=directory, name=name, model_config=model_config, model=model,
               quantized=quantized, obstacle=obstacle, data=data, settings=settings,
               arithmetic=arithmetic, teacher=teacher, resumed=resumed)


def _check_recipe(model_config: dict) -> None:
    """Integers have one number format; LockstepError for a recipe that names another."""
    from sw.integer.layers import RECIPE_FIELDS

    recipe = model_config.get("recipe", "banner")
    overrides = [name for name in model_config.get("overrides") or {} if name not in RECIPE_FIELDS]
    if recipe != "banner" or overrides or model_config.get("quantize") is False:
        what = f"Recipe {recipe}" if recipe != "banner" else \
            f"Override {overrides[0]}" if overrides else "A network with quantize False"
        raise LockstepError(f"{what} has no form in --arithmetic integer, which has a number "
                            f"format of its own")


def _begin_from(path: str, model, data, settings, world) -> None:
    """Weights of a checkpoint, the same in every process."""
    from sw.train.initial import copy_weights, match_norms

    source = load_network(path)
    copy_weights(source, model, path)
    batches = data.batches(min(settings.batch_size * world.size, data.n_train),
                           seed=settings.seed, epoch=0)
    match_norms(source, model, (images for images, _ in islice(batches, MATCHED_BATCHES)))
    world.share([parameter.data for parameter in model.parameters()])


def load_network(path: str) -> "nn.Module":
    """The trained network of a checkpoint."""
    from models import build_model
    from sw.train.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    teacher = build_model(checkpoint.model, checkpoint.model_config)
    checkpoint.restore(teacher)
    return teacher
