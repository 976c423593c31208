from typing import Any

import pytest

from models.compile import compile_plan
from schemas.dictionary import Column, Dictionary
from schemas.study import Study
from tests.plans import small_dictionary, small_study

COLUMNS = (
    Column(name="kind", type="category", codes=("none", "relapse", "death", "other")),
    Column(name="arm", type="category", codes=("control", "drug")),
    Column(name="response", type="boolean"),
)
DICTIONARY = Dictionary(**{**dict(small_dictionary()), "columns": (*small_dictionary().columns, *COLUMNS)})
TIME = {"time": "time_days", "event": "kind", "cause": "relapse", "competing": ("death", "other")}
ARM = {"covariates": ("arm", "age_years"), "treatment": "arm", "interactions": ("age_years",)}


def plan_of(**changed: Any) -> Any:
    return compile_plan(Study.model_validate({**dict(small_study()), **changed}), DICTIONARY)


def names(plan: Any) -> list[str]:
    return [step.name for step in plan.steps]


def test_a_study_of_one_event_has_the_steps_that_it_had() -> None:
    plan = compile_plan(small_study(evaluation={"folds": 5}), small_dictionary(), figures=False)
    fitted = ["moments", "grid", "fit", "baseline"]
    assert names(plan)[:8] == [*fitted, *(f"cv_{name}" for name in fitted)]
    assert {"cv_concordance", "cv_site_only", "cv_brier", "cv_slope"} <= set(names(plan))
    assert not {step.method for step in plan.steps} & {"outcome_scores", "cumulative_incidence", "treatment_response"}
    assert all("cause" not in step.settings for step in plan.steps)


@pytest.mark.parametrize("folds", [0, 5])
def test_an_outcome_without_a_time_has_no_step_that_needs_one(folds: int) -> None:
    plan = plan_of(
        endpoint={"type": "binary", "outcome": "response"},
        model={"method": "logistic", "covariates": ("age_years",)},
        evaluation={"folds": folds},
    )
    judged = ["cv_moments", "cv_fit", "cv_concordance", "cv_site_only", "cv_slope"]
    assert names(plan) == ["moments", "fit", *(judged if folds else [])]
    sent = {spec.name for step in plan.steps for part in step.parts for spec in (*part.sends, *part.releases)}
    assert not sent & {"edges", "n_intervals", "events", "cumulative_hazard"}


def test_without_masks_an_outcome_is_judged_on_the_held_out_part() -> None:
    plan = plan_of(
        endpoint={"type": "binary", "outcome": "response"},
        model={"method": "logistic", "covariates": ("age_years",)},
        evaluation={"folds": 5},
        privacy={"secure_sum": False},
    )
    assert [step.cohort for step in plan.steps] == [
        "all", "all", "training", "training", "held_out", "split", "held_out",
    ]  # fmt: skip


def test_every_cause_has_its_fit_and_baseline_on_one_grid_of_all_events() -> None:
    plan = plan_of(endpoint=TIME, evaluation={"folds": 5})
    found = names(plan)
    for number in (2, 3):
        assert {f"cause_{number}_fit", f"cause_{number}_baseline"} <= set(found)
        assert plan.by_name[f"cause_{number}_fit"].settings["cause"] == number
        assert plan.by_name[f"cause_{number}_fit"].inputs["edges"] == "grid.edges"
    assert plan.by_name["grid"].settings["cause"] == 0
    assert plan.by_name["cv_grid"].settings["cause"] == 0
    assert "incidence" in found
    assert not {"kaplan_meier", "cv_brier"} & set(found)
    assert plan.by_name["incidence"].inputs["beta_3"] == "cause_3_fit.beta"


def test_a_treatment_adds_one_round_and_competing_events_none() -> None:
    one = {"time": "time_days", "event": "relapse"}
    with_arm, without = plan_of(endpoint=one, model=ARM), plan_of(endpoint=one)
    assert set(names(with_arm)) - set(names(without)) == {"treatment"}
    step = with_arm.by_name["treatment"]
    assert (len(step.parts), step.parts[0].times, step.optional) == (1, 1, True)
    assert "treatment" not in names(plan_of(endpoint=TIME, model=ARM))
