"""The input images of a command: named, beside the program, or random."""

from pathlib import Path

import numpy as np

from cli import command as cli
from golden.errors import LockstepError

__all__ = ["DEFAULT_IMAGES", "DEFAULT_INPUTS", "count_images", "find_inputs", "load_inputs"]

DEFAULT_IMAGES = 8  # random images where no inputs are given
DEFAULT_INPUTS = "test_inputs.npy"  # beside the program, where the training run has left it


def find_inputs(program_directory: str | Path, path: str | None = None) -> str | Path | None:
    """The inputs to use: `path`, else the training run's beside the program, else None.

    Beside the folder NAME of a program with several inputs that is NAME_inputs.npz.
    """
    folder = Path(program_directory).resolve()
    own, beside = folder.with_name(f"{folder.name}_inputs.npz"), folder.parent / DEFAULT_INPUTS
    return path or next((file for file in (own, beside) if file.is_file()), None)


def load_inputs(program, path: str | Path | None, n_images: int | None = None
                ) -> np.ndarray | dict[str, np.ndarray]:
    """The program's input from a .npy file, or random codes where path is None.

    Returns float or int8 values, batch first, in the program's layout; for a program with several
    inputs, whose arrays come in a .npz file, a dict of them by name. Raises LockstepError for a
    file that holds no such arrays or does not fit the program.
    """
    if path is None:
        inputs = _random_inputs(program, program.batch or n_images or DEFAULT_IMAGES)
        return inputs if len(inputs) > 1 else inputs[program.inputs[0]]
    several = len(program.inputs) > 1
    x = cli.read_arrays(path) if several else cli.read_array(path)
    try:
        program.quantize_inputs(x)
    except LockstepError as error:
        raise LockstepError(f"Inputs {path}: {error}") from None
    if count_images(program, x) == 0:
        raise LockstepError(f"Inputs {path}: the batch must hold at least 1 image, not 0")
    if not several:
        return x[:n_images] if program.tensors[program.inputs[0]].batched else x
    return {name: array[:n_images] if program.tensors[name].batched else array
            for name, array in x.items()}


def count_images(program, x) -> int:
    """The images in what `load_inputs` gave; 1 where no input is one per image."""
    arrays = x if isinstance(x, dict) else {program.inputs[0]: x}
    return next((len(array) for name, array in arrays.items() if program.tensors[name].batched), 1)


def _random_inputs(program, n_images):
    """Codes by name, over the whole range of their dtypes."""
    generator, inputs = np.random.default_rng(0), {}
    for name in program.inputs:
        tensor = program.tensors[name]
        low, high = tensor.quantization.code_range
        shape = program.shape_in_file(name)
        if tensor.batched:
            shape = (program.batch or n_images, *shape)
        inputs[name] = generator.integers(low, high + 1, shape).astype(tensor.dtype)
    return inputs
