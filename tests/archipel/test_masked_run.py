"""Sums under masks give what sums in clear give, over every step of a study, evaluation included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from archipel.demo import CONFIGS, make_sites
from archipel.local_run import run_plan
from archipel.masked_run import MaskedSum, TooFewSitesError
from archipel.simulate import simulate
from archipel.site_folders import read_sites
from models.compile import build_step, compile_plan
from models.folds import deal
from models.progress import Progress
from models.step import combine
from privacy.fixed_point import OutOfBoundError
from schemas.cohort import Cohort
from schemas.plan import Plan
from schemas.result import Result
from schemas.study import load_study
from tests.secure_sites import secure_plan
from tests.simulated_federation import cohort
from tests.site_folders import write_cohort


def assert_same(masked: Result, plain: Result, tolerance: float) -> None:
    """Coefficients, errors, likelihood, baseline, and every figure of the evaluation."""
    for name in ("coefficients", "standard_errors"):
        found, expected = getattr(masked, name), getattr(plain, name)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=0, atol=tolerance)
    assert (masked.n, masked.events, masked.rounds) == (plain.n, plain.events, plain.rounds)
    assert masked.log_likelihood == pytest.approx(plain.log_likelihood, abs=tolerance)
    assert masked.baseline is not None
    assert plain.baseline is not None
    np.testing.assert_allclose(masked.baseline.cumulative_hazard, plain.baseline.cumulative_hazard, atol=tolerance)
    assert masked.evaluation.keys() == plain.evaluation.keys()
    for model, scores in plain.evaluation.items():
        found = masked.evaluation[model]
        assert found.comparable_pairs == scores.comparable_pairs
        assert found.c_index.per_fold == pytest.approx(scores.c_index.per_fold, abs=tolerance)
        for name in ("ibs", "calibration_slope"):
            assert getattr(found, name) == pytest.approx(getattr(scores, name), abs=tolerance), (model, name)


def dealt(cohorts: Mapping[str, Cohort], plan: Plan) -> dict[str, Cohort]:
    """The cohorts as real sites hold them: each has dealt its patients into the folds of the study."""
    n_folds = plan.study.evaluation.folds
    assert isinstance(n_folds, int)
    return {
        site: replace(one, fold_of=deal(one.event, one.group, n_folds, f"key of {site}".encode(), 0, one.patient_ids))
        for site, one in cohorts.items()
    }


def assert_a_federations_plan_is_the_same(study: Path, sites: Path, tolerance: float) -> None:
    """All of what real sites would approve, cross-validation in the same rounds and all."""
    loaded = load_study(study)
    plan = compile_plan(*loaded)
    assert any(step.cohort == "folds" for step in plan.steps)
    cohorts = dealt(read_sites(sites, *loaded).cohorts, plan)
    plain = run_plan(plan, cohorts).progress
    masked = run_plan(plan, cohorts, masked=True).progress
    assert masked.skipped == plain.skipped
    assert masked.arrays.keys() == plain.arrays.keys()
    assert any(name.startswith("cv_concordance.") for name in plain.arrays)
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(masked.arrays[name], array, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def cgd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cgd")
    make_sites("cgd", folder)
    return folder


def test_cgd_simulated_under_masks_is_cgd_simulated(cgd: Path, tmp_path: Path) -> None:
    study = CONFIGS / "cgd" / "study.toml"
    plain = simulate(study, cgd, tmp_path / "plain")
    masked = simulate(study, cgd, tmp_path / "masked", secure_sum=True)
    assert_same(masked, plain, 1e-9)
    assert "went through the secure sum" in masked.warnings[-1]
    assert "secure sum" not in plain.warnings[-1]


def test_the_plan_of_cgds_federation_is_the_same_under_masks(cgd: Path) -> None:
    assert_a_federations_plan_is_the_same(CONFIGS / "cgd" / "study.toml", cgd, 1e-9)


@pytest.mark.parametrize("method", ["hazard", "cox"])
def test_twelve_sites_of_gliomas_are_the_same_under_masks(cohorts: Path, tmp_path: Path, method: str) -> None:
    study, sites = write_cohort(
        cohorts / "tcga_gbmlgg",
        tmp_path,
        model={"method": method, "penalty": 10.0},
        endpoint={"horizons_days": [12.0, 36.0]},
        evaluation={"folds": 5},
    )
    assert len(list(sites.iterdir())) == 12
    plain = simulate(study, sites, tmp_path / "plain")
    masked = simulate(study, sites, tmp_path / "masked", secure_sum=True)
    assert_same(masked, plain, 1e-6)
    assert_a_federations_plan_is_the_same(study, sites, 1e-6)


def test_two_sites_cannot_hide_from_each_other(cgd: Path, tmp_path: Path) -> None:
    for site in ("nih", "amsterdam"):
        (tmp_path / "two" / site).mkdir(parents=True)
        (tmp_path / "two" / site / "clinical.csv").write_text((cgd / site / "clinical.csv").read_text())
    with pytest.raises(TooFewSitesError, match="needs 3 sites and there are 2"):
        simulate(CONFIGS / "cgd" / "study.toml", tmp_path / "two", tmp_path / "out", secure_sum=True)


# ---------------------------------------------------------------- one sum
def first_question() -> tuple[Plan, Progress, dict[str, Cohort]]:
    plan = secure_plan()
    return plan, Progress.start(plan), {name: cohort(name, 40, seed) for seed, name in enumerate("abc")}


def test_a_site_without_a_summand_masks_zeros() -> None:
    plan, progress, cohorts = first_question()
    question = progress.question
    assert question is not None
    step = build_step(plan, question.step)
    terms = {name: step.local(question.part, question.arrays, cohorts[name]) for name in ("a", "c")}
    found = MaskedSum(plan, ("a", "b", "c")).total(question, terms)
    for name, array in combine(list(terms.values())).items():
        np.testing.assert_allclose(found[name], array, atol=1e-9)


def test_a_summand_beyond_its_bound_is_refused_and_not_wrapped() -> None:
    plan, progress, _ = first_question()
    question = progress.question
    assert question is not None
    releases = plan.by_name[question.step].part(question.part).releases
    huge = {spec.name: np.full(spec.shape, 2 * spec.bound) for spec in releases}
    with pytest.raises(OutOfBoundError):
        MaskedSum(plan, ("a", "b", "c")).total(question, {"a": huge})
