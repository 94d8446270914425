"""Shared by all tests: one thread per process, reproducible hypothesis, the external data."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Two threads on two busy cores make small kernels 25-50 times slower. Before numpy and torch load.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

settings.register_profile("lockstep", deadline=None, print_blob=True, derandomize=True,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lockstep")


@pytest.fixture(scope="session")
def external_data() -> Path:
    """The folder of data that is no part of the project; skips where LOCKSTEP_DATA is unset."""
    folder = os.environ.get("LOCKSTEP_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LOCKSTEP_DATA is unset: no external data")
    return Path(folder)
