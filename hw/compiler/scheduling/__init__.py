"""When instructions run: order, dependences, estimated and least cycles."""
