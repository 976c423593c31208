"""Concordance over all pairs, pairs across sites included, from one summed histogram: time by log hazard.

Pairs across sites would need both patients' numbers in one place. A histogram needs neither: sites count their
patients in fixed bins of time and log hazard, and of two patients in different bins the order is known. Of the others
little is lost: two patients of one bin of time are as likely to fail in one order as in the other, because within a
short time hazards hardly change how late the two fail once both have failed, so such a pair counts half a pair each
way; two of one bin of log hazard count as tied.

From the same counts come Uno's C (Uno, Cai, Pencina, D'Agostino & Wei 2011, Statistics in Medicine 30:1105, equation
6) and the variances of both (`PairSums`). A site's own histogram would show single patients, so the step exists under
the secure sum alone (`models.compile`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from models.brier import QUANTILES
from models.moments import n_patients_spec
from models.scores import log_hazards, score_specs
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import grid_specs
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

__all__ = [
    "N_CALIBRATION_GROUPS",
    "N_SCORE_BINS",
    "N_TIME_BINS",
    "PairSums",
    "Ranking",
    "RankingCounts",
    "count_ranking",
    "pair_sums",
    "n_time_bins",
    "score_edges",
    "time_edges",
]

N_SCORE_BINS = 64
N_TIME_BINS = 64
N_CALIBRATION_GROUPS = 10
"""Groups of predicted risk, about equally large, in which predictions are compared with what happened."""
_MOST = 1e6
"""Patients in one cell; a bound that lets the secure sum carry each count in one word."""


@dataclass(frozen=True)
class RankingCounts:
    """Patients in T bins of time by S bins of the log hazard.

    Attributes:
        events: (T, S) patients with the event in the bin of time.
        censored: (T, S) patients whose observation ended there without it.
        entered: (T, S) patients who came under observation there; None where all did at the origin.
    """

    events: Floats
    censored: Floats
    entered: Floats | None = None


@dataclass(frozen=True)
class PairSums:
    """Weighted pairs, and how they hang on each patient.

    Attributes:
        concordant: Sum of the weights of the pairs in the right order, half of those of equal log hazard.
        comparable: Sum of the weights of all comparable pairs.
        variance: Of concordant / comparable; None where entries hide which pairs a patient is in.
    """

    concordant: float
    comparable: float
    variance: float | None

    @property
    def c_index(self) -> float:
        """Concordant over comparable; 0 without pairs."""
        return self.concordant / self.comparable if self.comparable > 0 else 0.0


@dataclass(frozen=True)
class Ranking:
    """Two rounds: mean and spread of the log hazards, then the histogram.

    The bins of time follow from the common grid (`time_edges`), which every site holds: the hub chooses none of them.

    Settings:
        late_entry: Whether patients may come under observation after the origin.

    Inputs: what makes x; beta(p); edges(K), n_intervals and events(K) of the grid; censoring_survival(T)
    in the bins of time (`models.censoring_step`).

    State when done:
        c_index: () over all pairs; 0 where comparable is 0.
        comparable: () pairs.
        variance: () of c_index; 0 where it is not known.
        uno: () Uno's C up to `until`; 0 where there is no pair.
        uno_comparable: () sum of the weights of its pairs.
        uno_variance: () of it; 0 where it is not known.
        cutpoints: (9,) of the log hazard, between ten groups of predicted risk (`models.kaplan_meier`).
        until: () the last time of a first event that counts in Uno's C: 80 % of the events have happened by then.
        n_patients: ().
    """

    context: Context

    def parts(self) -> tuple[PartSpec, ...]:
        """Return both questions; either can be asked again when a site has left."""
        n_bins = self.context.n_bins
        shape = (n_time_bins(n_bins), N_SCORE_BINS)
        spread = (
            n_patients_spec(),
            ArraySpec(name="log_hazard_total", shape=(), meaning="sum of the log hazards"),
            ArraySpec(name="log_hazard_squares", shape=(), meaning="sum of squares of the log hazards"),
        )
        cells = "in bins of time and of the log hazard"
        counted = [
            n_patients_spec(),
            ArraySpec(name="n_failed", shape=shape, meaning=f"patients with the event {cells}", bound=_MOST),
            ArraySpec(name="n_censored", shape=shape, meaning=f"patients without it {cells}", bound=_MOST),
        ]
        if self._late:
            what = f"patients by when they came under observation {cells}"
            counted.append(ArraySpec(name="n_entered", shape=shape, meaning=what, bound=_MOST))
        sends = (
            *score_specs(self.context),
            *grid_specs(n_bins),
            ArraySpec(name="events", shape=(n_bins,), meaning="events in each interval of the grid"),
            ArraySpec(name="centre", shape=(), meaning="mean of the log hazards"),
            ArraySpec(name="spread", shape=(), meaning="their standard deviation"),
        )
        return (
            PartSpec(name="spread", sends=score_specs(self.context), releases=spread, times=2),
            PartSpec(name="histogram", sends=sends, releases=tuple(counted), times=2),
        )

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for mean and spread."""
        return Turn({}, "spread")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's sums or its histogram."""
        scores = log_hazards(self.context, sent, cohort)
        n_patients: Floats = np.array(float(cohort.n_patients))
        if part == "spread":
            return {
                "n_patients": n_patients,
                "log_hazard_total": np.asarray(scores.sum()),
                "log_hazard_squares": np.asarray((scores**2).sum()),
            }
        edges = score_edges(float(sent["centre"]), float(sent["spread"]))
        counts = count_ranking(cohort, scores, time_edges(sent), edges)
        found = {"n_patients": n_patients, "n_failed": counts.events, "n_censored": counts.censored}
        if self._late:
            found["n_entered"] = np.zeros(counts.events.shape) if counts.entered is None else counts.entered
        return found

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Ask for the histogram, or return C and Uno's C."""
        if part == "spread":
            n = max(float(total["n_patients"]), 1.0)
            centre = float(total["log_hazard_total"]) / n
            variance = max(float(total["log_hazard_squares"]) / n - centre**2, 0.0)
            return Turn({"centre": np.asarray(centre), "spread": np.asarray(np.sqrt(variance))}, "histogram")
        counts = RankingCounts(total["n_failed"], total["n_censored"], total.get("n_entered"))
        edges = time_edges(inputs)
        until = _last_first_event(inputs)
        middle = (np.concatenate(([0.0], edges[:-1])) + edges) / 2
        harrell = pair_sums(counts, np.ones(edges.size))
        uno = pair_sums(counts, uno_weights(inputs["censoring_survival"], middle <= until))
        done = {
            "c_index": harrell.c_index,
            "comparable": harrell.comparable,
            "variance": harrell.variance or 0.0,
            "uno": uno.c_index,
            "uno_comparable": uno.comparable,
            "uno_variance": uno.variance or 0.0,
            "until": until,
            "n_patients": float(total["n_patients"]),
        }
        cutpoints = score_edges(float(state["centre"]), float(state["spread"]), N_CALIBRATION_GROUPS)
        found = {name: np.asarray(value, dtype=np.float64) for name, value in done.items()}
        return Turn({**found, "cutpoints": cutpoints}, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Begin again: mean and spread were summed with the site that left."""
        return Turn({}, "spread")

    @property
    def _late(self) -> bool:
        return bool(self.context.settings.get("late_entry", False))


def n_time_bins(n_intervals: int) -> int:
    """Return T, for a grid of at most so many intervals: one bin more than they, for what lies beyond."""
    return max(N_TIME_BINS, n_intervals) + 1


def time_edges(grid: Arrays) -> Floats:
    """Return the (T,) upper edges of the bins of time: the grid's intervals, cut into equal parts.

    An interval is cut into parts by its share of the events, so that in no bin many of them lie together. The last
    bin is what lies beyond the grid.

    Args:
        grid: edges (K,), n_intervals and events (K,).
    """
    n = int(grid["n_intervals"])
    upper, events = grid["edges"][:n], grid["events"][:n]
    lower = np.concatenate(([0.0], upper[:-1]))
    free = n_time_bins(grid["edges"].size) - 1 - n
    shares = free * events / events.sum() if events.sum() > 0 else np.zeros(n)
    parts = 1 + np.floor(shares).astype(np.intp)
    left = free - int(np.floor(shares).sum())
    parts[np.argsort(np.floor(shares) - shares, kind="stable")[:left]] += 1
    parts[0] += n_time_bins(grid["edges"].size) - 1 - int(parts.sum())
    cut = [np.linspace(a, b, k + 1)[1:] for a, b, k in zip(lower, upper, parts, strict=True)]
    return np.concatenate([*cut, [np.inf]])


def _last_first_event(grid: Arrays) -> float:
    """Return by when 80 % of the events on which the grid was made have happened, events even within an interval."""
    n = int(grid["n_intervals"])
    happened = np.concatenate(([0.0], np.cumsum(grid["events"][:n])))
    times = np.concatenate(([0.0], grid["edges"][:n]))
    return float(np.interp(QUANTILES[1] * happened[-1], happened, times))


def uno_weights(survival: Floats, counted: NDArray[np.bool_]) -> Floats:
    """Return 1 / G^2 where a first event counts, else 0.

    Args:
        survival: G, the probability of not being censored before the event.
        counted: Whether the event is early enough.
    """
    squared = survival**2
    return np.divide(1.0, squared, out=np.zeros(squared.shape), where=counted & (squared > 0))


def score_edges(centre: float, spread: float, n_bins: int = N_SCORE_BINS) -> Floats:
    """Return the (n_bins - 1,) edges between bins that hold equally many of normally distributed log hazards."""
    return centre + max(spread, 1e-12) * ndtri(np.arange(1, n_bins) / n_bins)


def count_ranking(cohort: Cohort, log_hazard: Floats, upper: Floats, edges: Floats) -> RankingCounts:
    """Return one site's counts.

    Args:
        cohort: n patients.
        log_hazard: (n,).
        upper: (T,) edges of the bins of time; later times count in the last.
        edges: (S - 1,) between the bins of the log hazard.
    """
    shape = (upper.size, edges.size + 1)
    column = np.searchsorted(edges, log_hazard, side="left")
    row = np.minimum(np.searchsorted(upper, cohort.time, side="left"), shape[0] - 1)
    first = np.minimum(np.searchsorted(upper, cohort.entry, side="left"), shape[0] - 1)

    def counted(rows: NDArray[np.intp], who: NDArray[np.bool_]) -> Floats:
        counts: Floats = np.zeros(shape)
        np.add.at(counts, (rows[who], column[who]), 1.0)
        return counts

    late = cohort.entry > 0
    entered = counted(first, late) if late.any() else None
    return RankingCounts(counted(row, cohort.event), counted(row, ~cohort.event), entered)


def pair_sums(counts: RankingCounts, weight: Floats) -> PairSums:
    """Return concordant and comparable pairs of the counted patients, with the variance of their ratio.

    With w(t) = 1 it is Harrell's C (Harrell et al. 1982, JAMA 247:2543), with w(t) = 1 / G(t-)^2 up to a last time
    Uno's. The variance is that of the infinitesimal jackknife: let a patient's weight change by a little; then C
    changes by D_i = (A_i - C B_i) / comparable, where A_i and B_i are the concordant and the comparable pairs that
    patient i is in, and Var C = sum_i D_i^2 (Efron 1982, The jackknife, section 6.3; `survival::concordance` in R).
    A_i and B_i are the same for all patients of a cell, so the sum over cells is the sum over patients. The weights
    count as known.

    Args:
        counts: Over all sites.
        weight: (T,) of a pair whose first event is in the bin.
    """
    events, everybody = counts.events, counts.events + counts.censored
    at_risk = _after(everybody) + 0.5 * everybody
    if counts.entered is not None:
        at_risk = at_risk - _after(counts.entered) - 0.5 * counts.entered
    weighted = weight[:, None] * events
    # Each event is in its own bin: half a pair with itself, tied.
    below = _below(at_risk) - 0.25
    against = at_risk.sum(axis=1, keepdims=True) - 0.5
    concordant, comparable = float((weighted * below).sum()), float((weighted * against).sum())
    if comparable <= 0:
        return PairSums(0.0, 0.0, None)
    if counts.entered is not None and counts.entered.any():
        return PairSums(concordant, comparable, None)
    above = _below(weighted[:, ::-1])[:, ::-1]
    outlived = _before(above) + 0.5 * above
    met = (_before(weighted) + 0.5 * weighted).sum(axis=1, keepdims=True)
    c = concordant / comparable
    without = outlived - c * met
    own = weight[:, None] * (below - c * against) + without - weight[:, None] * (0.25 - 0.5 * c)
    total = (counts.events * own**2).sum() + (counts.censored * without**2).sum()
    return PairSums(concordant, comparable, float(total) / comparable**2)


def _after(counts: Floats) -> Floats:
    """Return the sums over the later bins of time."""
    return np.cumsum(counts[::-1], axis=0)[::-1] - counts


def _before(counts: Floats) -> Floats:
    return np.cumsum(counts, axis=0) - counts


def _below(counts: Floats) -> Floats:
    """Return the sums over the lower bins of the log hazard, with half of the bin itself."""
    return np.cumsum(counts, axis=1) - 0.5 * counts
