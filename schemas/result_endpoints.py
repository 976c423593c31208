"""The parts of a result that not every study has: an outcome without a time, a treatment, competing events."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.result_part import Count, Part, Probability, Text


class OutcomeFacts(Part):
    """An outcome without a time: binary, or one of several categories."""

    type: Literal["binary", "category"]
    """`binary`: there or not. `category`: one of several."""
    codes: Annotated[tuple[Text, ...], Field(min_length=2)]
    """Its values; the odds are against the first."""
    patients: tuple[Text, ...]
    """Patients of all sites with each value, rounded to the nearest 5, `<10` below 10."""
    log_odds_at_means: dict[str, float]
    """For each value but the first: its log odds against the first, for a patient at the means."""


class ArmCurve(Part):
    """Predicted survival under one arm, averaged over all patients."""

    arm: Text
    """Name of the arm: `rIFN-g`."""
    survival: tuple[Probability, ...]
    """At `times` of the response."""
    lower: tuple[Probability | None, ...]
    """Of the 95 % interval (log-log); null where the interval does not exist."""
    upper: tuple[Probability | None, ...]
    """Of the 95 % interval (log-log); null where the interval does not exist."""


class TreatmentAt(Part):
    """Both arms and their difference at one horizon."""

    time: float
    """In the study's time unit."""
    control: Probability
    """Mean predicted probability of no event until `time`, as if nobody were treated."""
    treated: Probability
    """The same as if all were."""
    difference: float
    """Treated minus control; above 0 the treatment keeps more patients without the event."""
    lower: float | None
    """Of the 95 % interval of the difference; null where the interval does not exist."""
    upper: float | None
    """Of the 95 % interval of the difference; null where the interval does not exist."""


class TreatmentResponse(Part):
    """What the model predicts for the same patients under either arm of a treatment."""

    column: Text
    """The treatment's column of the dictionary."""
    interactions: tuple[Text, ...] = ()
    """Covariates that change what the treatment does, in this model."""
    penalised: bool
    """Whether the coefficients were drawn towards zero; the intervals do not account for what that hides."""
    times: tuple[float, ...]
    """Ascending, the first is 0; on a common grid the ends of its intervals."""
    control: ArmCurve
    """As if nobody were treated."""
    treated: ArmCurve
    """As if all were."""
    difference: tuple[float, ...]
    """Treated minus control, at `times`."""
    lower: tuple[float | None, ...]
    """Of the 95 % interval of the difference."""
    upper: tuple[float | None, ...]
    """Of the 95 % interval of the difference."""
    horizons: tuple[TreatmentAt, ...] = ()
    """At the study's horizons."""

    @model_validator(mode="after")
    def _matching(self) -> TreatmentResponse:
        lists = [self.difference, self.lower, self.upper]
        lists += [part for arm in (self.control, self.treated) for part in (arm.survival, arm.lower, arm.upper)]
        if {len(one) for one in lists} != {len(self.times)}:
            raise ValueError("the lists of the treatment response differ in length")
        return self


class IncidenceCurve(Part):
    """The share of patients who have had one kind of event by each time."""

    cause: Text
    """The kind of event, as the study names it."""
    group: Text
    """`all patients`, or a risk group: `low risk`."""
    times: tuple[float, ...]
    """Where the curve steps, ascending, the first is 0."""
    incidence: tuple[Probability, ...]
    """From each time until the next (Aalen-Johansen)."""
    lower: tuple[Probability | None, ...]
    """Of the 95 % interval (log-log); null where the interval does not exist."""
    upper: tuple[Probability | None, ...]
    """Of the 95 % interval (log-log); null where the interval does not exist."""
    predicted: tuple[Probability, ...] = ()
    """The model's mean over all patients at `times`; empty for a risk group."""
    n_at_risk: tuple[Count | None, ...]
    """Patients under observation and without any event at each time; null where fewer than 10."""

    @model_validator(mode="after")
    def _matching(self) -> IncidenceCurve:
        lists = [self.incidence, self.lower, self.upper, self.n_at_risk]
        if {len(one) for one in lists} != {len(self.times)} or len(self.predicted) not in (0, len(self.times)):
            raise ValueError(f"the lists of the curve {self.cause}, {self.group} differ in length")
        return self


class IncidencePoint(Part):
    """Predicted and observed incidence of one kind of event in one risk group at one horizon."""

    cause: Text
    """The kind of event."""
    horizon: float
    """In the study's time unit."""
    group: Annotated[int, Field(ge=1)]
    """From 1, the lowest predicted risk of the event of interest."""
    patients: Text
    """In the group, rounded to the nearest 5; `<10` where there are fewer than 10."""
    predicted: Probability
    """Mean predicted incidence."""
    observed: Probability | None
    """Observed incidence (Aalen-Johansen); null where the group has too few patients."""
    lower: Probability | None
    """Of the 95 % interval of `observed`."""
    upper: Probability | None
    """Of the 95 % interval of `observed`."""


class CompetingEvents(Part):
    """How often each kind of event happens, where one keeps the others from happening."""

    causes: Annotated[tuple[Text, ...], Field(min_length=2)]
    """The kinds of event, that of interest first."""
    basis: Literal["in-sample"]
    """The patients were among those on whom the model was trained."""
    overall: tuple[IncidenceCurve, ...]
    """Of each kind of event, over all patients."""
    by_risk: tuple[IncidenceCurve, ...]
    """Of the event of interest, from the lowest predicted risk to the highest."""
    points: tuple[IncidencePoint, ...] = ()
    """At the study's horizons."""
    hazard_ratios: dict[str, dict[str, float]] = Field(default_factory=dict)
    """For each competing event: its log hazard ratio for one unit of each covariate."""
