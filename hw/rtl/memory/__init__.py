"""On-chip memories, and the crossbar between them and the engines."""
