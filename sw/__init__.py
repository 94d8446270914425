"""PyTorch side of Lockstep: 8-bit training, data, lowering to integer programs, executors."""
