"""One federation of real processes for all tests of the transport."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.federation import Federation


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "federation" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.processes)


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A hub and the sites paris, lyon, nantes, all up, with the doubles of `tests.doubles.transport` inside."""
    running = Federation(Path(tmp_path_factory.mktemp("federation")))
    running.start()
    try:
        # All are connected before the first test, whichever it is.
        assert running.ask(dict.fromkeys(running.sites, b"ready"), 60) == dict.fromkeys(running.sites, b"echo:ready")
        yield running
    finally:
        running.stop()
