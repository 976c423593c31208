from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.moments import Moments
from models.multinomial import Multinomial
from models.outcome_scores import (
    OutcomeScores,
    OutcomeSiteOnly,
    OutcomeSlope,
    outcome_calibration_slope,
    outcome_sums,
    roc_pairs,
)
from models.preparation import Preparation
from models.softmax import log_odds_of
from models.step import DivergedError
from tests.models.federation import context, run_step, split
from tests.models.oracles import curvatures, maximum
from tests.models.synthetic import COLUMNS
from tests.models.test_multinomial import with_outcome

NAMES = {2: ["no", "yes"], 3: ["none", "mild", "severe"]}
both = pytest.mark.parametrize("n_outcomes", [2, 3])


def model_of(n_outcomes):
    """A model of 150 patients, and 90 others at three sites whom it has not seen."""
    train, judged = with_outcome(150, n_outcomes), with_outcome(90, n_outcomes, seed=9)
    moments = run_step(Moments(context(COLUMNS)), {}, [train])
    fitted = run_step(Multinomial(context(COLUMNS, outcomes=NAMES[n_outcomes])), moments, [train])
    inputs = {**moments, "alpha": fitted["alpha"], "beta": fitted["beta"]}
    log_odds = log_odds_of(Preparation(context(COLUMNS)).matrix(judged, inputs), fitted["alpha"], fitted["beta"])
    return inputs, judged, split(judged, np.arange(90) % 3), log_odds


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=30))
def test_pairs_are_counted_as_one_by_one(patients):
    concordant = tied = comparable = 0
    for with_it, high in patients:
        for without, low in patients:
            if with_it and not without:
                comparable += 1
                concordant += high > low
                tied += high == low
    positive = np.array([one for one, _ in patients], dtype=np.bool_)
    score = np.array([float(one) for _, one in patients])
    assert roc_pairs(positive, score) == (concordant, tied, comparable)


@both
def test_scores_over_sites_are_those_of_their_patients_one_by_one(n_outcomes):
    inputs, judged, sites, log_odds = model_of(n_outcomes)
    state = run_step(OutcomeScores(context(COLUMNS, outcomes=NAMES[n_outcomes])), inputs, sites)
    brier = log_likelihood = 0.0
    for row, code in zip(log_odds, judged.outcome, strict=True):
        odds = np.concatenate(([1.0], np.exp(row)))
        chance = odds / odds.sum()
        brier += 0.5 * sum((chance[c] - (c == code)) ** 2 for c in range(n_outcomes))
        log_likelihood += np.log(chance[int(code)])
    assert state["brier"] == pytest.approx(brier / 90, rel=1e-12)
    assert state["log_likelihood"] == pytest.approx(log_likelihood / 90, rel=1e-12)
    within = np.sum([outcome_sums(site.outcome, log_odds[np.arange(90) % 3 == k]).pairs for k, site in
                     enumerate(sites)], axis=0)  # fmt: skip
    area = (within[0] + 0.5 * within[1]) / within[2]
    np.testing.assert_allclose(state["auc"], area)
    assert state["c_index"] == pytest.approx(area.mean())
    assert state["comparable"] == within[2].sum()
    assert state["n_patients"] == 90


def test_the_brier_score_of_a_binary_outcome_is_the_usual_one():
    sums = outcome_sums(np.array([1.0, 0.0]), np.log(np.array([[3.0], [1.0]])))
    assert sums.brier == pytest.approx(0.25**2 + 0.5**2)


@both
def test_the_slope_is_the_maximum_of_its_likelihood_however_patients_fall_on_sites(n_outcomes):
    inputs, judged, sites, log_odds = model_of(n_outcomes)
    m = n_outcomes - 1

    def log_likelihood(theta):
        eta = theta[:m] + theta[m] * (log_odds - log_odds.mean(axis=0))
        whole = np.column_stack((np.zeros(90), eta))
        return float((whole[np.arange(90), judged.outcome.astype(int)] - np.log(np.exp(whole).sum(axis=1))).sum())

    found = maximum(log_likelihood, np.zeros(m + 1))
    state = run_step(OutcomeSlope(context(COLUMNS, outcomes=NAMES[n_outcomes])), inputs, sites)
    assert state["slope"] == pytest.approx(found[m], abs=1e-5)
    error = np.sqrt(np.linalg.inv(curvatures(log_likelihood, found))[m, m])
    assert state["slope_se"] == pytest.approx(error, rel=1e-3)
    pooled = outcome_calibration_slope(judged.outcome, log_odds)
    np.testing.assert_allclose(pooled, (state["slope"], state["slope_se"]), rtol=1e-8)


def test_a_model_judged_on_those_who_trained_it_has_a_slope_of_one():
    inputs, _, _, _ = model_of(3)
    step = OutcomeSlope(context(COLUMNS, outcomes=NAMES[3]))
    assert run_step(step, inputs, [with_outcome(150, 3)])["slope"] == pytest.approx(1.0, abs=1e-9)


def test_log_odds_that_are_all_equal_have_no_slope_and_those_that_separate_diverge():
    outcome = np.tile([0.0, 1.0], 20)
    assert outcome_calibration_slope(outcome, np.full((40, 1), 0.3)) == (0.0, 0.0)
    with pytest.raises(DivergedError, match="apart perfectly"):
        outcome_calibration_slope(outcome, (2 * outcome - 1)[:, None])


@both
def test_a_site_alone_is_judged_on_its_own_held_out_patients(n_outcomes):
    _, judged, _, _ = model_of(n_outcomes)
    marked = [replace(judged, held_out=np.arange(90) % 4 == 0)]
    state = run_step(OutcomeSiteOnly(context(COLUMNS, outcomes=NAMES[n_outcomes], penalties=[1.0] * 4)), {}, marked)
    assert state["n_patients"] == 23
    assert 0 < state["c_index"] < 1
    assert state["comparable"] > 0


def test_a_site_that_cannot_fit_orders_nobody():
    _, judged, _, _ = model_of(2)
    alike = replace(judged, outcome=np.where(np.arange(90) % 4 == 0, judged.outcome, 0.0))
    marked = [replace(alike, event=alike.outcome > 0, held_out=np.arange(90) % 4 == 0)]
    state = run_step(OutcomeSiteOnly(context(COLUMNS, outcomes=NAMES[2])), {}, marked)
    assert state["c_index"] == 0.5
