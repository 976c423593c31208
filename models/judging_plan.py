"""The steps that judge a model on unseen patients and that only the secure sum allows.

A site's own histogram of times and log hazards would show single patients, and so would ten groups of its patients;
summed over the sites under masks they show a model's ranking and calibration.
"""

from __future__ import annotations

from models.endpoint_plan import Inputs, StepDraft
from models.ranking import N_CALIBRATION_GROUPS
from schemas.study import Study

__all__ = ["masked_judging"]


def masked_judging(study: Study, prefix: str, grid: str, inputs: Inputs) -> list[StepDraft]:
    """Return the steps; none without the secure sum.

    Args:
        study: Of a time to an event.
        prefix: Of the steps' names.
        grid: Name of the step that made the grid of the model's fit.
        inputs: Of a prediction.
    """
    if not study.privacy.secure_sum:
        return []
    to_rank = {name: source for name, source in inputs.items() if name != "cumulative_hazard"}
    steps = [
        StepDraft(
            f"{prefix}ranking", "ranking",
            "Pairs of unseen patients in the right order, pairs across sites included.",
            {"late_entry": study.endpoint.entry is not None}, {**to_rank, "events": f"{grid}.events"},
        )
    ]  # fmt: skip
    if study.endpoint.horizons_days and not study.endpoint.has_competing:
        steps.append(
            StepDraft(
                f"{prefix}calibration", "kaplan_meier",
                "Observed and predicted survival of unseen patients in ten groups of predicted risk.",
                {"n_groups": N_CALIBRATION_GROUPS}, {**inputs, "cutpoints": f"{prefix}ranking.cutpoints"},
            )
        )  # fmt: skip
    return steps
