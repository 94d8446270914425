"""The instruction-set model: what a program leaves in the memories, bit by bit, without cycles."""

from hw.machine.machine import Machine, MachineError

__all__ = ["Machine", "MachineError"]
