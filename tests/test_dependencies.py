"""docs/dependencies.md gives every requirement its reason, and the lock file pins every one by hash."""

import re
import tomllib

import pytest

from tests.test_names import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return found[0]


REQUIRED = [name_of(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
OPTIONAL = [name_of(line) for line in PROJECT["optional-dependencies"]["network"]]


def test_every_requirement_has_its_line_and_no_line_is_left_over() -> None:
    page = (ROOT / "docs/dependencies.md").read_text()
    rows = re.findall(r"^\| ([A-Za-z0-9._-]+) \| .+ \| .+ \|$", page, re.M)
    assert sorted(set(rows) - {"package"}) == sorted(REQUIRED + OPTIONAL)


@pytest.mark.parametrize("name", REQUIRED)
def test_every_requirement_is_locked_with_a_hash(name: str) -> None:
    assert re.search(rf"^{re.escape(name.lower())}==\S+ \\\n    --hash=sha256:", LOCK, re.M)


def test_torch_is_locked_in_the_build_that_pulls_no_gigabytes() -> None:
    assert re.search(r"^torch==\S+\+cpu \\\n    --hash=sha256:", LOCK, re.M)
    assert not re.search(r"^(nvidia|cuda|triton)", LOCK, re.M)


def test_the_lock_file_names_no_index() -> None:
    assert "://" not in LOCK
    assert "--index" not in LOCK
    assert "--find-links" not in LOCK
