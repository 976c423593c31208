import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.event_grid import EventGrid, merge_bins
from models.step import DivergedError
from tests.models.federation import cohort_of, context, run_step, split
from tests.models.synthetic import patients

COHORT = patients()
BINS = [float(edge) for edge in np.linspace(0, 16, 33)[1:]]


def grid(cohorts, bins=BINS, n_bins=40, **settings):
    return run_step(EventGrid(context([], n_bins, bin_edges=bins, **settings)), {}, cohorts)


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=64),
    min_events=st.integers(1, 12),
)
def test_each_interval_has_enough_events_and_none_is_lost(counts, min_events):
    array = np.array(counts, dtype=np.float64)
    if array.sum() < min_events:
        return
    stops = merge_bins(array, min_events)
    held = np.diff(np.concatenate(([0.0], np.cumsum(array)))[[0, *stops]])
    assert held.min() >= min_events
    assert held.sum() == array.sum()
    assert counts[stops[-1] - 1] > 0, "the last interval ends with the last event"
    if len(stops) > 1:  # no earlier end would have done
        assert all(
            array[start : stop - 1].sum() < min_events for start, stop in zip([0, *stops], stops[:-1], strict=False)
        )


def test_the_grid_of_the_sites_equals_that_of_the_pooled_table():
    pooled = grid([COHORT], min_events=5)
    for sites in (split(COHORT, np.arange(160) % 7), split(COHORT, np.arange(160) % 7)[::-1]):
        for name, array in grid(sites, min_events=5).items():
            np.testing.assert_array_equal(array, pooled[name])


def test_edges_are_padded_with_the_last_one_and_events_with_zero():
    state = grid([COHORT], min_events=5)
    n = int(state["n_intervals"])
    assert 1 < n < 40
    assert np.all(np.diff(state["edges"][:n]) > 0)
    np.testing.assert_array_equal(state["edges"][n:], state["edges"][n - 1])
    assert state["events"][:n].min() >= 5
    np.testing.assert_array_equal(state["events"][n:], 0.0)


def test_what_remains_joins_the_last_interval():
    cohort = cohort_of(np.zeros((7, 0)), [1, 1, 2, 2, 3, 9, 9], [1, 1, 1, 1, 1, 0, 0])
    state = grid([cohort], [1.0, 2.0, 3.0, 4.0, 9.0], 5, min_events=2)
    np.testing.assert_array_equal(state["edges"], [1.0, 3.0, 3.0, 3.0, 3.0])
    np.testing.assert_array_equal(state["events"], [2.0, 3.0, 0.0, 0.0, 0.0])


def test_exact_times_are_kept_and_those_without_an_event_at_risk_left_out():
    cohort = cohort_of(np.zeros((4, 0)), [1, 2, 3, 3], [1, 1, 1, 0], entry=np.array([0.0, 2.0, 0.0, 0.0]))
    state = grid([cohort], [1.0, 2.0, 3.0], 3, exact=True, min_events=5)
    np.testing.assert_array_equal(state["edges"], [1.0, 3.0, 3.0])
    np.testing.assert_array_equal(state["events"], [1.0, 1.0, 0.0])


def test_too_few_events_are_refused_in_a_sentence():
    with pytest.raises(DivergedError, match="fewer than 5 events"):
        grid([cohort_of(np.zeros((4, 0)), [1, 2, 3, 4], [1, 1, 1, 1])], min_events=5)
    with pytest.raises(DivergedError, match="fewer than 1 events"):
        grid([cohort_of(np.zeros((2, 0)), [1, 2], [0, 0])], exact=True)


def test_time_scaling_scales_the_edges_alone():
    scaled = cohort_of(np.zeros((160, 0)), COHORT.time * 8, COHORT.event, COHORT.entry * 8)
    state, other = grid([COHORT], min_events=5), grid([scaled], [8 * edge for edge in BINS], min_events=5)
    np.testing.assert_array_equal(other["edges"], 8 * state["edges"])
    np.testing.assert_array_equal(other["events"], state["events"])


def test_bins_must_increase_and_fit():
    for bins in ([], [2.0, 1.0], [1.0] * 41):
        with pytest.raises(ValueError, match="increasing"):
            EventGrid(context([], 40, bin_edges=bins))


def test_when_a_site_leaves_the_others_are_asked_the_same():
    step = EventGrid(context([], 40, bin_edges=BINS))
    assert step.shrink("histogram", {}) == step.begin({})
