"""What holds for every test: nothing reports home, nothing leaves the machine, data is found or named.

`make test` runs two workers. A file goes whole to one of them, so that what a module sets up is set up once; all
tests with real processes go to the same one, one after the other, so that two federations never share the machine.
"""

import os

# Before anything imports Flower: it reads these once. Children inherit them.
os.environ.update(
    FLWR_TELEMETRY_ENABLED="0",
    FLWR_DISABLE_UPDATE_CHECK="1",
    RAY_USAGE_STATS_ENABLED="0",
    MPLBACKEND="Agg",
    # One thread of linear algebra a process: there are as many processes as cores at least.
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
)

import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer

from tests.cohorts import CohortsAbsentError, locate_cohorts, must_be_present
from tests.network import refuse_other_machines
from tests.workers import ByFile, fail_where_processes_are_unknown, put_processes_first

sys.addaudithook(refuse_other_machines)

# A shell that starts this in the background has it ignore Ctrl-C, and every process of a test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: a loaded machine is slow without being wrong. In CI the same examples every time.
settings.register_profile("archipel", deadline=None, derandomize=must_be_present(os.environ), print_blob=True)
settings.load_profile("archipel")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whoever asks for the cohorts carries the marker, so `-m "not cohorts"` leaves them all out."""
    for item in items:
        if "cohorts" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cohorts)
    if hasattr(config, "workerinput"):
        put_processes_first(config.rootpath, items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before anything of the test is started."""
    fail_where_processes_are_unknown(item)


@pytest.hookimpl(optionalhook=True)  # without xdist there is no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile | None:
    """The workers of `make test`."""
    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def cohorts() -> Path:
    """The folder of the shared cohorts; without it the test is skipped, and in CI it fails."""
    try:
        return locate_cohorts(os.environ)
    except CohortsAbsentError as absent:
        if must_be_present(os.environ):
            pytest.fail(str(absent), pytrace=False)
        pytest.skip(str(absent))
