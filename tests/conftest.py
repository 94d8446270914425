"""Shared by all tests: one thread per process, reproducible hypothesis, the external data, and the
order: files that compile designs begin."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Two threads on two busy cores make small kernels 25-50 times slower. Before numpy and torch load.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# The designs of tests simulate briefly: compiling them is what takes the time.
os.environ.setdefault("LOCKSTEP_SIM_OPTIMIZE", "-O1")

settings.register_profile("lockstep", deadline=None, print_blob=True, derandomize=True,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lockstep")

ROOT = Path(__file__).parents[1]
#: Each compiles another design: two processes that begin with them do not wait for each other.
FIRST = ("tests/sim/test_rtl.py", "tests/sim/test_fuzz.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Long files begin."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def rank(item):
        name = item.path.relative_to(ROOT).as_posix()
        return (FIRST.index(name) if name in FIRST else len(FIRST), item.path not in slow)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def external_data() -> Path:
    """The folder of data that is no part of the project; skips where LOCKSTEP_DATA is unset."""
    folder = os.environ.get("LOCKSTEP_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LOCKSTEP_DATA is unset: no external data")
    return Path(folder)
