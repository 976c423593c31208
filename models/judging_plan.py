"""The steps that judge a model on unseen patients and that only the secure sum allows.

A site's own histogram of times and log hazards would show single patients, and so would ten groups of its patients;
summed over the sites under masks they show a model's ranking and calibration.
"""

from __future__ import annotations

from models.endpoint_plan import Inputs, StepDraft
from schemas.study import Study

__all__ = ["censoring_steps", "judging_across_folds", "masked_judging"]


def masked_judging(study: Study, prefix: str, grid: str, censoring: str, inputs: Inputs) -> list[StepDraft]:
    """Return the step that ranks pairs across sites; none without the secure sum.

    Args:
        study: Of a time to an event.
        prefix: Of the steps' names.
        grid: Name of the step that made the grid of the model's fit.
        censoring: Name of the step that made its censoring curve.
        inputs: Of a prediction.
    """
    if not study.privacy.secure_sum:
        return []
    to_rank = {name: source for name, source in inputs.items() if name != "cumulative_hazard"}
    curve = {"censoring_survival": f"{censoring}.censoring_survival"}
    return [
        StepDraft(
            f"{prefix}ranking", "ranking",
            "Pairs of unseen patients in the right order, pairs across sites included.",
            {"late_entry": study.endpoint.entry is not None}, {**to_rank, **curve, "events": f"{grid}.events"},
        )
    ]  # fmt: skip


def censoring_steps(study: Study, prefix: str, grid: str) -> list[StepDraft]:
    """Return the step of the censoring curve of those who train; none where nobody asks for it.

    Args:
        study: With an evaluation.
        prefix: Of the step's name.
        grid: Name of the step that made the grid.
    """
    if not study.privacy.secure_sum or not study.endpoint.has_time:
        return []
    inputs = {name: f"{grid}.{name}" for name in ("edges", "n_intervals", "events")}
    purpose = "When patients leave observation without the event, by which Uno's C is weighted."
    return [StepDraft(f"{prefix}censoring", "censoring", purpose, {}, inputs)]


def judging_across_folds(study: Study, inputs: Inputs) -> list[StepDraft]:
    """Return the steps in which a site adds all folds of the cross-validation up itself.

    With competing events the survival of one cause alone is nobody's, so there are none.

    Args:
        study: Evaluated by cross-validation.
        inputs: Of a prediction by the folds' models.
    """
    endpoint, folds = study.endpoint, {"folds": study.evaluation.folds}
    if not endpoint.has_time or endpoint.has_competing:
        return []
    groups = StepDraft(
        "cv_calibration", "held_out_calibration",
        "Observed and predicted survival of unseen patients in ten groups of predicted risk.", folds,
        {
            **inputs,
            "cutpoints": "cv_ranking.cutpoints",
            "all_edges": "grid.edges",
            "all_intervals": "grid.n_intervals",
        },
    )  # fmt: skip
    figures = StepDraft(
        "cv_site_figures", "site_figures",
        "Mean and spread over the sites of how the model does at each; a site's own figures stay there.", folds,
        {**inputs, "events": "cv_grid.events", "censoring_survival": "cv_brier.censoring_survival"},
    )  # fmt: skip
    return [groups, figures] if endpoint.horizons_days else [figures]
