"""Training: the engine, its schedule, checkpoints, telemetry and distribution."""
