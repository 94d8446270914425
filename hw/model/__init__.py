"""The instruction set as a program: what hardware does, on numpy arrays, and what may overlap."""

from hw.model.faults import Fault
from hw.model.hazards import Hazard, find_hazards
from hw.model.machine import Machine

__all__ = ["Fault", "Hazard", "Machine", "find_hazards"]
