"""How the tests fall on the workers of `make test`."""

from pathlib import Path

import pytest

from tests.test_names import ROOT
from tests.workers import has_processes

pytest_plugins = ["pytester"]

CONFTEST = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import tests.conftest
pytest_collection_modifyitems = tests.conftest.pytest_collection_modifyitems
pytest_runtest_setup = tests.conftest.pytest_runtest_setup
pytest_xdist_make_scheduler = tests.conftest.pytest_xdist_make_scheduler
"""
FEDERATION = """
import pytest
@pytest.mark.processes
def test_federation(worker_id): print("a federation in", worker_id)
def test_beside_it(worker_id): print("a federation in", worker_id)
"""
QUICK = """
def test_one(worker_id): print("{name} in", worker_id)
def test_two(worker_id): print("{name} in", worker_id)
"""


def test_files_stay_whole_and_federations_run_one_after_the_other(pytester: pytest.Pytester) -> None:
    names = "abcdef"
    pytester.makeini("[pytest]\nmarkers = processes")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(**{f"test_{name}": QUICK.format(name=name) for name in names})
    pytester.makepyfile(**{f"test_{name}_with_processes": FEDERATION for name in names})
    found = pytester.runpytest_subprocess("-n2", "--dist", "loadfile", "-rP")
    found.assert_outcomes(passed=4 * len(names))
    said = {line for line in found.outlines if " in gw" in line}
    assert len(said) == len(names) + 1  # each in one worker alone
    assert len({line.split()[-1] for line in said}) == 2


def test_files_with_processes_are_known() -> None:
    assert has_processes(ROOT, "tests/archipel/test_trial.py")
    assert has_processes(ROOT, "tests/transport/test_superlink.py")
    assert not has_processes(ROOT, "tests/models/test_cox.py")


def test_a_test_with_processes_in_an_unknown_file_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = processes")
    pytester.makeconftest(CONFTEST)
    Path("marks.py").write_text("import pytest\nstarts = getattr(pytest.mark, 'processes')\n")
    pytester.makepyfile(
        "import sys; sys.path.insert(0, '.')\nfrom marks import starts\n@starts\ndef test_f(): pass\n"
    )
    found = pytester.runpytest_subprocess("-n2", "--dist", "loadfile")
    found.assert_outcomes(errors=1)
    assert "starts processes, and tests/workers.py does not know it" in found.stdout.str()
