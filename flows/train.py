"""Train a network in 8 bits: runs/RUN/{checkpoint.pt, best.pt, results.csv, telemetry.csv,
report.html, config.json, test_inputs.npy, test_labels.npy, program/}.

results.csv, telemetry.csv and report.html are rewritten after every epoch; the others appear when
training ends, each by rename. While it runs, the state after every epoch is kept in
runs/RUN/.partial.pt, from which --resume continues after an interruption. Under torchrun every
process trains on its share and rank 0 writes; docs/training.md describes all options.
"""

from cli import command as cli
from cli.training.run import main

__all__ = ["main"]

if __name__ == "__main__":
    cli.run(main)
