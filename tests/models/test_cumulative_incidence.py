from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.baseline import Baseline
from models.cause import OfCause, with_cause
from models.cumulative_incidence import CumulativeIncidence, aalen_johansen, predicted_incidence
from models.hazard import Hazard
from models.kaplan_meier import product_limit
from models.moments import Moments
from schemas.cohort import Cohort
from tests.models.federation import context, run_step, split
from tests.models.synthetic import COLUMNS, EDGES, patients

HORIZONS = (2.5, 8.0)
CUTPOINTS = np.array([-0.3, 0.3])


def with_causes(n: int = 160, seed: int = 0) -> Cohort:
    cohort = patients(n, seed, delayed=False)
    kind = np.where(cohort.event, 1 + np.random.default_rng(seed).integers(0, 2, n), 0).astype(float)
    return replace(cohort, outcome=kind, event=kind == 1)


COHORT = with_causes()
SITES = split(COHORT, np.arange(160) % 4)


def model(cohorts):
    def made(**more):
        return context(COLUMNS, EDGES.size, HORIZONS, **more)

    inputs = {**run_step(Moments(made()), {}, cohorts), "edges": EDGES, "n_intervals": np.array(6.0)}
    inputs["cutpoints"] = CUTPOINTS
    for cause, suffix in ((1, ""), (2, "_2")):
        fit = run_step(OfCause(made(cause=cause), Hazard), inputs, cohorts)
        base = run_step(OfCause(made(cause=cause), Baseline), {**inputs, "beta": fit["beta"]}, cohorts)
        inputs |= {f"beta{suffix}": fit["beta"], f"cumulative_hazard{suffix}": base["cumulative_hazard"]}
    return inputs


def incidence(cohorts, inputs):
    return run_step(CumulativeIncidence(context(COLUMNS, EDGES.size, HORIZONS, n_causes=2)), inputs, cohorts)


counts = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=8)


@given(counts)
def test_incidences_and_survival_add_up_to_one_and_never_fall(steps):
    first, second, left = (np.array(one, dtype=float) for one in zip(*steps, strict=True))
    leaving = first + second + left
    at_risk = np.cumsum(leaving[::-1])[::-1]
    found, error = aalen_johansen(at_risk, np.stack((first, second)))
    survival, _ = product_limit(at_risk, first + second)
    np.testing.assert_allclose(found.sum(axis=0) + survival, 1.0, atol=1e-12)
    assert (np.diff(found, axis=1) >= -1e-15).all()
    assert np.isfinite(error).all()


def test_without_censoring_the_incidence_is_a_share_and_its_error_that_of_a_share():
    first, second = np.array([3.0, 1.0, 4.0]), np.array([2.0, 5.0, 5.0])
    at_risk = np.array([20.0, 15.0, 9.0])
    found, error = aalen_johansen(at_risk, np.stack((first, second)))
    share = np.cumsum(first) / 20
    np.testing.assert_allclose(found[0], share)
    np.testing.assert_allclose(error[0, :2], np.sqrt(share * (1 - share) / 20)[:2], rtol=1e-12)


def test_with_one_cause_the_incidence_is_one_minus_kaplan_meier_with_greenwoods_error():
    at_risk, events = np.array([30.0, 22.0, 10.0]), np.array([4.0, 3.0, 2.0])
    survival, greenwood = product_limit(at_risk, events)
    found, error = aalen_johansen(at_risk, events[None])
    np.testing.assert_allclose(found[0], 1 - survival)
    np.testing.assert_allclose(error[0], greenwood, rtol=1e-12)


def test_one_minus_kaplan_meier_of_one_cause_promises_more_of_it():
    state = incidence(SITES, model(SITES))
    at_risk, events = state["at_risk"].sum(axis=0), state["events"].sum(axis=0)
    survival, _ = product_limit(at_risk, events[0])
    assert 1 - survival[-1] > state["overall"][0, -1] + 0.05


def test_predicted_incidence_is_what_chance_gives():
    hazards = np.array([[[0.3, 0.1, 0.0, 0.4]], [[0.1, 0.2, 0.0, 0.1]]])
    found = predicted_incidence(hazards)[:, 0]
    rng = np.random.default_rng(0)
    n = 400_000
    alive, counted = np.ones(n, dtype=bool), np.zeros((2, 4))
    for k in range(4):
        # Within an interval the first of two exponential clocks rings.
        clocks = np.stack([rng.exponential(1.0, n) / h if h > 0 else np.full(n, np.inf) for h in hazards[:, 0, k]])
        rings = alive & (clocks.min(axis=0) < 1)
        for cause in range(2):
            counted[cause, k] = (rings & (clocks.argmin(axis=0) == cause)).sum()
        alive &= ~rings
    np.testing.assert_allclose(found, np.cumsum(counted, axis=1) / n, atol=0.003)


def test_a_hazard_shifted_by_a_hundred_is_no_nan():
    found = predicted_incidence(np.full((2, 3, 4), 1e40))
    np.testing.assert_allclose(found[:, :, -1], 0.5)


def test_the_federated_figures_equal_the_pooled_ones_in_any_order():
    inputs = model([COHORT])
    one, pooled, turned = (incidence(sites, inputs) for sites in (SITES, [COHORT], SITES[::-1]))
    for name in one:
        np.testing.assert_allclose(one[name], pooled[name], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(one[name], turned[name], rtol=1e-12, atol=1e-13)


def test_predictions_are_means_over_patients_and_at_an_edge_those_of_the_horizon():
    inputs = model(SITES)
    state = incidence(SITES, inputs)
    each = np.stack([incidence([COHORT.take(np.array([i]))], inputs)["overall_predicted"] for i in range(160)])
    np.testing.assert_allclose(state["overall_predicted"], each.mean(axis=0), rtol=1e-10)
    by_group = np.einsum("gch,g->ch", state["predicted"], state["n_group"]) / 160
    np.testing.assert_allclose(by_group, state["overall_predicted"][:, 6:], rtol=1e-10)
    np.testing.assert_allclose(state["overall_predicted"][:, 7], state["overall_predicted"][:, 4], rtol=1e-12)
    between = state["overall_predicted"][:, 1], state["overall_predicted"][:, 6], state["overall_predicted"][:, 2]
    assert (np.diff(between, axis=0) > 0).all()


def test_predicted_and_observed_agree_over_those_who_trained_the_model():
    state = incidence(SITES, model(SITES))
    np.testing.assert_allclose(state["overall_predicted"][:, :6], state["overall"], atol=0.04)


def test_a_cause_is_a_cohort_whose_other_events_are_censored():
    assert with_cause(COHORT, 2).n_events == (COHORT.outcome == 2).sum()
    assert with_cause(COHORT, 0).n_events == (COHORT.outcome > 0).sum()
    with pytest.raises(ValueError, match="competing"):
        with_cause(replace(COHORT, outcome=None), 1)


def test_a_step_of_a_cause_is_the_method_on_that_cohort():
    context_of = context(COLUMNS, EDGES.size, cause=2)
    inputs = {**run_step(Moments(context(COLUMNS)), {}, SITES), "edges": EDGES, "n_intervals": np.array(6.0)}
    one = run_step(OfCause(context_of, Hazard), inputs, SITES)
    other = run_step(Hazard(context_of), inputs, [with_cause(site, 2) for site in SITES])
    assert one["n_events"] == ((COHORT.outcome == 2) & (COHORT.time <= EDGES[-1])).sum()
    np.testing.assert_array_equal(one["beta"], other["beta"])
    rounds: list[str] = []
    left = run_step(OfCause(context_of, Hazard), inputs, SITES, rounds, leaving=2)
    assert left["n_patients"] == 120
