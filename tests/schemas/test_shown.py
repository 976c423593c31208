"""The one rule for counts of people: never below ten, and never known more closely than five, from either side."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.shown import HIDDEN, NOT_SHOWN, at_least, rounded, rounded_total, shown_at_risk, shown_count

BASE = 5
counts = st.one_of(st.integers(0, 40), st.integers(0, 10**9))


def shown_alike(n: int) -> list[int]:
    """Every count that a reader must consider who sees how `n` is shown."""
    return [m for m in range(max(0, n - 20), n + 20) if shown_count(m) == shown_count(n)]


@given(counts)
def test_no_bound_closer_than_the_base_can_be_derived_from_either_side(n: int) -> None:
    alike = shown_alike(n)
    assert len(alike) >= BASE
    assert alike == list(range(alike[0], alike[-1] + 1)), "neighbours, without a hole"
    shown = rounded(n)
    if shown is None:
        assert (n < 10, shown_count(n), shown_at_risk(n)) == (True, HIDDEN, None)
    else:
        assert alike[0] <= shown - 2
        assert shown + 2 <= alike[-1]
        assert abs(shown - n) <= BASE
        assert shown % BASE == 0
        assert shown_count(n) == str(shown) == str(shown_at_risk(n))


@given(counts)
def test_a_lower_bound_says_no_more_than_what_is_shown(n: int) -> None:
    assert at_least(n) == min(m for m in shown_alike(n))
    assert {at_least(m) for m in shown_alike(n)} == {at_least(n)}


@given(counts)
def test_rounding_twice_is_rounding_once(n: int) -> None:
    once = rounded(n)
    assert once is None or rounded(once) == once


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6))
def test_a_hidden_cell_cannot_be_solved_for(cells: list[int]) -> None:
    """By every combination of cells that is shown alike: no hidden cell is known, where the total is shown or not."""
    shown = [rounded(cell) for cell in cells]
    total = rounded_total(sum(cells), shown)
    if shown.count(None) == 1:
        assert total is None
        assert shown_count(total) == NOT_SHOWN
    elif shown.count(None) == 0:
        assert total == rounded(sum(cells))


def test_without_the_second_suppression_a_hidden_cell_would_be_known_exactly() -> None:
    """Ninety-seven twice, shown as 95, and nine: the total alone, shown as 205, leaves nothing but nine."""
    cells, total = (97, 97, 9), 97 + 97 + 9
    possible = {
        hidden
        for first, second, hidden in itertools.product(shown_alike(97), shown_alike(97), range(10))
        if shown_count(first + second + hidden) == shown_count(total)
    }
    assert possible == {9}
    assert rounded_total(total, [rounded(cell) for cell in cells]) is None


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "<10"), (9, "<10"), (10, "15"), (12, "15"), (17, "15"), (18, "20"), (128, "130"), (None, NOT_SHOWN)],
)
def test_examples(n: int | None, text: str) -> None:
    assert shown_count(n) == text
