"""The parts of flows/train.py: command line, checks before training, live and final outputs."""
