"""What units of every room are made of: streams, pipeline registers, counters."""
