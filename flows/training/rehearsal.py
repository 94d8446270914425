"""Checks before a long training: does the network fit the data, can it be lowered?"""

import copy

from golden.errors import LockstepError


def is_quantized(model) -> bool:
    """True if any layer's recipe quantizes while it trains."""
    return any(getattr(getattr(module, "config", None), "quantize", False)
               for module in model.modules())


def rehearse(model, data, settings, norm_lowering: str | None, teacher, world) -> str | None:
    """One batch through a copy of the model and, with norm_lowering, its lowering.

    Returns why it gives no integer program, or None. Raises LockstepError, before a long training
    would, for a model that does not fit the data set, a teacher with other outputs, and a batch
    larger than the data.
    """
    import torch

    from sw.evaluate import prepared, reconstructs
    from sw.schedule import make_plan

    make_plan(model, data, settings, world.size)
    model = copy.deepcopy(model).train().to(settings.device)
    images = data.train_sample(32)[0].to(settings.device)
    name = type(model).__name__
    try:
        with torch.no_grad():
            inputs = prepared(model, images)
            outputs = model(inputs)
    except RuntimeError as error:
        raise LockstepError(f"Model {name} does not take images of shape "
                            f"{tuple(images.shape[1:])} of data set {data.name}: "
                            f"{error}") from error
    reason = _lowering_obstacle(model.cpu(), norm_lowering) if norm_lowering else None
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
    if teacher is not None:
        _check_teacher(teacher, images.cpu(), shape)
    return reason


def _lowering_obstacle(model, norm_lowering: str) -> str | None:
    from sw.lower import lower

    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("batches"):  # as after a delay that training has passed
            buffer.fill_(2**40)
    try:
        lower(model, norm_lowering)
    except LockstepError as error:
        return str(error)
    return None


def _check_teacher(teacher, images, shape: tuple[int, ...]) -> None:
    import torch

    from sw.evaluate import prepared

    try:
        with torch.no_grad():
            taught = tuple(teacher.eval()(prepared(teacher, images)).shape)
    except RuntimeError as error:
        raise LockstepError(f"The teacher does not take images of shape "
                            f"{tuple(images.shape[1:])}: {error}") from error
    if taught != shape:
        raise LockstepError(f"The teacher has {taught[-1]} outputs, the model {shape[-1]}")
