"""Checks before a long training: does the network fit the data, can it be lowered?"""

import copy

from golden.errors import LockstepError


def is_quantized(model) -> bool:
    """True if any layer's recipe quantizes while it trains."""
    return any(getattr(getattr(module, "config", None), "quantize", False)
               for module in model.modules())


def rehearse(model, data, settings, norm_lowering: str | None, teacher, world) -> None:
    """One batch through a copy of the model and, with norm_lowering, its lowering.

    Raises LockstepError, before a long training would, for a model that does not fit the data set,
    a layer that cannot be lowered, a teacher with other outputs, and a batch larger than the data.
    """
    import torch

    from sw.evaluate import prepared, reconstructs
    from sw.lower import lower
    from sw.schedule import make_plan

    make_plan(model, data, settings, world.size)
    model = copy.deepcopy(model).train()
    images, _ = data.train_sample(32)
    name = type(model).__name__
    try:
        with torch.no_grad():
            inputs = prepared(model, images)
            outputs = model(inputs)
            taught = None if teacher is None else teacher.eval()(prepared(teacher, images))
    except RuntimeError as error:
        raise LockstepError(f"Model {name} does not take images of shape "
                            f"{tuple(images.shape[1:])} of data set {data.name}: "
                            f"{error}") from error
    if norm_lowering:
        lower(model, norm_lowering)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise LockstepError(f"Model {name} has no parameters to train")
    shape = tuple(getattr(outputs, "shape", ()))
    if reconstructs(model):
        if not shape or outputs.flatten(1).shape != inputs.flatten(1).shape:
            raise LockstepError(f"Model {name} must return its input of shape "
                                f"{tuple(inputs.shape)}, not {shape}")
    elif len(shape) != 2 or shape[1] < data.n_classes:
        raise LockstepError(f"Model {name} must return (N, {data.n_classes}) logits for data set "
                            f"{data.name}, not {shape}")
    if taught is not None and taught.shape != outputs.shape:
        raise LockstepError(f"The teacher has {taught.shape[-1]} outputs, the model "
                            f"{outputs.shape[-1]}")
