"""The notebook's object has the verbs of the command line and their answers."""

import subprocess
import sys

import pytest

import archipel
from archipel import Study
from archipel.demo import CONFIGS, make_sites
from archipel.homes import init_hub
from archipel.runs import LaunchError
from models.compile import compile_plan
from schemas.errors import FaultsError
from schemas.study import load_study

STUDY = CONFIGS / "cgd" / "study.toml"
VERBS = {"check", "plan", "simulate", "trial", "launch", "watch", "stop", "resume", "report", "compare"}


def test_it_has_all_verbs_with_help():
    assert set(dir(Study)) >= VERBS
    assert all(getattr(Study, verb).__doc__ for verb in VERBS)
    assert set(archipel.__all__) == {"Result", "Study"}


def test_check_and_plan_are_those_of_the_command_line(tmp_path):
    study = Study(STUDY)
    assert study.check() == ()
    assert study.plan().hash == compile_plan(*load_study(STUDY)).hash
    assert study.plan().hash in study.card()
    assert study.simulate_alone_because() == ()
    (tmp_path / "study.toml").write_text('kind = "study"\nversion = 1\n')
    faults = Study(tmp_path / "study.toml").check()
    assert len(faults) > 2
    with pytest.raises(FaultsError):
        Study(tmp_path / "study.toml").plan()


def test_simulate_returns_what_it_writes(tmp_path):
    make_sites("cgd", tmp_path / "tables")
    result = Study(STUDY).simulate(tmp_path / "tables", tmp_path / "out")
    assert archipel.Result.model_validate_json((tmp_path / "out" / "result.json").read_text()) == result


def test_launch_without_sites_is_one_sentence(tmp_path):
    init_hub(tmp_path / "hub")
    study = Study(STUDY, hub=tmp_path / "hub")
    assert study.runs() == []
    with pytest.raises(LaunchError, match="at least 2 enrolled sites"):
        study.launch()


def test_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'Patient'"):
        archipel.Patient  # noqa: B018 - the access is the test


def test_import_of_the_package_alone_loads_nothing():
    script = "import sys, archipel; print([m for m in ('flwr', 'pandas', 'numpy', 'typer') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
