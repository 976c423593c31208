"""Laws that hold for every fit a plan can name."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.moments import original_scale
from models.preparation import Preparation
from models.registry import METHODS
from models.step import DivergedError
from schemas.cohort import concatenate
from tests.models.federation import cohort_of, context, fit, run_step, split
from tests.models.synthetic import COLUMNS, EDGES, patients

FITS = [
    ("hazard", {}, EDGES),
    ("hazard", {}, None),
    ("cox", {"ties": "efron"}, EDGES),
    ("cox", {"ties": "breslow"}, None),
    ("cox", {"ties": "efron"}, None),
    ("cox_stratified", {"ties": "efron"}, None),
    ("cox_stratified", {"ties": "breslow"}, None),
]
IDS = ["-".join([name, *settings.values(), "exact" if edges is None else "grid"]) for name, settings, edges in FITS]
every_fit = pytest.mark.parametrize(("method", "settings", "edges"), FITS, ids=IDS)
unstratified = pytest.mark.parametrize(("method", "settings", "edges"), FITS[:5], ids=IDS[:5])

COHORT = patients()
SITES = split(COHORT, np.arange(160) % 4)
PENALTIES = [2.0, 0.0, 5.0, 1.0]


def assert_same_fit(one, other, tolerance=1e-10):
    for name in ("beta", "covariance", "log_likelihood", "n_patients", "n_events"):
        np.testing.assert_allclose(one[name], other[name], rtol=tolerance, atol=tolerance, err_msg=name)


def with_columns(cohort, x, columns=COLUMNS):
    return cohort_of(x, cohort.time, cohort.event, cohort.entry, columns)


@unstratified
@pytest.mark.parametrize("penalties", [[0.0] * 4, PENALTIES])
def test_the_federated_fit_equals_the_pooled_fit(method, settings, edges, penalties):
    federated, pooled = (
        fit(method, cohorts, COLUMNS, edges=edges, penalties=penalties, **settings) for cohorts in (SITES, [COHORT])
    )
    assert_same_fit(federated, pooled)


@given(labels=st.lists(st.integers(0, 4), min_size=160, max_size=160), which=st.sampled_from(FITS[:5]))
def test_how_patients_fall_on_sites_does_not_matter(labels, which):
    method, settings, edges = which
    one, other = (
        fit(method, cohorts, COLUMNS, edges=edges, **settings) for cohorts in (split(COHORT, labels), [COHORT])
    )
    assert_same_fit(one, other)


@every_fit
def test_neither_order_of_sites_nor_of_patients_matters(method, settings, edges):
    order = np.random.default_rng(0)
    shuffled = [site.take(order.permutation(site.n_patients)) for site in SITES[::-1]]
    one, other = (fit(method, cohorts, COLUMNS, edges=edges, **settings) for cohorts in (SITES, shuffled))
    assert_same_fit(one, other)


@every_fit
def test_the_unit_of_time_does_not_matter(method, settings, edges):
    scaled = [cohort_of(site.matrix(COLUMNS), site.time * 32, site.event, site.entry * 32, COLUMNS) for site in SITES]
    one = fit(method, SITES, COLUMNS, edges=edges, **settings)
    other = fit(method, scaled, COLUMNS, edges=None if edges is None else edges * 32, **settings)
    assert_same_fit(one, other, 1e-13)


@every_fit
def test_a_covariate_shifted_by_ten_thousand_changes_no_coefficient(method, settings, edges):
    far = [with_columns(site, site.matrix(COLUMNS) + np.array([0, 1e4, 0, 0])) for site in SITES]
    one = fit(method, SITES, COLUMNS, edges=edges, **settings)
    other = fit(method, far, COLUMNS, edges=edges, centres=[0, 1e4, 0, 0], **settings)
    assert_same_fit(one, other, 1e-9)


@every_fit
def test_a_shift_of_all_log_hazards_by_one_hundred_changes_nothing(method, settings, edges):
    one = fit(method, SITES, COLUMNS, edges=edges, standardise=False, **settings)
    shift = np.array([100 / one["beta"][0], 0, 0, 0])
    shifted = [with_columns(site, site.matrix(COLUMNS) + shift) for site in SITES]
    other = fit(method, shifted, COLUMNS, edges=edges, standardise=False, **settings)
    assert_same_fit(one, other, 1e-9)
    preparation = Preparation(context(COLUMNS))
    scores = [preparation.log_hazard(cohort, state) for cohort, state in ((SITES[0], one), (shifted[0], other))]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-9)


@every_fit
def test_the_unit_of_a_covariate_and_standardising_change_no_unpenalised_coefficient(method, settings, edges):
    unit = np.array([1e3, 1.0, 1e-4, 1.0])
    scaled = [with_columns(site, site.matrix(COLUMNS) * unit) for site in SITES]
    reference = fit(method, SITES, COLUMNS, edges=edges, **settings)
    expected = original_scale(reference["beta"], reference["covariance"], reference["scale"])
    for standardise in (True, False):
        state = fit(method, scaled, COLUMNS, edges=edges, standardise=standardise, **settings)
        beta, errors = original_scale(state["beta"], state["covariance"], state["scale"])
        np.testing.assert_allclose(beta * unit, expected[0], rtol=1e-8)
        np.testing.assert_allclose(errors * unit, expected[1], rtol=1e-6)


@every_fit
def test_a_site_without_patients_adds_nothing(method, settings, edges):
    nobody = COHORT.take(np.zeros(160, dtype=np.bool_))
    one, other = (fit(method, cohorts, COLUMNS, edges=edges, **settings) for cohorts in (SITES, [nobody, *SITES]))
    assert_same_fit(one, other, 1e-13)


@every_fit
def test_a_site_without_events_counts_where_risk_sets_are_shared(method, settings, edges):
    quiet = [
        cohort_of(SITES[0].matrix(COLUMNS), SITES[0].time, SITES[0].event * 0, SITES[0].entry, COLUMNS),
        *SITES[1:],
    ]
    state = fit(method, quiet, COLUMNS, edges=edges, **settings)
    without = fit(method, SITES[1:], COLUMNS, edges=edges, **settings)
    assert state["n_patients"] == 160
    assert state["n_events"] == without["n_events"]
    if method != "cox_stratified":
        pooled = fit(method, [concatenate(quiet)], COLUMNS, edges=edges, **settings)
        assert_same_fit(state, pooled)


@every_fit
@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_columns_without_information_get_no_coefficient_and_leave_the_others_alone(method, settings, edges, penalty):
    names = (*COLUMNS, "constant", "unknown")
    filled = [
        with_columns(site, np.column_stack((site.matrix(COLUMNS), np.full(40, 0.1), np.full(40, np.nan))), names)
        for site in SITES
    ]
    state = fit(method, filled, names, edges=edges, penalties=[penalty] * 6, **settings)
    plain = fit(method, SITES, COLUMNS, edges=edges, penalties=[penalty] * 4, **settings)
    np.testing.assert_array_equal(state["beta"][4:], 0.0)
    np.testing.assert_array_equal(state["covariance"][4:], 0.0)
    np.testing.assert_allclose(state["beta"][:4], plain["beta"], rtol=1e-9)
    np.testing.assert_allclose(state["covariance"][:4, :4], plain["covariance"], rtol=1e-7, atol=1e-12)


@every_fit
def test_a_column_that_repeats_another_gets_no_coefficient_unless_penalised(method, settings, edges):
    names = (*COLUMNS, "again")
    doubled = [
        with_columns(site, np.column_stack((site.matrix(COLUMNS), site.matrix(COLUMNS)[:, 0] * 2 + 1)), names)
        for site in SITES
    ]
    plain = fit(method, SITES, COLUMNS, edges=edges, **settings)
    state = fit(method, doubled, names, edges=edges, **settings)
    np.testing.assert_array_equal(state["beta"][4], 0.0)
    np.testing.assert_allclose(state["beta"][:4], plain["beta"], rtol=1e-7)
    ridge = fit(method, doubled, names, edges=edges, penalties=[1.0] * 5, **settings)
    np.testing.assert_allclose(ridge["beta"][0], ridge["beta"][4], rtol=1e-9)


@every_fit
def test_one_covariate_is_enough(method, settings, edges):
    state = fit(method, SITES, ("x0",), edges=edges, **settings)
    assert state["beta"].shape == (1,)
    assert state["covariance"].shape == (1, 1)
    assert 0.2 < state["beta"][0] < 2


@every_fit
def test_perfect_separation_is_told_by_name_and_a_penalty_cures_it(method, settings, edges):
    rng = np.random.default_rng(3)
    group = (np.arange(160) % 5 == 0).astype(float)
    event = COHORT.event & (group == 0)  # nobody of the group has the event
    x = np.column_stack((rng.normal(size=160), group))
    sites = split(cohort_of(x, COHORT.time, event, COHORT.entry), np.arange(160) % 4)
    with pytest.raises(DivergedError, match=r"`x1`.*add a penalty"):
        fit(method, sites, ("x0", "x1"), edges=edges, **settings)
    state = fit(method, sites, ("x0", "x1"), edges=edges, penalties=[0.0, 1.0], **settings)
    assert state["beta"][1] < -0.3
    assert 0 < state["covariance"][1, 1] < 1


@every_fit
def test_a_single_event_is_enough_for_a_penalised_fit(method, settings, edges):
    event = np.zeros(160, dtype=np.bool_)
    event[np.flatnonzero(COHORT.event & (COHORT.entry == 0) & (COHORT.time < 10))[0]] = True
    sites = split(cohort_of(COHORT.matrix(COLUMNS), COHORT.time, event, None, COLUMNS), np.arange(160) % 4)
    state = fit(method, sites, COLUMNS, edges=edges, penalties=[1.0] * 4, **settings)
    assert state["n_events"] == 1
    assert np.all(np.diag(state["covariance"]) > 0)


@every_fit
def test_an_extreme_value_is_survived_by_halving_the_step(method, settings, edges):
    x = COHORT.matrix(COLUMNS)
    x[:, 2] = np.where(np.isnan(x[:, 2]), np.nan, 0.0)
    x[3, 2], x[4, 2], x[5, 2] = 1e6, -2e6, 1.0
    sites = split(with_columns(COHORT, x), np.arange(160) % 4)
    state = fit(method, sites, COLUMNS, edges=edges, penalties=[1.0] * 4, **settings)
    assert np.isfinite(state["beta"]).all()


@every_fit
def test_when_a_site_leaves_in_any_round_the_fit_ends_as_that_of_the_others(method, settings, edges):
    rounds: list[str] = []
    whole = fit(method, SITES, COLUMNS, edges=edges, rounds=rounds, **settings)
    inputs = {name: whole[name] for name in ("mean", "scale", "edges", "n_intervals")}
    step = METHODS[method](context(COLUMNS, whole["edges"].size, exact=edges is None, **settings))
    without = run_step(step, inputs, SITES[1:])
    for leaving in range(1, len(rounds) + 1):
        state = run_step(step, inputs, SITES, leaving=leaving)
        assert state["n_patients"] == 120
        assert_same_fit(state, without, 1e-6)
        np.testing.assert_allclose(state["beta"], without["beta"], rtol=1e-9, atol=1e-11)


@every_fit
def test_parts_are_listed_without_data_and_every_release_says_how_many_patients(method, settings, edges):
    step = METHODS[method](context(COLUMNS, 6, **settings))
    assert step.parts() == METHODS[method](context(COLUMNS, 6, **settings)).parts()
    for part in step.parts():
        json.dumps(part.model_dump(mode="json"))
        assert "n_patients" in {spec.name for spec in part.releases}
        assert all(spec.meaning for spec in (*part.sends, *part.releases))
