"""Targets: which accelerators there are, one file per device.

A file of this folder with ``TARGETS`` (and ``DEVICE``, where they are for one) is all that a new
target takes. Boards that carry a device may lie beside it in a file of their own.
"""

import re
from importlib import import_module
from pkgutil import iter_modules

from golden.errors import LockstepError
from hw.targets.sim import free_shape
from hw.targets.target import N_BANKS, Device, Target

__all__ = ["DEFAULT_DEVICE", "DEVICES", "N_BANKS", "TARGETS", "Device", "Target", "device_of",
           "find", "get_target"]

#: The device of targets that are for any.
DEFAULT_DEVICE = "LFE5U-85F"


def find() -> tuple[dict[str, Target], dict[str, Device]]:
    """Targets and devices of all files here, by name; targets for any device come first."""
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    targets = [target for module in modules for target in getattr(module, "TARGETS", ())]
    targets.sort(key=lambda target: target.device is not None)
    devices = [module.DEVICE for module in modules if hasattr(module, "DEVICE")]
    return ({target.name: target for target in targets},
            {device.name: device for device in devices})


TARGETS, DEVICES = find()


def device_of(target: Target) -> Device:
    """The device that a target is synthesized for."""
    return DEVICES[target.device or DEFAULT_DEVICE]


def get_target(name: str) -> Target:
    """Return the target called ``name``; ``array-RxC`` names a free shape with 4 lanes,
    ``array-RxCxL`` one with L.

    Raises LockstepError for an unknown name, or a shape that is not made.
    """
    if name in TARGETS:
        return TARGETS[name]
    shape = re.fullmatch(r"array-(\d+)x(\d+)(?:x(\d+))?", name)
    if shape is None:
        raise LockstepError(f"Unknown target '{name}': known are {', '.join(TARGETS)} and "
                            "array-ROWSxCOLUMNS, array-ROWSxCOLUMNSxLANES")
    try:
        return free_shape(name, *(int(number) for number in shape.groups() if number))
    except ValueError as error:
        raise LockstepError(f"Target '{name}': {error}") from error
