"""Wide layers at the inbound check: no honest run is refused, and a hub that stretches or turns is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.compile import build_step, compile_plan
from models.folds import deal
from models.preparation import Preparation, layer_z
from models.progress import Progress
from models.step import Context, combine
from privacy.inbound import Limits, Seen, judge, learned
from privacy.inbound_layers import feature_moments, score_moments
from schemas.codes import Code
from schemas.cohort import Cohort
from schemas.design import design_columns, layer_designs
from schemas.plan import Plan
from tests.attacks.federation import request_of
from tests.layers_kit import shared_cohort
from tests.models.test_layers import DICTIONARY, SITES, dictionary_of, study_of
from tests.privacy.test_inbound import honest_run

Arrays = dict[str, np.ndarray]
COHORTS = list(SITES.values())
PLAN = compile_plan(study_of(), DICTIONARY, evaluation=False)


@pytest.mark.parametrize("method", ["hazard", "cox", "cox-stratified"])
@pytest.mark.parametrize("penalty", [0.1, 10.0, 1e9])
def test_every_honest_run_with_layers_passes(method: str, penalty: float) -> None:
    study = study_of(method=method, penalty={"clinical": 1.0, "rna": penalty, "cnv": penalty})
    honest_run(compile_plan(study, DICTIONARY), COHORTS)


def test_an_honest_descent_on_all_features_passes_at_a_site_that_allows_as_many_points() -> None:
    honest_run(compile_plan(study_of(components=0), DICTIONARY), COHORTS, Limits(points=100))


def test_honest_folds_in_one_message_pass() -> None:
    sites = [replace(site, fold_of=deal(site.event, None, 3, b"key", 0, site.patient_ids)) for site in SITES.values()]
    honest_run(compile_plan(study_of(folds=3), DICTIONARY), sites)


@pytest.mark.parametrize("name", ["tcga_gbmlgg", "tcga_blca"])
@pytest.mark.parametrize("method", ["hazard", "cox"])
def test_honest_runs_on_real_layers_pass(name: str, method: str, cohorts: Path) -> None:
    kit = shared_cohort(cohorts, name, n_sites=4, method=method, penalty=3.0)
    honest_run(compile_plan(kit.study, kit.dictionary, evaluation=False), list(kit.cohorts.values()))


# ---------------------------------------------------------------- each rule
def before(step: str, number: int) -> tuple[Plan, Seen, Arrays, Progress]:
    """The first site's memory before a question, and the question's arrays."""
    seen, progress = Seen(), Progress.start(PLAN)
    while (question := progress.question) is not None:
        if (question.step, question.number) == (step, number):
            return PLAN, seen, dict(question.arrays), progress
        request = request_of(PLAN, question.part, question.arrays, question.step, question.number)
        terms = [build_step(PLAN, question.step).local(question.part, question.arrays, site) for site in COHORTS]
        judged = judge(request, PLAN, seen)
        assert isinstance(judged, Seen)
        seen = learned(judged, request, terms[0])
        progress = progress.absorb(combine(terms))
    raise AssertionError("the run ended before")


def turned(loadings: np.ndarray) -> np.ndarray:
    """Loadings of the same length, in directions that no basis held."""
    return np.linalg.qr(np.random.default_rng(0).normal(size=loadings.shape))[0] * np.linalg.norm(loadings[:, 0])


Change = Callable[[Arrays], dict[str, Any]]
FAULTS: dict[str, tuple[str, int, Change, Code]] = {
    "a basis that stretches": (
        "components", 1, lambda a: {"rna_basis": 1.01 * a["rna_basis"]}, Code.REQUEST_TOO_FAR,
    ),
    "a basis with one direction twice": (
        "components", 2, lambda a: {"rna_basis": a["rna_basis"][:, [0, *range(len(a["rna_basis"].T) - 1)]]},
        Code.REQUEST_TOO_FAR,
    ),
    "a unit below zero": (
        "components", 0, lambda a: {"rna_scale": -a["rna_scale"]}, Code.REQUEST_CONTRADICTS,
    ),
    "another mean than before": (
        "components", 3, lambda a: {"rna_mean": a["rna_mean"] + 1e-9}, Code.REQUEST_CONTRADICTS,
    ),
    "loadings in directions that were not asked about": (
        "fit", 0, lambda a: {"rna_loadings": turned(a["rna_loadings"])}, Code.REQUEST_CONTRADICTS,
    ),
    "loadings of which one is longer": (
        "fit", 0, lambda a: {"rna_loadings": a["rna_loadings"] * np.array([9, 1, 1, 1, 1])}, Code.REQUEST_CONTRADICTS,
    ),
    "loadings that point the same way": (
        "fit", 0, lambda a: {"rna_loadings": a["rna_loadings"][:, [0, 0, 1, 2, 3]]}, Code.REQUEST_CONTRADICTS,
    ),
    "other loadings than before": (
        "fit", 1, lambda a: {"rna_loadings": -a["rna_loadings"]}, Code.REQUEST_CONTRADICTS,
    ),
    "components scaled a second time": (
        "fit", 0, lambda a: {"scale": np.where(np.arange(11) == 3, 1e-3, a["scale"])}, Code.REQUEST_CONTRADICTS,
    ),
    "long loadings make small coefficients large": (
        "fit", 0, lambda a: {"rna_loadings": 1e3 * a["rna_loadings"], "beta": np.full(11, 0.05)},
        Code.REQUEST_TOO_FAR,
    ),
    "a large coefficient of a component": (
        "fit", 1, lambda a: {"beta": np.where(np.arange(11) == 1, 4.0, 0.0)}, Code.REQUEST_TOO_FAR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS, ids=str)
def test_what_no_honest_hub_sends_is_refused(case: str) -> None:
    step, number, change, expected = FAULTS[case]
    plan, seen, arrays, progress = before(step, number)
    assert progress.ask is not None
    honest = request_of(plan, progress.ask, arrays, step, number)
    assert isinstance(judge(honest, plan, seen), Seen), "the honest question must pass"
    assert judge(request_of(plan, progress.ask, arrays | change(arrays), step, number), plan, seen) is expected


def test_a_saturating_hub_cannot_push_the_log_hazards_of_a_site_apart() -> None:
    """Whatever coefficients pass, a site's own log hazards spread by no more than the limit says."""
    plan, seen, arrays, progress = before("fit", 1)
    layers = layer_designs(plan.study, plan.dictionary)
    preparation = Preparation(Context(design_columns(plan.study, plan.dictionary), 1, (), {}, layers))
    x = preparation.matrix(COHORTS[0], arrays)
    rng, passed = np.random.default_rng(1), 0
    for size in (0.1, 0.3, 1.0, 3.0):
        for _ in range(50):
            beta = size * rng.normal(size=11)
            asked = judge(request_of(plan, str(progress.ask), arrays | {"beta": beta}, "fit", 1), plan, seen)
            if isinstance(asked, Seen):
                passed += 1
                assert np.sqrt(np.mean((x[:, 1:] @ beta[1:]) ** 2)) <= 4.5
    assert 0 < passed < 200


def test_the_spread_of_a_sites_scores_follows_from_what_it_released() -> None:
    _, seen, arrays, _ = before("fit", 1)
    site: Cohort = COHORTS[0]
    for layer in layer_designs(PLAN.study, PLAN.dictionary):
        scores = layer_z(site, layer, arrays) @ arrays[f"{layer.name}_loadings"]
        own = seen.own[f"components.{layer.name}_loadings"]
        np.testing.assert_allclose(own, scores.T @ scores / site.n_patients, atol=1e-10)
    assert not any(name.endswith(("_basis", "_gram")) for name in (*seen.searched, *seen.own))


def test_the_spread_of_a_sites_features_follows_from_what_it_released() -> None:
    values = np.random.default_rng(0).normal(3, 2, (50, 4))
    mean, scale = np.full(4, 2.0), np.array([1.0, 2.0, 0.0, 4.0])
    sums = np.stack((np.ones(4), values.mean(axis=0), (values**2).mean(axis=0)))
    expected = np.where(scale > 0, ((values - mean) ** 2).mean(axis=0) / np.where(scale > 0, scale, 1) ** 2, 0.0)
    np.testing.assert_allclose(feature_moments(sums, mean, scale), expected)


def test_scores_moments_hold_for_folds_one_by_one() -> None:
    rng = np.random.default_rng(0)
    loadings, basis = rng.normal(size=(3, 8, 2)), rng.normal(size=(3, 8, 4))
    gram = rng.normal(size=(3, 10))
    together = score_moments(loadings, basis, gram)
    for fold in range(3):
        np.testing.assert_allclose(together[fold], score_moments(loadings[fold], basis[fold], gram[fold]))


def test_what_a_site_remembers_of_large_arrays_is_a_digest() -> None:
    study = study_of(("rna",), components=20)
    rng = np.random.default_rng(0)
    sites = []
    for site in COHORTS:
        layer = replace(
            site.layers["rna"],
            columns=tuple(f"x{j}" for j in range(2000)),
            values=rng.normal(size=(site.n_patients, 2000)),
        )
        sites.append(replace(site, layers={**site.layers, "rna": layer}))
    seen = honest_run(compile_plan(study, dictionary_of((("rna", 2000),)), evaluation=False, figures=False), sites)
    assert len(seen[0].encode()) < 250_000  # the loadings alone have 320,000 bytes
