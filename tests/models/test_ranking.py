import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.censoring import censoring_curve
from models.censoring import uno_weights as weights_of_patients
from models.censoring_step import Censoring
from models.concordance import c_index, concordance_state, harrell, pair_counts, pairs_of_each
from models.event_grid import merge_bins
from models.ranking import (
    N_SCORE_BINS,
    N_TIME_BINS,
    Ranking,
    RankingCounts,
    count_ranking,
    pair_sums,
    score_edges,
    time_edges,
)
from tests.models.federation import cohort_of, context, run_step, split

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "evaluation.json").read_text())
TMAX = 10.0


def patients(n, seed, *, late=False, scale=0.3):
    """Exponential times whose log hazard is the score, a third of them censored."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n)
    failure, censoring = rng.exponential(scale * np.exp(-score)), rng.exponential(2 * scale, size=n)
    time = np.minimum(np.minimum(failure, censoring), TMAX)
    event = (failure <= censoring) & (failure < TMAX)
    entry = np.where(rng.uniform(size=n) < 0.5, rng.uniform(size=n) * time * 0.9, 0.0) if late else np.zeros(n)
    return cohort_of(score[:, None], time, event, entry)


def grid_of(cohort, n_bins=64):
    """The common grid that `event_grid` makes of equal bins, at least 5 events in each interval."""
    bins = TMAX * np.arange(1, n_bins + 1) / n_bins
    counts = np.histogram(cohort.time[cohort.event], np.concatenate(([0.0], bins)))[0].astype(float)
    stops = merge_bins(counts, 5)
    edges, events = np.full(n_bins, bins[stops[-1] - 1]), np.zeros(n_bins)
    edges[: len(stops)] = bins[np.array(stops) - 1]
    events[: len(stops)] = np.diff(np.concatenate(([0.0], np.cumsum(counts)))[[0, *stops]])
    return {"edges": edges, "n_intervals": np.array(float(len(stops))), "events": events}


def inputs_of(cohort):
    grid = grid_of(cohort)
    curve = run_step(Censoring(context(["x0"], n_bins=64)), grid, [cohort])["censoring_survival"]
    return {"mean": np.zeros(1), "scale": np.ones(1), "beta": np.ones(1), **grid, "censoring_survival": curve}


def step_of(*, late=False):
    return Ranking(context(["x0"], n_bins=64, late_entry=late))


def ranked(cohort, sites=None, *, late=False):
    return run_step(step_of(late=late), inputs_of(cohort), [cohort] if sites is None else sites)


def slow_pairs(rows, columns, event, weight):
    """Every pair of binned patients: half a pair in one bin of time, tied in one bin of the log hazard."""
    n = len(rows)
    right, all_pairs = np.zeros(n), np.zeros(n)
    for i in range(n):
        for j in range(n):
            if i == j or not event[i] or rows[j] < rows[i]:
                continue
            worth = weight[rows[i]] * (1.0 if rows[j] > rows[i] else 0.5)
            score = 1.0 if columns[i] > columns[j] else 0.5 if columns[i] == columns[j] else 0.0
            for one in (i, j):
                right[one] += worth * score
                all_pairs[one] += worth
    return right, all_pairs


binned = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.booleans()), min_size=1, max_size=25)


@given(patients=binned, weight=st.lists(st.floats(0.5, 4), min_size=5, max_size=5))
def test_pairs_and_variance_equal_the_slow_version(patients, weight):
    rows, columns, event = (np.array(each) for each in zip(*patients, strict=True))
    counts = RankingCounts(np.zeros((5, 4)), np.zeros((5, 4)))
    for row, column, failed in patients:
        (counts.events if failed else counts.censored)[row, column] += 1
    found = pair_sums(counts, np.array(weight))
    right, all_pairs = slow_pairs(rows, columns, event, weight)
    assert found.comparable == pytest.approx(all_pairs.sum() / 2, abs=1e-9)
    assert found.concordant == pytest.approx(right.sum() / 2, abs=1e-9)
    if all_pairs.sum() > 1e-9:
        own = right - right.sum() / all_pairs.sum() * all_pairs
        assert found.variance == pytest.approx((own**2).sum() / (all_pairs.sum() / 2) ** 2, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_c_from_the_histogram_is_within_two_thousandths_of_all_pairs(seed):
    cohort = patients(600, seed)
    score = cohort.matrix(["x0"])[:, 0]
    found = ranked(cohort)
    assert found["c_index"] == pytest.approx(c_index(*harrell(cohort.time, cohort.event, score)), abs=0.002)
    assert found["comparable"] == pytest.approx(harrell(cohort.time, cohort.event, score)[2], rel=0.002)
    exact = concordance_state(pair_counts(cohort, score, 600))
    assert found["variance"] == pytest.approx(float(exact["variance"]), rel=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_unos_c_from_the_histogram_is_that_of_exact_times(seed):
    cohort = patients(600, seed)
    score, found = cohort.matrix(["x0"])[:, 0], ranked(cohort)
    curve = censoring_curve(cohort.time, cohort.event)
    weight = weights_of_patients(cohort.time, cohort.event, curve, float(found["until"]))
    concordant, tied, comparable = (
        each.sum() / 2 for each in pairs_of_each(cohort.time, cohort.event, score, None, weight)
    )
    assert found["uno"] == pytest.approx((concordant + tied / 2) / comparable, abs=0.003)


@pytest.mark.parametrize("late", [False, True])
def test_the_federated_ranking_equals_the_pooled_one(late):
    cohort = patients(300, 3, late=late)
    pooled, federated = (
        ranked(cohort, sites, late=late) for sites in ([cohort], split(cohort, np.arange(300) % 5)[::-1])
    )
    for name, value in pooled.items():
        np.testing.assert_allclose(federated[name], value, rtol=1e-12, atol=1e-12, err_msg=name)


def test_with_late_entry_pairs_count_from_entry_and_no_variance_is_claimed():
    cohort = patients(800, 5, late=True)
    found = ranked(cohort, late=True)
    exact = c_index(*harrell(cohort.time, cohort.event, cohort.matrix(["x0"])[:, 0], cohort.entry))
    assert found["c_index"] == pytest.approx(exact, abs=0.004)
    assert found["variance"] == 0
    assert found["uno_variance"] == 0


def test_neither_a_shift_of_all_log_hazards_nor_the_unit_of_time_changes_the_ranking():
    cohort = patients(300, 4)
    found = ranked(cohort)
    shifted = run_step(step_of(), {**inputs_of(cohort), "mean": np.full(1, -100.0)}, [cohort])
    scaled = cohort_of(cohort.matrix(["x0"]), cohort.time / 128, cohort.event)
    inputs = inputs_of(cohort)
    faster = run_step(step_of(), {**inputs, "edges": inputs["edges"] / 128}, [scaled])
    for name in ("c_index", "variance", "uno", "uno_variance", "comparable"):
        assert shifted[name] == pytest.approx(float(found[name]), rel=1e-9)
        assert faster[name] == pytest.approx(float(found[name]), rel=1e-12)


def test_the_interval_of_c_covers_the_truth_in_95_of_100_repetitions():
    everybody = patients(4000, 99)
    truth = c_index(*harrell(everybody.time, everybody.event, everybody.matrix(["x0"])[:, 0]))
    repetitions, hits = 400, 0
    for seed in range(repetitions):
        cohort = patients(150, 1000 + seed)
        score = cohort.matrix(["x0"])[:, 0]
        counts = count_ranking(cohort, score, time_edges(grid_of(cohort)), score_edges(score.mean(), score.std()))
        found = pair_sums(counts, np.ones(N_TIME_BINS + 1))
        assert found.variance is not None
        hits += abs(found.c_index - truth) < 1.96 * np.sqrt(found.variance)
    # 400 repetitions tell the share to +-2.2 points; at this size the jackknife is known to be a little narrow.
    assert 0.915 <= hits / repetitions <= 0.98


@pytest.mark.parametrize("late", [False, True])
def test_the_censoring_curve_of_the_bins_is_that_of_exact_times(late):
    cohort = patients(3000, 8, late=late)
    grid = grid_of(cohort)
    curve = run_step(Censoring(context(["x0"], n_bins=64)), grid, split(cohort, np.arange(3000) % 4))
    edges = time_edges(grid)
    middle = (np.concatenate(([0.0], edges[:-2])) + edges[:-1]) / 2
    early = middle < np.quantile(cohort.time, 0.9)
    exact = censoring_curve(cohort.time, cohort.event, cohort.entry).before(middle)
    np.testing.assert_allclose(curve["censoring_survival"][:-1][early], exact[early], atol=0.015)


def test_the_federated_censoring_curve_equals_the_pooled_one():
    cohort, step = patients(300, 8, late=True), Censoring(context(["x0"], n_bins=64))
    grid = grid_of(cohort)
    pooled, federated = (run_step(step, grid, sites) for sites in ([cohort], split(cohort, np.arange(300) % 5)))
    np.testing.assert_array_equal(pooled["censoring_survival"], federated["censoring_survival"])
    nobody = run_step(step, grid, [cohort.take(np.zeros(300, dtype=bool))])
    np.testing.assert_array_equal(nobody["censoring_survival"], 1)
    assert step.shrink("counts", {}).ask == "counts"


@given(counts=st.lists(st.integers(0, 40), min_size=64, max_size=64).filter(lambda found: sum(found) >= 5))
def test_the_bins_of_time_refine_the_grid(counts):
    bins = np.arange(1.0, 65.0)
    stops = merge_bins(np.array(counts, dtype=float), 5)
    edges, events = np.full(64, bins[stops[-1] - 1]), np.zeros(64)
    edges[: len(stops)] = bins[np.array(stops) - 1]
    events[: len(stops)] = np.diff(np.concatenate(([0.0], np.cumsum(counts)))[[0, *stops]])
    cut = time_edges({"edges": edges, "n_intervals": np.array(float(len(stops))), "events": events})
    assert cut.size == N_TIME_BINS + 1
    assert (np.diff(cut) > 0).all()
    assert set(edges) <= set(cut)


def test_a_histogram_counts_everybody_once():
    cohort = patients(200, 6, late=True)
    edges = time_edges(grid_of(cohort))
    counts = count_ranking(cohort, cohort.matrix(["x0"])[:, 0], edges, score_edges(0, 1))
    assert counts.events.sum() == cohort.n_events
    assert counts.events.sum() + counts.censored.sum() == 200
    assert counts.entered is not None
    assert counts.entered.sum() == (cohort.entry > 0).sum()
    assert counts.events.shape == (N_TIME_BINS + 1, N_SCORE_BINS)


@pytest.mark.parametrize("rows", [[], [0], [0, 1]])
def test_hardly_any_patients_give_numbers_and_no_nan(rows):
    cohort = patients(300, 4)
    state = run_step(step_of(), inputs_of(cohort), [cohort.take(np.array(rows, dtype=np.intp))])
    assert state["n_patients"] == len(rows)
    assert 0 <= state["c_index"] <= 1


def test_equal_scores_are_worth_a_half():
    cohort = patients(200, 2)
    same = cohort_of(np.ones((200, 1)), cohort.time, cohort.event)
    state = run_step(step_of(), inputs_of(cohort), [same])
    assert state["c_index"] == pytest.approx(0.5, abs=1e-12)
    assert state["uno"] == pytest.approx(0.5, abs=1e-12)


def test_when_a_site_leaves_mean_and_spread_are_asked_again():
    cohort = patients(300, 4)
    rounds: list[str] = []
    sites = split(cohort, np.arange(300) % 4)
    state = run_step(step_of(), inputs_of(cohort), sites, rounds, leaving=2)
    assert rounds == ["spread", "histogram", "histogram"]  # the second time the spread is asked for in between
    assert state["n_patients"] == 225
