"""The training step of a network as a Program of integers, built from the layers of its model.

Inputs: images (int8 codes of a fixed exponent), labels (int8), and of every step the rates, seed
and number, int32 (1,) each (`host_inputs`). Outputs: the logits' sums, the losses (16 fraction
bits). State: masters and momenta, gamma, beta, bias, exponents with their counters, running
statistics.
"""

import torch
from torch import nn

from golden.errors import LockstepError
from golden.ops.step.update import MOMENTUM, rate_code
from golden.program import Program, Quantization
from sw.integer import pools  # noqa: F401  registers its layers
from sw.integer.layers import LOSS, Writer, check_formats, classifier, layer
from sw.integer.tape import RANDOM, RATES, ActivationCodes, Tape
from sw.layers.graph import trace
from sw.layers.weighted import QInput, WeightedLayer

__all__ = ["INPUT_EXPONENT", "SETTLE_STEPS", "host_inputs", "integer_step"]

INPUT_EXPONENT = "host/input.exponent"
SETTLE_STEPS = 24               # the first batch is run so often without updates


def integer_step(model: nn.Module, n_images: int, *, input_exponent: int, settle: bool = False,
                 momentum: int = MOMENTUM, name: str | None = None) -> Program:
    """The verified step of a model for batches of n_images, its float weights as initial state.

    input_exponent: real value = code * 2^exponent; settle: exponents move at once and nothing is
    learnt, the state is that of the step; momentum: multiplier of 2^-31
    Tensors carry the module path of their producer. Raises LockstepError for a layer that has no
    integer form, naming it, and for what `golden.program.verify` rejects.
    """
    shape = getattr(model, "input_shape", None)
    if shape is None:
        raise LockstepError(f"Model {type(model).__name__} has no input_shape")
    mode = model.training
    with torch.no_grad():
        _, steps, output = trace(model.eval(), keep_dropout=True)
    model.train(mode)
    if not steps or steps[-1].name != output or isinstance(steps[-1].module, QInput):
        raise LockstepError(f"Model {type(model).__name__} must end in a linear layer that it "
                            f"returns")
    readers, weighted = {}, set()
    for step in steps:
        if isinstance(step.module, WeightedLayer):
            if step.module in weighted:
                raise LockstepError(f"Layer {step.node.target} is called more than once: weights "
                                    f"that are shared have no integer form")
            weighted.add(step.module)
        for source in step.inputs:
            readers.setdefault(source, []).append(step)
    tape = Tape(settle)
    writer = Writer(tape=tape, n_images=n_images, momentum=momentum, readers=readers)
    values = {}
    for tape.layer, step in enumerate(steps, 1):
        if isinstance(step.module, QInput):
            if step.inputs != ("",) or values:
                raise LockstepError(f"Layer {step.name} (QInput) must be applied to the input")
            values[step.name] = _input(tape, step.name, shape, input_exponent)
            continue
        if "" in step.inputs:
            raise LockstepError(f"Layer {step.name} reads the float input; put a QInput first")
        check_formats(step)
        inputs = [values[source] for source in step.inputs]
        try:
            if step is steps[-1]:
                logits = classifier(writer, step, *inputs)
            else:
                values[step.name] = layer(step.module, writer, step, *inputs)
        except LockstepError:
            raise
        except (TypeError, ValueError) as error:
            raise LockstepError(f"Layer {step.name}: {error}") from error
    tape.backward()
    return tape.build(name or f"{type(model).__name__.lower()} step", [logits, LOSS],
                      batch=n_images, metadata={"settle": settle})


def _input(tape, name, shape, exponent):
    tape.input(name, shape, Quantization(scale=2.0**exponent, zero_point=0))
    return ActivationCodes(name=name, exponent=tape.constant_exponent(INPUT_EXPONENT, exponent),
                 shape=tuple(shape), learns=False)


def host_inputs(*, rate: float, decay: float, n_images: int, seed: int, step: int) -> dict:
    """What the host gives beside images and labels: arrays int32 (1,) by input name.

    rate: learning rate; decay: weight decay (L2); n_images: of the batch, over whose loss the mean
    is taken
    """
    import numpy as np

    codes = *rate_code(rate / n_images), *rate_code(rate * decay)
    values = dict(zip((*RANDOM, *RATES), (seed, step, *codes)))
    return {name: np.array([value], np.int64).astype(np.uint32).view(np.int32)
            for name, value in values.items()}
