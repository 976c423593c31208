"""What the page says about a prognosis, in the reader's words: one text for each code of `client.page.shapes`.

Rule: every code has a text here, which a test holds, so no clinician reads an identifier. The notice's values fill
its text in; numbers among them are written as the reader writes numbers, and a horizon as a length of time.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from client.page.reader import N_, Reader
from client.page.shapes import Notice, SiteCalibration

__all__ = ["NOTICES", "Outcome", "calibration_text", "event_name", "notice_text", "outcome_of", "plain_name"]

_DEATHS = frozenset({"death", "death from any cause", "all-cause death", "décès"})
_UNITS = frozenset({"year", "month", "day", "kg", "cm", "mm", "g", "mg", "pct", "percent"})
_TIMES = frozenset({"horizon", "time"})

NOTICES: Mapping[str, str] = {
    "not-here": N_("This site does not hold the model."),
    "not-accepted": N_("Nobody at this site has accepted the model yet."),
    "withdrawn": N_("The hub withdrew the model on %(date)s: %(reason)s"),
    "expired": N_("The model expired on %(date)s."),
    "signature": N_("The model is not signed by the hub that this site joined, or its file was altered."),
    "dictionary-version": N_(
        "The model was made for another version of the data dictionary (%(dictionary)s) than the one by which this "
        "site's tables are read."
    ),
    "no-horizon": N_("The model names no horizon, so there is no time at which this page may show a number."),
    "floor-unknown": N_(
        "The model does not say how many of those who trained it had the event in this time, so no number is shown."
    ),
    "below-event-floor": N_(
        "Fewer than %(floor)s of those who trained the model had the event by %(horizon)s, so there is no estimate "
        "there."
    ),
    "floor-unsure": N_(
        "It is not sure that %(floor)s of those who trained the model had the event by %(horizon)s, since they were "
        "counted with noise for their privacy; so there is no estimate there."
    ),
    "beyond-horizons": N_("%(horizon)s lies beyond the last horizon of the model (%(last)s)."),
    "beyond-follow-up": N_("%(time)s lies beyond what was observed of those who trained the model (%(last)s)."),
    "required-missing": N_("“%(column)s” is not known, and the model needs it."),
    "beyond-range": N_("“%(column)s” lies outside what the model learned from (%(low)s to %(high)s %(unit)s)."),
    "unknown-code": N_("“%(column)s” holds a category that the dictionary does not know."),
    "not-a-number": N_("“%(column)s” is not a number."),
    "unreadable": N_("“%(column)s” holds a value that the data dictionary does not allow, or that cannot be read."),
    "nothing-known": N_("Nothing that the model reads is known of this patient."),
    "ineligible": N_("By “%(column)s” the patient is not one of those for whom the study was made."),
    "in-sample": N_(
        "This patient is one of those who trained the model. A figure would describe the past and not predict, and "
        "would look surer than it is."
    ),
    "beyond-quantiles": N_(
        "“%(column)s” lies beyond that of nearly all patients who trained the model (%(low)s to %(high)s %(unit)s): "
        "the estimate is less sure than its interval says."
    ),
    "rank-beyond-quantiles": N_(
        "The risk lies beyond that of nearly all who trained the model: the estimate is less sure than its interval "
        "says."
    ),
    "layer-missing": N_("Nothing of the layer “%(layer)s” is known; the average of the training patients is used."),
    "column-missing": N_("“%(column)s” is not known; the average of the training patients is used."),
    "in-sample-unknown": N_("This site cannot tell whether this patient trained the model."),
    "calibration-poor": N_(
        "At this site the model's risks have been off: calibration slope %(slope)s, and %(observed_over_expected)s "
        "events observed for each one expected by %(horizon)s."
    ),
    "calibration-unknown": N_(
        "Whether the model's risks are right at this site is not known: too few outcomes of other patients here."
    ),
    "recalibrated": N_(
        "The risks are corrected to this site's own patients (slope %(slope)s, %(observed_over_expected)s observed "
        "for each one expected), as its administrator chose."
    ),
    "interval-none": N_("The model does not tell how sure it is, so no interval is shown."),
    "interval-shrunken": N_("The model is penalised: its interval tends to be too narrow where the data say little."),
    "not-recalibrated-competing": N_(
        "This site's administrator chose to correct the risks to its own patients, and they are not corrected: where "
        "events compete, the correction of one kind alone would leave the others as they are."
    ),
    "few-competing": N_(
        "Fewer than %(floor)s of those who trained the model had “%(event)s” by %(horizon)s: its own share is hardly "
        "known."
    ),
    "not-recalibrated": N_(
        "This site's administrator chose to correct the risks to its own patients, and they are not corrected: how "
        "well the model does here is not known."
    ),
}


@dataclass(frozen=True)
class Outcome:
    """How the page speaks of an outcome.

    Attributes:
        lead, bare: `n` of a hundred and `rest` at `time`; with an interval `low` to `high`, and without.
        column: Heading of a table's share.
        curve: Heading of the curve.
        filled: What the filled people are.
    """

    lead: str
    bare: str
    column: str
    curve: str
    filled: str


_ALIVE = Outcome(
    N_(
        "Of 100 people like this patient, about %(n)s are expected to be alive %(time)s, and %(rest)s to have died. "
        "Uncertainty of the model: %(low)s to %(high)s alive."
    ),
    N_("Of 100 people like this patient, about %(n)s are expected to be alive %(time)s, and %(rest)s to have died."),
    N_("Alive, of 100"),
    N_("Survival"),
    N_("Filled: alive %(time)s. Outlined: died."),
)
_FREE = Outcome(
    N_(
        "Of 100 people like this patient, about %(n)s are expected to be free of “%(event)s” %(time)s, and %(rest)s "
        "to have had it. Uncertainty of the model: %(low)s to %(high)s free of it."
    ),
    N_(
        "Of 100 people like this patient, about %(n)s are expected to be free of “%(event)s” %(time)s, and %(rest)s "
        "to have had it."
    ),
    N_("Free of it, of 100"),
    N_("Free of “%(event)s”"),
    N_("Filled: free of “%(event)s” %(time)s. Outlined: had it."),
)

_CALIBRATION_REASONS: Mapping[str, str] = {
    "no-plan": N_("not known: this site never received the study's plan"),
    "tables": N_("not known: this site's tables cannot be read for it"),
    "not-computed": N_("not known: not computed yet"),
    "too-few-patients": N_("not known: too few patients here who did not train the model"),
    "too-few-events": N_("not known: too few events here among patients who did not train the model"),
    "failed": N_("not known: it could not be computed"),
}


def plain_name(column: str, unit: str = "") -> str:
    """Return a column's name for people: ``age`` for ``age_years``, ``residual tumour`` for ``residual_tumour``."""
    words = column.split("_")
    if len(words) > 1 and words[-1].lower().rstrip("s") in {*_UNITS, unit.lower().rstrip("s")}:
        words = words[:-1]
    return " ".join(words)


def event_name(name: str, reader: Reader) -> str:
    """Return a kind of event for people; a study may call it by a number alone."""
    return reader.text(N_("event %(code)s"), code=name) if name.isdigit() else name


def outcome_of(label: str) -> Outcome:
    """Return how to speak of an endpoint: of being alive where its event is death, else of being free of it."""
    return _ALIVE if label.strip().lower() in _DEATHS else _FREE


def notice_text(notice: Notice, reader: Reader) -> str:
    """Return the sentence of a notice."""
    unit = str(notice.values.get("unit", ""))
    shown = {key: _shown(key, value, unit, reader) for key, value in notice.values.items()}
    return reader.text(NOTICES[notice.code], **shown).replace(" )", ")")  # a number without a unit


def calibration_text(found: SiteCalibration | None, unit: str, reader: Reader) -> str:
    """Return this site's own figures of a model in one line, or why there are none."""
    if found is None:
        return reader.text(N_("not known"))
    if found.slope is None or found.observed_over_expected is None:
        return reader.text(_CALIBRATION_REASONS.get(found.reason, N_("not known")))
    parts = [
        reader.text(N_("slope %(value)s"), value=_with(found.slope, found.slope_low, found.slope_high, reader)),
        reader.text(
            N_("%(value)s observed for each one expected by %(time)s"),
            value=_with(found.observed_over_expected, found.observed_low, found.observed_high, reader),
            time=reader.time(found.horizon, unit),
        ),
    ]
    if found.c is not None:
        parts.append(reader.text(N_("C %(value)s"), value=_with(found.c, found.c_low, found.c_high, reader)))
    return reader.text(N_("; ")).join(parts) + reader.text(
        N_(" (%(patients)s patients, %(events)s events)"), patients=found.patients, events=found.events
    )


def _with(value: float, low: float | None, high: float | None, reader: Reader) -> str:
    interval = "" if low is None or high is None else f" ({reader.number(low, 2)} – {reader.number(high, 2)})"
    return reader.number(value, 2) + interval


def _shown(key: str, value: str | float, unit: str, reader: Reader) -> str:
    if isinstance(value, str):
        if key == "column":
            return plain_name(value, unit)
        if key == "event":
            return event_name(value, reader)
        if key == "unit":
            return reader.unit(value)
        if key != "date":
            return value or "…"
        try:
            return reader.date(datetime.date.fromisoformat(value[:10]))
        except ValueError:
            return value
    if key in _TIMES or (key == "last" and reader.is_time(unit)):
        return reader.time(value, unit)
    return reader.number(value)
