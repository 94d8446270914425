"""What each operation of the engines does: one record each, found here by `hw.isa.registry`."""
