"""The input images of a command: named, beside the program, or random."""

from pathlib import Path

import numpy as np

from cli import command as cli
from golden.errors import LockstepError

DEFAULT_IMAGES = 8  # random images where no inputs are given
DEFAULT_INPUTS = "test_inputs.npy"  # beside the program, where the training run has left it


def find_inputs(program_directory, path=None):
    """The inputs to use: `path`, else the training run's beside the program, else None."""
    beside = Path(program_directory).resolve().parent / DEFAULT_INPUTS
    return path or (beside if beside.is_file() else None)


def load_inputs(program, path, n_images=None):
    """The program's input from a .npy file, or random codes where path is None.

    Returns float or int8 values, batch first, in the program's layout. Raises LockstepError for a
    file that is no .npy array or does not fit the program.
    """
    if path is None:
        shape = (n_images or DEFAULT_IMAGES, *program.input_shape)
        return np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    x = cli.read_array(path)
    try:
        program.quantize_input(x)
    except LockstepError as error:
        raise LockstepError(f"Inputs {path}: {error}") from None
    if len(x) == 0:
        raise LockstepError(f"Inputs {path}: the batch must hold at least 1 image, not 0")
    return x[:n_images]
