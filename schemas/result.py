"""The result: what a run found, what it cost and what left the sites. Written as ``result.json``.

Rules: a number that does not exist is null and `reasons` says why, NaN is never written; counts of people are rounded
and hidden below 10 (`schemas.shown`); everything that a report shows stands here, so that a report can be written
again from the file alone. docs/result.md is made from the descriptions below.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from schemas.dictionary import ColumnType
from schemas.errors import IncompatibleVersionError, MessageError
from schemas.result_endpoints import CompetingEvents, OutcomeFacts, TreatmentResponse
from schemas.result_intervals import Interval, IntervalOf, OverSites
from schemas.result_part import Count, Part, Probability, Seconds, Text
from schemas.shown import SHOWN_FROM
from schemas.study import Method

ScoredModel = Literal["federated", "site_only", "pooled", "federated_clinical", "new_site", "new_site_clinical"]


class StudyFacts(Part):
    """The study that was run, as far as a reader of the result needs it."""

    name: Text
    """Of the study file."""
    title: Text = ""
    """For people."""
    question: Text = ""
    """What the study asks, in one or two sentences."""
    endpoint: Text = ""
    """What the event is, for people; empty where the study gives no label."""
    time_unit: Text
    """Unit of every time in this file, from the dictionary: `day`."""
    horizons: tuple[float, ...] = ()
    """Times at which predictions were judged, in `time_unit`."""
    purpose: Text = ""
    """For which the sites approved the use of their data."""
    ethics_reference: Text = ""
    """Of the approval by an ethics committee."""
    contact: Text = ""
    """Whom to ask."""


class DictionaryFacts(Part):
    """The dictionary against which every site's tables were checked."""

    name: Text
    """Of the dictionary."""
    version: Annotated[int, Field(ge=1)]
    """Of its format."""
    hash: Text
    """SHA-256 of its content, 64 hexadecimal digits."""


class DifferentialFacts(Part):
    """What the run promises to every patient (docs/differential-privacy.md)."""

    epsilon: Annotated[float, Field(gt=0)]
    """Of everything that the run released together; whoever sees it can change a guess about a patient by so much."""
    delta: Annotated[float, Field(gt=0, lt=1)]
    """Probability with which the promise may fail; the noise being drawn on a grid is counted in."""
    adjacency: Literal["one patient more or less"] = "one patient more or less"
    """Which two cohorts nobody can tell apart."""
    clip: Annotated[float, Field(gt=0)]
    """Largest norm of one patient's part of a gradient."""
    honest_sites: Annotated[int, Field(ge=1)]
    """Sites whose noise the promise counts on: with so many that do not help the hub it holds."""


class SiteFacts(Part):
    """One site of the run."""

    name: Text
    """Of the site."""
    patients: Text
    """Eligible patients, rounded to the nearest 5, `<10` below 10; in a federation `known at the site alone`."""
    status: Literal["took part", "left out", "dropped"]
    """`left out`: never in a sum. `dropped`: in the sums until it left the run."""
    reason: Text = ""
    """Why it was left out or dropped; empty for a site that took part to the end."""


class CovariateFacts(Part):
    """One column of the model's matrix."""

    name: Text
    """As in `coefficients`: the dictionary's column, or `column[code]` for the indicator of a category."""
    column: Text
    """Of the dictionary."""
    code: Text | None = None
    """The category whose indicator this is."""
    reference: Text | None = None
    """The category with which `code` is compared."""
    layer: Text = "clinical"
    """Whose penalty applies."""
    type: ColumnType
    """How the dictionary reads the column; a boolean compares yes with no."""
    unit: Text | None = None
    """Of one step of the coefficient."""
    description: Text = ""
    """For people, from the dictionary."""
    mean: float
    """Over all sites, on the original scale."""
    standard_deviation: Annotated[float, Field(ge=0)]
    """Over all sites, on the original scale; 0 for a column that does not vary."""
    interaction_with: Text | None = None
    """Of an interaction: the treatment whose effect changes with it; mean and deviation are then in the treated."""
    outcome: Text | None = None
    """Of an outcome with several values: the one whose odds these are."""


class SurvivalAt(Part):
    """The survival at one horizon."""

    time: float
    """In the study's time unit."""
    survival: Probability
    """Probability of no event until `time`."""


class Baseline(Part):
    """The hazard of a patient whose covariates are all at the mean over the sites."""

    edges: tuple[float, ...]
    """K + 1 ends of the K intervals of the common time grid, the first is 0; exact event times in a simulation."""
    cumulative_hazard: tuple[Annotated[float, Field(ge=0)], ...]
    """K values, each at the end of its interval."""
    survival: tuple[SurvivalAt, ...] = ()
    """At the horizons, at mean covariates."""

    @model_validator(mode="after")
    def _matching(self) -> Baseline:
        if len(self.edges) != len(self.cumulative_hazard) + 1:
            raise ValueError("`edges` needs one element more than `cumulative_hazard`")
        return self


class CIndex(Part):
    """Concordance: the share of comparable pairs whose order the model predicts."""

    mean: Probability | None
    """Over the folds; null where no fold had comparable pairs. Of an outcome without a time it is the area under the
    ROC curve, which is the same share."""
    sd: Annotated[float, Field(ge=0)] | None
    """Standard deviation over the folds (n - 1); null with one fold."""
    per_fold: tuple[Probability | None, ...]
    """Repeat by repeat; null for a fold without comparable pairs."""


class Scores(Part):
    """How one model did on patients that it had not seen."""

    c_index: CIndex
    """Over the pairs that `evaluation_kind` names."""
    c_index_within: CIndex | None = None
    """Over pairs inside the sites alone (sum of concordant over sum of comparable pairs); null where not computed."""
    c_index_uno: CIndex | None = None
    """Uno's C: weighted so that it does not depend on how long patients were followed; first events up to the 80 %
    quantile of the training events count. Null where not computed."""
    comparable_pairs: Count | None = None
    """Pairs behind `c_index`, over all folds; null where not counted. A few dozen say nothing."""
    ibs: Annotated[float, Field(ge=0)] | None
    """Integrated Brier score with censoring weights; smaller is better, 0.25 is a coin."""
    calibration_slope: float | None
    """Cox fit on the predicted log hazard; of an outcome without a time, logistic fit on the predicted log odds. 1 is
    right, below 1 predictions are too extreme."""
    brier: Annotated[float, Field(ge=0)] | None = None
    """Of an outcome without a time: half the mean squared distance of its probabilities from what happened."""
    log_likelihood: float | None = None
    """Of an outcome without a time: mean over the unseen patients; nearer to 0 is better."""
    intervals: dict[IntervalOf, Interval] = Field(default_factory=dict)
    """95 % intervals of the scores that have one, for the models as they were trained; see `interval_method`."""
    interval_method: Text = ""
    """How the intervals were made: in a simulation by drawing patients again within the folds (bootstrap), in a
    federation from variances that are sums over patients. Empty without intervals."""
    over_sites: tuple[OverSites, ...] = ()
    """How the model does at the single sites; only in a federation under the secure sum."""
    reasons: dict[str, Text] = Field(default_factory=dict)
    """For each of `c_index`, `ibs` and `calibration_slope` that is null: why."""

    @model_validator(mode="after")
    def _explained(self) -> Scores:
        values = {"c_index": self.c_index.mean, "ibs": self.ibs, "calibration_slope": self.calibration_slope}
        _require_reasons(values, self.reasons)
        return self


class Difference(Part):
    """How much higher one model's C is than another's, on the same folds."""

    first: ScoredModel
    """The model whose C is the larger where `c_index` is above 0."""
    second: ScoredModel
    """The model that it is compared with."""
    c_index: Annotated[float, Field(ge=-1, le=1)]
    """Mean of the differences over the folds (over the sites for `new_site`)."""
    lower: float | None
    """Of the 95 % interval, which counts that folds share training patients; null with one fold."""
    upper: float | None
    """Of the 95 % interval; null with one fold."""
    folds: Count
    """In which both models could be judged."""


class SurvivalCurve(Part):
    """The Kaplan-Meier estimate of one risk group."""

    group: Text
    """Name of the group: `low risk`."""
    times: tuple[float, ...]
    """Where the curve steps, ascending, the first is 0."""
    survival: tuple[Probability, ...]
    """From each time until the next."""
    lower: tuple[Probability | None, ...]
    """Of the 95 % interval (log-log); null where the interval does not exist."""
    upper: tuple[Probability | None, ...]
    """Of the 95 % interval (log-log); null where the interval does not exist."""
    n_at_risk: tuple[Count | None, ...]
    """Patients still under observation at each time, rounded to the nearest 5; null where fewer than 10."""
    censored: tuple[float, ...] = ()
    """Times at which patients left observation without the event; only in a simulation."""

    @model_validator(mode="after")
    def _matching(self) -> SurvivalCurve:
        if len({len(self.times), len(self.survival), len(self.lower), len(self.upper), len(self.n_at_risk)}) != 1:
            raise ValueError(f"the lists of the curve {self.group} differ in length")
        if any(n is not None and n < SHOWN_FROM for n in self.n_at_risk):
            raise ValueError(f"the curve {self.group} shows a number at risk under {SHOWN_FROM}")
        return self


class KaplanMeier(Part):
    """Observed survival by predicted risk."""

    basis: Literal["in-sample", "held-out"]
    """Whether the patients were among those on whom the model was trained."""
    grouping: Text
    """How the groups were made: `thirds of the predicted log hazard`."""
    curves: Annotated[tuple[SurvivalCurve, ...], Field(min_length=1, max_length=6)]
    """From the lowest risk to the highest."""


class CalibrationPoint(Part):
    """Predicted and observed survival of one group at one horizon."""

    horizon: float
    """In the study's time unit."""
    group: Annotated[int, Field(ge=1)]
    """From 1, the lowest predicted risk."""
    patients: Text
    """In the group, rounded to the nearest 5; `<10` where there are fewer than 10."""
    predicted: Probability
    """Mean predicted survival."""
    observed: Probability | None
    """Kaplan-Meier survival; null where the group has too few patients."""
    lower: Probability | None
    """Of the 95 % interval of `observed`."""
    upper: Probability | None
    """Of the 95 % interval of `observed`."""


class Calibration(Part):
    """Predicted against observed survival at the horizons."""

    basis: Literal["in-sample", "held-out"]
    """Whether the patients were among those on whom the model was trained."""
    points: tuple[CalibrationPoint, ...]
    """One for each horizon and group."""


class RoundFacts(Part):
    """One round: one question to every site and the sum of the answers."""

    step: Text
    """Of the plan."""
    part: Text
    """Of the step."""
    number: Count
    """Of the question within its part."""
    seconds: Seconds
    """From sending to the sum."""
    bytes_up: Count
    """From all sites to the hub."""
    bytes_down: Count
    """From the hub to all sites."""
    sites: Count
    """That answered with a summand."""


class ReleasedArray(Part):
    """One array that left a site."""

    name: Text
    """As in the plan."""
    shape: tuple[Count, ...]
    """As in the plan; `[]` is one number."""
    meaning: Text = ""
    """In words, as in the plan."""


class Release(Part):
    """What left each site for one part of a step."""

    step: Text
    """Of the plan."""
    part: Text
    """Of the step."""
    purpose: Text = ""
    """In one sentence, as in the plan."""
    arrays: Annotated[tuple[ReleasedArray, ...], Field(min_length=1)]
    """In every answer."""
    times: Count
    """How often the question was asked."""
    times_allowed: Annotated[int, Field(ge=1)]
    """How often the plan allowed it."""
    bytes_per_site: Count
    """That left one site for this part, on average over the sites."""
    sites_silent: tuple[Text, ...] = ()
    """Sites that took part in the run and sent nothing here (too few patients for this step)."""


class Result(Part):
    """Everything that a run found. Times are in `study.time_unit`; coefficients are log hazard ratios."""

    kind: Literal["result"] = "result"
    """Always `result`."""
    version: Literal[1] = 1
    """Of this format."""
    mode: Literal["simulate", "federation"]
    """`simulate`: one process with all tables. `federation`: a hub and sites as processes of their own."""
    run_id: Text
    """Of the run."""
    code_version: Text
    """Of Archipel, on hub and sites alike."""
    created_at: datetime.datetime
    """When the run ended, with its time zone."""
    study: StudyFacts
    """The study, for people."""
    dictionary: DictionaryFacts
    """The dictionary that the plan binds."""
    plan_hash: Text
    """SHA-256 of the plan that every site approved; in a simulation, of the one that sites would be asked to."""
    seed: int | None
    """Of the random numbers of the run; null where it drew none."""
    method: Method
    """As in the study file."""
    ties: Literal["breslow", "efron"] | None
    """How tied event times were treated; null for `hazard`, which has no ties."""
    penalty: Annotated[float, Field(ge=0)] | dict[str, Annotated[float, Field(ge=0)]]
    """The lambda of -1/2 lambda beta^2, one number or one per layer."""
    standardise: bool
    """Whether the penalty applied to covariates divided by their standard deviation."""
    exact_times: bool
    """Whether the sums ran over exact event times (a simulation alone) or over intervals of the common grid."""
    grid_intervals: Count | None
    """Intervals of the common time grid; null with exact times."""
    min_events_per_interval: Count
    """Events of the federation in each interval, at least."""
    on_dropout: Literal["pause", "continue"]
    """What the study asks for when a site does not answer in time."""
    sums_masked: bool = False
    """Whether the secure sum hid each site's summand from the hub; in a simulation, whether it would have."""
    differential: DifferentialFacts | None = None
    """What is promised to every patient under differential privacy; null without it."""
    n: Count | None
    """Eligible patients of all sites together, rounded to the nearest 5; with noise under differential privacy. Null
    below 10, and where it would tell the one site or risk group that is hidden."""
    events: Count | None
    """Observed events among them, rounded to the nearest 5; with noise under differential privacy. Null below 10."""
    sites: tuple[SiteFacts, ...]
    """In the order of the run's list of sites."""
    covariates: tuple[CovariateFacts, ...]
    """In the order of `coefficients`."""
    coefficients: dict[str, float]
    """Log hazard ratios (log odds ratios of an outcome without a time) for one unit, on the original scale."""
    standard_errors: dict[str, float | None]
    """Of the coefficients; null, with a reason, where a column does not vary and under differential privacy."""
    layer_importance: dict[str, float] = Field(default_factory=dict)
    """Share of each layer in the variance of the log hazard over the patients who trained the model; what layers have
    in common is halved between them, so a share may be below 0. Empty for one layer, and where the run tells none."""
    log_likelihood: float | None
    """At the estimate, without the penalty; null, with a reason, under differential privacy."""
    baseline: Baseline | None
    """Null, with a reason, for a model with one baseline per site."""
    kaplan_meier: KaplanMeier | None
    """Null, with a reason, where no curve could be drawn."""
    calibration: Calibration | None
    """Null, with a reason, where there are no horizons or no predictions."""
    outcome: OutcomeFacts | None = None
    """Null for a time to an event."""
    treatment_response: TreatmentResponse | None = None
    """Null where the study names no treatment, or the run came to no curves."""
    competing: CompetingEvents | None = None
    """Null without competing events."""
    evaluation_kind: Text
    """How the model was judged, in a sentence; for an empty `evaluation`, why there is none."""
    evaluation: dict[ScoredModel, Scores]
    """`federated`: the model of all sites. `site_only`: each site's own. `pooled`: one table, in `simulate` alone.
    `federated_clinical`: of all sites, clinical columns alone. `new_site`, `new_site_clinical`: the same at a site
    that took no part in training, in `simulate` alone; their `per_fold` are sites, their means are by patients."""
    differences: tuple[Difference, ...] = ()
    """Paired comparisons of the models of `evaluation`, in `simulate` alone."""
    rounds: Count
    """Rounds of the run, set-up not counted."""
    bytes_up: Count
    """From all sites to the hub, set-up included."""
    bytes_down: Count
    """From the hub to all sites, set-up included."""
    wall_s: Seconds
    """Seconds from the first message to the estimate."""
    round_log: tuple[RoundFacts, ...]
    """Every round in order."""
    releases: tuple[Release, ...]
    """Everything that left each site."""
    software: dict[str, Text] = Field(default_factory=dict)
    """Versions of Python and of the packages that computed the result."""
    warnings: tuple[Text, ...] = ()
    """What a reader must know before using the result, one sentence each."""
    reasons: dict[str, Text] = Field(default_factory=dict)
    """For `log_likelihood`, `baseline`, `kaplan_meier`, `calibration` and each `standard_errors.NAME` that is null:
    why."""

    @model_validator(mode="after")
    def _consistent(self) -> Result:
        names = [covariate.name for covariate in self.covariates]
        if names != list(self.coefficients) or names != list(self.standard_errors):
            raise ValueError("`covariates`, `coefficients` and `standard_errors` name different columns")
        if self.mode != "simulate" and "pooled" in self.evaluation:
            raise ValueError("a federation has no pooled table, so no pooled evaluation")
        if self.mode != "simulate" and self.exact_times:
            raise ValueError("exact event times exist in `simulate` alone")
        if self.created_at.tzinfo is None:
            raise ValueError("`created_at` needs its time zone")
        values: dict[str, object] = {f"standard_errors.{name}": se for name, se in self.standard_errors.items()}
        shown = ("log_likelihood", "baseline", "kaplan_meier", "calibration")
        values |= {name: getattr(self, name) for name in shown}
        _require_reasons(values, self.reasons)
        return self

    def to_json(self) -> str:
        """Return the content of ``result.json``."""
        return self.model_dump_json(indent=1) + "\n"


def parse_result(text: str | bytes) -> Result:
    """Read the content of a ``result.json``.

    Raises:
        IncompatibleVersionError: For a result of a version that this build does not read.
        MessageError: For anything else than a result, naming the keys that are wrong.
    """
    try:
        return Result.model_validate_json(text)
    except ValidationError as error:
        wrong = {".".join(str(part) for part in entry["loc"]): entry for entry in error.errors()}
        version = wrong.get("version")
        if version is not None and "kind" not in wrong and isinstance(version["input"], int):
            raise IncompatibleVersionError(
                f"a result of version {version['input']}; this build reads version 1: "
                "read it with the Archipel that wrote it"
            ) from None
        listed = "; ".join(f"{key or 'the file'}: {entry['msg']}" for key, entry in list(wrong.items())[:8])
        raise MessageError(f"not a result of version 1 ({listed})") from None


def _require_reasons(values: Mapping[str, object], reasons: Mapping[str, str]) -> None:
    silent = sorted(name for name, value in values.items() if value is None and not reasons.get(name))
    if silent:
        raise ValueError(f"null without a reason: {', '.join(silent)}")
