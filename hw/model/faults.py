"""Fault: how the model refuses what the hardware refuses."""

from hw.isa import ErrorCode

__all__ = ["Fault"]


class Fault(Exception):
    """What ends a run: ``code`` is an ErrorCode, ``index`` the place of the instruction."""

    def __init__(self, code, message, index=None):
        super().__init__(f"{ErrorCode(code).name}: {message}")
        self.code, self.index = ErrorCode(code), index
