from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from models.concordance import harrell
from models.registry import METHODS
from models.site_only import SiteOnly, fit_site_only
from tests.models.federation import cohort_of, context, fit, run_step, split

RNG = np.random.default_rng(11)
N = 160
X = RNG.normal(size=(N, 3)) * [1.0, 4.0, 0.2] + [50.0, -3.0, 0.0]
TRUE_HAZARD = np.exp((X - X.mean(axis=0)) / X.std(axis=0) @ [0.8, -0.5, 0.0])
FAILURE, CENSORING = RNG.exponential(20 / TRUE_HAZARD), RNG.uniform(1, 40, N)
TIME, EVENT = np.ceil(np.minimum(FAILURE, CENSORING)), FAILURE <= CENSORING
HELD_OUT = np.arange(N) % 4 == 0
COLUMNS = ["x0", "x1", "x2"]
COHORT = replace(cohort_of(X, TIME, EVENT), held_out=HELD_OUT)
CONTEXT = context(COLUMNS, ties="breslow", penalties=[1.0, 0.0, 2.0])


def log_hazard(model, x):
    return ((x - model["mean"]) / model["scale"] * model["beta"]).sum(axis=1)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_a_site_alone_gets_the_federated_fit_of_one_site(ties):
    settings = {"ties": ties, "penalties": [1.0, 0.0, 2.0]}
    alone = fit_site_only(COHORT, context(COLUMNS, **settings))
    federated = fit("cox", [COHORT], COLUMNS, **settings)
    for name in ("mean", "scale", "beta"):
        np.testing.assert_allclose(alone[name], federated[name], rtol=1e-9, err_msg=name)


def test_a_site_alone_is_at_the_maximum_of_the_penalised_partial_likelihood():
    alone = fit_site_only(COHORT, CONTEXT)

    def slow(beta):
        score = (X - X.mean(axis=0)) / X.std(axis=0) @ beta
        value = -0.5 * np.sum(np.array([1.0, 0.0, 2.0]) * beta**2)
        for i in np.flatnonzero(EVENT):
            value += score[i] - np.log(np.exp(score[TIME[i] <= TIME]).sum())
        return -value

    theirs = minimize(slow, np.zeros(3), method="BFGS", options={"gtol": 1e-6})
    np.testing.assert_allclose(alone["beta"], theirs.x, atol=1e-6)


def test_only_training_patients_train_and_only_held_out_ones_are_judged():
    state = run_step(SiteOnly(CONTEXT), {}, [COHORT])
    model = fit_site_only(cohort_of(X[~HELD_OUT], TIME[~HELD_OUT], EVENT[~HELD_OUT]), CONTEXT)
    pairs = harrell(TIME[HELD_OUT], EVENT[HELD_OUT], log_hazard(model, X[HELD_OUT]))
    assert (state["concordant"], state["tied"], state["comparable"]) == pairs
    assert state["n_patients"] == HELD_OUT.sum()
    assert 0.5 < state["c_index"] < 1


def test_each_site_uses_its_own_model():
    sites = split(COHORT, np.arange(N) // 80)
    state = run_step(SiteOnly(CONTEXT), {}, sites)
    each = [run_step(SiteOnly(CONTEXT), {}, [site]) for site in sites]
    for name in ("concordant", "tied", "comparable", "n_patients"):
        assert state[name] == sum(one[name] for one in each)
    shuffled = [site.take(RNG.permutation(80)) for site in sites]
    assert run_step(SiteOnly(CONTEXT), {}, shuffled[::-1])["c_index"] == state["c_index"]


def test_the_unit_of_time_changes_no_coefficient():
    scaled = replace(COHORT, time=TIME / 128)
    np.testing.assert_allclose(
        fit_site_only(scaled, CONTEXT)["beta"], fit_site_only(COHORT, CONTEXT)["beta"], rtol=1e-12
    )


SEPARATED = cohort_of(np.arange(12.0)[:, None], np.arange(12.0, 0, -1), np.ones(12), columns=["x0"])


@pytest.mark.parametrize(
    "training",
    [
        COHORT.take(np.arange(0)),
        COHORT.take(np.arange(1)),
        COHORT.take(np.arange(7)),
        cohort_of(X, TIME, np.zeros(N)),
        SEPARATED,
        cohort_of(np.ones((N, 1)), TIME, EVENT),
        cohort_of(np.full((N, 1), np.nan), TIME, EVENT),
    ],
    ids=["nobody", "one patient", "seven patients", "no events", "perfectly separated", "constant", "unobserved"],
)
def test_a_site_that_cannot_be_fitted_orders_nobody(training):
    columns = list(training.layers["clinical"].columns)
    model = fit_site_only(training, context(columns))
    np.testing.assert_array_equal(model["beta"], 0.0)
    assert all(np.isfinite(array).all() for array in model.values())


def test_pairs_that_nobody_orders_are_worth_a_half():
    cohort = replace(cohort_of(X, TIME, EVENT & HELD_OUT), held_out=HELD_OUT)  # no training events
    state = run_step(SiteOnly(CONTEXT), {}, [cohort])
    assert state["tied"] == state["comparable"] > 0
    assert state["c_index"] == 0.5


def test_the_floors_of_the_fit_are_settings():
    few = COHORT.take(np.arange(7))
    assert fit_site_only(few, context(COLUMNS, min_patients_to_fit=7, penalties=[1.0] * 3))["beta"].any()
    assert not fit_site_only(COHORT, context(COLUMNS, min_events_to_fit=N))["beta"].any()


def test_a_site_that_holds_out_nobody_adds_nothing():
    state = run_step(SiteOnly(CONTEXT), {}, [replace(COHORT, held_out=None)])
    assert state["comparable"] == state["n_patients"] == state["c_index"] == 0


def test_the_registry_lists_every_evaluation():
    assert {"concordance", "site_only", "brier", "calibration_slope", "risk_groups", "kaplan_meier"} <= METHODS.keys()


@pytest.mark.parametrize(
    ("method", "part"),
    [("site_only", "pairs"), ("concordance", "pairs"), ("risk_groups", "spread"), ("kaplan_meier", "groups")],
)
def test_when_a_site_leaves_a_step_of_one_round_asks_the_same(method, part):
    step = METHODS[method](context(COLUMNS, n_bins=4))
    assert [one.name for one in step.parts()] == [part]
    assert step.shrink(part, step.begin({}).state) == step.begin({})


@pytest.mark.parametrize(
    "method", ["site_only", "concordance", "risk_groups", "kaplan_meier", "brier", "calibration_slope"]
)
def test_every_release_says_how_many_patients_stand_behind_it(method):
    for part in METHODS[method](context(COLUMNS, n_bins=4, horizons=(1.0, 2.0))).parts():
        assert "n_patients" in {spec.name for spec in part.releases}
