"""Properties of hardware units, as modules whose assertions a solver proves for all inputs."""
