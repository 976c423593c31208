"""What the patient page is told: one prognosis, or the reasons why there is none.

Values alone. A `Notice` is a stable code with the values that its text needs; texts are the page's, by language.
Every time is in the model's unit and counted from the start of the prediction: the time origin, or the time until
which the patient is known to be free of the event.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.recalibration import Recalibration

__all__ = [
    "CALIBRATION_REASONS", "CODES", "Arm", "Asked", "Curve", "FormField", "HorizonRisk", "IncidenceCurve", "Kind",
    "KindRisk", "LayerShare", "Moved", "Notice", "Prognosis", "Refused", "Row", "SiteCalibration",
]  # fmt: skip

Floats = NDArray[np.float64]

CODES: Mapping[str, tuple[str, ...]] = {
    # Reasons for no number, with what their texts are given.
    "not-here": (),
    "not-accepted": (),
    "withdrawn": ("reason", "date"),
    "expired": ("date",),
    "signature": (),
    "dictionary-version": ("dictionary",),
    "no-horizon": (),
    "floor-unknown": (),
    "below-event-floor": ("horizon", "unit", "floor"),
    "floor-unsure": ("horizon", "unit", "floor"),
    "beyond-horizons": ("horizon", "last", "unit"),
    "beyond-follow-up": ("time", "last", "unit"),
    "required-missing": ("column",),
    "beyond-range": ("column", "low", "high", "unit"),
    "unknown-code": ("column",),
    "not-a-number": ("column",),
    "unreadable": ("column",),
    "nothing-known": (),
    "ineligible": ("column",),
    "in-sample": (),
    # Warnings beside a number.
    "beyond-quantiles": ("column", "low", "high", "unit"),
    "rank-beyond-quantiles": ("share",),
    "layer-missing": ("layer",),
    "column-missing": ("column",),
    "in-sample-unknown": (),
    "calibration-poor": ("slope", "observed_over_expected", "horizon", "unit"),
    "calibration-unknown": (),
    "recalibrated": ("slope", "observed_over_expected"),
    "not-recalibrated": (),
    "not-recalibrated-competing": (),
    "few-competing": ("event", "horizon", "unit", "floor"),
    "interval-none": (),
    "interval-shrunken": (),
}
"""Every code of a `Notice`, with the names of its `values`."""

CALIBRATION_REASONS = ("not-computed", "no-plan", "tables", "too-few-patients", "too-few-events", "failed")
"""Why this site's calibration of a model is not known."""


@dataclass(frozen=True)
class Notice:
    """Why there is no number, or what to beware of.

    Attributes:
        code: One of `CODES`.
        values: What the text of the code names; never an identifier of a patient.
    """

    code: str
    values: Mapping[str, str | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hold code and values to `CODES`: a text that lacks a value would fail in front of a clinician."""
        if set(CODES.get(self.code, ("?",))) != set(self.values):
            raise ValueError(f"the notice {self.code} does not say what its text needs")


@dataclass(frozen=True)
class Row:
    """One patient as the page knows them.

    Attributes:
        source: Whether the site's table of current patients holds them or a person typed them in.
        dictionary_hash: Of the dictionary by which the cells were read.
        cells: By column of the dictionary: the number, 0 or 1, or the place of the category among its codes; NaN
            where not known.
        blocks: (m,) by wide layer, NaN where not known.
        neighbours: (n, m) by wide layer that each site corrects by itself (`models.adjustment`): the site's other
            patients, from whom it learns.
        problems: Cells that are not what the dictionary says; they count as a reason for no number.
        in_sample: Whether the patient trained the model; None where this site cannot tell.
        patient_id: The site's identifier; empty for a typed patient.
    """

    source: Literal["table", "form"]
    dictionary_hash: str
    cells: Mapping[str, float]
    blocks: Mapping[str, Floats] = field(default_factory=dict)
    neighbours: Mapping[str, Floats] = field(default_factory=dict)
    problems: tuple[Notice, ...] = ()
    in_sample: bool | None = None
    patient_id: str = field(default="", repr=False)


@dataclass(frozen=True)
class FormField:
    """One field of the form for typing a patient in.

    Attributes:
        name: The dictionary's column.
        label: For people; its description, or its name.
        type: ``number``, ``integer``, ``boolean`` or ``category``.
        low, high: Outside these there is no prognosis; in `unit`.
        codes: Of a category, the reference first.
        required: Without it there is no prognosis.
    """

    name: str
    label: str
    layer: str
    type: str
    unit: str
    low: float | None
    high: float | None
    codes: tuple[str, ...]
    required: bool


@dataclass(frozen=True)
class SiteCalibration:
    """How well a model does on this site's own patients with known outcome who did not train it.

    Attributes:
        horizon: At which level and discrimination are judged.
        slope: Of the log hazard as the only covariate of a Cox model; 1 is right, below 1 the model is too extreme.
            None where it cannot be told, then `reason` says why.
        slope_low, slope_high: Its 95 % interval.
        intercept: Added to the log cumulative hazard where the slope is applied, so that as many events are expected
            as were observed.
        observed_over_expected: Events observed over events expected until the horizon.
        observed_low, observed_high: Its 95 % interval (exact Poisson).
        c: Harrell's concordance, with its 95 % interval.
        patients: As people may see the count.
        events: Likewise.
        reason: One of `CALIBRATION_REASONS` where there are no figures; else empty.
        recalibration: How sure slope and intercept are; None where the model does not tell how sure it is itself.
    """

    horizon: float
    slope: float | None = None
    slope_low: float | None = None
    slope_high: float | None = None
    intercept: float | None = None
    observed_over_expected: float | None = None
    observed_low: float | None = None
    observed_high: float | None = None
    c: float | None = None
    c_low: float | None = None
    c_high: float | None = None
    patients: str = ""
    events: str = ""
    reason: str = ""
    recalibration: Recalibration | None = field(default=None, compare=False, repr=False)

    @property
    def is_known(self) -> bool:
        """Whether there are figures."""
        return self.slope is not None and self.intercept is not None


@dataclass(frozen=True)
class Asked:
    """What is asked about a patient.

    Attributes:
        today: For the model's last day of use.
        event_free_until: Time since the origin at which the patient is known to be free of the event; None asks from
            the origin.
        horizons: From the start of the prediction; empty takes the model's.
        calibration: This site's, if it was computed.
        recalibrate: Whether the site's administrator chose to apply it.
    """

    today: datetime.date
    event_free_until: float | None = None
    horizons: tuple[float, ...] = ()
    calibration: SiteCalibration | None = None
    recalibrate: bool = False


@dataclass(frozen=True)
class HorizonRisk:
    """Survival without the event at one horizon.

    Attributes:
        time: Since the start of the prediction.
        survival: Probability.
        low, high: Ends of its 95 % interval; None where the model does not tell how sure it is.
    """

    time: float
    survival: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curve:
    """A survival curve.

    Attributes:
        times: (m,) ascending, from 0.
        survival: (m,).
        low, high: (m,) ends of the 95 % interval; None where the model does not tell.
        steps: Whether the survival falls at `times` alone (exact times); else it is joined by straight lines.
    """

    times: tuple[float, ...]
    survival: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    steps: bool


@dataclass(frozen=True)
class KindRisk:
    """How likely one kind of event is the first to happen within a time, with the ends of its 95 % interval."""

    time: float
    incidence: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class IncidenceCurve:
    """A cumulative incidence; attributes as of `Curve`, of which it is the share that has had the event."""

    times: tuple[float, ...]
    incidence: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    steps: bool


@dataclass(frozen=True)
class Kind:
    """One of several kinds of event, each of which keeps the others from happening first.

    Attributes:
        code: As the study names it.
        name: For people: of the event of interest what the endpoint says, of others the code.
        at: At the horizons of the prognosis.
        curve: The patient's.
        average: (m,) at the times of `curve`, of a patient at the means of the training cohort.
    """

    code: str
    name: str
    at: tuple[KindRisk, ...]
    curve: IncidenceCurve
    average: tuple[float, ...]


@dataclass(frozen=True)
class Moved:
    """What one column adds to the patient's risk, against a patient at the means; an association, no effect.

    Attributes:
        name: The dictionary's column, or a wide layer.
        label: The same for people: its description, or its name.
        layer: In which it stands.
        value: The patient's number, category's code, or true or false; None where not known, and of a wide layer.
        unit: Of the value.
        points: Percentage points of risk at the last horizon that is shown.
        by_horizon: Percentage points at each horizon that is shown.
        is_missing: Not known of this patient, so the mean is used and it adds about nothing.
    """

    name: str
    label: str
    layer: str
    value: str | float | bool | None
    unit: str
    points: float
    by_horizon: tuple[float, ...]
    is_missing: bool


@dataclass(frozen=True)
class LayerShare:
    """How many of a layer's cells are known of a patient: `known` out of `of`; a category is one cell."""

    name: str
    known: int
    of: int


@dataclass(frozen=True)
class Arm:
    """The same patient under one treatment arm.

    Attributes:
        treated: Whether this is the arm of the treated.
        name: Of the arm: the category's code, or the treatment's column.
        is_observed: Whether it is the arm that the patient's row says.
        horizons: As of the prognosis.
        curve: Where events compete, at the horizons alone.
        difference: (per horizon) survival under this arm less that under control, with the ends of its 95 % interval
            where the model tells; empty for control, and where events compete.
        incidence: Where events compete: of the event of interest at the horizons.
        incidence_difference: Likewise: its incidence under this arm less that under control; empty for control.
    """

    treated: bool
    name: str
    is_observed: bool
    horizons: tuple[HorizonRisk, ...]
    curve: Curve
    difference: tuple[HorizonRisk, ...] = ()
    incidence: tuple[KindRisk, ...] = ()
    incidence_difference: tuple[KindRisk, ...] = ()


@dataclass(frozen=True)
class Refused:
    """No number, and why.

    Attributes:
        reasons: One or more.
        in_sample: Whether the patient trained the model.
    """

    reasons: tuple[Notice, ...]
    in_sample: bool = False


@dataclass(frozen=True)
class Prognosis:
    """What a model says of one patient.

    Attributes:
        model_hash: Of the model's file.
        study: Its name.
        label: Of the endpoint.
        title: Of the study.
        time_unit: Of every time.
        origin: From when to when the model counts time, in the dictionary's words for the column of the time; empty
            where they are not known.
        horizons: At least one. Where events compete, of being free of events of every kind.
        curve: The patient's; likewise.
        cohort_curve: Of a patient at the means of the training cohort.
        rank: Share of the training cohort with a lower risk, rounded down to a released quantile; None without any.
        moved: By falling size.
        layers: Of the model.
        warnings: What to beware of.
        arms: Control, then treated; empty where the study has no treatment.
        event_free_until: Where the prediction starts; None at the origin.
        in_sample: False: the patient did not train the model; None: this site cannot tell. One who did is `Refused`.
        calibration: This site's.
        recalibrated: Whether it was applied to the numbers.
        level: Of every interval.
        kinds: Where events compete: that of interest, then the others. Then `moved`, `rank` and the arms are about
            the event of interest: its incidence, and of `rank` its hazard.
    """

    model_hash: str
    study: str
    label: str
    title: str
    time_unit: str
    origin: str
    horizons: tuple[HorizonRisk, ...]
    curve: Curve
    cohort_curve: Curve
    rank: float | None
    moved: tuple[Moved, ...]
    layers: tuple[LayerShare, ...]
    warnings: tuple[Notice, ...]
    arms: tuple[Arm, ...]
    event_free_until: float | None
    in_sample: bool | None
    calibration: SiteCalibration | None
    recalibrated: bool
    level: float
    kinds: tuple[Kind, ...] = ()
