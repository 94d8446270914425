"""Entry points, thin: each module is one command, `python flows/NAME.py --help`."""

import sys
from pathlib import Path

# Run as `python flows/sim.py`, Python puts this folder first in sys.path, where sim.py would
# hide the package sim. Every flow imports cli.command first, so that this line takes it out again.
sys.path[:] = [p for p in sys.path if not p or Path(p).resolve() != Path(__file__).parent]
