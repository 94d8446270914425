"""The one error that a user of Lockstep sees."""

__all__ = ["LockstepError"]


class LockstepError(ValueError):
    """Bad input: one clear line that names the thing and the limit it breaks.

    Entry points print it on stderr and exit with status 2.
    """
