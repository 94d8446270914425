"""Training in integers alone: a network's step as a Program, and the inference Program of it."""
