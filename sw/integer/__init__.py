"""Training in integers alone: the step of a network as a Program, and the inference Program of it."""
