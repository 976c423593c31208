from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.cox import Cox
from models.event_grid import EventGrid
from models.folded import Folded, fold_part
from models.hazard import Hazard
from models.moments import Moments
from models.step import Context, DivergedError
from tests.models.federation import context, run_step, split
from tests.models.synthetic import COLUMNS, patients

N_FOLDS = 3
BINS = [2.0, 4.0, 6.0, 8.0, 12.0, 20.0, 40.0]
COHORT = replace(patients(240, seed=3), fold_of=np.arange(240) % N_FOLDS)
SITES = split(COHORT, np.arange(240) % 4)
SETTINGS = {
    "moments": {},
    "grid": {"bin_edges": BINS, "min_events": 5},
    "fit": {"penalties": [2.0] * len(COLUMNS), "ties": "efron"},
}


def contexts(step: str, *, folded: bool) -> Context:
    own = dict(SETTINGS[step])
    if folded:
        own |= {"n_folds": N_FOLDS, "look_at": "training"}
    return context(COLUMNS, len(BINS), **own)


def chain(method, cohorts, *, folded: bool):
    """Moments, grid and fit, folded or not."""

    def step(name, of):
        made = contexts(name, folded=folded)
        return Folded(made, of) if folded else of(made)

    moments = run_step(step("moments", Moments), {}, cohorts)
    grid = run_step(step("grid", EventGrid), {}, cohorts)
    inputs = {name: moments[name] for name in ("mean", "scale")}
    inputs |= {name: grid[name] for name in ("edges", "n_intervals", "events")}
    return run_step(step("fit", method), inputs, cohorts)


@pytest.mark.parametrize("method", [Hazard, Cox])
def test_folded_equals_each_fold_by_itself(method):
    folded = chain(method, SITES, folded=True)
    for fold in range(N_FOLDS):
        alone = chain(method, [fold_part(site, fold, "training") for site in SITES], folded=False)
        for name in ("beta", "covariance", "log_likelihood", "n_events"):
            np.testing.assert_allclose(folded[name][fold], alone[name], rtol=0, atol=1e-12)


def test_all_folds_travel_in_the_rounds_of_the_longest():
    def rounds(method, cohorts, folded):
        asked = []
        made = contexts("fit", folded=folded)
        step = Folded(made, method) if folded else method(made)
        local = step.local
        step.local = lambda part, sent, cohort: asked.append(part) or local(part, sent, cohort)
        moments = run_step(
            Folded(contexts("moments", folded=True), Moments)
            if folded
            else Moments(contexts("moments", folded=False)),
            {},
            cohorts,
        )
        grid = run_step(
            Folded(contexts("grid", folded=True), EventGrid) if folded else EventGrid(contexts("grid", folded=False)),
            {},
            cohorts,
        )
        inputs = {name: moments[name] for name in ("mean", "scale")}
        run_step(step, inputs | {name: grid[name] for name in ("edges", "n_intervals", "events")}, cohorts)
        return len(asked) / len(cohorts)

    longest = max(
        rounds(Hazard, [fold_part(site, fold, "training") for site in SITES], False) for fold in range(N_FOLDS)
    )
    assert rounds(Hazard, SITES, True) <= longest + 1


def test_every_release_has_the_shape_that_the_plan_lists():
    step = Folded(contexts("moments", folded=True), Moments)
    (part,) = step.parts()
    answer = step.local("sums", {"asked": np.ones(N_FOLDS)}, SITES[0])
    assert {spec.name: spec.shape for spec in part.releases} == {name: a.shape for name, a in answer.items()}


def test_an_idle_fold_answers_zero():
    step = Folded(contexts("moments", folded=True), Moments)
    answer = step.local("sums", {"asked": np.array([1.0, 0.0, 1.0])}, SITES[0])
    assert answer["n_patients"][1] == 0
    assert answer["n_patients"][0] > 0


def test_a_fold_with_too_few_patients_in_all_is_refused():
    few = replace(COHORT.take(np.arange(24)), fold_of=np.arange(24) % N_FOLDS)
    step = Folded(replace_look(contexts("moments", folded=True), "held_out"), Moments)
    with pytest.raises(DivergedError, match="fold 1 has fewer than 10 patients"):
        run_step(step, {}, split(few, np.arange(24) % 2))


def replace_look(made: Context, look_at: str) -> Context:
    return replace(made, settings={**made.settings, "look_at": look_at})


def test_a_cohort_without_folds_is_an_error():
    with pytest.raises(ValueError, match="dealt"):
        fold_part(replace(COHORT, fold_of=None), 0, "training")
