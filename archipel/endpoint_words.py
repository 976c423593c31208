"""The words that depend on the endpoint: what a ratio is of, what the index of discrimination is called.

Numbers are worded in `archipel.wording`; here only what differs between a time to an event and other endpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.result import Result
from schemas.result_endpoints import TreatmentResponse


@dataclass(frozen=True)
class Words:
    """What a reader sees for one kind of endpoint.

    Attributes:
        ratio: exp(coefficient), in the singular.
        index: Of discrimination.
        index_meaning: What it is.
        squared: The squared error of predictions, as a heading.
        lower, higher: What a ratio below and above 1 means, short.
        above: What a ratio above 1 means, as a clause.
        had: What the counted patients had.
        counted: They, as a heading.
        pairs: Of which patients the index counts.
    """

    ratio: str
    index: str
    index_meaning: str
    squared: str
    lower: str
    higher: str
    above: str
    had: str
    counted: str
    pairs: str

    @property
    def ratios(self) -> str:
        """The ratio in the plural."""
        return f"{self.ratio}s"


SURVIVAL = Words(
    ratio="hazard ratio",
    index="C-index",
    index_meaning="share of comparable pairs in the right order; 0.5 is chance",
    squared="Integrated Brier score",
    lower="lower hazard",
    higher="higher",
    above="the event comes sooner",
    had="had the event",
    counted="Events",
    pairs="comparable pairs of unseen patients",
)
OUTCOME = Words(
    ratio="odds ratio",
    index="AUC",
    index_meaning="area under the ROC curve: share of pairs, one patient with the outcome and one without, in the "
    "right order; 0.5 is chance",
    squared="Brier score",
    lower="lower odds",
    higher="higher",
    above="the outcome is more likely",
    had="had the outcome",
    counted="With the outcome",
    pairs="pairs of unseen patients, one with the outcome and one without,",
)


def words_of(result: Result) -> Words:
    """Return the words for the endpoint of a result."""
    return SURVIVAL if result.outcome is None else OUTCOME


def outcome_sentence(result: Result) -> str:
    """Return what the odds are of, for an outcome without a time; empty for a time to an event."""
    outcome = result.outcome
    if outcome is None:
        return ""
    if outcome.type == "binary":
        return f"Odds of {outcome.codes[1]} against {outcome.codes[0]}."
    return (
        f"Odds of each value against {outcome.codes[0]}; the AUC is the mean over the values, each against the rest."
    )


def treatment_sentence(result: Result) -> str:
    """Return the difference between the arms at the last horizon; empty where the run has none."""
    response = result.treatment_response
    if response is None or not response.horizons:
        return ""
    at = response.horizons[-1]
    unit = result.study.time_unit
    days = unit if at.time == 1 or unit.endswith("s") else f"{unit}s"
    interval = ""
    if at.lower is not None and at.upper is not None:
        interval = f", 95 % interval {points(at.lower)} to {points(at.upper)}"
    return (
        f"By the model, {100 * at.treated:.0f} of 100 of these patients stay without the event until {at.time:g} "
        f"{days} as if all had {response.treated.arm}, and {100 * at.control:.0f} as if all had "
        f"{response.control.arm} (difference {points(at.difference)} percentage points{interval})."
    )


def treatment_caution(response: TreatmentResponse) -> str:
    """Return what must be known before the difference is read as an effect."""
    text = (
        "Both curves are of the same patients, each predicted twice with their own other covariates. Where the "
        "treatment was drawn by lot, the difference is what it does; elsewhere only as far as the covariates account "
        "for who was treated. The intervals are of the model's estimates, for these patients."
    )
    if response.penalised:
        text += " A penalty draws the two curves together, and the intervals do not account for that."
    return text


def points(share: float) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    value = f"{100 * share:+.0f}"
    return "0" if value in ("+0", "-0") else value.replace("-", "\N{MINUS SIGN}")
