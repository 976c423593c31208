"""What a study may ask of a real federation, as the command line says it: no two of its sums differ by few."""

from __future__ import annotations

from pathlib import Path

import pytest

from archipel import studies
from archipel.demo import make_sites
from archipel.homes import enrol_site, init_hub, init_site, utc_now
from schemas.plan import Plan
from tests.command_line import Run, runner

STUDY = Path(__file__).parents[2] / "configs" / "cgd" / "study.toml"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def study_with(folder: Path, *changes: tuple[str, str], more: str = "") -> Path:
    text = STUDY.read_text().replace('"dictionary.toml"', f'"{STUDY.parent}/dictionary.toml"')
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "study.toml").write_text(text + more)
    return folder / "study.toml"


@pytest.mark.parametrize("more", ["", "secure_sum = false\n"])
def test_a_plan_whose_sums_could_differ_by_nine_patients_is_refused(run: Run, tmp_path: Path, more: str) -> None:
    study = study_with(tmp_path, ("min_patients = 10", "min_patients = 9"), more=more)
    for command in (("study", "plan", study), ("launch", study, "--hub", tmp_path)):
        code, _, err = run(*command)
        assert code == 1
        assert "[privacy] min_patients: two sums could differ by fewer than 10 patients" in err
    assert run("study", "plan", study_with(tmp_path, more=more))[0] == 0


def test_the_plan_is_judged_and_not_the_words_of_the_study(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = studies.compile_plan

    def compile_with_a_low_step(*arguments: object, **settings: object) -> Plan:
        plan = compiled(*arguments, **settings)
        low = plan.steps[-1].model_copy(update={"min_patients": 9, "cohort": "all", "settings": {}})
        return plan.model_copy(update={"steps": (*plan.steps[:-1], low)})

    monkeypatch.setattr(studies, "compile_plan", compile_with_a_low_step)
    code, _, err = run("study", "plan", STUDY)
    assert code == 1
    assert "two sums could differ by fewer than 10 patients" in err


def enrolled(folder: Path, *names: str) -> Path:
    """A hub that is not up, with these sites."""
    init_hub(folder / "hub", public_port=0, internal_port=0)
    for name in names:
        init_site(folder / name, name, folder, utc_now())
        enrol_site(folder / "hub", (folder / name / "request.json").read_bytes(), utc_now())
    return folder / "hub"


@pytest.mark.parametrize(
    ("n_sites", "folds", "sentence"),
    [
        (2, 5, "[evaluation] folds: with 2 sites, the difference between a sum over all patients"),
        (2, 0, "does not answer"),  # nothing against the plan: only that this hub is not up
        (3, 5, "does not answer"),
    ],
)
def test_two_sites_in_clear_have_no_evaluation(
    run: Run, tmp_path: Path, n_sites: int, folds: int, sentence: str
) -> None:
    study = study_with(tmp_path, ("folds = 5", f"folds = {folds}"), more="secure_sum = false\n")
    hub = enrolled(tmp_path, *("brest", "lyon", "nantes")[:n_sites])
    code, _, err = run("launch", study, "--hub", hub)
    assert code == 1
    assert sentence in " ".join(err.split())


def test_a_trial_of_two_sites_is_told_before_anything_starts(run: Run, tmp_path: Path) -> None:
    make_sites("cgd", tmp_path / "all")
    (tmp_path / "two").mkdir()
    for site in ("nih", "amsterdam"):
        (tmp_path / "all" / site).rename(tmp_path / "two" / site)
    study = study_with(tmp_path, more="secure_sum = false\n")
    code, _, err = run("trial", study, "--sites", tmp_path / "two", "--out", tmp_path / "out")
    assert code == 1
    assert "write 0, or invite 3 sites or more" in " ".join(err.split())
    assert not (tmp_path / "out").exists()
