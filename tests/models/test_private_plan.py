"""What a study under differential privacy compiles to, and which studies are refused with what reason."""

from __future__ import annotations

from typing import Any

import pytest

from models.compile import compile_plan
from models.private_plan import SHARES, baseline_pieces
from schemas.errors import FaultsError
from schemas.plan import read_plan
from schemas.study import Differential, Evaluation, Model, Privacy
from tests.plans import small_dictionary, small_study


def private(differential: Differential | None = None, **changed: Any) -> Any:
    privacy = Privacy(differential=differential or Differential(epsilon=8.0))
    return compile_plan(small_study(**{"privacy": privacy, **changed}), small_dictionary(), adds_noise=True)


def test_everything_that_is_released_carries_noise_and_nothing_else_is_asked() -> None:
    plan = private()
    assert [step.name for step in plan.steps] == ["moments", "grid", "fit", "baseline"]
    assert all(step.method.startswith("private_") and step.cohort == "all" for step in plan.steps)
    assert all(part.noise is not None for step in plan.steps for part in step.parts)
    assert read_plan(plan.content).hash == plan.hash


def test_the_shares_of_the_steps_are_the_whole_budget() -> None:
    assert sum(SHARES.values()) == pytest.approx(1.0, abs=1e-15)
    plan = private(Differential(epsilon=8.0, rounds=17, clip=3.5, honest_sites=4))
    for step in plan.steps:
        (part,) = step.parts
        assert part.noise is not None
        assert part.times * part.noise.share == pytest.approx(SHARES[step.name], rel=1e-12)
        assert part.noise.honest_sites == 4
    fit = plan.by_name["fit"].parts[0]
    assert fit.times == 17
    assert fit.noise is not None
    assert fit.noise.sensitivity == 3.5


def test_two_studies_that_differ_in_epsilon_alone_have_different_plans() -> None:
    assert private(Differential(epsilon=8.0)).hash != private(Differential(epsilon=3.0)).hash


def test_a_study_without_differential_privacy_adds_no_noise() -> None:
    plan = compile_plan(small_study(), small_dictionary(), adds_noise=True)
    assert all(part.noise is None for step in plan.steps for part in step.parts)


@pytest.mark.parametrize("method", ["cox", "cox-stratified"])
def test_on_a_cox_loss_differential_privacy_is_refused_with_the_reason(method: Any) -> None:
    with pytest.raises(FaultsError, match="risk sets of others, so clipping one patient's gradient bounds nothing"):
        private(model=Model(covariates=("age_years",), method=method))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"method": "hazard-network"}, "of the other methods no patient's part is clipped"),
        ({"penalty": "cv"}, "sums of every fold without noise"),
        ({"layers": ("clinical", "expression")}, "components of a wide layer would be released without noise"),
        ({"treatment": "sex"}, "curves by treatment and its interactions"),
    ],
)
def test_what_of_a_model_has_no_step_with_noise_is_refused(model: dict[str, Any], reason: str) -> None:
    with pytest.raises(FaultsError, match=reason):
        private(model=Model(covariates=("age_years", "sex"), **model))


def test_competing_events_are_refused() -> None:
    competing = small_study().endpoint.model_copy(update={"cause": "relapse", "competing": ("death",)})
    study = small_study(privacy=Privacy(differential=Differential(epsilon=8.0)))
    with pytest.raises(FaultsError, match="the time to one event alone"):
        compile_plan(study.model_copy(update={"endpoint": competing}), small_dictionary(), adds_noise=True)


def test_an_evaluation_that_would_release_counts_without_noise_is_refused() -> None:
    with pytest.raises(FaultsError, match="without noise"):
        private(evaluation=Evaluation(folds=5))


def test_noise_that_is_shared_out_needs_masks() -> None:
    shared = Differential(epsilon=8.0, honest_sites=3)
    with pytest.raises(FaultsError, match="without masks the hub sees each site's numbers by themselves"):
        private(shared, privacy=Privacy(differential=shared, secure_sum=False))
    alone = Differential(epsilon=8.0, honest_sites=1)
    assert private(shared).steps
    assert private(alone, privacy=Privacy(differential=alone, secure_sum=False)).steps
    assert private(shared, on_dropout="continue").steps, "a site refuses to open a sum with too few honest ones in it"


def test_exact_event_times_are_refused() -> None:
    privacy = Privacy(differential=Differential(epsilon=8.0), min_events_per_interval=1)
    with pytest.raises(FaultsError, match="exact event times"):
        compile_plan(small_study(privacy=privacy), small_dictionary(), exact_times=[1.0, 2.0], adds_noise=True)


def test_a_number_without_a_range_is_refused_by_name() -> None:
    dictionary = small_dictionary()
    columns = tuple(
        column.model_copy(update={"max": None}) if column.name == "age_years" else column
        for column in dictionary.columns
    )
    study = small_study(privacy=Privacy(differential=Differential(epsilon=8.0)))
    with pytest.raises(FaultsError, match="age_years: the dictionary gives this column no range"):
        compile_plan(study, dictionary.model_copy(update={"columns": columns}), adds_noise=True)


def test_all_reasons_are_given_at_once() -> None:
    with pytest.raises(FaultsError) as caught:
        private(model=Model(covariates=("age_years",), method="cox"), evaluation=Evaluation(folds=5))
    assert len(caught.value.faults) == 2


def test_cells_that_cannot_be_empty_cost_nothing() -> None:
    def releases(**changed: Any) -> set[str]:
        return {spec.name for spec in private(**changed).steps[0].parts[0].releases}

    assert "n_observed" in releases()
    assert "n_observed" not in releases(eligibility={"complete_cases": True})


@pytest.mark.parametrize(
    ("n_bins", "pieces"),
    [(2, [0, 1]), (3, [0, 1, 1]), (8, [0, 1, 2, 2, 3, 3, 3, 3]), (16, [0] * 2 + [1] * 2 + [2] * 4 + [3] * 8)],
)
def test_without_horizons_each_piece_of_the_baseline_is_as_wide_as_all_before_it(
    n_bins: int, pieces: list[int]
) -> None:
    assert baseline_pieces([float(i + 1) for i in range(n_bins)], ()) == pieces


@pytest.mark.parametrize(
    ("horizons", "pieces"),
    [
        ((4.0,), [0, 1, 2, 2, 3, 3, 3, 3]),  # two more cuts below the first horizon
        ((4.9,), [0, 1, 2, 2, 3, 3, 3, 3]),  # never behind the horizon
        ((2.0, 6.0), [0, 1, 2, 2, 2, 2, 3, 3]),
        ((1.0, 3.0, 5.0), [0, 1, 1, 2, 2, 3, 3, 3]),
        ((2.0, 8.0), [0, 1, 2, 2, 2, 2, 2, 2]),  # the last piece ends there anyway
        ((0.5,), [0, 1, 2, 2, 3, 3, 3, 3]),  # before the first bin ends nobody is counted
        ((1.0, 2.0, 3.0, 4.0, 5.0, 6.0), [0, 1, 1, 2, 3, 3, 4, 4]),  # five pieces at most
    ],
)
def test_the_baseline_is_cut_at_the_horizons(horizons: tuple[float, ...], pieces: list[int]) -> None:
    assert baseline_pieces([float(i + 1) for i in range(8)], horizons) == pieces


def test_a_time_grid_of_two_bins_has_two_pieces_at_most() -> None:
    assert baseline_pieces([5.0, 10.0], (5.0,)) == [0, 1]


def test_whoever_adds_no_noise_gets_no_plan_to_run_in_clear() -> None:
    study = small_study(privacy=Privacy(differential=Differential(epsilon=8.0)))
    with pytest.raises(FaultsError, match="adds no noise"):
        compile_plan(study, small_dictionary())
