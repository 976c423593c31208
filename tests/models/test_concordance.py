import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines.utils import concordance_index
from sksurv.metrics import concordance_index_ipcw
from sksurv.util import Surv

from models.censoring import censoring_curve, uno_weights
from models.concordance import (
    Concordance,
    c_index,
    concordance_state,
    harrell,
    pair_counts,
    pairs_of_each,
    ratio_variance,
)
from tests.models.federation import cohort_of, context, run_step, split

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "evaluation.json").read_text())
TIME = np.array(REFERENCE["time"])
EVENT = np.array(REFERENCE["event"]) == 1
ENTRY = np.array(REFERENCE["entry"])
LOG_HAZARD = np.array(REFERENCE["log_hazard"])


def slow_harrell(time, event, score, entry):
    concordant = tied = comparable = 0
    for i in range(len(time)):
        for j in range(len(time)):
            outlived = time[j] > time[i] or (time[j] == time[i] and not event[j])
            if event[i] and entry[j] < time[i] and outlived:
                comparable += 1
                concordant += score[i] > score[j]
                tied += score[i] == score[j]
    return concordant, tied, comparable


patients = st.lists(
    st.tuples(st.integers(1, 9), st.booleans(), st.integers(-3, 3), st.floats(0, 0.99)), min_size=0, max_size=40
)


@given(patients=patients)
def test_pairs_equal_the_slow_version(patients):
    time = np.array([float(one[0]) for one in patients])
    event = np.array([one[1] for one in patients], dtype=bool)
    score = np.array([float(one[2]) for one in patients])
    entry = np.floor(time * np.array([one[3] for one in patients]))
    assert harrell(time, event, score, entry) == slow_harrell(time, event, score, entry)


def test_pairs_equal_r():
    assert list(harrell(TIME, EVENT, LOG_HAZARD)) == REFERENCE["pairs"]
    assert list(harrell(TIME, EVENT, LOG_HAZARD, ENTRY)) == REFERENCE["pairs_late_entry"]


def test_c_equals_lifelines():
    ours = c_index(*harrell(TIME, EVENT, LOG_HAZARD))
    assert ours == pytest.approx(concordance_index(TIME, -LOG_HAZARD, EVENT), rel=1e-14)


def uno(time, event, score, until, entry=None):
    weight = uno_weights(time, event, censoring_curve(time, event, entry), until)
    concordant, tied, comparable = pairs_of_each(time, event, score, entry, weight)
    right = concordant + tied / 2
    return right.sum() / comparable.sum(), ratio_variance(right, comparable)


@pytest.mark.parametrize(("entry", "name"), [(None, "c_variance"), (ENTRY, "c_variance_late_entry")])
def test_the_variance_of_c_equals_r(entry, name):
    cohort = cohort_of(LOG_HAZARD[:, None], TIME, EVENT, entry)
    state = concordance_state(pair_counts(cohort, LOG_HAZARD, 90))
    assert state["variance"] == pytest.approx(REFERENCE[name], rel=1e-12)


def test_the_variance_of_c_equals_changing_each_weight_a_little():
    cohort = COHORT.take(np.arange(30))
    score, step = LOG_HAZARD[:30], 1e-5

    def c_of(weight):
        pairs = [
            (i, j)
            for i in np.flatnonzero(cohort.event)
            for j in range(30)
            if cohort.entry[j] < cohort.time[i]
            and (cohort.time[j] > cohort.time[i] or (cohort.time[j] == cohort.time[i] and not cohort.event[j]))
        ]
        worth = np.array([weight[i] * weight[j] for i, j in pairs])
        right = np.array([(score[i] > score[j]) + 0.5 * (score[i] == score[j]) for i, j in pairs])
        return (worth * right).sum() / worth.sum()

    slopes = [
        (c_of(1 + step * (np.arange(30) == i)) - c_of(1 - step * (np.arange(30) == i))) / (2 * step)
        for i in range(30)
    ]
    state = concordance_state(pair_counts(cohort, score, 30))
    assert state["variance"] == pytest.approx(np.square(slopes).sum(), rel=1e-6)


def test_unos_c_equals_r():
    c, variance = uno(TIME, EVENT, LOG_HAZARD, REFERENCE["uno_until"])
    assert c == pytest.approx(REFERENCE["uno"], rel=1e-12)
    assert variance == pytest.approx(REFERENCE["uno_variance"], rel=1e-12)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_unos_c_equals_scikit_survival_without_ties_in_time(share):
    rng = np.random.default_rng(7)
    score = np.round(rng.normal(size=120), 1)
    failure, censoring = rng.exponential(np.exp(-score)), rng.exponential(1.5, size=120)
    time, event = np.minimum(failure, censoring), failure <= censoring
    until = float(np.quantile(time, share))
    table = Surv.from_arrays(event, time)
    assert uno(time, event, score, until)[0] == pytest.approx(
        concordance_index_ipcw(table, table, score, tau=until)[0], rel=1e-12
    )


def test_counting_in_blocks_changes_nothing(monkeypatch):
    whole = harrell(TIME, EVENT, LOG_HAZARD, ENTRY)
    monkeypatch.setattr("models.concordance._CELLS_AT_A_TIME", 200)
    assert harrell(TIME, EVENT, LOG_HAZARD, ENTRY) == whole


def test_c_does_not_depend_on_unit_of_time_order_of_patients_or_a_shift_of_all_log_hazards():
    pairs = harrell(TIME, EVENT, LOG_HAZARD, ENTRY)
    order = np.random.default_rng(0).permutation(len(TIME))
    assert harrell(TIME[order], EVENT[order], LOG_HAZARD[order], ENTRY[order]) == pairs
    assert harrell(TIME / 128, EVENT, LOG_HAZARD, ENTRY / 128) == pairs
    assert harrell(TIME, EVENT, LOG_HAZARD + 100, ENTRY) == pairs


def test_without_events_or_with_one_patient_no_pair_is_comparable():
    none = np.zeros(len(TIME), dtype=bool)
    assert harrell(TIME, none, LOG_HAZARD) == (0, 0, 0)
    assert harrell(TIME[:1], ~none[:1], LOG_HAZARD[:1]) == (0, 0, 0)
    assert harrell(TIME[:0], none[:0], LOG_HAZARD[:0]) == (0, 0, 0)
    assert c_index(0, 0, 0) == 0


def test_equal_scores_are_worth_a_half():
    pairs = harrell(TIME, EVENT, np.zeros(len(TIME)))
    assert pairs[0] == 0
    assert c_index(*pairs) == 0.5


COHORT = cohort_of(LOG_HAZARD[:, None], TIME, EVENT, ENTRY)
MODEL = {"mean": np.zeros(1), "scale": np.ones(1), "beta": np.ones(1)}
STEP = Concordance(context(["x0"]))


def test_the_step_adds_the_pairs_inside_sites():
    sites = split(COHORT, np.arange(90) % 3)
    state = run_step(STEP, MODEL, sites)
    by_hand = np.sum([slow_harrell(s.time, s.event, s.matrix(["x0"])[:, 0], s.entry) for s in sites], axis=0)
    assert [state["concordant"], state["tied"], state["comparable"]] == by_hand.tolist()
    assert state["c_index"] == (by_hand[0] + by_hand[1] / 2) / by_hand[2]
    assert state["n_patients"] == 90
    own = [pairs_of_each(s.time, s.event, s.matrix(["x0"])[:, 0], s.entry) for s in sites]
    right = np.concatenate([one[0] + one[1] / 2 for one in own])
    assert state["variance"] == pytest.approx(
        ratio_variance(right, np.concatenate([one[2] for one in own])), rel=1e-9
    )


def test_the_step_over_one_site_counts_as_r():
    state = run_step(STEP, MODEL, [COHORT])
    assert [state["concordant"], state["tied"], state["comparable"]] == REFERENCE["pairs_late_entry"]


def test_the_step_does_not_depend_on_order_of_sites_and_patients_or_a_shift_of_all_log_hazards():
    sites = split(COHORT, np.arange(90) % 3)
    c = run_step(STEP, MODEL, sites)["c_index"]
    shuffled = [site.take(np.random.default_rng(0).permutation(site.n_patients)) for site in sites]
    assert run_step(STEP, MODEL, sites[::-1])["c_index"] == c
    assert run_step(STEP, MODEL, shuffled)["c_index"] == c
    assert run_step(STEP, {**MODEL, "mean": np.full(1, -100.0)}, sites)["c_index"] == c


def test_patients_with_equal_covariates_are_tied_wherever_they_stand():
    x = np.tile(np.random.default_rng(3).normal(size=(1, 37)), (101, 1))
    cohort = cohort_of(x, np.arange(1.0, 102.0), np.ones(101))
    model = {"mean": np.full(37, 0.1), "scale": np.full(37, 3.0), "beta": np.linspace(-1, 1, 37) / 7}
    state = run_step(Concordance(context([f"x{j}" for j in range(37)])), model, [cohort])
    assert state["concordant"] == 0
    assert state["tied"] == state["comparable"] == 101 * 100 / 2


@pytest.mark.parametrize("n", [0, 1])
def test_without_pairs_the_state_says_so(n):
    state = run_step(STEP, MODEL, [COHORT.take(np.arange(n))])
    assert state["comparable"] == 0
    assert state["c_index"] == 0
    assert state["n_patients"] == n


def test_when_a_site_leaves_the_same_is_asked():
    turn = STEP.begin(MODEL)
    assert STEP.shrink("pairs", turn.state) == turn
