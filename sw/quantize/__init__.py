"""Quantizers: recipes, ranges, rounding, and what they do forward and backward."""
