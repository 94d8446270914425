"""Entry points, thin: each module is one command, `python flows/NAME.py --help`."""
