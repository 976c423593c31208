"""What the page shows where events compete: the event of interest as a cumulative incidence, the others beside it.

Decides texts and roundings alone, as `client.page.view`. Lines are told apart by their dashes and by their names at
their ends, people by their shapes, so nothing hangs on colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from client.page.drawing import PHONE, WIDE, Band, CurveWords, Line, curve, icons, nice_ticks
from client.page.reader import N_, Reader
from client.page.shapes import Arm, HorizonRisk, Kind, KindRisk, Prognosis
from client.page.spoken import arm_name, axis, interval, of_100, origin_text, read_off, scale, table_times, when
from client.page.words import event_name

__all__ = ["competing_parts"]

_LEAD = N_(
    "Of 100 people like this patient, about %(n)s are expected to have had “%(event)s” %(time)s, %(others)s "
    "something else first (%(list)s), and %(rest)s none of these. Uncertainty of the model: %(low)s to %(high)s with "
    "“%(event)s”."
)
_BARE = N_(
    "Of 100 people like this patient, about %(n)s are expected to have had “%(event)s” %(time)s, %(others)s "
    "something else first (%(list)s), and %(rest)s none of these."
)


def competing_parts(found: Prognosis, at: int, reader: Reader) -> dict[str, Any]:
    """Return the parts of a patient's page that differ where events compete.

    Args:
        found: With `kinds`.
        at: Place of the chosen horizon.
        reader: In whose language.
    """
    first, others = found.kinds[0], found.kinds[1:]
    event, names = event_name(first.name, reader), ", ".join(event_name(one.name, reader) for one in others)
    risk = first.at[at]
    n = round(100 * risk.incidence)
    rest = min(round(100 * found.horizons[at].survival), 100 - n)
    blanks: dict[str, Any] = {"n": n, "event": event, "time": when(found, risk.time, reader), "list": names}
    blanks |= {"rest": rest, "others": 100 - n - rest}
    has_band = risk.low is not None and risk.high is not None
    if has_band:
        blanks |= {"low": round(100 * (risk.low or 0)), "high": round(100 * (risk.high or 0))}
    lead = reader.text(_LEAD if has_band else _BARE, **blanks)
    title = reader.text(N_("Who will have had “%(event)s”"), event=event)
    return {
        "lead": lead,
        "kinds": _key(found, reader),
        "curve_title": title,
        **_drawn(found, at, title, lead, reader),
        "has_band": has_band,
        "column": reader.text(N_("“%(event)s”, of 100"), event=event),
        "columns": [event_name(one.name, reader) for one in others],
        "table": _table(found, reader),
        "origin": _origin(found, reader),
        "icons": icons(rest, lead, n_crossed=100 - n - rest),
        "icons_note": reader.text(
            N_("Filled: none of these events %(time)s. Outlined: “%(event)s”. Crossed out: first %(list)s."), **blanks
        ),
        "rank": _rank(found.rank, event, reader),
        "arms": [_arm(one, found.arms, at, reader) for one in found.arms],
        "arms_note": _difference(found.arms, at, event, reader),
        "moved_note": _moved_note(found, at, event, reader),
        "condition_label": reader.text(
            N_("Known to be free of all these events until (%(unit)s)"), unit=reader.unit(found.time_unit)
        ),
    }


def _key(found: Prognosis, reader: Reader) -> list[dict[str, str]]:
    """Return the competing events for the key of the drawing."""
    return [
        {
            "line": f"k-other k-other-{i}",
            "name": reader.text(N_("%(event)s first"), event=event_name(kind.name, reader)),
        }
        for i, kind in enumerate(found.kinds[1:], start=1)
    ]


def _drawn(found: Prognosis, at: int, title: str, lead: str, reader: Reader) -> dict[str, Any]:
    own = found.kinds[0].curve
    band = Band(own.times, own.incidence, own.low, own.high)
    lines = [Line(one.curve.times, one.curve.incidence, event_name(one.name, reader)) for one in found.kinds]
    words = CurveWords(
        title=title,
        description=lead + " " + reader.text(N_("All values are in the table below.")),
        axis=axis(found, reader),
        of=lambda time: reader.number(time / scale(found)),
        percent=lambda share: f"{reader.number(100 * share)} %",
    )
    ticks = [tick * scale(found) for tick in nice_ticks(own.times[-1] / scale(found), 6)]
    risk = found.kinds[0].at[at]
    drawn = {
        width: curve(
            "curve", band, (risk.time, risk.incidence), words, ticks=ticks, width=width,
            cohort=Band(own.times, found.kinds[0].average, None, None), lines=lines, steps=own.steps,
        )
        for width in (WIDE, PHONE)
    }  # fmt: skip
    return {"curve_wide": drawn[WIDE], "curve_phone": drawn[PHONE]}


def _origin(found: Prognosis, reader: Reader) -> str:
    text = origin_text(found, reader)
    if found.event_free_until:
        text += " " + reader.text(
            N_(
                "The curves start %(since)s after that start, since the patient is known to be free of all these "
                "events until then."
            ),
            since=reader.time(found.event_free_until, found.time_unit),
        )
    lines = N_(
        "Each line counts those who have that event before any other; with those who have none they make 100. The "
        "dashed grey line is “%(event)s” for a patient at the average of those who trained the model."
    )
    return text + " " + reader.text(lines, event=event_name(found.kinds[0].name, reader))


def _table(found: Prognosis, reader: Reader) -> list[dict[str, Any]]:
    """Return all kinds of event at round times and at every horizon."""
    rows = []
    for time in table_times(found):
        first, *others = (_kind_at(kind, time) for kind in found.kinds)
        free = _free_at(found, time)
        rows.append(
            {
                "time": reader.time(time, found.time_unit),
                "share": of_100(first.incidence, reader),
                "interval": interval(first.low, first.high, reader),
                "others": [_with_interval(one.incidence, one.low, one.high, reader) for one in others],
                "free": _with_interval(free.survival, free.low, free.high, reader),
            }
        )
    return rows


def _kind_at(kind: Kind, time: float) -> KindRisk:
    known = next((one for one in kind.at if one.time == time), None)
    if known is not None:
        return known
    own = kind.curve
    value, low, high = (
        read_off(own.times, values, time, steps=own.steps) for values in (own.incidence, own.low, own.high)
    )
    return KindRisk(time, value or 0.0, low, high)


def _free_at(found: Prognosis, time: float) -> HorizonRisk:
    known = next((one for one in found.horizons if one.time == time), None)
    if known is not None:
        return known
    own = found.curve
    value, low, high = (
        read_off(own.times, values, time, steps=own.steps) for values in (own.survival, own.low, own.high)
    )
    return HorizonRisk(time, value or 0.0, low, high)


def _with_interval(value: float, low: float | None, high: float | None, reader: Reader) -> str:
    ends = "" if low is None or high is None else f" ({interval(low, high, reader)})"
    return of_100(value, reader) + ends


def _rank(rank: float | None, event: str, reader: Reader) -> str:
    if rank is None:
        return ""
    return reader.text(
        N_(
            "The hazard of “%(event)s”, other events aside, is at least as high as that of %(n)s of 100 people who "
            "trained the model."
        ),
        n=round(100 * rank),
        event=event,
    )


def _arm(arm: Arm, arms: Sequence[Arm], at: int, reader: Reader) -> dict[str, str]:
    risk = arm.incidence[at]
    shown = {"share": of_100(risk.incidence, reader), "interval": interval(risk.low, risk.high, reader)}
    return {"name": arm_name(arm, arms, reader), **shown}


def _difference(arms: Sequence[Arm], at: int, event: str, reader: Reader) -> str:
    treated = next((one for one in arms if one.treated and one.incidence_difference), None)
    if treated is None:
        return ""
    risk = treated.incidence_difference[at]
    text = reader.text(
        N_("Difference in “%(event)s”: %(points)s of 100 (%(interval)s)."),
        event=event,
        points=reader.signed(100 * risk.incidence, 1),
        interval=interval(risk.low, risk.high, reader),
    )
    return text + " " + reader.text(N_("A difference between groups of patients, which need not be an effect."))


def _moved_note(found: Prognosis, at: int, event: str, reader: Reader) -> str:
    return reader.text(
        N_(
            "Percentage points of the risk of “%(event)s” by %(time)s against a patient at the average of those who "
            "trained the model; together %(sum)s. What raises the risk of another event leaves less room for this "
            "one, and counts here too. These are associations in past data, not effects of treatment."
        ),
        event=event,
        time=reader.time(found.horizons[at].time, found.time_unit),
        sum=reader.signed(sum(one.by_horizon[at] for one in found.moved), 1),
    )
