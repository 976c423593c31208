"""A model corrected to one hospital's own patients: slope and level, how sure they are, and the interval then.

The corrected model is log H(t | x) = a + log H(t) + b x beta. The slope b is that of a Cox model with the log hazard
eta = x beta as its only covariate (van Houwelingen 2000, Statistics in Medicine 19:3401), the level a makes as many
events expected until the horizon as were observed: a = log O - log sum_i Lambda_i e^(b eta_i), Lambda_i the baseline
hazard while patient i was under observation.

Two things are uncertain, and they are independent: the hospital's patients, and the model, which others trained.

- Given the model, Var b is the inverse information of the Cox fit, and Var log O = 1 / O. Slope and number of events
  are uncorrelated: both are integrals of the same martingale, over eta less its mean at risk and over 1, whose
  covariation is 0 at every time (Andersen, Borgan, Gill & Keiding 1993, section VII.2.2). So with eta_m the mean of
  eta weighted by the expected events, da/db = -eta_m.
- Slope and level answer to the model's own errors: a baseline that is too high by a tenth gives a level that is lower
  by it. By the implicit function of the Cox score U and its information I in all columns at b beta, db/dbeta =
  (U - b I beta) / (beta' I beta); and da/dbeta = -b x_m at a given slope, da/dh_k = -q_k, with x_m the mean row and
  q_k the exposure of interval k, both weighted by expected events.

The interval is the delta method of `models.prediction` on log H(t | x) with all of that: of a patient with eta,

    Var = sum_k r_k^2 v_k + z' V z + (eta - eta_m)^2 Var b + 1 / O,
    r_k = c_k / H - q_k,   z = b x - b x_m + (eta - eta_m) db/dbeta + sum_k r_k g_k.

So what the hospital's patients tell takes the place of what the model was unsure of.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from models.arm_difference import ArmDifference
from models.partial_likelihood import deaths, risk_sums
from models.prediction import LEVEL, Curve, interval_hazards, interval_shares, log_hazards, model_matrix
from models.step import Floats
from models.time_grid import interval_of
from schemas.artefact import Artefact
from schemas.cohort import Cohort

__all__ = ["Recalibration", "predict_recalibrated", "recalibrated_difference", "recalibration_of"]

_LARGEST_LOG = 600.0


@dataclass(frozen=True, eq=False)
class Recalibration:
    """Slope and level of one hospital, with what they answer to.

    Attributes:
        slope, level: b, a.
        slope_variance: Of b, given the model.
        level_variance: Of a, given the model and b.
        mean_log_hazard: eta_m.
        mean_row: (p,) x_m.
        slope_by_beta: (p,) db/dbeta.
        exposure: (K,) q; its product with the baseline hazards is 1.
    """

    slope: float
    level: float
    slope_variance: float
    level_variance: float
    mean_log_hazard: float
    mean_row: Floats
    slope_by_beta: Floats
    exposure: Floats


def recalibration_of(
    artefact: Artefact, unseen: Cohort, horizon: float, *, slope: float, slope_variance: float, level: float
) -> Recalibration | None:
    """Return a hospital's recalibration; None where the model does not tell how sure it is.

    None too for a network and a model of competing events, which are never corrected.

    Args:
        artefact: The model.
        unseen: The hospital's patients with known outcomes, who did not train it.
        horizon: Until which events were counted for the level.
        slope: Of the Cox fit of the log hazard on them, with Efron's ties.
        slope_variance: Of the same fit.
        level: a.
    """
    if artefact.manifest.network is not None or artefact.manifest.causes or not _tells(artefact):
        return None
    x, eta = model_matrix(artefact, unseen), log_hazards(artefact, unseen)
    shares = interval_shares(artefact, 0.0, np.minimum(unseen.time, horizon))
    shares -= interval_shares(artefact, 0.0, np.minimum(unseen.entry, horizon))
    ratio = np.exp(np.clip(slope * eta, -_LARGEST_LOG, _LARGEST_LOG))
    expected = ratio * (shares @ interval_hazards(artefact))
    observed = float((unseen.event & (unseen.time <= horizon)).sum())
    return Recalibration(
        slope=slope,
        level=level,
        slope_variance=slope_variance,
        level_variance=1.0 / observed,
        mean_log_hazard=float(expected @ eta / expected.sum()),
        mean_row=expected @ x / expected.sum(),
        slope_by_beta=_slope_by_beta(artefact.beta, unseen, x, slope),
        exposure=ratio @ shares / expected.sum(),
    )


def predict_recalibrated(
    artefact: Artefact,
    recalibration: Recalibration,
    patients: Cohort,
    times: Floats,
    *,
    start: float = 0.0,
    level: float = LEVEL,
) -> Curve:
    """Return the patients' corrected curves; arguments as of `models.prediction.predict`."""
    times = np.asarray(times, dtype=np.float64)
    at = _At(artefact, recalibration, patients, times, start)
    factor = np.exp(np.minimum(NormalDist().inv_cdf(0.5 + level / 2) * np.sqrt(at.variance()), _LARGEST_LOG))
    hazard = at.hazard
    return Curve(times, at.eta, np.exp(-hazard), np.exp(-hazard * factor), np.exp(-hazard / factor))


def recalibrated_difference(
    artefact: Artefact,
    recalibration: Recalibration,
    control: Cohort,
    treated: Cohort,
    times: Floats,
    *,
    start: float = 0.0,
    level: float = LEVEL,
) -> ArmDifference:
    """Return the corrected difference between the arms; as `models.arm_difference.arm_difference`.

    The two arms share the hospital's slope and level besides the model's errors.
    """
    arms = [
        _At(artefact, recalibration, arm, np.asarray(times, dtype=np.float64), start) for arm in (control, treated)
    ]
    survival = [np.exp(-arm.hazard) for arm in arms]
    value = survival[1] - survival[0]
    slopes = [-s * arm.hazard for s, arm in zip(survival, arms, strict=True)]  # of survival by log H
    variance = arms[1].variance(slopes[1], minus=(arms[0], slopes[0]))
    reach = NormalDist().inv_cdf(0.5 + level / 2) * np.sqrt(variance)
    return ArmDifference(value, np.maximum(value - reach, -1.0), np.minimum(value + reach, 1.0))


class _At:
    """The pieces of the delta method for n patients at m times."""

    def __init__(
        self, artefact: Artefact, recalibration: Recalibration, patients: Cohort, times: Floats, start: float
    ) -> None:
        self._artefact, self._of = artefact, recalibration
        self.eta = log_hazards(artefact, patients)
        shares = interval_shares(artefact, start, times)
        baseline = shares @ interval_hazards(artefact)
        self._begun = baseline > 0
        ratio = np.exp(np.clip(recalibration.level + recalibration.slope * self.eta, -_LARGEST_LOG, _LARGEST_LOG))
        self.hazard = ratio[:, None] * baseline
        self._r = shares / np.where(self._begun, baseline, 1.0)[:, None] - recalibration.exposure  # (m, K)
        self._away = self.eta - recalibration.mean_log_hazard
        row = recalibration.slope * (model_matrix(artefact, patients) - recalibration.mean_row)
        row = row + self._away[:, None] * recalibration.slope_by_beta
        self._z = row[:, None, :] + self._r @ artefact.arrays["hazard_slope"]  # (n, m, p)

    def variance(self, weight: Floats | None = None, *, minus: tuple[_At, Floats] | None = None) -> Floats:
        """Return the (n, m) variance of weight * log H, or of that less another's; 0 before any hazard was added."""
        weights = np.ones(self.hazard.shape) if weight is None else weight
        whole, z, away = weights, weights[:, :, None] * self._z, weights * self._away[:, None]
        if minus is not None:
            other, other_weights = minus
            whole = whole - other_weights
            z = z - other_weights[:, :, None] * other._z
            away = away - other_weights * other._away[:, None]
        covariance = self._artefact.arrays["covariance"]
        found = whole**2 * (self._r**2 @ self._artefact.arrays["hazard_variance"] + self._of.level_variance)
        found = found + np.einsum("nmp,pq,nmq->nm", z, covariance, z, optimize=True)
        found = found + away**2 * self._of.slope_variance
        return np.where(self._begun, np.maximum(found, 0.0), 0.0)


def _tells(artefact: Artefact) -> bool:
    return artefact.covariance is not None and "hazard_variance" in artefact.arrays


def _slope_by_beta(beta: Floats, unseen: Cohort, x: Floats, slope: float) -> Floats:
    """Return (p,) db/dbeta, by the score and the information of all columns at slope * beta, with Efron's ties."""
    times = np.unique(unseen.time[unseen.event])
    spells = interval_of(unseen.time, unseen.event, unseen.entry, times, times.size, exact=True)
    eta = x @ beta
    p = beta.size
    both = np.hstack((x, x * eta[:, None]))
    sums = risk_sums(spells, both, slope * (eta - eta.mean()), efron=True)
    rows = deaths(sums)
    mean = rows.mean_covariates(sums)
    score = x[unseen.event].sum(axis=0) - rows.count @ mean[:, :p]
    information = rows.count @ (mean[:, p:] - mean[:, :p] * (mean[:, :p] @ beta)[:, None])  # I beta
    return np.asarray((score - slope * information) / (beta @ information))
