"""How `make test` shares the tests out between two workers."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

# Their tests hang on one federation, whatever each file says.
_FOLDERS = ("tests/transport/", "tests/hostile_hub/")


class ByFile(LoadScopeScheduling):
    """Gives a file whole to one worker, and all files with real processes to the same one.

    What a module sets up is then set up once, and no two federations share the machine: they have deadlines, and are
    killed at moments that a second one would move. xdist's own groups do not do it: it writes them into a field of
    the tests that pytest 9 no longer reads.
    """

    def schedule(self) -> None:
        self.config.option.loadscopereorder = False  # by number of tests, which says nothing about their time
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "processes" if has_processes(self.config.rootpath, file) else file


@functools.cache
def has_processes(root: Path, file: str) -> bool:
    """True where a file has tests that start real processes on loopback."""
    return file.startswith(_FOLDERS) or "mark.processes" in (root / file).read_text("utf-8")


def put_processes_first(root: Path, items: list[pytest.Item]) -> None:
    """They take longest, and the other worker has all the rest to fill the time with."""
    items.sort(key=lambda item: not has_processes(root, _file_of(item)))


def fail_where_processes_are_unknown(item: pytest.Item) -> None:
    """A test with processes whose file is not known for it would run beside a federation."""
    if item.get_closest_marker("processes") and not has_processes(item.config.rootpath, _file_of(item)):
        pytest.fail(f"{_file_of(item)} starts processes, and tests/workers.py does not know it.", pytrace=False)


def _file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
