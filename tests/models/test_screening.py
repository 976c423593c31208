"""Score tests of features over sites, against R, a slow version, and the laws of sums."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.moments import Moments
from models.screening import Screening
from models.step import Context, DivergedError
from schemas.cohort import Layer
from schemas.design import LayerDesign
from tests.layers_kit import wide_cohort
from tests.models.federation import run_step, split
from tests.models.oracles import grouped_log_likelihood, person_period
from tests.models.test_preparation import context_of, layer_of
from tests.reference.cohorts import numbers, read, read_demo

EDGES = np.array([10.0, 20.0, 35.0, 50.0, 70.0, 90.0])
M = 12


def screened(cohorts, layer, edges=EDGES, leaving=None, **settings):
    """The state of the screening over these sites."""
    context = context_of(layer)
    moments = run_step(Moments(context), {}, cohorts)
    grid = {"edges": edges, "n_intervals": np.array(float(len(edges)))}
    step = Screening(Context(context.design, len(edges), (), {"keep": 3, **settings}, (layer,)))
    return {**moments, **run_step(step, {**moments, **grid}, cohorts, leaving=leaving)}


def patients(n=90, seed=0):
    """Patients whose hazard rises with the third feature and falls with the sixth."""
    rng = np.random.default_rng(seed)
    x = rng.normal(2.0, 3.0, (n, M))
    time = rng.exponential(60 * np.exp(-0.3 * (x[:, 2] - 2) + 0.2 * (x[:, 5] - 2))) + 0.5
    cohort = wide_cohort({"rna": x}, seed)
    return dataclasses.replace(cohort, time=np.minimum(time, 95.0), event=(time < 95) & (rng.random(n) < 0.8))


LAYER = layer_of(m=M)
POOLED = patients()
SITES = [POOLED.take(np.arange(90) % 3 == site) for site in range(3)]


def slow_chi_squares(cohort, edges):
    """Score and information of each feature by numerical derivatives of the likelihood, baseline shape held."""
    rows = list(person_period(cohort.time, cohort.event, cohort.entry, edges, exact=False))
    cells = cohort.layers["rna"].values
    z = np.clip((cells - cells.mean(0)) / cells.std(0), -5, 5)
    counts = np.zeros((2, len(edges)))
    for _, interval, has_event in rows:
        counts[int(has_event), interval] += 1
    alpha = np.log(-np.log(counts[0] / counts.sum(axis=0)))
    found = []
    for j in range(z.shape[1]):

        def value(level, beta, column=z[:, [j]]):
            return grouped_log_likelihood(rows, column, alpha + level, np.array([beta]))

        h = 1e-4
        score = (value(0, h) - value(0, -h)) / (2 * h)
        u = np.exp(alpha)
        weight = {k: u[k] ** 2 / np.expm1(u[k]) for k in range(len(edges))}
        w = np.array([weight[k] for _, k, _ in rows])
        zj = np.array([z[i, j] for i, _, _ in rows])
        found.append(score**2 / ((w * zj**2).sum() - (w * zj).sum() ** 2 / w.sum()))
    return np.array(found)


def test_they_equal_a_slow_version_on_the_person_period_table():
    state = screened(SITES, LAYER)
    np.testing.assert_allclose(state["rna_chi_square"], slow_chi_squares(POOLED, EDGES), rtol=1e-5)


def case(name, reference):
    """Standardised covariates of a reference cohort as a wide layer."""
    values = reference.pooled.matrix(reference.columns)
    layer = LayerDesign("rna", reference.columns)
    cohorts = [
        dataclasses.replace(one, layers={**one.layers, "rna": one.layers["clinical"], "clinical": age(one)})
        for one in reference.federated(delayed=False)
    ]
    z = (values - values.mean(0)) / values.std(0)
    return cohorts, layer, np.abs(z).max(axis=0) <= 5


def age(cohort):
    return Layer(("age",), np.full((cohort.n_patients, 1), 50.0) + np.arange(cohort.n_patients)[:, None])


def assert_equals_r(name, reference):
    expected = next(fit for fit in numbers("screening.json") if fit["cohort"] == name)
    cohorts, layer, is_unclipped = case(name, reference)
    found = screened(cohorts, layer, reference.edges)["rna_chi_square"]
    assert is_unclipped.sum() >= 2
    np.testing.assert_allclose(found[is_unclipped], np.array(expected["rao"])[is_unclipped], rtol=1e-7, atol=1e-10)
    cox = np.array(expected["coxph"])[is_unclipped]
    # On a grid of some ten intervals Breslow's ties make Cox's score smaller; the order is what counts.
    assert np.array_equal(np.argsort(-found[is_unclipped])[:3], np.argsort(-cox)[:3])
    assert np.corrcoef(found[is_unclipped], cox)[0, 1] > 0.99


def test_they_equal_r_on_the_demo_s_patients():
    assert_equals_r("cgd", read_demo())


@pytest.mark.cohorts
@pytest.mark.parametrize("name", ["rhdnase_cf", "ncctg_lung"])
def test_they_equal_r(name, cohorts: Path):
    assert_equals_r(name, read(name, cohorts))


@given(labels=st.lists(st.integers(0, 4), min_size=90, max_size=90), seed=st.integers(0, 99))
def test_neither_how_patients_fall_on_sites_nor_their_order_matters(labels, seed):
    shuffled = POOLED.take(np.random.default_rng(seed).permutation(90))
    one, other = screened([POOLED], LAYER), screened(split(shuffled, labels), LAYER)
    for name in ("rna_chi_square", "rna_scale"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-9, atol=1e-10)


@given(factor=st.sampled_from([1 / 64, 0.25, 8.0, 1024.0]), shift=st.floats(-100, 100))
def test_units_of_time_and_of_features_do_not_matter(factor, shift):
    other = [
        dataclasses.replace(
            one,
            time=one.time * factor,
            layers={**one.layers, "rna": Layer(LAYER.features, -2 * one.layers["rna"].values + shift)},
        )
        for one in SITES
    ]
    expected = screened(SITES, LAYER)["rna_chi_square"]
    np.testing.assert_allclose(screened(other, LAYER, EDGES * factor)["rna_chi_square"], expected, rtol=1e-6)


def test_the_features_that_tell_most_keep_their_scale_and_the_others_weigh_nothing():
    state = screened(SITES, LAYER)
    kept = np.flatnonzero(state["rna_scale"])
    assert set(kept) == set(np.argsort(-state["rna_chi_square"])[:3])
    assert {2, 5} <= set(kept)
    moments = run_step(Moments(context_of(LAYER)), {}, SITES)
    np.testing.assert_array_equal(state["rna_scale"][kept], moments["rna_scale"][kept])


def test_more_than_there_are_keeps_all_that_take_part_and_no_constant():
    constant = [
        dataclasses.replace(
            one,
            layers={
                **one.layers,
                "rna": Layer(
                    LAYER.features, np.column_stack((np.full((30, 1), 4.0), one.layers["rna"].values[:, 1:]))
                ),
            },
        )
        for one in SITES
    ]
    state = screened(constant, LAYER, keep=50)
    assert np.flatnonzero(state["rna_scale"] == 0).tolist() == [0]
    assert state["rna_chi_square"][0] == 0


def test_patients_without_the_layer_leave_every_number_finite_and_a_layer_nobody_has_weighs_nothing():
    without = [dataclasses.replace(one, layers={"clinical": one.layers["clinical"]}) for one in SITES]
    nobody = screened(without, LAYER)
    assert not nobody["rna_scale"].any()
    assert not nobody["rna_chi_square"].any()
    some = screened([without[0], *SITES[1:]], LAYER)
    assert np.count_nonzero(some["rna_scale"]) == 3


def test_without_masks_a_site_with_too_few_patients_of_the_layer_adds_nothing():
    few = SITES[0].layers["rna"].values.copy()
    few[4:] = np.nan
    site = dataclasses.replace(SITES[0], layers={**SITES[0].layers, "rna": Layer(LAYER.features, few)})
    none = dataclasses.replace(SITES[0], layers={"clinical": SITES[0].layers["clinical"]})
    step = Screening(Context(context_of(LAYER).design, len(EDGES), (), {"keep": 3, "layer_floor": 10}, (LAYER,)))
    sent = {
        "edges": EDGES, "n_intervals": np.array(6.0), "alpha": np.full(6, -2.0),
        "rna_mean": np.zeros(M), "rna_scale": np.ones(M),
    }  # fmt: skip
    for name, array in step.local("tests", sent, site).items():
        np.testing.assert_array_equal(array, step.local("tests", sent, none)[name])


def test_a_site_that_leaves_between_the_questions_leaves_a_finite_screen():
    assert np.count_nonzero(screened(SITES, LAYER, leaving=2)["rna_scale"]) == 3


def test_no_event_is_told():
    quiet = [dataclasses.replace(one, event=np.zeros(30, dtype=np.bool_)) for one in SITES]
    with pytest.raises(DivergedError, match="no patient at risk has the event"):
        screened(quiet, LAYER)
