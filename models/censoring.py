"""The censoring curve of exact times, and the Brier score weighted by it: what `simulate` judges predictions with.

Inverse probability of censoring weighting after Graf, Schmoor, Sauerbrei and Schumacher (1999), Statistics in
Medicine 18:2529. The federated counterpart on the common time grid is `models.brier`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.step import Floats
from schemas.errors import ArchipelError

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CensoringCurve:
    """Kaplan-Meier curve G of the time to censoring.

    Attributes:
        times: (m,) distinct times of censoring, ascending.
        survival: (m,) G just after each of them.
    """

    times: Floats
    survival: Floats

    def after(self, t: Floats) -> Floats:
        """Return G(t) = P(C > t) for every element of `t`."""
        return self._steps()[np.searchsorted(self.times, t, side="right")]

    def before(self, t: Floats) -> Floats:
        """Return G(t-) = P(C >= t) for every element of `t`."""
        return self._steps()[np.searchsorted(self.times, t, side="left")]

    def _steps(self) -> Floats:
        return np.concatenate([[1.0], self.survival])


def censoring_curve(time: Floats, event: Mask, entry: Floats | None = None) -> CensoringCurve:
    """Estimate G, with events before censorings of the same time and delayed entry.

    At a time t with c censorings, those at risk of being censored entered before t and either lived past t or were
    censored at t.
    """
    entered = np.zeros(len(time)) if entry is None else entry
    under = entered < time  # who leaves at the origin was never under observation, and is censored from nothing
    time, event, entered = time[under], event[under], entered[under]
    times = np.unique(time[~event])
    # Counts by rank instead of an n x m table: entered before t, minus left before t, minus events at t.
    n_entered = np.searchsorted(np.sort(entered), times, side="left")
    n_left = np.searchsorted(np.sort(time), times, side="left")
    died = np.sort(time[event])
    n_died_at = np.searchsorted(died, times, side="right") - np.searchsorted(died, times, side="left")
    gone = np.sort(time[~event])
    n_censored = np.searchsorted(gone, times, side="right") - np.searchsorted(gone, times, side="left")
    at_risk = n_entered - n_left - n_died_at
    survival: Floats = np.cumprod(1.0 - n_censored / at_risk, dtype=np.float64)
    return CensoringCurve(times, survival)


def uno_weights(time: Floats, event: Mask, curve: CensoringCurve, until: float) -> Floats:
    """Return the (n,) weights 1 / G(t-)^2 of pairs whose first event is a patient's, 0 after `until`.

    With them the share of concordant pairs is Uno's C (Uno, Cai, Pencina, D'Agostino & Wei 2011, Statistics in
    Medicine 30:1105, equation 6), which does not depend on how long patients were followed, as Harrell's does.

    Args:
        time: (n,) time to event or censoring.
        event: (n,), True where the event was observed.
        curve: Of the censoring, from all patients.
        until: Last time of a first event that counts; later too few are left to stand for those censored.
    """
    g = curve.before(time)
    return np.divide(1.0, g**2, out=np.zeros(len(time)), where=event & (time <= until) & (g > 0))


def brier_losses(
    time: Floats,
    event: Mask,
    survival_at: Floats,
    times: Floats,
    curve: CensoringCurve,
    entry: Floats | None = None,
    survival_at_entry: Floats | None = None,
) -> tuple[Floats, Mask]:
    """Return each patient's weighted squared error at each of `times`; arguments as of `brier_scores`.

    Returns:
        (n, m) errors, and (n, m) whether the patient has come under observation before.
    """
    n = len(time)
    entered = np.zeros(n) if entry is None else entry
    relative = survival_at if survival_at_entry is None else survival_at / survival_at_entry[:, None]
    g_entry = curve.after(entered) if entry is not None else np.ones(n)
    g_event, g_time = curve.before(time), curve.after(times)
    weight_event = np.divide(g_entry, g_event, out=np.zeros(n), where=g_event > 0)
    weight_time = np.divide(1.0, g_time, out=np.zeros(len(times)), where=g_time > 0)
    seen = entered[:, None] < times
    died = seen & event[:, None] & (time[:, None] <= times)
    alive = seen & (time[:, None] > times)
    loss = died * relative**2 * weight_event[:, None]
    return loss + alive * (1.0 - relative) ** 2 * weight_time * g_entry[:, None], seen


def brier_scores(
    time: Floats,
    event: Mask,
    survival_at: Floats,
    times: Floats,
    curve: CensoringCurve,
    entry: Floats | None = None,
    survival_at_entry: Floats | None = None,
) -> Floats:
    """Return the weighted Brier score at each of `times` (Graf et al. 1999, equation for BS^c(t)).

    An event by t counts S(t)^2 / G(T-), a patient who lives past t counts (1 - S(t))^2 / G(t), one censored by t
    nothing. A patient who entered late has been seen alive at entry: from then on they are scored on S(t) / S(entry)
    with G taken relative to G(entry), and the mean at t runs over those who have entered before t.

    Args:
        time: (n,) time to event or censoring.
        event: (n,), True where the event was observed.
        survival_at: (n, m) predicted probability of being free of the event at each of `times`.
        times: (m,) ascending.
        curve: Of the censoring, from all patients.
        entry: (n,) observed only after it, or None for 0.
        survival_at_entry: (n,) predicted survival at entry; needed with `entry`.

    Returns:
        (m,) scores; 0 where nobody has entered. Where G is 0 nothing can be weighted and nothing counts.
    """
    loss, seen = brier_losses(time, event, survival_at, times, curve, entry, survival_at_entry)
    return mean_loss(loss.sum(axis=0), seen.sum(axis=0))


def mean_loss(loss: Floats, n_seen: Floats) -> Floats:
    """Return (..., m) errors over the (m,) patients seen; 0 where nobody has entered."""
    return np.divide(loss, n_seen, out=np.zeros(loss.shape), where=n_seen > 0)


def mean_over(scores: Floats, times: Floats) -> Floats:
    """Return the integrated score: the mean over (m,) `times` of (..., m) `scores` by the trapezoid rule."""
    return np.asarray(np.trapezoid(scores, times, axis=-1) / (times[-1] - times[0]), dtype=np.float64)


def ibs_times(time: Floats, event: Mask, n_times: int = 100) -> Floats:
    """Return `n_times` even times from the 10 to the 80 % quantile of event times, for the integrated Brier score.

    Args:
        time: (n,) of the training patients.
        event: (n,), True where the event was observed.
        n_times: At least 2.

    Raises:
        ArchipelError: When there are no two event times to lie between.
    """
    if not event.any():
        raise ArchipelError("no patient of the training part had the event, so the Brier score has no range of times")
    low, high = np.quantile(time[event], [0.1, 0.8])
    if low == high:
        raise ArchipelError("the training events all fall at one time, so the Brier score has no range of times")
    return np.linspace(low, high, n_times)
