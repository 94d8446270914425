"""Host interface, registers, dispatch of instructions, errors."""
