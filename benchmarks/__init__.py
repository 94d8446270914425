"""The suites of flows/bench.py, one file each, and the rows and pages they share."""

from benchmarks.rows import print_rows, results_page, row

__all__ = ["print_rows", "results_page", "row"]
