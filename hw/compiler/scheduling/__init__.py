"""When instructions run: order, dependences, estimated cycles."""
