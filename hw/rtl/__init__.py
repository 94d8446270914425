"""The accelerator's gateware, one room per part of the machine."""
