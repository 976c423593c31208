"""What the tests of the containers stand on: an engine, images, one federation, and the figures said at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from archipel.demo_sites import make_sites
from archipel.studies import compile_study
from schemas.result import Result
from tests.containers.kit import HUB_IMAGE, SITE_IMAGE, Federation, make_readable, running
from tests.containers.podman import attempt, prefix, sweep
from tests.containers.studies import write_study

FULL = "amsterdam"
"""The site whose volume holds 64 MB."""
SITES = (FULL, "nih", "small-centres")
_FIGURES: list[str] = []

Say = Callable[[str], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.containers)
            item.add_marker(pytest.mark.timeout(2400))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was measured, also where every test passed."""
    if _FIGURES:
        terminalreporter.section("measured")
        for line in _FIGURES:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def say() -> Say:
    """A function that keeps a measured figure for the end of the session."""
    return _FIGURES.append


@pytest.fixture(scope="session")
def engine() -> None:
    """Podman, with the images there; whatever is missing is named with what to do, and nothing is skipped."""
    missing = [name for name in ("podman", "podman-compose", "ip", "tc", "nsenter") if shutil.which(name) is None]
    if os.geteuid() != 0:
        missing.append("root")
    if missing:
        pytest.fail(f"Missing: {', '.join(missing)}. docs/operations.md says how to set up podman.", pytrace=False)
    absent = [image for image in (HUB_IMAGE, SITE_IMAGE) if attempt("podman", "image", "exists", image).code != 0]
    if absent:
        pytest.fail(f"Not built: {', '.join(absent)}. `make test-containers` builds them first.", pytrace=False)
    sweep()


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trial's study over three sites with a deadline of seconds, so that a missing site is named soon."""
    folder = tmp_path_factory.mktemp("study")
    return write_study(folder, "containers", deadline_s=8)


@pytest.fixture(scope="session")
def federation(engine: None, study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A hub and three sites of the trial, running, the plan approved at each."""
    tables = tmp_path_factory.mktemp("tables")
    make_sites("cgd", tables)
    make_readable(tables)
    homes = tmp_path_factory.mktemp("homes")
    made = Federation(f"{prefix()}-f", homes, {name: tables / name for name in SITES}, small={FULL: 64})
    with running(made, compile_study(study), study):
        yield made


@pytest.fixture(scope="session")
def undisturbed(federation: Federation, say: Say) -> tuple[Result, float]:
    """A run that nothing happened to, and its seconds."""
    run_id = federation.launch()
    result = federation.finish(run_id)
    seconds = federation.seconds(run_id)
    say(f"a run of {result.rounds} rounds over {len(SITES)} sites, nothing in its way: {seconds:.1f} s")
    return result, seconds
