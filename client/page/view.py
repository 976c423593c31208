"""What a patient's page shows: a prognosis in the reader's words, rounded once, and drawn from the same values.

Decides texts and roundings alone; reads no file and knows no request.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from client.page.competing_view import competing_parts
from client.page.drawing import PHONE, WIDE, Band, CurveWords, bar, curve, icons, nice_ticks
from client.page.facts import Facts
from client.page.reader import N_, Reader
from client.page.shapes import Arm, HorizonRisk, Moved, Prognosis, Refused
from client.page.spoken import arm_name, axis, interval, of_100, origin_text, read_off, scale, table_times, when
from client.page.words import Outcome, notice_text, outcome_of, plain_name

__all__ = ["PatientView", "Seen", "patient_view"]

_MOST_MOVED = 20


@dataclass(frozen=True)
class Seen:
    """Who looks at whom, and how.

    Attributes:
        who: How the page names the patient; empty for one who was typed in.
        address: Of the page, without its query.
        horizon: The chosen one; None takes the last.
        today: Of the computation.
        is_later: Whether somebody said that the patient is free of the event until a later day than the origin.
    """

    who: str
    address: str
    horizon: float | None
    today: datetime.date
    is_later: bool = False


@dataclass(frozen=True)
class PatientView:
    """What the templates `patient` and `result` read; texts as they are shown."""

    title: str
    who: str
    outcome: str
    today: str
    address: str
    refused: tuple[str, ...] = ()
    facts: Facts | None = None
    is_later: bool = False
    parts: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        """Return one of the parts that only a prognosis has."""
        try:
            return self.parts[name]
        except KeyError:
            raise AttributeError(name) from None


def patient_view(found: Prognosis | Refused, facts: Facts, seen: Seen, reader: Reader) -> PatientView:
    """Return what the page shows of a prognosis, or of its refusal."""
    who = reader.text(N_("Patient %(name)s"), name=seen.who) if seen.who else reader.text(N_("Typed in; not stored"))
    head = PatientView(
        facts.title, who, facts.endpoint, reader.date(seen.today), seen.address, facts=facts, is_later=seen.is_later
    )
    if isinstance(found, Refused):
        return replace(head, refused=tuple(notice_text(one, reader) for one in found.reasons))
    at = _chosen(found.horizons, seen.horizon)
    if found.kinds:
        return replace(head, parts={**_shared(found, at, seen, reader), **competing_parts(found, at, reader)})
    words, risk = outcome_of(found.label), found.horizons[at]
    parts = {
        **_shared(found, at, seen, reader),
        **_numbers(found, risk, words, when(found, risk.time, reader), reader),
        "rank": _rank(found.rank, reader),
        "arms": [_arm(one, found.arms, at, reader) for one in found.arms],
        "arms_note": _difference(found.arms, at, reader),
    }
    return replace(head, parts=parts)


def _shared(found: Prognosis, at: int, seen: Seen, reader: Reader) -> dict[str, Any]:
    """Return what stands on the page whatever the model predicts."""
    return {
        **_moved(found, at, reader),
        **_navigation(found, at, seen, reader),
        "kinds": [],
        "warnings": [notice_text(one, reader) for one in found.warnings],
        "known": _known(found, reader),
        "layers": [_layer(one.name, one.known, one.of, reader) for one in found.layers],
    }


def _numbers(found: Prognosis, risk: HorizonRisk, words: Outcome, when: str, reader: Reader) -> dict[str, Any]:
    n = round(100 * risk.survival)
    blanks = {"n": n, "rest": 100 - n, "time": when, "event": found.label}
    has_band = risk.low is not None and risk.high is not None
    if has_band:
        blanks |= {"low": round(100 * (risk.low or 0)), "high": round(100 * (risk.high or 0))}
    lead = reader.text(words.lead if has_band else words.bare, **blanks)
    band = Band(found.curve.times, found.curve.survival, found.curve.low, found.curve.high)
    cohort = Band(found.cohort_curve.times, found.cohort_curve.survival, None, None)
    curve_words = CurveWords(
        title=reader.text(words.curve, event=found.label),
        description=lead + " " + reader.text(N_("All values are in the table below.")),
        axis=axis(found, reader),
        of=lambda time: reader.number(time / scale(found)),
        percent=lambda share: f"{reader.number(100 * share)} %",
    )
    ticks = [tick * scale(found) for tick in nice_ticks(found.curve.times[-1] / scale(found), 6)]
    drawn = {
        width: curve(
            "curve", band, (risk.time, risk.survival), curve_words, ticks=ticks, width=width, cohort=cohort,
            steps=found.curve.steps,
        )
        for width in (WIDE, PHONE)
    }  # fmt: skip
    return {
        "lead": lead,
        "curve_title": curve_words.title,
        "curve_wide": drawn[WIDE],
        "curve_phone": drawn[PHONE],
        "has_band": has_band,
        "column": reader.text(words.column),
        "table": _table(found, reader),
        "origin": _origin(found, reader),
        "icons": icons(n, lead),
        "icons_note": reader.text(words.filled, time=when, event=found.label),
    }


def _origin(found: Prognosis, reader: Reader) -> str:
    text = origin_text(found, reader)
    if found.event_free_until:
        text += " " + reader.text(
            N_(
                "The curve starts %(since)s after that start, since the patient is known to be free of the event "
                "until then."
            ),
            since=reader.time(found.event_free_until, found.time_unit),
        )
    return text + " " + reader.text(N_("The dashed line is a patient at the average of those who trained the model."))


def _table(found: Prognosis, reader: Reader) -> list[dict[str, str]]:
    """Return the curve at round times and at every horizon."""
    exact = {one.time: one for one in found.horizons}
    times = table_times(found)
    return [_row(exact.get(time) or _read_off(found, time), found.time_unit, reader) for time in times]


def _row(risk: HorizonRisk, unit: str, reader: Reader) -> dict[str, str]:
    return {
        "time": reader.time(risk.time, unit),
        "share": of_100(risk.survival, reader),
        "interval": interval(risk.low, risk.high, reader),
    }


def _read_off(found: Prognosis, time: float) -> HorizonRisk:
    """Return the curve at a time between its points."""
    curve = found.curve
    share, low, high = (
        read_off(curve.times, values, time, steps=curve.steps) for values in (curve.survival, curve.low, curve.high)
    )
    return HorizonRisk(time, share or 0.0, low, high)


def _moved(found: Prognosis, at: int, reader: Reader) -> dict[str, Any]:
    rows = sorted(found.moved, key=lambda one: -abs(one.by_horizon[at]))
    shown, rest = rows[:_MOST_MOVED], rows[_MOST_MOVED:]
    largest = max((abs(one.by_horizon[at]) for one in rows), default=0.0)
    together = sum(one.by_horizon[at] for one in rows)
    return {
        "moved": [_moved_row(one, one.by_horizon[at], largest, reader) for one in shown],
        "moved_rest": reader.plural(
            "%(n)s more factor moved it by %(points)s points.",
            "%(n)s more factors moved it by %(points)s points together.",
            len(rest),
            points=reader.signed(sum(one.by_horizon[at] for one in rest), 1),
        )
        if rest
        else "",
        "moved_note": reader.text(
            N_(
                "Percentage points of risk by %(time)s against a patient at the average of those who trained the "
                "model; together %(sum)s. These are associations in past data, not effects of treatment."
            ),
            time=reader.time(found.horizons[at].time, found.time_unit),
            sum=reader.signed(together, 1),
        ),
    }


def _moved_row(one: Moved, points: float, largest: float, reader: Reader) -> dict[str, Any]:
    value = reader.text(N_("missing: average used")) if one.is_missing else _value(one, reader)
    name = plain_name(one.name, one.unit)
    return {
        "label": name,
        "note": one.label if one.label.lower() not in {one.name.lower(), name.lower()} else "",
        "value": value,
        "points": reader.signed(points, 1),
        "bar": bar(points, largest),
        "is_missing": one.is_missing,
    }


def _value(one: Moved, reader: Reader) -> str:
    if isinstance(one.value, bool):
        return reader.text(N_("yes")) if one.value else reader.text(N_("no"))
    if one.value is None:
        return reader.text(N_("whole layer"))
    if isinstance(one.value, str):
        return one.value
    if reader.is_time(one.unit):
        return reader.time(one.value, one.unit)
    return f"{reader.number(one.value)} {one.unit}".strip()


def _rank(rank: float | None, reader: Reader) -> str:
    if rank is None:
        return ""
    tenths = round(100 * rank)
    return reader.text(
        N_("The risk is at least as high as that of %(n)s of 100 people who trained the model."), n=tenths
    )


def _known(found: Prognosis, reader: Reader) -> str:
    whole = sum(one.known == one.of for one in found.layers)
    some = sum(0 < one.known < one.of for one in found.layers)
    if len(found.layers) == 1:
        return reader.text(
            N_("%(known)s of %(of)s inputs known."), known=found.layers[0].known, of=found.layers[0].of
        ) + ("" if whole else " " + reader.text(N_("The rest use the average, which widens the true uncertainty.")))
    return reader.text(
        N_("%(known)s of %(of)s layers known, %(some)s of them in part."),
        known=whole + some,
        of=len(found.layers),
        some=some,
    )


def _layer(name: str, known: int, of: int, reader: Reader) -> str:
    if known == 0:
        return reader.text(N_("%(layer)s: missing, the average is used"), layer=name)
    return reader.text(
        N_("%(layer)s: %(known)s of %(of)s known"), layer=name, known=reader.number(known), of=reader.number(of)
    )


def _arm(arm: Arm, arms: Sequence[Arm], at: int, reader: Reader) -> dict[str, str]:
    risk = arm.horizons[at]
    shown = {"share": of_100(risk.survival, reader), "interval": interval(risk.low, risk.high, reader)}
    return {"name": arm_name(arm, arms, reader), **shown}


def _difference(arms: Sequence[Arm], at: int, reader: Reader) -> str:
    treated = next((one for one in arms if one.treated and one.difference), None)
    if treated is None:
        return ""
    risk = treated.difference[at]
    text = reader.text(
        N_("Difference: %(points)s of 100 (%(interval)s)."),
        points=reader.signed(100 * risk.survival, 1),
        interval=interval(risk.low, risk.high, reader),
    )
    return text + " " + reader.text(N_("A difference between groups of patients, which need not be an effect."))


def _chosen(horizons: Sequence[HorizonRisk], wanted: float | None) -> int:
    if wanted is None:
        return len(horizons) - 1
    return min(range(len(horizons)), key=lambda i: abs(horizons[i].time - wanted))


def _navigation(found: Prognosis, at: int, seen: Seen, reader: Reader) -> dict[str, Any]:
    since = found.event_free_until or 0.0

    def href(risk: HorizonRisk) -> str:
        return f"{seen.address}?{urlencode({'horizon': f'{risk.time:g}'})}"

    unit = reader.unit(found.time_unit)
    return {
        "choices": [
            {"href": href(one), "text": reader.time(one.time, found.time_unit), "is_current": i == at}
            for i, one in enumerate(found.horizons)
        ],
        "horizon_value": f"{found.horizons[at].time:g}",
        "since_value": f"{since:g}" if since else "",
        "can_condition": True,
        "condition_label": reader.text(N_("Known to be free of the event until (%(unit)s)"), unit=unit),
        "condition_max": f"{found.curve.times[-1] + since:g}",
    }
