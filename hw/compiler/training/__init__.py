"""The products of a convolution's training step."""
