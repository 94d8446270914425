"""The registry of networks: one file per network, each a function that returns a module.

A network is built from the layers of ``sw/layers/weighted.py``. Every function here takes
``quantize`` (False: the same network in float), ``recipe`` and ``overrides``
(``sw/quantize/recipe.py``); most take ``dataset`` and ``classes``. The module carries
``input_shape``, one image (C, H, W), and may carry, as in the published code of arXiv 1805.11046:

    regime           list of {"epoch", "optimizer", "lr", "momentum", "weight_decay",
                     "warmup_epochs", ...}; an entry is in force from its epoch on, over the
                     earlier ones
    data_regime      list of {"epoch", "input_size", "batch_size"}, merged the same way
    input_transform  function of a batch of images (N, C, H, W) float32, applied before the model
    objective        "reconstruction": mean squared error to its own input, flattened, instead of
                     classification

An outside file is named as ``path/to/file.py:function``; its function takes what it likes.
The file may import from its own folder.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn

from golden.errors import LockstepError
from models.autoencoder import autoencoder
from models.ds_cnn import ds_cnn
from models.lenet import lenet
from models.mlp import mlp
from models.mobilenet_v1 import mobilenet_v1
from models.resnet import resnet
from models.resnet_digits import resnet_digits
from models.vgg import vgg
from sw.layers.connect import connect

MODELS: dict[str, Callable[..., nn.Module]] = {
    function.__name__: function
    for function in (autoencoder, ds_cnn, lenet, mlp, mobilenet_v1, resnet, resnet_digits, vgg)}


def _outside_function(name: str) -> Callable[..., nn.Module]:
    path, _, function = name.rpartition(":")
    if not Path(path).is_file():
        raise LockstepError(f"Model file {path} does not exist")
    # Dataclasses and pickles look their module up by name; one that nothing else can have.
    spec = importlib.util.spec_from_file_location(f"lockstep model {Path(path).resolve()}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    folder = str(Path(path).resolve().parent)
    searched = folder in sys.path
    sys.path.append(folder)  # last: its files do not hide what is installed
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(spec.name, None)
        raise LockstepError(f"Model file {path} cannot be imported: {type(error).__name__}: "
                            f"{error}") from error
    finally:
        if not searched and folder in sys.path:
            sys.path.remove(folder)
    if not callable(getattr(module, function, None)):
        raise LockstepError(f"Model file {path} has no function {function!r}")
    return getattr(module, function)


def build_model(name: str, model_config: dict | None = None) -> nn.Module:
    """Build a registered network, or one of an outside file, from its keyword arguments.

    Raises LockstepError for an unknown name (listing the known ones), for an argument that the
    network's function does not take, and for a function that fails or returns no module.
    """
    if name in MODELS:
        function = MODELS[name]
    elif ".py:" in name:
        function = _outside_function(name)
    else:
        known = ", ".join(sorted(MODELS))
        raise LockstepError(f"Unknown model {name!r}; known models: {known} "
                            f"(or path/to/file.py:function)")
    model_config = model_config or {}
    accepted = inspect.signature(function).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in accepted.values())
    for key in model_config:
        if key not in accepted and not takes_any:
            raise LockstepError(f"Model {name} has no option {key!r}; its options: "
                                f"{', '.join(accepted)}")
    try:
        model = function(**model_config)
    except LockstepError:
        raise
    except Exception as error:
        raise LockstepError(f"Model {name} cannot be built: {type(error).__name__}: "
                            f"{error}") from error
    if not isinstance(model, nn.Module):
        raise LockstepError(f"Model {name} is not a torch.nn.Module but {model!r}")
    transform = getattr(model, "input_transform", None)
    if transform is not None and not callable(transform):
        raise LockstepError(f"input_transform of model {name} must be a function of a batch of "
                            f"images (N, C, H, W), not a {type(transform).__name__}")
    return connect(model)
