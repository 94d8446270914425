"""The rescaler lanes that array and vector engine share."""
