"""Outcomes without a time, treatment response and competing events against R's numbers, over the sites."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.registry import METHODS
from models.step import Context
from schemas.cohort import Cohort, Layer
from schemas.design import DesignColumn
from tests.models.federation import context, fit, run_step, split
from tests.reference.cohorts import Reference, kept, numbers, read, read_demo

R = numbers("endpoints.json")


def case_of(kind: str, cohort: str) -> dict[str, Any]:
    return next(case for case in R if (case["kind"], case["cohort"]) == (kind, cohort))


def reference_of(name: str, cohorts) -> Reference:
    return read_demo() if name == "cgd" else read(name, cohorts)


def kinds(cohort: Cohort) -> np.ndarray:
    """The made-up category of tests/reference/endpoints.R."""
    return np.where(cohort.event, 1 + np.arange(cohort.n_patients) % 2, 0).astype(float)


def outcome_fit(method: str, reference: Reference, name: str, outcome, outcomes: list[str]):
    columns = kept(name, reference.columns)
    sites = split(replace(reference.pooled, outcome=outcome), reference.sites)
    moments = run_step(METHODS["moments"](context(columns)), {}, sites)
    step = METHODS[method](context(columns, outcomes=outcomes))
    return run_step(step, moments, sites)


@pytest.mark.parametrize("name", ["cgd", "rhdnase_cf", "ncctg_lung"])
def test_logistic_equals_glm(name, cohorts):
    case, reference = case_of("logistic", name), reference_of(name, cohorts)
    state = outcome_fit("logistic", reference, name, reference.pooled.event.astype(float), ["no", "yes"])
    np.testing.assert_allclose(state["beta"], case["coefficients"], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(state["alpha"][0], case["intercept"], rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(np.diag(state["covariance"])), case["standard_errors"], rtol=1e-7)
    np.testing.assert_allclose(state["log_likelihood"], case["log_likelihood"], rtol=1e-12)


@pytest.mark.parametrize("name", ["cgd", "rhdnase_cf", "ncctg_lung"])
def test_multinomial_equals_nnet(name, cohorts):
    case, reference = case_of("multinomial", name), reference_of(name, cohorts)
    state = outcome_fit("multinomial", reference, name, kinds(reference.pooled), ["none", "one", "two"])
    # nnet stops where its quasi-Newton search does, near the maximum but not at it to the last digits.
    np.testing.assert_allclose(state["beta"], case["coefficients"], atol=1e-6)
    np.testing.assert_allclose(state["alpha"], case["intercepts"], atol=1e-6)
    np.testing.assert_allclose(np.sqrt(np.diag(state["covariance"])), case["standard_errors"], rtol=1e-6)
    np.testing.assert_allclose(state["log_likelihood"], case["log_likelihood"], rtol=1e-11)


def with_interaction(reference: Reference, arm: str, other: str) -> tuple[tuple[DesignColumn, ...], Cohort]:
    """The cohort with the column treatment x covariate as a site's tables give it."""
    x = reference.pooled.matrix((arm, other))
    cells = np.where(x[:, 0] == 1, x[:, 1], np.nan)
    layer = reference.pooled.layers["clinical"]
    name = f"{arm} x {other}"
    widened = Layer((*layer.columns, name), np.column_stack((layer.values, cells)))
    design = tuple(DesignColumn(column, column, "clinical") for column in reference.columns)
    design = (*design, DesignColumn(name, other, "clinical", treatment=arm))
    return design, replace(reference.pooled, layers={"clinical": widened})


def response(design, cohort: Cohort, sites, arm: str, **settings):
    sites = split(cohort, sites)
    times = np.unique(cohort.time[cohort.event])

    def made(**more: Any) -> Context:
        return Context(design, times.size, (), {"exact": True, **more})

    moments = run_step(METHODS["moments"](made()), {}, sites)
    inputs = {**moments, "edges": times, "n_intervals": np.array(float(times.size))}
    cox = run_step(METHODS["cox"](made(ties="breslow", **settings)), inputs, sites)
    inputs |= {"beta": cox["beta"], "covariance": cox["covariance"]}
    inputs |= run_step(METHODS["baseline"](made()), inputs, sites)
    return cox, run_step(METHODS["treatment_response"](made(treatment=arm)), inputs, sites)


@pytest.mark.parametrize("name", ["cgd", "rhdnase_cf"])
def test_marginal_curves_and_their_difference_equal_the_poisson_model_on_the_risk_sets(name, cohorts):
    case, reference = case_of("treatment", name), reference_of(name, cohorts)
    arm, other = (reference.columns[case[which]] for which in ("column", "interaction"))
    design, cohort = with_interaction(reference, arm, other)
    cox, state = response(design, cohort, reference.sites, arm)
    # R has the treatment in its own unit, the model standardised; the other columns are the same.
    np.testing.assert_allclose(cox["beta"][1:], case["coefficients"][1:], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(state["survival"], [case["control"], case["treated"]], rtol=1e-9)
    np.testing.assert_allclose(state["standard_error"], [case["control_se"], case["treated_se"]], rtol=1e-6)
    np.testing.assert_allclose(state["difference_se"], case["difference_se"], rtol=1e-6)


@pytest.mark.parametrize("name", ["cgd", "rhdnase_cf"])
def test_with_the_treatment_alone_each_arm_is_survfits_curve(name, cohorts):
    case, reference = case_of("arms", name), reference_of(name, cohorts)
    arm = reference.columns[case["column"]]
    design = (DesignColumn(arm, arm, "clinical"),)
    _, state = response(design, reference.pooled, reference.sites, arm)
    np.testing.assert_allclose(state["survival"].T.ravel(), case["survival"], rtol=1e-9)
    np.testing.assert_allclose(state["standard_error"].T.ravel(), case["standard_error"], rtol=1e-7)


@pytest.mark.parametrize("name", ["cgd", "rhdnase_cf"])
def test_competing_events_equal_survfit_and_coxph_by_cause(name, cohorts):
    case, reference = case_of("competing", name), reference_of(name, cohorts)
    columns = kept(name, reference.columns)
    kind = kinds(reference.pooled)
    cohort = replace(reference.pooled, outcome=kind, event=kind == 1)
    sites = split(cohort, reference.sites)
    times = np.unique(cohort.time[kind > 0])
    np.testing.assert_array_equal(times, case["times"])
    fits = []
    for cause in (1, 2):
        own = split(replace(cohort, event=kind == cause), reference.sites)
        state = fit("cox", own, columns, bin_edges=list(times), edges=times, ties="breslow", exact=True)
        np.testing.assert_allclose(state["beta"], case[f"coefficients_{cause}"], rtol=1e-7, atol=1e-8)
        baseline = run_step(METHODS["baseline"](context(columns, times.size, exact=True)), state, own)
        fits.append((state, baseline["cumulative_hazard"]))
    (one, first), (two, second) = fits
    step = METHODS["cumulative_incidence"](context(columns, times.size, n_causes=2, exact=True))
    inputs = {**{name: one[name] for name in ("mean", "scale", "edges", "n_intervals", "beta")}}
    inputs |= {"cumulative_hazard": first, "beta_2": two["beta"], "cumulative_hazard_2": second}
    state = run_step(step, inputs | {"cutpoints": np.array([-0.4, 0.4])}, sites)
    observed = np.array(case["incidence"]).reshape(2, times.size)
    np.testing.assert_allclose(state["overall"], observed, rtol=1e-10, atol=1e-14)
    # R's are infinitesimal jackknife errors, ours of the delta method: the same to a few percent.
    errors = np.array(case["standard_error"]).reshape(2, times.size)
    np.testing.assert_allclose(state["overall_standard_error"][:, 5:], errors[:, 5:], rtol=0.05)
    predicted = np.array(case["predicted"]).reshape(3, 2, times.size)
    for patient in range(3):
        alone = run_step(step, inputs | {"cutpoints": np.array([-0.4, 0.4])}, [cohort.take(np.array([patient]))])
        np.testing.assert_allclose(alone["overall_predicted"], predicted[patient], rtol=1e-7, atol=1e-10)
