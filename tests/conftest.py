"""What holds for every test: nothing reports home, nothing leaves the machine, data is found or named."""

import os

# Before anything imports Flower: it reads these once. Children inherit them.
os.environ.update(
    FLWR_TELEMETRY_ENABLED="0",
    FLWR_DISABLE_UPDATE_CHECK="1",
    RAY_USAGE_STATS_ENABLED="0",
    MPLBACKEND="Agg",
)

import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.cohorts import CohortsAbsentError, locate_cohorts, must_be_present
from tests.network import refuse_other_machines

sys.addaudithook(refuse_other_machines)

# No deadline: a loaded machine is slow without being wrong. In CI the same examples every time.
settings.register_profile("archipel", deadline=None, derandomize=must_be_present(os.environ), print_blob=True)
settings.load_profile("archipel")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for the cohorts carries the marker, so `-m "not cohorts"` leaves them all out."""
    for item in items:
        if "cohorts" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cohorts)


@pytest.fixture(scope="session")
def cohorts() -> Path:
    """The folder of the shared cohorts; without it the test is skipped, and in CI it fails."""
    try:
        return locate_cohorts(os.environ)
    except CohortsAbsentError as absent:
        if must_be_present(os.environ):
            pytest.fail(str(absent), pytrace=False)
        pytest.skip(str(absent))
