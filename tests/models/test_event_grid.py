import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.event_grid import EventGrid, merge_bins, merge_with_censored
from models.step import DivergedError
from models.time_grid import interval_of
from tests.models.federation import cohort_of, context, run_step, split
from tests.models.synthetic import patients

COHORT = patients()
UNDELAYED = patients(delayed=False)
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


# ---------------------------------------------------------------- the censored counted too
def grouped(counts, stops):
    return np.diff(np.concatenate(([0.0], np.cumsum(counts)))[[0, *stops]])


@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=24),
    left=st.lists(st.integers(0, 4), min_size=25, max_size=25),
    at_least=st.integers(1, 7),
)
def test_no_interval_has_few_events_or_few_censored_and_nobody_is_left_alone(counts, left, at_least):
    events, censored = np.array(counts, dtype=np.float64), np.array(left[: len(counts) + 1], dtype=np.float64)
    stops = merge_with_censored(events, censored, at_least)
    if not stops:
        return
    assert grouped(events, stops).min() >= at_least
    gone = grouped(censored, stops)
    assert np.all((gone == 0) | (gone >= at_least))
    behind = events[stops[-1] :].sum() + censored[stops[-1] :].sum()
    assert behind == 0 or behind >= at_least
    assert counts[stops[-1] - 1] > 0


@given(
    counts=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    left=st.lists(st.integers(0, 3), min_size=9, max_size=9),
    at_least=st.integers(1, 4),
)
def test_no_grid_that_ends_there_has_more_intervals(counts, left, at_least):
    """By trying every way to cut the bins."""
    events, censored = np.array(counts, dtype=np.float64), np.array(left[: len(counts) + 1], dtype=np.float64)
    found = merge_with_censored(events, censored, at_least)

    def holds(stops):
        gone, behind = grouped(censored, stops), events[stops[-1] :].sum() + censored[stops[-1] :].sum()
        return (
            grouped(events, stops).min() >= at_least
            and bool(np.all((gone == 0) | (gone >= at_least)))
            and (behind == 0 or behind >= at_least)
            and counts[stops[-1] - 1] > 0
        )

    bins = range(1, len(counts) + 1)
    ways = [list(cut) for n in bins for cut in itertools.combinations(bins, n) if holds(list(cut))]
    assert bool(ways) == bool(found)
    if found:
        last = max(cut[-1] for cut in ways)
        assert found[-1] == last
        assert len(found) == max(len(cut) for cut in ways if cut[-1] == last)


def test_sites_count_the_censored_only_where_the_study_asks_and_the_grid_keeps_them_together():
    plain = EventGrid(context([], 40, bin_edges=BINS, min_events=5))
    counting = EventGrid(context([], 40, bin_edges=BINS, min_events=5, count_censored=True))
    assert [spec.name for spec in plain.parts()[0].releases] == ["n_patients", "events"]
    assert [spec.name for spec in counting.parts()[0].releases] == ["n_patients", "events", "censored"]
    total = counting.local("histogram", {}, UNDELAYED)
    assert total["events"].sum() + total["censored"].sum() == UNDELAYED.n_patients
    state = grid([UNDELAYED], min_events=5, count_censored=True)
    edges = state["edges"][: int(state["n_intervals"])]
    spells = interval_of(UNDELAYED.time, UNDELAYED.event, UNDELAYED.entry, edges, edges.size, exact=False)
    left = np.bincount(spells.stop[~spells.event], minlength=edges.size + 1)
    assert np.all((left == 0) | (left >= 5))
    without = interval_of(*_grid_arguments(grid([UNDELAYED], min_events=5)), exact=False)
    left_without = np.bincount(without.stop[~without.event])
    assert np.any((left_without > 0) & (left_without < 5)), "without it somebody would show"
    assert 1 < edges.size <= int(grid([UNDELAYED], min_events=5)["n_intervals"])


def _grid_arguments(state):
    n = int(state["n_intervals"])
    return UNDELAYED.time, UNDELAYED.event, UNDELAYED.entry, state["edges"], n


def test_where_no_grid_keeps_the_censored_together_a_sentence_says_what_to_do():
    alone = cohort_of(np.zeros((11, 0)), [1.0] + [2.0] * 10, [0] + [1] * 10)
    with pytest.raises(DivergedError, match="leave `count_censored` out"):
        grid([alone], [1.5, 3.0], 2, min_events=5, count_censored=True)
