"""How the page writes times and shares of one prognosis: by the reader's language, rounded once."""

from __future__ import annotations

from collections.abc import Sequence

from client.page.drawing import nice_ticks
from client.page.reader import N_, Reader
from client.page.shapes import Arm, Prognosis

__all__ = [
    "arm_name", "axis", "in_years", "interval", "of_100", "origin_text", "read_off", "scale", "table_times",
    "when",
]  # fmt: skip

_PER_YEAR = {"day": 365.25, "month": 12.0}
_TABLE_ROWS = 9


def in_years(found: Prognosis) -> bool:
    """Return whether the curve is long enough for an axis of years."""
    return found.time_unit in _PER_YEAR and found.curve.times[-1] >= 1.5 * _PER_YEAR[found.time_unit]


def scale(found: Prognosis) -> float:
    """Return how many of the model's units make one of the axis."""
    return _PER_YEAR[found.time_unit] if in_years(found) else 1.0


def axis(found: Prognosis, reader: Reader) -> str:
    """Return the heading of the time axis."""
    unit = "year" if in_years(found) else found.time_unit
    names = {"year": N_("Years"), "month": N_("Months"), "day": N_("Days")}
    return reader.text(names[unit]) if unit in names else unit


def table_times(found: Prognosis) -> list[float]:
    """Return the times of the curve's table: every horizon, and round times that are not one of them."""
    horizons = [one.time for one in found.horizons]
    ticks = [step * scale(found) for step in nice_ticks(found.curve.times[-1] / scale(found), _TABLE_ROWS)[1:]]
    # 1,095 days and three times 365.25 are both three years, and would stand there twice.
    others = [tick for tick in ticks if not any(abs(tick - one) <= 0.01 * one for one in horizons)]
    return sorted([*horizons, *others])


def when(found: Prognosis, time: float, reader: Reader) -> str:
    """Return a horizon as part of a sentence: from the origin, or from a later day on."""
    length = reader.time(time, found.time_unit)
    if found.event_free_until:
        return reader.text(N_("%(time)s from then on"), time=length)
    return reader.text(N_("at %(time)s"), time=length)


def of_100(share: float, reader: Reader) -> str:
    """Return a share as people of a hundred."""
    return reader.number(100 * share, 1)


def interval(low: float | None, high: float | None, reader: Reader) -> str:
    """Return the ends of an interval of people of a hundred, or a dash where there is none."""
    if low is None or high is None:
        return "\N{EN DASH}"
    return reader.text(N_("%(low)s to %(high)s"), low=of_100(low, reader), high=of_100(high, reader))


def arm_name(arm: Arm, arms: Sequence[Arm], reader: Reader) -> str:
    """Return an arm for people; of a treatment that is there or not, control has no name of its own."""
    name = arm.name or reader.text(N_("without “%(name)s”"), name=next((one.name for one in arms if one.name), ""))
    return reader.text(N_("%(name)s (as recorded)"), name=name) if arm.is_observed else name


def read_off(times: Sequence[float], values: Sequence[float] | None, time: float, *, steps: bool) -> float | None:
    """Return a curve at a time between its points: the last step, or the straight line."""
    if values is None:
        return None
    k = max(i for i, one in enumerate(times) if one <= time)
    if steps or k + 1 == len(times):
        return values[k]
    share = (time - times[k]) / (times[k + 1] - times[k])
    return values[k] + share * (values[k + 1] - values[k])


def origin_text(found: Prognosis, reader: Reader) -> str:
    """Return from when to when time is counted, in the dictionary's words."""
    if not found.origin:
        return reader.text(N_("From which day on the study counts time, this site does not know: ask its contact."))
    return reader.text(N_("Time, as the study counts it: %(origin)s."), origin=found.origin.rstrip("."))
