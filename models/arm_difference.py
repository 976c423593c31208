"""One patient under both arms of a treatment: the difference of the two survivals, with its interval.

Control and treated share the baseline and most covariates, so their errors go along with each other; two intervals
side by side say too little about the difference. With S_a = exp(-H_a), H_a = H(t) exp(x_a beta), and the delta method
of `models.prediction` on log H_a,

    d S_a = g_a d log H_a,   g_a = -S_a H_a,
    Var(S_1 - S_0) = (g_1 - g_0)^2 sum_k c_k^2 v_k / H^2 + d' V d,   d = g_1 u_1 - g_0 u_0,

u_a = x_a + w as there (Andersen, Borgan, Gill & Keiding 1993, section VII.2.3). A model describes associations: only
in a randomised cohort is the difference one that the treatment makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from models.prediction import (
    LEVEL,
    interval_hazards,
    interval_shares,
    log_hazards,
    model_matrix,
    refuse_competing,
)
from models.step import Floats
from schemas.artefact import Artefact
from schemas.cohort import Cohort

__all__ = ["ArmDifference", "arm_difference"]


@dataclass(frozen=True)
class ArmDifference:
    """Survival when treated less survival under control.

    Attributes:
        value: (n, m).
        lower, upper: (n, m) ends of the interval; None where the model does not tell how sure it is.
    """

    value: Floats
    lower: Floats | None
    upper: Floats | None


def arm_difference(
    artefact: Artefact, control: Cohort, treated: Cohort, times: Floats, *, start: float = 0.0, level: float = LEVEL
) -> ArmDifference:
    """Return the difference between the arms for the same n patients.

    Args:
        artefact: Read and verified.
        control: The patients as if under control.
        treated: The same patients as if treated.
        times: (m,) > 0, counted from `start`.
        start: As of `models.prediction.predict`.
        level: Of the interval, pointwise and symmetric, within -1 and 1.
    """
    refuse_competing(artefact)
    shares = interval_shares(artefact, start, np.asarray(times, dtype=np.float64))
    baseline = shares @ interval_hazards(artefact)
    hazard = [np.exp(log_hazards(artefact, arm))[:, None] * baseline for arm in (control, treated)]
    survival = [np.exp(-one) for one in hazard]
    value = survival[1] - survival[0]
    covariance, arrays = artefact.covariance, artefact.arrays
    if covariance is None or "hazard_variance" not in arrays:
        return ArmDifference(value, None, None)
    below = np.where(baseline > 0, baseline, 1.0)
    slope = [-s * h for s, h in zip(survival, hazard, strict=True)]  # (n, m)
    alone = (shares**2 @ arrays["hazard_variance"]) / below**2  # (m,)
    w = (shares @ arrays["hazard_slope"]) / below[:, None]  # (m, p)
    x = [model_matrix(artefact, arm) for arm in (control, treated)]
    # (n, m, p) is small here: a page asks of one patient, at some hundred times, of a model with a covariance.
    d = slope[1][:, :, None] * (x[1][:, None, :] + w) - slope[0][:, :, None] * (x[0][:, None, :] + w)
    variance = (slope[1] - slope[0]) ** 2 * alone + np.einsum("nmp,pq,nmq->nm", d, covariance, d, optimize=True)
    reach = NormalDist().inv_cdf(0.5 + level / 2) * np.sqrt(np.maximum(variance, 0.0))
    return ArmDifference(value, np.maximum(value - reach, -1.0), np.minimum(value + reach, 1.0))
