"""Counts of people as people may see them: one rule for result, report, terminal, ledger and model file.

Below ten nothing but that it is below ten. From ten on the nearest multiple of five, and 10 to 12 with those around
15: "10" would otherwise stand for three counts alone, with the floor as their lower end. So whatever is shown, at
least five neighbouring counts are shown the same, and a number that is shown is neither the smallest nor the largest
of them (two-sided): nobody comes closer to a count, from below or from above.

Where exactly one cell of a total is hidden, the total minus the others is that cell; then the total is hidden too
(secondary suppression).

It is a rule for what is shown, and no more: sums that a plan releases are exact, and a survival curve tells how many
were at risk where it steps. What may leave a site is decided by its gate. What a site shows to its own people about
its own tables (`archipel site check`) is exempt.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "HIDDEN",
    "NOT_SHOWN",
    "SHOWN_FROM",
    "at_least",
    "rounded",
    "rounded_total",
    "shown_at_risk",
    "shown_count",
]

SHOWN_FROM = 10
"""Counts below this are never shown to a person (a site's patients, a group's number at risk)."""
ROUNDED_TO = 5
HIDDEN = f"<{SHOWN_FROM}"
NOT_SHOWN = "not shown"
"""In the place of a total that would tell the one hidden cell."""


def rounded(n: int) -> int | None:
    """Return a count as it may be shown, or None below ten."""
    if n < SHOWN_FROM:
        return None
    return max(SHOWN_FROM + ROUNDED_TO, ROUNDED_TO * round(n / ROUNDED_TO))


def rounded_total(n: int, cells: Iterable[int | None]) -> int | None:
    """Return a total as it may be shown beside its cells, or None where it would tell the one that is hidden.

    Args:
        n: The total.
        cells: As they are shown beside it, None for a hidden one; none where no cell is shown.
    """
    return None if sum(cell is None for cell in cells) == 1 else rounded(n)


def shown_count(n: int | None) -> str:
    """Return a count in words for people: `<10`, or rounded; `not shown` for a total that is hidden."""
    if n is None:
        return NOT_SHOWN
    shown = rounded(n)
    return HIDDEN if shown is None else str(shown)


def shown_at_risk(n: int) -> int | None:
    """Return a number at risk as it may be shown: rounded, or None below ten."""
    return rounded(n)


def at_least(n: int) -> int:
    """Return the smallest count that is shown as `n` is: all that may be said of how many there are at least."""
    shown = rounded(n)
    if shown is None:
        return 0
    return SHOWN_FROM if shown == SHOWN_FROM + ROUNDED_TO else shown - ROUNDED_TO // 2
