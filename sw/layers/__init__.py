"""Layers trained in few bits, their norms, and the graph that they form."""
