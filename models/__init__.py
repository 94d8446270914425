"""The registry of networks: one file per network, each a function that returns a module.

A network is built from the layers of ``sw/layers.py`` and may carry ``regime``, a list of
``{"epoch": int, "optimizer": "SGD", "lr": float, ...}`` that the training engine follows. An
outside file is named as ``path/to/file.py:function``.
"""

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path

from torch import nn

from golden.errors import LockstepError
from models.resnet import resnet
from models.resnet_digits import resnet_digits

MODELS: dict[str, Callable[..., nn.Module]] = {"resnet": resnet, "resnet_digits": resnet_digits}


def _outside_function(name: str) -> Callable[..., nn.Module]:
    path, _, function = name.rpartition(":")
    if not Path(path).is_file():
        raise LockstepError(f"Model file {path} does not exist")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise LockstepError(f"Model file {path} cannot be imported: {type(error).__name__}: "
                            f"{error}") from error
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
    for key in model_config:
        if key not in accepted:
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
    return model
