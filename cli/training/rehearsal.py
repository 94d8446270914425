"""Checks before a long training: does the network fit the data, can it be lowered?"""

import copy

from golden.errors import LockstepError

__all__ = ["check_evaluable", "is_quantized", "rehearse", "sample_size"]


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
    from sw.train.schedule import data_at, make_plan

    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise LockstepError(f"Model {type(model).__name__} has no parameters to train")
    make_plan(model, data, settings, world.size)
    model = copy.deepcopy(model).train().to(settings.device)
    smallest = min(data_at(model, settings, epoch)[0] for epoch in range(settings.epochs))
    images = data.train_sample(min(smallest, sample_size(model, 32)))[0].to(settings.device)
    inputs, outputs = _answers(f"Model {type(model).__name__}", model, images, data)
    reason = _lowering_obstacle(model.cpu(), norm_lowering) if norm_lowering else None
    shape = _check_outputs(model, inputs, outputs, data)
    if teacher is not None:
        _check_teacher(teacher, images.cpu(), shape, data)
    return reason


def sample_size(model, least: int) -> int:
    """At least ``least`` images, and so many that every norm has values for all its chunks: a
    larger batch cannot fail where these do not."""
    chunks = (module.config.norm.chunks for module in model.modules()
              if hasattr(getattr(module, "config", None), "norm"))
    return max([least, *(number + 1 for number in chunks)])


def check_evaluable(model, data) -> None:
    """Raise LockstepError for a network that does not fit the test images of a data set."""
    device = next(model.parameters()).device
    images = data.test_sample(2)[0].to(device)
    inputs, outputs = _answers(f"Model {type(model).__name__}", model.eval(), images, data)
    _check_outputs(model, inputs, outputs, data)


def _answers(who: str, model, images, data) -> tuple:
    """(inputs, outputs) of the network for images; whatever it raises becomes one line."""
    import torch

    from sw.train.evaluate import prepared

    try:
        with torch.no_grad():
            inputs = prepared(model, images)
            return inputs, model(inputs)
    except LockstepError:
        raise
    except Exception as error:
        raise LockstepError(f"{who} does not take images of shape {tuple(images.shape[1:])} of "
                            f"data set {data.name}: {type(error).__name__}: {error}") from error


def _check_outputs(model, inputs, outputs, data) -> tuple[int, ...]:
    from sw.train.evaluate import reconstructs

    name, shape = type(model).__name__, tuple(getattr(outputs, "shape", ()))
    if reconstructs(model):
        if not shape or outputs.flatten(1).shape != inputs.flatten(1).shape:
            raise LockstepError(f"Model {name} must return its input of shape "
                                f"{tuple(inputs.shape)}, not {shape}")
    elif len(shape) != 2 or shape[1] < data.n_classes:
        raise LockstepError(f"Model {name} must return (N, {data.n_classes}) logits for data set "
                            f"{data.name}, not {shape}")
    return shape


def _lowering_obstacle(model, norm_lowering: str) -> str | None:
    from sw.lower.network import lower

    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("batches"):  # as after a delay that training has passed
            buffer.fill_(2**40)
    try:
        lower(model, norm_lowering)
    except LockstepError as error:
        return str(error)
    return None


def _check_teacher(teacher, images, shape: tuple[int, ...], data) -> None:
    outputs = _answers("The teacher", teacher.eval(), images, data)[1]
    taught = tuple(getattr(outputs, "shape", ()))
    if taught != shape:
        outputs = taught[-1] if taught else "no"
        raise LockstepError(f"The teacher has {outputs} outputs, the model {shape[-1]}")
