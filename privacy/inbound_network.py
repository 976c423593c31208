"""What a site accepts as the weights of a network: finite, not large, and a bounded way from the last ones.

A network has no coefficients per standard deviation that could be held to a length (`privacy.inbound`), and weights
chosen to saturate its encoders tell single patients apart. Two limits stand in: no weight of an honest fit comes near
`largest`, and no server optimiser moves one further in a round than `longest_step`. They make the attack harder and
not impossible; differential privacy does not exist for networks here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.plan import PartSpec, Plan

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WeightLimits:
    """How far an honest network goes.

    Attributes:
        largest: Absolute value of a weight.
        longest_step: Of one weight between two different questions.
    """

    largest: float = 10.0
    longest_step: float = 1.0


def is_network(plan: Plan) -> bool:
    """Whether the plan's model is a network, so that `beta` and `weights` are its weights."""
    return plan.study.model.method == "hazard-network"


def weights_hold(now: Floats, last: Floats | None, asked: NDArray[np.bool_], limits: WeightLimits) -> bool:
    """Whether weights may be asked at.

    Args:
        now: (P,), or (F, P) by fold.
        last: The last that were answered, of the same shape; None for the first.
        asked: (F,), or (1,), which folds are asked; the others stand at 0.
        limits: The site's own.
    """
    rows = np.atleast_2d(now)[asked]
    if not bool((np.abs(rows) <= limits.largest).all()):
        return False
    if last is None:
        return True
    return bool((np.abs(rows - np.atleast_2d(last)[asked]) <= limits.longest_step).all())


def allowed_points(plan: Plan, step: str, few: int) -> int:
    """Return at how many points one fit may be asked.

    Newton's steps are few and each tells of every pair of coefficients; a method that releases slopes alone needs as
    many as its plan says.

    Args:
        plan: Of the run.
        step: Its name.
        few: The limit for steps that release an information matrix.
    """
    parts: tuple[PartSpec, ...] = plan.by_name[step].parts if step in plan.by_name else ()
    with_pairs = ("hessian", "hessian_beta", "hessian_weighted", "hessian_alpha_beta")
    if any(spec.name in with_pairs for part in parts for spec in part.releases) or not parts:
        return few
    return max(few, sum(part.times for part in parts))
