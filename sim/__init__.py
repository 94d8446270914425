"""Runs hardware: Verilator through cocotb for units and whole networks, pyverilator by hand."""
