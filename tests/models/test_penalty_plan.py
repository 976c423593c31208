"""What a study that leaves its penalties to cross-validation compiles to, and that it runs folded as well."""

from dataclasses import replace

import numpy as np
import pytest

from archipel.local_run import run_plan
from models.compile import compile_plan
from models.folds import N_INNER_FOLDS, deal, with_inner_folds
from models.plan_limits import LARGEST_MESSAGE
from schemas.errors import FaultsError
from schemas.study import Evaluation, Model, Privacy
from tests.archipel.worlds import dictionary, sites, study

KEY = b"of a site"


def test_the_penalties_are_a_step_before_the_fit_which_takes_them():
    plan = compile_plan(study(), dictionary(), figures=False)
    names = [step.name for step in plan.steps]
    assert names.index("penalties") < names.index("fit")
    assert names.index("cv_penalties") < names.index("cv_fit")
    assert plan.by_name["fit"].inputs["penalties"] == "penalties.penalties"
    assert "penalties" not in plan.by_name["fit"].settings


def test_a_study_with_written_penalties_has_no_search():
    fixed = study(model=Model(layers=("clinical", "rna"), covariates=("age",), components=3, penalty=10.0))
    assert "penalties" not in compile_plan(fixed, dictionary()).by_name


def test_exact_times_have_a_merged_grid_for_the_penalties_alone():
    exact = study(
        model=Model(method="cox", layers=("clinical", "rna"), covariates=("age",), components=3, penalty="cv"),
        privacy=Privacy(min_events_per_interval=1, time_bins=16),
    )
    plan = compile_plan(exact, dictionary(), exact_times=[1.0, 2.5, 3.0], evaluation=False)
    grid = plan.by_name["penalty_grid"]
    assert grid.settings["min_events"] == 5
    assert len(grid.settings["bin_edges"]) == 16
    assert plan.by_name["penalties"].inputs["edges"] == "penalty_grid.edges"
    assert plan.by_name["fit"].inputs["edges"] == "grid.edges"


def test_without_the_secure_sum_the_folds_would_be_seen_and_the_study_is_refused():
    with pytest.raises(FaultsError, match="secure sum"):
        compile_plan(study(privacy=Privacy(secure_sum=False)), dictionary())


def test_answers_that_are_too_large_are_refused_with_what_to_do():
    large = study(evaluation=Evaluation(folds=20), privacy=Privacy(time_bins=64))
    genes = dictionary().layers[0].model_copy(update={"identifiers": tuple(f"g{j}" for j in range(400))})
    wide = dictionary().model_copy(update={"layers": (genes,)})
    model = large.model.model_copy(update={"components": 100})
    with pytest.raises(FaultsError, match="write the penalties"):
        compile_plan(large.model_copy(update={"model": model}), wide)
    assert LARGEST_MESSAGE == 32 * 2**20


def test_inner_folds_are_dealt_independently_of_the_folds_that_judge():
    cohort = sites()["site-0"]
    inner = with_inner_folds(cohort, KEY).inner_fold_of
    assert inner is not None
    assert set(inner) == set(range(N_INNER_FOLDS))
    outer = deal(cohort.event, None, N_INNER_FOLDS, KEY, 0, cohort.patient_ids)
    assert not np.array_equal(inner, outer)
    rows = np.arange(cohort.n_patients)[::2]
    np.testing.assert_array_equal(with_inner_folds(cohort, KEY).take(rows).inner_fold_of, inner[rows])


def test_the_search_of_every_fold_travels_in_the_same_rounds_and_finds_what_it_finds_alone():
    own = study()
    cohorts = {name: with_inner_folds(cohort, name.encode()) for name, cohort in sites().items()}
    fold_of = {name: deal(c.event, None, 2, name.encode(), 0, c.patient_ids) for name, c in cohorts.items()}
    plan = compile_plan(own, dictionary(), figures=False)
    steps = plan.steps[: [step.name for step in plan.steps].index("cv_fit") + 1]
    held = {name: replace(cohort, fold_of=fold_of[name]) for name, cohort in cohorts.items()}
    run = run_plan(plan.model_copy(update={"steps": steps}), held)
    together = [one for one in run.rounds if one.step == "cv_penalties"]
    assert len(together) <= 12
    single = compile_plan(own, dictionary(), evaluation=False, figures=False)
    for fold in range(2):
        train = {name: cohort.take(fold_of[name] != fold) for name, cohort in cohorts.items()}
        alone = run_plan(single, train).progress.arrays
        arrays = run.progress.arrays
        np.testing.assert_array_equal(arrays["cv_penalties.penalties"][fold], alone["penalties.penalties"])
        np.testing.assert_allclose(arrays["cv_fit.beta"][fold], alone["fit.beta"], rtol=1e-8, atol=1e-10)


def test_under_masks_the_same_penalties_are_chosen():
    own = study()
    cohorts = {name: with_inner_folds(cohort, name.encode()) for name, cohort in sites().items()}
    plan = compile_plan(own, dictionary(), evaluation=False, figures=False)
    clear, masked = (run_plan(plan, cohorts, masked=hidden).progress.arrays for hidden in (False, True))
    np.testing.assert_array_equal(masked["penalties.penalties"], clear["penalties.penalties"])
    np.testing.assert_allclose(masked["penalties.criterion"], clear["penalties.criterion"], rtol=1e-9)
    np.testing.assert_allclose(masked["fit.beta"], clear["fit.beta"], rtol=0, atol=1e-8)
