"""Targets: which accelerators there are, one file per device."""

from hw.targets.target import N_BANKS, TARGETS, Target, get_target

__all__ = ["N_BANKS", "TARGETS", "Target", "get_target"]
