"""What a run starts from: the codes of a Program's inputs and of its state."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from golden import arith
from golden.errors import LockstepError
from golden.program.layout import from_file

__all__ = ["quantize_inputs", "renewed_state", "run_steps", "source_codes"]


def quantize_inputs(program, x) -> dict:
    """`golden.program.Program.quantize_inputs`."""
    if isinstance(x, dict):
        if {*x} != {*program.inputs}:
            raise LockstepError(f"Inputs of program {program.name} must be "
                                f"{', '.join(program.inputs)}, not {', '.join(map(str, x))}")
    else:
        x = {program.input.name: x}
    several = len(program.inputs) > 1
    codes = {}
    for name in program.inputs:
        what = f"Input{f' {name}' if several else ''} of program {program.name}"
        codes[name] = _input_codes(program, program.tensors[name], x[name], what)
    _check_batch(program, codes)
    return codes


def _input_codes(program, tensor, x, what):
    x = np.asarray(x)
    is_float = x.dtype.kind == "f" and tensor.quantization.dtype == "int8"
    if not is_float and x.dtype != tensor.dtype:
        wanted = "float or int8" if tensor.quantization.dtype == "int8" else tensor.dtype.name
        raise LockstepError(f"{what} must be {wanted}, not {x.dtype}")
    shape = program.shape_in_file(tensor.name)
    given = x.shape[1:] if tensor.batched else x.shape
    if given != shape or tensor.batched and x.ndim == 0:
        wanted = ", ".join(str(size) for size in (*(("N",) if tensor.batched else ()), *shape))
        order = f" in {program.input_layout}" if tensor.batched else ""
        raise LockstepError(f"{what} must have shape ({wanted}){order}, not {x.shape}")
    if is_float:
        quantization = tensor.quantization
        try:
            x = arith.quantize(x, quantization.scale, quantization.zero_point).astype(np.int8)
        except ValueError as error:
            raise LockstepError(f"{what}: {error}") from error
    return np.ascontiguousarray(from_file(x, program.input_layout) if tensor.batched else x[None])


def _check_batch(program, codes):
    """The one length of all batched codes; the Program's own batch where none is batched."""
    lengths = {name: len(array) for name, array in codes.items() if program.tensors[name].batched}
    if len({*lengths.values()}) > 1:
        raise LockstepError(f"Inputs of program {program.name} must have one batch, not "
                            f"{', '.join(f'{n} ({name})' for name, n in lengths.items())}")
    n_images = next(iter(lengths.values()), program.batch or 1)
    if program.batch not in (None, n_images):
        raise LockstepError(f"Program {program.name} runs batches of {program.batch}, "
                            f"not {n_images}")
    return n_images


def source_codes(program, x, state: dict | None = None) -> dict:
    """The codes of every tensor that no node writes, (N, ...) or (1, ...), by name.

    x: as `Program.quantize_inputs` takes it
    state: codes by name as in a trace (what `renewed_state` gave); None for the initial ones
    Raises LockstepError for an input or a state that does not fit.
    """
    codes = quantize_inputs(program, x)
    n_images = _check_batch(program, codes)
    if state is not None and {*state} != {*program.state}:
        raise LockstepError(f"State of program {program.name} must be "
                            f"{', '.join(program.state) or 'empty'}, not "
                            f"{', '.join(map(str, state)) or 'empty'}")
    for name, entry in program.state.items():
        tensor = program.tensors[name]
        shape = (n_images if tensor.batched else 1, *tensor.shape)
        if state is None:
            codes[name] = np.ascontiguousarray(np.broadcast_to(entry.initial, shape))
            continue
        given = np.asarray(state[name])
        if given.shape != shape or given.dtype != tensor.dtype:
            raise LockstepError(f"State {name} of program {program.name} must be {tensor.dtype} "
                                f"of shape {shape}, not {given.dtype} of shape {given.shape}")
        codes[name] = np.ascontiguousarray(given)
    return codes


def renewed_state(program, trace: dict) -> dict:
    """The state that a run leaves, from its trace: codes by name, for `source_codes`."""
    return {name: trace[state.renewed_by] for name, state in program.state.items()}


def run_steps(run: Callable, program, inputs: Iterable, state: dict | None = None) -> Iterator:
    """The traces of runs that follow each other, each from the state that the one before left.

    run: of an executor, called as run(program, x, state=state); inputs: an x for every run
    state: of the first run, None for the Program's own
    """
    for x in inputs:
        trace = run(program, x, state=state)
        state = renewed_state(program, trace)
        yield trace
