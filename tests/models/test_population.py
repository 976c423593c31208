"""Where patients lie: the edges stand before ten patients, and federated equals pooled."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.population import BEYOND, N_BINS, Population, kept_shares, outer_edges
from models.step import Arrays
from schemas.cohort import Cohort
from tests.models.federation import cohort_of, context, run_step, split

COLUMNS = ("age", "weight")
INPUTS = {
    "mean": np.array([50.0, 70.0]),
    "scale": np.array([10.0, 12.0]),
    "beta": np.array([0.4, -0.2]),
    "mean_log_hazard": np.array(0.0),
    "sd_log_hazard": np.array(0.45),
}


def cohort(n: int, seed: int = 0) -> Cohort:
    rng = np.random.default_rng(seed)
    x = np.column_stack((rng.normal(50, 10, n), rng.normal(70, 12, n)))
    x[rng.random((n, 2)) < 0.05] = np.nan
    return cohort_of(x, np.ones(n), np.zeros(n, dtype=bool), columns=COLUMNS)


def found(cohorts: list[Cohort]) -> Arrays:
    settings = {"covariates": list(COLUMNS), "low": [0.0, 0.0], "high": [100.0, 200.0]}
    return run_step(Population(context(COLUMNS, **settings)), INPUTS, cohorts)


def test_federated_equals_pooled_whatever_the_order_of_sites() -> None:
    whole = cohort(300)
    sites = split(whole, [i % 4 for i in range(300)])
    pooled, federated, turned = found([whole]), found(sites), found(sites[::-1])
    for name in pooled:
        np.testing.assert_allclose(federated[name], pooled[name], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(turned[name], pooled[name], rtol=1e-12, atol=1e-15)


def test_ten_patients_lie_at_or_beyond_each_end() -> None:
    whole = cohort(300)
    state = found([whole])
    cells = whole.matrix(COLUMNS)
    for j in range(2):
        assert state["known"][j] == 1
        assert (cells[:, j] <= state["low"][j]).sum() >= BEYOND
        assert (cells[:, j] >= state["high"][j]).sum() >= BEYOND


def test_shares_equal_the_quantiles_of_the_log_hazard() -> None:
    whole = cohort(300)
    state = found([whole])
    x = np.nan_to_num((whole.matrix(COLUMNS) - INPUTS["mean"]) / INPUTS["scale"])
    log_hazard = x @ INPUTS["beta"]
    kept = state["share"] > 0
    assert kept.sum() > 10
    slow = [(log_hazard <= edge).mean() for edge in state["log_hazard"][kept]]
    np.testing.assert_allclose(state["share"][kept], slow, rtol=1e-12)


def test_nineteen_patients_have_no_range() -> None:
    state = found([cohort(19)])
    assert not state["known"].any()
    assert not state["low"].any()


def test_the_layers_covariance_is_that_of_their_parts() -> None:
    whole = cohort(200)
    x = np.nan_to_num((whole.matrix(COLUMNS) - INPUTS["mean"]) / INPUTS["scale"])
    np.testing.assert_allclose(found([whole])["layer_covariance"], [[np.var(x @ INPUTS["beta"])]], rtol=1e-10)


counts = arrays(np.float64, N_BINS, elements=st.integers(0, 15).map(float))


@given(counts)
def test_no_two_kept_edges_have_fewer_than_ten_patients_between_them(histogram: np.ndarray) -> None:
    shares, n = kept_shares(histogram), histogram.sum()
    kept = np.concatenate(([0.0], shares[shares > 0] * n, [n])) if (shares > 0).any() else np.array([0.0, 1e9])
    assert (np.diff(kept) > BEYOND - 1e-6).all()


@given(counts)
def test_ten_patients_lie_beyond_both_outer_edges(histogram: np.ndarray) -> None:
    edges = np.arange(1.0, N_BINS)
    ends = outer_edges(histogram, edges)
    if ends is None:
        assert not any(
            histogram[:k].sum() >= BEYOND and histogram[m:].sum() >= BEYOND
            for k in range(1, N_BINS)
            for m in range(k, N_BINS)
        )
        return
    low, high = (int(end) for end in ends)
    assert histogram[:low].sum() >= BEYOND
    assert histogram[high:].sum() >= BEYOND
    assert low <= high
