"""The steps that other endpoints than the time to one event need, and that a treatment adds.

An outcome without a time needs no grid and no baseline; competing events need a fit and a baseline for every cause on
one grid; a treatment needs one round more. `models.compile` gives the steps their shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.cause import ANY
from schemas.design import treatment_column
from schemas.dictionary import Dictionary
from schemas.endpoint import outcome_codes
from schemas.study import Study

Inputs = Mapping[str, str]


@dataclass(frozen=True)
class StepDraft:
    """One step, before its shapes are known.

    Attributes:
        name: In the plan.
        method: Of `models.registry`.
        purpose: For the data-use card.
        settings: Of the method.
        inputs: As in the plan.
        is_split: Whether it looks at all patients, those held out kept apart, and not at the held-out ones alone.
    """

    name: str
    method: str
    purpose: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Inputs = field(default_factory=dict)
    is_split: bool = False


def outcome_settings(study: Study, dictionary: Dictionary) -> dict[str, list[str]]:
    """Return the setting `outcomes` of the steps of an outcome without a time."""
    return {"outcomes": list(outcome_codes(study.endpoint, dictionary))}


def outcome_fit(
    study: Study, dictionary: Dictionary, prefix: str, who: str, penalties: Mapping[str, Any], inputs: Inputs
) -> StepDraft:
    """Return the fit of an outcome without a time."""
    settings = {**outcome_settings(study, dictionary), **penalties}
    return StepDraft(f"{prefix}fit", study.model.method, f"The model's coefficients from {who}.", settings, inputs)


def outcome_judging(
    study: Study, dictionary: Dictionary, prefix: str, penalties: Mapping[str, Any], inputs: Inputs
) -> list[StepDraft]:
    """Return the steps that judge a model of an outcome without a time on patients that it has not seen."""
    outcomes = outcome_settings(study, dictionary)
    return [
        StepDraft(
            f"{prefix}concordance", "outcome_scores",
            "Pairs of unseen patients of one site in the right order, and errors of the predicted probabilities.",
            outcomes, inputs,
        ),
        StepDraft(
            f"{prefix}site_only", "outcome_site_only",
            "The same pairs, ordered by a model of the site's own training patients.",
            {**outcomes, **penalties, "standardise": study.model.standardise}, is_split=True,
        ),
        StepDraft(
            f"{prefix}slope", "outcome_slope",
            "Whether predicted differences between unseen patients are too large or too small.",
            outcomes, inputs,
        ),
    ]  # fmt: skip


def grid_settings(study: Study) -> dict[str, int]:
    """Return what the grid needs beside its bins: with competing events, that all kinds of event make it."""
    return {"cause": ANY} if study.endpoint.has_competing else {}


def competing_steps(
    study: Study, method: str, fit: Mapping[str, Any], to_fit: Inputs, to_predict: Inputs
) -> list[StepDraft]:
    """Return fit and baseline of every other cause, and the cumulative incidence of all of them.

    Args:
        study: With competing events.
        method: Of `models.registry`, that fits the event of interest.
        fit: Settings of that fit.
        to_fit: Its inputs.
        to_predict: Inputs of a prediction of the event of interest.
    """
    steps: list[StepDraft] = []
    n_causes = len(study.endpoint.causes)
    sources: dict[str, str] = {}
    for cause in range(2, n_causes + 1):
        named = f"`{study.endpoint.causes[cause - 1]}`"
        own = f"cause_{cause}_"
        beta = {"beta": f"{own}fit.beta"}
        to_baseline = {name: source for name, source in to_predict.items() if name != "cumulative_hazard"} | beta
        steps += [
            StepDraft(
                f"{own}fit", method, f"Coefficients for the competing event {named}, others censored.",
                {**fit, "cause": cause}, to_fit,
            ),
            # As for the event of interest: a Cox fit alone does not tell how sure its curves are.
            StepDraft(
                f"{own}baseline", "baseline", f"The baseline hazard of the competing event {named}.",
                {"cause": cause, **({"with_covariates": True} if method == "cox" else {})}, to_baseline,
            ),
        ]  # fmt: skip
        sources |= {
            f"beta_{cause}": f"{own}fit.beta",
            f"cumulative_hazard_{cause}": f"{own}baseline.cumulative_hazard",
        }
    incidence = StepDraft(
        "incidence",
        "cumulative_incidence",
        "Observed and predicted share with each kind of event in three risk groups (patients who trained the model).",
        {"n_causes": n_causes},
        {**to_predict, **sources, "cutpoints": "risk_groups.cutpoints"},
    )
    return [*steps, incidence]


def treatment_steps(study: Study, dictionary: Dictionary, to_predict: Inputs) -> Sequence[StepDraft]:
    """Return the step of the predicted curves under each arm, where the study names a treatment."""
    if study.model.treatment is None or study.endpoint.has_competing:
        return ()
    return (
        StepDraft(
            "treatment", "treatment_response",
            "Mean predicted survival of all patients as if all were treated, and as if nobody was.",
            {"treatment": treatment_column(study, dictionary).name},
            {**to_predict, "covariance": "fit.covariance"},
        ),
    )  # fmt: skip
