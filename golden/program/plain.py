"""What a Program has beyond one int8 input, one int8 output and independent images."""

from golden.errors import LockstepError

__all__ = ["beyond_plain", "check_plain"]


def beyond_plain(program) -> str | None:
    """The first such thing in words; None where the Program is plain."""
    for which in ("inputs", "outputs"):
        names = getattr(program, which)
        if len(names) != 1:
            return f"{len(names)} {which} ({', '.join(names)})"
    if program.state:
        return f"state ({', '.join(program.state)})"
    if program.batch is not None:
        return f"a batch of its own ({program.batch})"
    for name, tensor in program.tensors.items():
        if tensor.quantization.dtype != "int8":
            return f"{tensor.quantization.dtype} codes (tensor {name})"
        if not tensor.batched:
            return f"tensors without a batch (tensor {name})"
    return None


def check_plain(program, stage: str) -> None:
    """LockstepError unless the Program is plain. stage: who asks, as in "The compiler"."""
    if found := beyond_plain(program):
        raise LockstepError(f"{stage} does not run program {program.name}: it has {found}")
