import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.censoring import brier_scores, censoring_curve, ibs_times, mean_over
from schemas.errors import ArchipelError

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "evaluation.json").read_text())
TIME = np.array(REFERENCE["time"])
EVENT = np.array(REFERENCE["event"]) == 1
ENTRY = np.array(REFERENCE["entry"])
LOG_HAZARD = np.array(REFERENCE["log_hazard"])


def integrated_brier(time, event, survival_at, times):
    return float(mean_over(brier_scores(time, event, survival_at, times, censoring_curve(time, event)), times))


def survival(t):
    """The prediction that the R script judges, (n, len(t))."""
    return np.exp(-0.08 * np.exp(0.7 * LOG_HAZARD)[:, None] * np.asarray(t))


def slow_g(t, time, event, entry, *, before):
    """The censoring curve patient by patient."""
    g = 1.0
    for s in sorted(set(time[~event])):
        if s < t or (s == t and not before):
            at_risk = sum(e < s and (u > s or (u == s and not d)) for u, d, e in zip(time, event, entry, strict=True))
            g *= 1 - sum(u == s and not d for u, d in zip(time, event, strict=True)) / at_risk
    return g


def slow_brier(t, time, event, entry, s_t, s_entry):
    total, seen = 0.0, 0
    for i in range(len(time)):
        if entry[i] >= t:
            continue
        seen += 1
        s = s_t[i] / s_entry[i]
        g_entry = slow_g(entry[i], time, event, entry, before=False) if entry[i] > 0 else 1.0
        died = event[i] and time[i] <= t
        g = slow_g(time[i] if died else t, time, event, entry, before=died)
        if g == 0:  # an early risk set was censored as a whole: nothing can be weighted
            continue
        if died:
            total += s**2 * g_entry / g
        elif time[i] > t:
            total += (1 - s) ** 2 * g_entry / g
    return total / seen


def test_brier_equals_r():
    times = np.array(REFERENCE["brier_times"])
    np.testing.assert_allclose(ibs_times(TIME, EVENT, 25), times, rtol=1e-14)
    curve = censoring_curve(TIME, EVENT)
    scores = brier_scores(TIME, EVENT, survival(times), times, curve)
    np.testing.assert_allclose(scores, REFERENCE["brier"], rtol=1e-12)
    ibs = integrated_brier(TIME, EVENT, survival(times), times)
    assert ibs == pytest.approx(REFERENCE["ibs"], rel=1e-12)


def test_brier_with_late_entry_equals_the_slow_version():
    times = np.array([2.0, 3.5, 7.0, 12.0])
    at_entry = np.exp(-0.08 * np.exp(0.7 * LOG_HAZARD) * ENTRY)
    curve = censoring_curve(TIME, EVENT, ENTRY)
    scores = brier_scores(TIME, EVENT, survival(times), times, curve, ENTRY, at_entry)
    slow = [slow_brier(t, TIME, EVENT, ENTRY, survival([t])[:, 0], at_entry) for t in times]
    np.testing.assert_allclose(scores, slow, rtol=1e-12)


def test_entry_at_the_origin_changes_nothing():
    times = np.array([2.0, 3.5, 7.0, 12.0])
    zero = np.zeros(len(TIME))
    curve = censoring_curve(TIME, EVENT)
    plain = brier_scores(TIME, EVENT, survival(times), times, curve)
    entered = brier_scores(TIME, EVENT, survival(times), times, curve, zero, np.ones(len(TIME)))
    np.testing.assert_array_equal(entered, plain)


patients = st.lists(
    st.tuples(st.integers(1, 8), st.booleans(), st.floats(0, 1), st.floats(0.01, 1)), min_size=1, max_size=25
)


@given(patients=patients, t=st.integers(1, 9))
def test_brier_equals_the_slow_version(patients, t):
    time = np.array([float(one[0]) for one in patients])
    event = np.array([one[1] for one in patients])
    entry = np.floor(time * np.array([one[2] for one in patients]) * 0.99)
    s_entry = np.ones(len(time))
    s_t = np.array([one[3] for one in patients])
    if not (entry < t).any():
        return
    curve = censoring_curve(time, event, entry)
    np.testing.assert_allclose(curve.after(np.array([t])), slow_g(t, time, event, entry, before=False), atol=1e-12)
    fast = brier_scores(time, event, s_t[:, None], np.array([float(t)]), curve, entry, s_entry)
    np.testing.assert_allclose(fast, slow_brier(t, time, event, entry, s_t, s_entry), rtol=1e-10, atol=1e-12)


def test_without_censoring_brier_is_the_mean_squared_error():
    everyone = np.ones(len(TIME), dtype=bool)
    times = np.array([3.0, 9.0])
    scores = brier_scores(TIME, everyone, survival(times), times, censoring_curve(TIME, everyone))
    np.testing.assert_allclose(scores, ((survival(times) - (TIME[:, None] > times)) ** 2).mean(axis=0), rtol=1e-14)


def test_integrated_brier_does_not_depend_on_the_unit_of_time_or_the_order_of_patients():
    times = np.array(REFERENCE["brier_times"])
    ibs = integrated_brier(TIME, EVENT, survival(times), times)
    order = np.random.default_rng(1).permutation(len(TIME))
    moved = integrated_brier(TIME[order], EVENT[order], survival(times)[order], times)
    assert moved == pytest.approx(ibs, rel=1e-13)
    # 1/128 is exact, so no tie of times is broken.
    scaled = integrated_brier(TIME / 128, EVENT, survival(times), times / 128)
    assert scaled == pytest.approx(ibs, rel=1e-13)


def test_the_times_of_the_score_need_training_events_at_two_times():
    none = np.zeros(5, dtype=bool)
    with pytest.raises(ArchipelError, match="no patient"):
        ibs_times(np.arange(1.0, 6.0), none)
    with pytest.raises(ArchipelError, match="one time"):
        ibs_times(np.ones(5), ~none)


def test_a_patient_who_leaves_at_the_origin_changes_no_curve() -> None:
    time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, False])
    curve = censoring_curve(time, event)
    with_zero = censoring_curve(np.append(time, 0.0), np.append(event, False))
    assert np.array_equal(curve.times, with_zero.times)
    assert np.array_equal(curve.survival, with_zero.survival)
