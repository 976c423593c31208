import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.time_grid import interval_of
from tests.models.oracles import intervals_at_risk

EDGES = np.array([1.0, 2.0, 4.0, 7.0])
PADDED = np.array([1.0, 2.0, 4.0, 7.0, 7.0, 7.0])


def place(time, event, entry=0.0, *, exact=False):
    """First interval, one past the last, and whether the event counts, of one patient."""
    spells = interval_of(np.array([time]), np.array([event]), np.array([entry]), PADDED, 4, exact=exact)
    return int(spells.first[0]), int(spells.stop[0]), bool(spells.event[0])


@pytest.mark.parametrize(
    ("time", "event", "interval"), [(0.5, True, 0), (1.0, True, 0), (1.1, True, 1), (4.0, True, 2), (7.0, True, 3)]
)
def test_an_event_belongs_to_the_first_interval_whose_edge_it_does_not_pass(time, event, interval):
    assert place(time, event) == (0, interval + 1, True)


@pytest.mark.parametrize(("time", "stop"), [(0.5, 0), (1.0, 1), (1.9, 1), (2.0, 2), (6.9, 3), (7.0, 4), (99.0, 4)])
def test_who_is_censored_inside_an_interval_counts_up_to_the_one_before(time, stop):
    assert place(time, False) == (0, stop, False)


def test_an_event_after_the_last_edge_is_survival_of_the_grid():
    assert place(7.1, True) == (0, 4, False)


@pytest.mark.parametrize(("entry", "first"), [(0.0, 0), (0.5, 1), (1.0, 1), (1.5, 2), (4.0, 3)])
def test_on_a_merged_grid_entry_moves_up_to_the_next_edge(entry, first):
    assert place(7.0, True, entry) == (first, 4, True)


@pytest.mark.parametrize(("entry", "first"), [(0.0, 0), (0.5, 0), (1.0, 1), (1.5, 1), (4.0, 3)])
def test_at_exact_times_a_patient_is_at_risk_after_entry(entry, first):
    assert place(7.0, True, entry, exact=True) == (first, 4, True)


def test_who_enters_and_leaves_within_an_interval_contributes_nothing_not_even_the_event():
    assert place(3.5, True, 2.5) == (0, 0, False)
    assert place(4.0, True, 4.0, exact=True) == (0, 0, False)


def cohorts(n=30):
    number = st.integers(1, 40).map(lambda i: i / 4)
    row = st.tuples(number, st.booleans(), st.integers(0, 40).map(lambda i: i / 4))
    return st.lists(row, min_size=0, max_size=n)


@given(rows=cohorts(), exact=st.booleans(), late=st.booleans())
def test_placing_and_all_sums_equal_the_slow_version(rows, exact, late):
    time = np.array([row[0] for row in rows])
    event = np.array([row[1] for row in rows], dtype=np.bool_)
    entry = np.array([min(row[2], row[0]) if late else 0.0 for row in rows])
    spells = interval_of(time, event, entry, PADDED, 4, exact=exact)
    slow = [intervals_at_risk(*row, EDGES, exact=exact) for row in zip(time, event, entry, strict=True)]
    at_risk = np.array([[k in ks for k in range(6)] for ks, _ in slow], dtype=np.float64).reshape(-1, 6)
    has_event = np.array([[k == m for k in range(6)] for _, m in slow], dtype=np.float64).reshape(-1, 6)
    values = np.arange(1.0, time.size + 1)
    columns = np.column_stack((values, -(values**2)))
    np.testing.assert_array_equal(spells.at_risk, at_risk)
    np.testing.assert_array_equal(spells.over_patients(values), at_risk.T @ values)
    np.testing.assert_array_equal(spells.over_patients(columns), at_risk.T @ columns)
    np.testing.assert_array_equal(spells.over_events(columns), has_event.T @ columns)
    np.testing.assert_array_equal(spells.survived.at_risk, at_risk - has_event)
    np.testing.assert_array_equal(spells.survived.over_patients(values), (at_risk - has_event).T @ values)
    by_interval = np.array([1.0, 20.0, 300.0, 4000.0, 0.0, 0.0])
    np.testing.assert_array_equal(spells.over_intervals(by_interval), at_risk @ by_interval)
    np.testing.assert_array_equal(spells.event_interval, [m for _, m in slow if m is not None])


@given(rows=cohorts(), exact=st.booleans())
def test_a_unit_of_time_changes_no_place(rows, exact):
    time = np.array([row[0] for row in rows])
    event = np.array([row[1] for row in rows], dtype=np.bool_)
    entry = np.array([min(row[2], row[0]) for row in rows])
    spells = interval_of(time, event, entry, PADDED, 4, exact=exact)
    scaled = interval_of(time * 256, event, entry * 256, PADDED * 256, 4, exact=exact)
    np.testing.assert_array_equal(spells.first, scaled.first)
    np.testing.assert_array_equal(spells.stop, scaled.stop)
    np.testing.assert_array_equal(spells.event, scaled.event)


def test_risk_sums_with_late_entry_keep_their_digits_beside_a_huge_hazard():
    time, entry = np.array([7.0, 7.0]), np.array([4.0, 0.0])
    spells = interval_of(time, np.array([False, False]), entry, EDGES, 4, exact=False)
    np.testing.assert_array_equal(spells.over_patients(np.array([1e20, 1.0])), [1.0, 1.0, 1.0, 1e20 + 1.0])
