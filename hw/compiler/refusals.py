"""Why a Program has no image: what the accelerator does not have, and what does not fit it.

Anything else that the compiler raises is a fault of the compiler.
"""

from __future__ import annotations

from golden.errors import LockstepError

__all__ = ["CannotRun", "DoesNotFit"]


class CannotRun(LockstepError):
    """An operator or a geometry that the accelerator does not have, in whatever pieces."""


class DoesNotFit(LockstepError):
    """More words, channels, instructions or pixels than the target holds: pieces may fit."""
