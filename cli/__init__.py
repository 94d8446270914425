"""What the commands of flows/ are made of."""

import sys
from pathlib import Path

_FLOWS = Path(__file__).resolve().parents[1] / "flows"

# Run as `python flows/sim.py`, Python puts that folder first in sys.path, where sim.py would hide
# the package sim. Every command imports cli first, so that this line takes it out again.
sys.path[:] = [p for p in sys.path if not p or Path(p).resolve() != _FLOWS]
