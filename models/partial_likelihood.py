"""Cox's partial likelihood from sums over risk sets: value, gradient, weights and information.

Pure functions of the sums, used by the hub on the common grid (`cox`) and by each site on its own times
(`cox_stratified`). Breslow (1974) and Efron (1977) ties are one formula: with d deaths at time k, death
r = 0..d-1 sees the risk set with a share f_r of the deaths removed, f_r = 0 for Breslow and r/d for Efron:

    l = sum over deaths of x beta  -  sum_k sum_r log(S0_k - f_r D0_k),

where S0, S1 sum e^(x beta) and x e^(x beta) over those at risk, D0, D1 over the deaths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.step import Arrays, Floats
from models.time_grid import Spells


@dataclass(frozen=True)
class Deaths:
    """One row for each death (Efron), or for each time with deaths (Breslow).

    Attributes:
        interval: (m,) its interval.
        share: (m,) f_r, the share of the tied deaths that is no longer at risk.
        count: (m,) deaths that the row stands for.
        at_risk: (m,) S0 - f D0, the sum of hazards at risk.
        n_bins: K.
    """

    interval: NDArray[np.intp]
    share: Floats
    count: Floats
    at_risk: Floats
    n_bins: int

    @property
    def log_at_risk(self) -> float:
        """What the log-likelihood subtracts from the deaths' log hazards."""
        return float(self.count @ np.log(self.at_risk))

    def mean_covariates(self, sums: Arrays) -> Floats:
        """Return the (m, p) means of the covariates over those at risk, weighted by their hazards."""
        s1, d1 = sums["s1"][self.interval], sums.get("d1")
        s1 = s1 if d1 is None else s1 - self.share[:, None] * d1[self.interval]
        return s1 / self.at_risk[:, None]

    def weights(self, spells: Spells) -> Floats:
        """Return the (n,) c_i such that a patient's hazard times c_i is the events expected of them.

        c_i = sum over the intervals at risk of sum_r 1 / (S0 - f D0); at one's own death the share f is not at
        risk, so sum_r f / (S0 - f D0) is taken off.
        """
        per_row = self.count / self.at_risk
        each = np.bincount(self.interval, per_row, minlength=self.n_bins).astype(np.float64)
        own = np.bincount(self.interval, per_row * self.share, minlength=self.n_bins)
        c = spells.over_intervals(each)
        c[spells.event] -= own[spells.event_interval]
        return c


def deaths(sums: Arrays) -> Deaths:
    """Return the rows of deaths of `events`, `s0` and, for Efron, `d0` (each (K,))."""
    events = np.rint(sums["events"]).astype(np.intp)
    interval = np.flatnonzero(events)
    if "d0" not in sums:
        count = events[interval].astype(np.float64)
        return Deaths(interval, np.zeros(interval.size), count, sums["s0"][interval], events.size)
    tied = events[interval]
    interval = np.repeat(interval, tied)
    order = np.arange(interval.size) - np.repeat(np.cumsum(tied) - tied, tied)
    share = order / events[interval]
    at_risk = sums["s0"][interval] - share * sums["d0"][interval]
    return Deaths(interval, share, np.ones(interval.size), at_risk, events.size)


def risk_sums(spells: Spells, x: Floats, log_hazard: Floats, *, efron: bool) -> dict[str, Floats]:
    """Return a site's sums over its risk sets, and over its deaths.

    Args:
        spells: Where its n patients are at risk.
        x: (n, p) covariates.
        log_hazard: (n,) x beta.
        efron: Whether to add the tied deaths' `d0` and `d1`.
    """
    hazard = np.exp(log_hazard)
    columns = hazard[:, None] * np.column_stack((np.ones(hazard.size), x))
    at_risk = spells.over_patients(columns)
    sums = {
        "events": spells.over_events(np.ones(hazard.size)),
        "log_hazard_of_events": np.array(log_hazard[spells.event].sum()),
        "covariates_of_events": x[spells.event].sum(axis=0),
        "s0": at_risk[:, 0],
        "s1": at_risk[:, 1:],
    }
    if efron:
        tied = spells.over_events(columns)
        sums |= {"d0": tied[:, 0], "d1": tied[:, 1:]}
    return sums


def weighted_products(x: Floats, weights: Floats) -> Floats:
    """Return the (p, p) sum of w_i x_i x_i'."""
    return (x * weights[:, None]).T @ x
