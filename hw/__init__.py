"""Amaranth generators and the compiler: a Program and a target become RTL and a memory image."""
