"""Resamples without a loop, against the loop; and their spread against the variance from sums."""

from __future__ import annotations

import numpy as np
import pytest

from archipel.bootstrap import FoldOfModels, bootstrap, cox_slopes, percentile_interval, resample_weights
from models.calibration import calibration_slope
from models.censoring import censoring_curve, uno_weights
from models.concordance import c_index, harrell, pairs_of_each, ratio_variance
from tests.models.federation import cohort_of


def fold_of(n: int, seed: int, *, late: bool = False, n_models: int = 1, start: int = 0) -> FoldOfModels:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    failure, censoring = rng.exponential(np.exp(-truth)), rng.exponential(2.0, size=n)
    time, event = np.minimum(failure, censoring), failure <= censoring
    entry = np.where(rng.uniform(size=n) < 0.5, 0.8 * rng.uniform(size=n) * time, 0.0) if late else np.zeros(n)
    return FoldOfModels(
        rows=np.arange(start, start + n),
        patients=cohort_of(truth[:, None], time, event, entry),
        site=rng.integers(0, 3, size=n),
        scores=np.array([np.round(truth + 0.5 * rng.normal(size=n), 1) for _ in range(n_models)]),
        shares=np.arange(1.0, n_models + 1),
        uno_weight=uno_weights(time, event, censoring_curve(time, event), float(np.quantile(time, 0.8))),
        brier=rng.uniform(size=(n_models, n)),
    )


def repeated(fold: FoldOfModels, weight: np.ndarray) -> np.ndarray:
    """The rows of a resample, each as often as it was drawn."""
    return np.repeat(np.arange(fold.rows.size), weight.astype(int))


@pytest.mark.parametrize("late", [False, True])
def test_resamples_equal_patients_written_down_as_often_as_drawn(late: bool) -> None:
    fold = fold_of(60, 1, late=late, n_models=2)
    weights = resample_weights([np.arange(60)], 60, 5)
    found = bootstrap([fold], weights)
    shares = fold.shares / fold.shares.sum()
    for b in range(5):
        rows = repeated(fold, weights[:, b])
        one = fold.patients.take(rows)
        c = [c_index(*harrell(one.time, one.event, score[rows], one.entry)) for score in fold.scores]
        assert found["c_index"][b] == pytest.approx(shares @ c, rel=1e-12)
        inside = np.zeros((2, 3))
        for site in range(3):
            own = rows[fold.site[rows] == site]
            part = fold.patients.take(own)
            for m, score in enumerate(fold.scores):
                inside[m] += harrell(part.time, part.event, score[own], part.entry)
        assert found["c_index_within"][b] == pytest.approx(shares @ [c_index(*pairs) for pairs in inside], rel=1e-12)
        uno = []
        for score in fold.scores:
            each = pairs_of_each(one.time, one.event, score[rows], one.entry, fold.uno_weight[rows])
            uno.append(c_index(*(pairs.sum() for pairs in each)))
        assert found["c_index_uno"][b] == pytest.approx(shares @ uno, rel=1e-12)
        assert found["ibs"][b] == pytest.approx(shares @ fold.brier[:, rows].mean(axis=1), rel=1e-12)


@pytest.mark.parametrize("late", [False, True])
def test_slopes_of_resamples_equal_cox_fits_of_patients_written_down_as_often_as_drawn(late: bool) -> None:
    fold = fold_of(80, 2, late=late)
    weights = resample_weights([np.arange(80)], 80, 4)
    one, score = fold.patients, fold.scores[0]
    slopes = cox_slopes(one.time, one.event, score, one.entry, weights)
    for b in range(4):
        rows = repeated(fold, weights[:, b])
        drawn = one.take(rows)
        expected, _ = calibration_slope(drawn.time, drawn.event, score[rows], drawn.entry, ties="breslow")
        assert slopes[b] == pytest.approx(expected, abs=1e-7)


def test_a_resample_of_everybody_once_is_the_score_itself() -> None:
    fold = fold_of(70, 3)
    found = bootstrap([fold], np.ones((70, 1)))
    one, score = fold.patients, fold.scores[0]
    assert found["c_index"][0] == pytest.approx(c_index(*harrell(one.time, one.event, score)), rel=1e-12)
    assert cox_slopes(one.time, one.event, score, one.entry, np.ones((70, 1)))[0] == pytest.approx(
        calibration_slope(one.time, one.event, score, ties="breslow")[0], abs=1e-7
    )


def test_the_spread_of_resamples_is_that_of_the_variance_from_sums() -> None:
    fold = fold_of(250, 4)
    one = fold.patients
    concordant, tied, comparable = pairs_of_each(one.time, one.event, fold.scores[0])
    found = bootstrap([fold], resample_weights([np.arange(250)], 250))["c_index"]
    assert found.std() == pytest.approx(np.sqrt(ratio_variance(concordant + tied / 2, comparable)), rel=0.1)


def test_each_stratum_is_drawn_from_itself_and_from_a_fixed_seed() -> None:
    strata = [np.array([0, 2, 4]), np.array([1, 3])]
    weights = resample_weights(strata, 6, 50)
    assert (weights[strata[0]].sum(axis=0) == 3).all()
    assert (weights[strata[1]].sum(axis=0) == 2).all()
    assert not weights[5].any()
    np.testing.assert_array_equal(weights, resample_weights(strata, 6, 50))


def test_the_mean_over_folds_leaves_out_folds_without_pairs() -> None:
    fold, empty = fold_of(40, 5), fold_of(1, 6, start=40)
    weights = resample_weights([fold.rows, empty.rows], 41, 20)
    np.testing.assert_allclose(
        bootstrap([fold, empty], weights)["c_index"], bootstrap([fold], weights)["c_index"], rtol=1e-12
    )


def test_where_most_resamples_have_no_figure_there_is_no_interval() -> None:
    assert percentile_interval(np.array([0.5, np.nan, np.nan])) is None
    assert percentile_interval(np.array([])) is None
    interval = percentile_interval(np.linspace(0, 1, 1001))
    assert interval is not None
    assert (interval.lower, interval.upper) == pytest.approx((0.025, 0.975))


def test_the_order_of_patients_and_a_shift_of_all_log_hazards_change_nothing() -> None:
    fold = fold_of(50, 7, late=True)
    order = np.random.default_rng(0).permutation(50)
    weights = resample_weights([np.arange(50)], 50, 10)
    one, score = fold.patients, fold.scores[0]
    slopes = cox_slopes(one.time, one.event, score, one.entry, weights)
    moved = one.take(order)
    np.testing.assert_allclose(
        cox_slopes(moved.time, moved.event, score[order] + 100, moved.entry, weights[order]), slopes, rtol=1e-8
    )
