"""Predicted cumulative incidence and its interval against R, a slow version, and laws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as drawn

from models.arm_difference import arm_difference
from models.baseline_spread import spread_of_breslow, spread_of_hazard
from models.contributions import risk_parts
from models.cumulative_incidence import predicted_incidence
from models.incidence_prediction import (
    incidence_contributions,
    incidence_difference,
    incidence_gradient,
    predict_incidence,
)
from models.prediction import contributions, cumulative_hazard_between, model_matrix, predict
from models.registry import METHODS
from models.step import Floats
from schemas.artefact import Artefact, ArtefactCause
from schemas.cohort import Cohort
from tests.models.federation import cohort_of, context, fit, run_step, split
from tests.models.test_prediction import cox_model, hazard_model, manifest_of
from tests.reference.cohorts import Reference, kept, numbers, read, read_demo


def kinds_of(cohort: Cohort) -> Floats:
    """The made-up kinds of event of tests/reference/incidence.R."""
    return np.where(cohort.event, 1 + np.arange(cohort.n_patients) % 2, 0).astype(float)


def competing_model(parts: Sequence[dict[str, Floats]], columns: tuple[str, ...], *, exact: bool) -> Artefact:
    """The model of several kinds of event from the arrays of each."""
    own = ("beta", "cumulative_hazard", "covariance", "hazard_variance", "hazard_slope")
    arrays = dict(parts[0])
    for number, part in enumerate(parts[1:], start=2):
        arrays |= {f"cause_{number}_{name}": part[name] for name in own}
    causes = tuple(ArtefactCause(code=f"kind {number}") for number in range(1, len(parts) + 1))
    return Artefact(manifest_of(columns, exact=exact, causes=causes), arrays)


def cox_competing(cohort: Cohort, kind: Floats, sites: Sequence[str], columns: tuple[str, ...]) -> Artefact:
    """Unpenalised Cox models with Breslow's ties of each kind of event, on the times of events of any kind."""
    times, parts = np.unique(cohort.time[kind > 0]), []
    for cause in range(1, int(kind.max()) + 1):
        own = split(replace(cohort, event=kind == cause), sites)
        state = fit("cox", own, columns, bin_edges=list(times), edges=times, ties="breslow", exact=True)
        made = METHODS["baseline"](context(columns, times.size, exact=True, with_covariates=True))
        baseline = run_step(made, state, own)
        spread = spread_of_breslow(*(baseline[name] for name in ("events", "hazard_observed", "mean_covariates")))
        parts.append(
            {name: state[name] for name in ("mean", "scale", "beta", "covariance")}
            | {"edges": times, "cumulative_hazard": baseline["cumulative_hazard"]}
            | {"hazard_variance": spread.variance, "hazard_slope": spread.slope}
        )
    return competing_model(parts, columns, exact=True)


def grouped_competing(
    cohort: Cohort, kind: Floats, edges: Floats, columns: tuple[str, ...], penalty: float = 0.0
) -> tuple[Artefact, list[dict[str, Floats]]]:
    """Grouped hazard models of each kind, with what their fits left."""
    parts, states = [], []
    for cause in range(1, int(kind.max()) + 1):
        own = split(replace(cohort, event=kind == cause), np.arange(cohort.n_patients) % 3)
        state = fit("hazard", own, columns, edges=edges, penalties=[penalty] * len(columns))
        baseline = run_step(METHODS["baseline"](context(columns, edges.size)), state, own)
        spread = spread_of_hazard(state["covariance_full"], np.diff(baseline["cumulative_hazard"], prepend=0.0))
        parts.append(
            {name: state[name] for name in ("mean", "scale", "beta", "covariance")}
            | {"edges": edges, "cumulative_hazard": baseline["cumulative_hazard"]}
            | {"hazard_variance": spread.variance, "hazard_slope": spread.slope}
        )
        states.append(dict(state))
    return competing_model(parts, columns, exact=False), states


@pytest.fixture(scope="module")
def demo() -> tuple[Artefact, Reference, list[dict[str, Floats]]]:
    """The demo's cohort with three made-up kinds of event on its grid."""
    reference = read_demo()
    kind = np.where(reference.pooled.event, 1 + np.arange(reference.pooled.n_patients) % 3, 0).astype(float)
    model, states = grouped_competing(reference.pooled, kind, reference.edges, reference.columns, 3.0)
    return model, reference, states


# ---------------------------------------------------------------- R
def test_cumulative_incidence_and_its_interval_equal_those_of_r_on_cgd() -> None:
    assert_model_equals_r("cgd", read_demo())


def test_cumulative_incidence_and_its_interval_equal_those_of_r(cohorts: Path) -> None:
    assert_model_equals_r("rhdnase_cf", read("rhdnase_cf", cohorts))


def assert_model_equals_r(name: str, reference: Reference) -> None:
    """The curves of three patients and of one at the means, from the origin and later, and between two arms."""
    columns, cohort = kept(name, reference.columns), reference.pooled
    model = cox_competing(cohort, kinds_of(cohort), reference.sites, columns)
    means = cohort_of(np.full((1, len(columns)), np.nan), np.ones(1), [False], columns=columns)
    x = cohort.matrix(columns)
    for case in (one for one in numbers("incidence.json") if one["cohort"] == name):
        times = np.asarray(case["times"])
        np.testing.assert_array_equal(times, model.edges)
        row = np.full(len(columns), np.nan) if case["patient"] == 3 else x[case["patient"]]
        someone = means if case["patient"] == 3 else cohort.take(np.array([case["patient"]]))
        found = predict_incidence(model, someone, times)
        later = predict_incidence(model, someone, np.asarray(case["later"]), start=case["start"])
        assert_equal_r(found, 0, case, "_1")
        assert_equal_r(found, 1, case, "_2")
        assert_equal_r(later, 0, case, "", "conditional_")
        arms = [np.where(np.arange(row.size) == 0, treated, row)[None, :] for treated in (0.0, 1.0)]
        control, treated = (cohort_of(arm, np.ones(1), [False], columns=columns) for arm in arms)
        difference = incidence_difference(model, control, treated, times)
        np.testing.assert_allclose(difference.value[0], case["difference"], atol=1e-9)
        assert difference.upper is not None
        reach = 1.959963984540054 * np.asarray(case["difference_se"])
        np.testing.assert_allclose(difference.upper[0] - difference.value[0], reach, atol=1e-7)


def assert_equal_r(found: Any, cause: int, case: dict[str, Any], end: str, start: str = "") -> None:
    np.testing.assert_allclose(found.incidence[cause, 0], case[f"{start}value{end}"], atol=1e-9)
    np.testing.assert_allclose(found.lower[cause, 0], case[f"{start}lower{end}"], atol=1e-7)
    np.testing.assert_allclose(found.upper[cause, 0], case[f"{start}upper{end}"], atol=1e-7)


# ---------------------------------------------------------------- slow
def slow_incidence(model: Artefact, x: Floats, time: float, alphas: list[Floats], betas: list[Floats]) -> list[float]:
    """Interval by interval, kind by kind, for one patient."""
    lower, free, found = 0.0, 1.0, [0.0] * len(alphas)
    for k, upper in enumerate(model.edges):
        share = min(max((time - lower) / (upper - lower), 0.0), 1.0)
        hazards = [share * np.exp(alphas[d][k] + x @ betas[d]) for d in range(len(alphas))]
        total = sum(hazards)
        for d, hazard in enumerate(hazards):
            found[d] += free * (hazard / total if total else 0.0) * (1 - np.exp(-total))
        free, lower = free * np.exp(-total), upper
    return found


def test_incidence_and_interval_equal_the_slow_delta_method(
    demo: tuple[Artefact, Reference, list[dict[str, Floats]]],
) -> None:
    """Against the full covariance of each kind's (alpha, beta) and derivatives by small steps."""
    model, reference, states = demo
    someone = reference.pooled.take(np.array([3]))
    x, k = model_matrix(model, someone)[0], model.edges.size
    with np.errstate(divide="ignore"):
        alphas = [np.log(np.diff(model.of_cause(d)["cumulative_hazard"], prepend=0.0)) for d in (1, 2, 3)]
    betas = [model.of_cause(d)["beta"] for d in (1, 2, 3)]
    for time in (20.0, 95.0, 341.0):
        found = predict_incidence(model, someone, np.array([time]))
        expected = slow_incidence(model, x, time, alphas, betas)
        np.testing.assert_allclose(found.incidence[:, 0, 0], expected, rtol=1e-10)
        variance = np.zeros(3)
        for d, state in enumerate(states):
            gradient = np.zeros((3, k + x.size))
            for j in range(k + x.size):
                ends = []
                for step in (1e-5, -1e-5):
                    a, b = [one.copy() for one in alphas], [one.copy() for one in betas]
                    (a if j < k else b)[d][j if j < k else j - k] += step
                    ends.append(np.array(slow_incidence(model, x, time, a, b)))
                gradient[:, j] = (ends[0] - ends[1]) / 2e-5
            variance += np.einsum("ci,ij,cj->c", gradient, state["covariance_full"], gradient)
        assert found.lower is not None
        for c, value in enumerate(expected):
            scaled = 1.959963984540054 * np.sqrt(variance[c]) / ((1 - value) * -np.log(1 - value))
            np.testing.assert_allclose(found.lower[c, 0, 0], 1 - (1 - value) ** np.exp(-scaled), rtol=1e-6)


def test_the_gradient_equals_small_steps() -> None:
    met = np.random.default_rng(0).exponential(0.2, (3, 1, 6))
    met[1, 0, 2] = 0.0
    for cause in range(3):
        found = incidence_gradient(met, cause)
        for d in range(3):
            for j in range(6):
                step = np.zeros_like(met)
                step[d, 0, j] = 1e-6
                ends = [predicted_incidence(met + sign * step)[cause, 0, -1] for sign in (1, 0)]
                np.testing.assert_allclose(found[d, 0, j], (ends[0] - ends[1]) / 1e-6, rtol=1e-4, atol=1e-7)


# ---------------------------------------------------------------- laws
def test_incidences_and_freedom_from_all_events_sum_to_one(
    demo: tuple[Artefact, Reference, list[dict[str, Floats]]],
) -> None:
    found = predict_incidence(demo[0], demo[1].pooled, np.linspace(0, 400, 41))
    np.testing.assert_allclose(found.incidence.sum(axis=0) + found.free, 1.0, atol=1e-13)
    assert (np.diff(found.incidence, axis=2) >= -1e-15).all()
    assert (np.diff(found.free, axis=1) <= 1e-15).all()
    for low, value, high in (
        (found.lower, found.incidence, found.upper),
        (found.free_lower, found.free, found.free_upper),
    ):
        assert low is not None
        assert high is not None
        assert (low <= value + 1e-15).all()
        assert (value <= high + 1e-15).all()
        assert (low >= 0).all()
        assert (high <= 1).all()


def test_one_kind_of_event_alone_is_the_single_event_prediction() -> None:
    reference = read_demo()
    times = np.array([20.0, 77.0, 200.0, 341.0])
    for model in (
        hazard_model(reference.federated(delayed=False), reference.columns, reference.edges, 5.0),
        cox_model(reference.federated(delayed=False), reference.columns),
    ):
        people = reference.pooled.take(np.arange(8))
        for start in (0.0, 50.0):
            one, found = (f(model, people, times, start=start) for f in (predict, predict_incidence))
            np.testing.assert_allclose(found.incidence[0], 1 - one.survival, atol=1e-13)
            np.testing.assert_allclose(found.lower[0], 1 - one.upper, atol=1e-12)
            np.testing.assert_allclose(found.upper[0], 1 - one.lower, atol=1e-12)
            np.testing.assert_allclose(found.free_lower, one.lower, atol=1e-12)
            parts = incidence_contributions(model, people, times, start=start)
            cumulative = cumulative_hazard_between(model, start, times)
            np.testing.assert_allclose(
                parts, risk_parts(model_matrix(model, people) * model.beta, cumulative), atol=1e-12
            )
            others = reference.pooled.take(np.arange(8, 16))
            arms, both = (
                f(model, people, others, times, start=start) for f in (arm_difference, incidence_difference)
            )
            np.testing.assert_allclose(both.value, -arms.value, atol=1e-13)
            np.testing.assert_allclose(both.upper, -arms.lower, atol=1e-12)


def test_the_order_of_the_competing_events_does_not_matter(
    demo: tuple[Artefact, Reference, list[dict[str, Floats]]],
) -> None:
    model, reference, _ = demo
    turned = dict(model.arrays)
    for name in model.of_cause(2):
        turned[f"cause_2_{name}"], turned[f"cause_3_{name}"] = turned[f"cause_3_{name}"], turned[f"cause_2_{name}"]
    times = np.array([30.0, 200.0])
    one, other = (predict_incidence(m, reference.pooled, times) for m in (model, Artefact(model.manifest, turned)))
    np.testing.assert_allclose(one.incidence, other.incidence[[0, 2, 1]], atol=1e-14)
    np.testing.assert_allclose(one.upper, other.upper[[0, 2, 1]], atol=1e-13)


def test_a_time_in_another_unit_changes_nothing(demo: tuple[Artefact, Reference, list[dict[str, Floats]]]) -> None:
    model, reference, _ = demo
    years = Artefact(model.manifest, dict(model.arrays) | {"edges": model.edges / 365.25})
    times = np.array([30.0, 200.0])
    one, other = (predict_incidence(m, reference.pooled, t) for m, t in ((model, times), (years, times / 365.25)))
    np.testing.assert_allclose(one.upper, other.upper, rtol=1e-9)


def test_the_conditional_incidence_is_what_is_added_among_those_still_free(
    demo: tuple[Artefact, Reference, list[dict[str, Floats]]],
) -> None:
    model, reference, _ = demo
    whole = predict_incidence(model, reference.pooled, np.array([77.0, 117.0, 210.0]))
    later = predict_incidence(model, reference.pooled, np.array([40.0, 133.0]), start=77.0)
    added = (whole.incidence[:, :, 1:] - whole.incidence[:, :, :1]) / whole.free[None, :, :1]
    np.testing.assert_allclose(later.incidence, added, rtol=1e-10)
    np.testing.assert_allclose(later.free, whole.free[:, 1:] / whole.free[:, :1], rtol=1e-12)


def test_what_moved_the_incidence_sums_to_the_difference_from_the_means(
    demo: tuple[Artefact, Reference, list[dict[str, Floats]]],
) -> None:
    model, reference, _ = demo
    times = np.array([60.0, 200.0, 350.0])
    means = cohort_of(np.full((1, len(reference.columns)), np.nan), np.ones(1), [False], columns=reference.columns)
    for start in (0.0, 80.0):
        parts = incidence_contributions(model, reference.pooled, times[:2], start=start)
        found, at_means = (predict_incidence(model, who, times[:2], start=start) for who in (reference.pooled, means))
        np.testing.assert_allclose(parts.sum(axis=2), found.incidence[0] - at_means.incidence[0], atol=1e-10)


def test_what_raises_a_competing_hazard_alone_lowers_the_incidence(
    demo: tuple[Artefact, Reference, list[dict[str, Floats]]],
) -> None:
    model, reference, _ = demo
    p = len(reference.columns)
    arrays = dict(model.arrays) | {"beta": np.zeros(p), "cause_3_beta": np.zeros(p), "cause_2_beta": np.eye(p)[2]}
    moved = Artefact(model.manifest, arrays)
    row = np.full((1, p), np.nan)
    row[0, 2] = model.mean[2] + 2 * model.scale[2]
    someone = cohort_of(row, np.ones(1), [False], columns=reference.columns)
    parts = incidence_contributions(moved, someone, np.array([300.0]))[0, 0]
    assert parts[2] < -0.001
    assert np.delete(parts, 2).tolist() == [0.0] * (p - 1)


@given(drawn(float, (2, 1, 5), elements=st.floats(0, 700)))
def test_no_hazard_makes_nan(hazards: Floats) -> None:
    met = np.expm1(hazards)
    found = predicted_incidence(met)
    for cause in (0, 1):
        gradient = incidence_gradient(met, cause)
        assert np.isfinite(gradient).all()
        assert (gradient[cause] >= -1e-9).all()
        assert (gradient[1 - cause] <= 1e-9).all()
    assert np.isfinite(found).all()


def test_a_patient_far_from_all_others_gets_no_nan(demo: tuple[Artefact, Reference, list[dict[str, Floats]]]) -> None:
    model, reference, _ = demo
    row = np.full((2, len(reference.columns)), 1e6) * np.array([[1.0], [-1.0]])
    far = cohort_of(row, np.ones(2), [False, False], columns=reference.columns)
    found = predict_incidence(model, far, np.array([0.0, 30.0, 300.0]))
    for name in ("incidence", "lower", "upper", "free", "free_lower", "free_upper"):
        assert np.isfinite(getattr(found, name)).all(), name
    assert np.isfinite(incidence_contributions(model, far, np.array([30.0]))).all()


def test_a_model_that_does_not_tell_how_sure_it_is_gives_no_interval(
    demo: tuple[Artefact, Reference, list[dict[str, Floats]]],
) -> None:
    model, reference, _ = demo
    bare = {name: a for name, a in model.arrays.items() if not name.endswith(("covariance", "_variance", "_slope"))}
    found = predict_incidence(Artefact(model.manifest, bare), reference.pooled, np.array([100.0]))
    assert (found.lower, found.upper, found.free_lower) == (None, None, None)
    both = incidence_difference(Artefact(model.manifest, bare), reference.pooled, reference.pooled, np.array([9.0]))
    assert both.lower is None


def test_nothing_is_counted_backward(demo: tuple[Artefact, Reference, list[dict[str, Floats]]]) -> None:
    for arguments in ({"times": np.array([-1.0])}, {"times": np.ones(1), "start": -1.0}):
        with pytest.raises(ValueError, match="forward"):
            predict_incidence(demo[0], demo[1].pooled, **arguments)


def test_the_survival_of_one_kind_alone_is_refused(demo: tuple[Artefact, Reference, list[dict[str, Floats]]]) -> None:
    model, people = demo[0], demo[1].pooled
    for ask in (
        lambda: predict(model, people, np.ones(1)),
        lambda: contributions(model, people, np.ones(1)),
        lambda: arm_difference(model, people, people, np.ones(1)),
    ):
        with pytest.raises(ValueError, match="nobody"):
            ask()
