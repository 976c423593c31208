"""The Brier score on the common time grid, weighted for censoring, from sums over sites.

Graf et al. (1999), Statistics in Medicine 18:2529, in two rounds: the censoring curve G of all sites, then squared
errors weighted by it. The counterpart on exact times, for `simulate`, is `models.censoring`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.moments import n_patients_spec
from models.scores import individual_hazard, log_hazards, prediction_specs, spells_of
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import Spells, grid_specs, interval_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

# The scores are averaged over the edges between these quantiles of the event times: earlier nearly everybody is
# alive, later hardly anybody is under observation.
QUANTILES = (0.1, 0.8)


@dataclass(frozen=True)
class Brier:
    """Two rounds: the censoring curve, then the weighted squared error at each edge of the grid.

    On the grid a patient counts through the last edge reached (`models.time_grid`), so censoring falls at the
    beginning of an interval, before the interval's events, and G_k, the probability of not being censored before
    edge k, is both G(t-) for an event in interval k and G(t) for who lives past edge k. Who enters late has been seen
    alive at entry, and from then on is scored on the survival from there on, with G taken relative to G at entry.

    Inputs: mean(p), scale(p), beta(p), edges(K), n_intervals, cumulative_hazard(K), and events(K), the histogram of
    the training events, which says where the integral runs.

    State when done:
        brier: (K,) at each edge; 0 as padding, and where nobody has entered.
        ibs: () mean over the edges from the 10 to the 80 % quantile of event times, by the trapezoid rule.
        ibs_variance: () of it. The score is a mean over n patients of each one's own part l_i, so its variance is
            sum_i (l_i - mean)^2 / n^2, with the censoring curve and the model taken as known; with late entry a
            little too large, because who enters late has no part before.
        ibs_from: () first of them, in the unit of time.
        ibs_to: () last of them.
        censoring_survival: (K,) G, padded with its last value.
        n_patients: ().
    """

    context: Context

    def parts(self) -> tuple[PartSpec, ...]:
        """Return both questions; either can be asked again when a site has left."""
        shape = (self.context.n_bins,)
        counts = (
            n_patients_spec(),
            ArraySpec(name="at_risk", shape=shape, meaning="patients under observation as each interval begins"),
            ArraySpec(name="censored", shape=shape, meaning="of them, censored within the interval"),
            ArraySpec(name="n_entered", shape=shape, meaning="patients who have come under observation by each edge"),
        )
        errors = (
            n_patients_spec(),
            ArraySpec(
                name="squared_error",
                shape=shape,
                meaning="weighted squared errors of predicted survival at each edge",
            ),
            ArraySpec(name="own_squares", shape=(), meaning="squares of each patient's part of the integrated score"),
        )
        weights = ArraySpec(
            name="censoring_survival", shape=shape, meaning="probability of not being censored before each edge"
        )
        share = ArraySpec(
            name="share", shape=shape, meaning="weight of one patient's error at each edge in the integral"
        )
        asks = (*prediction_specs(self.context), weights, share)
        return (
            PartSpec(name="censoring", sends=grid_specs(self.context.n_bins), releases=counts, times=2),
            PartSpec(name="errors", sends=asks, releases=errors, times=2),
        )

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for censorings."""
        return Turn({}, "censoring")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's counts or squared errors."""
        n_patients: Floats = np.array(float(cohort.n_patients))
        leaving = _observed_until(self.context, sent, cohort)
        if part == "censoring":
            at_risk: Floats = leaving.over_patients(np.ones(cohort.n_patients))
            censored = leaving.over_events((~cohort.event).astype(np.float64))
            entered = self._seen(leaving, int(sent["n_intervals"])).sum(axis=0).astype(np.float64)
            return {"n_patients": n_patients, "at_risk": at_risk, "censored": censored, "n_entered": entered}
        return self._errors(sent, cohort, leaving) | {"n_patients": n_patients}

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return G and ask for the errors, or return the scores."""
        if part == "censoring":
            at_risk = total["at_risk"]
            hazard = np.divide(total["censored"], at_risk, out=np.zeros(at_risk.shape), where=at_risk > 0)
            free: Floats = np.cumprod(1.0 - hazard, dtype=np.float64)
            entered = total["n_entered"]
            parts = integral_weights(inputs["edges"], inputs["events"], int(inputs["n_intervals"]))
            share = np.divide(parts, entered, out=np.zeros(entered.shape), where=entered > 0)
            return Turn({"censoring_survival": free, "n_entered": entered, "share": share}, "errors")
        entered = state["n_entered"]
        brier = np.divide(total["squared_error"], entered, out=np.zeros(entered.shape), where=entered > 0)
        first, last = score_range(inputs["events"], int(inputs["n_intervals"]))
        edges = inputs["edges"]
        ibs = _mean_between(edges[first : last + 1], brier[first : last + 1])
        done = {
            "brier": brier,
            "ibs": np.asarray(ibs),
            "ibs_variance": np.maximum(total["own_squares"] - ibs**2 / np.maximum(total["n_patients"], 1.0), 0.0),
            "ibs_from": edges[first],
            "ibs_to": edges[last],
            "censoring_survival": state["censoring_survival"],
            "n_patients": total["n_patients"],
        }
        return Turn({name: np.asarray(array, dtype=np.float64) for name, array in done.items()}, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Begin again: G was summed with the site that left."""
        return Turn({}, "censoring")

    def _errors(self, sent: Arrays, cohort: Cohort, leaving: Spells) -> dict[str, Floats]:
        interval = np.arange(self.context.n_bins)
        spells = spells_of(self.context, sent, cohort)
        seen = self._seen(leaving, int(sent["n_intervals"]))
        alive = (spells.survived.stop[:, None] > interval) & seen
        died = spells.event[:, None] & (spells.stop[:, None] <= interval + 1) & seen

        hazard, g = sent["cumulative_hazard"], sent["censoring_survival"]
        before = leaving.first - 1  # the last edge before the patient entered; -1 is time 0
        hazard_at_entry = np.concatenate((hazard, [0.0]))[before]
        since_entry = np.maximum(hazard - hazard_at_entry[:, None], 0.0)
        predicted = np.exp(-individual_hazard(since_entry, log_hazards(self.context, sent, cohort)))
        g_at_entry = np.concatenate((g, [1.0]))[before][:, None]
        g_at_event = g[np.maximum(spells.stop - 1, 0)][:, None]
        one_over_event = np.divide(g_at_entry, g_at_event, out=np.zeros_like(g_at_entry), where=g_at_event > 0)
        one_over_time = np.divide(g_at_entry, g, out=np.zeros(predicted.shape), where=g > 0)
        error = died * predicted**2 * one_over_event + alive * (1.0 - predicted) ** 2 * one_over_time
        return {"squared_error": error.sum(axis=0), "own_squares": np.asarray(((error @ sent["share"]) ** 2).sum())}

    def _seen(self, leaving: Spells, n_intervals: int) -> NDArray[np.bool_]:
        """Return (n, K), whether each patient has come under observation by each edge in use."""
        interval = np.arange(self.context.n_bins)
        entered: NDArray[np.bool_] = (leaving.stop > leaving.first)[:, None] & (interval >= leaving.first[:, None])
        return entered & (interval < n_intervals)


def score_range(events: Floats, n_intervals: int) -> tuple[int, int]:
    """Return the first and the last edge of the integral: where 10 and 80 % of the events have happened.

    Args:
        events: (K,) events in each interval; without any the integral runs over the whole grid.
        n_intervals: Intervals in use, at least 1.
    """
    cumulative = np.cumsum(events[:n_intervals])
    if cumulative[-1] <= 0:
        return 0, n_intervals - 1
    # 1e-9: a share that is a quantile but for rounding has reached it.
    first, last = np.searchsorted(cumulative / cumulative[-1], np.asarray(QUANTILES) - 1e-9, side="left")
    return int(first), int(last)


def integral_weights(edges: Floats, events: Floats, n_intervals: int) -> Floats:
    """Return the (K,) weights of the edges in the integral of `Brier`, adding up to 1; 0 outside its range."""
    first, last = score_range(events, n_intervals)
    weights = np.zeros(edges.size)
    if first == last:
        weights[first] = 1.0
        return weights
    half = np.diff(edges[first : last + 1]) / 2 / (edges[last] - edges[first])
    weights[first:last] += half
    weights[first + 1 : last + 1] += half
    return weights


def _mean_between(times: Floats, values: Floats) -> float:
    if len(times) == 1:
        return float(values[0])
    return float(np.trapezoid(values, times) / (times[-1] - times[0]))


def _observed_until(context: Context, sent: Arrays, cohort: Cohort) -> Spells:
    """Return the intervals at whose beginning each patient is under observation, leaving as the "event".

    Who is censored at c leaves in the interval after the last edge <= c, that is: as the very next instant would, if
    it were an event.
    """
    left = np.where(cohort.event, cohort.time, np.nextafter(cohort.time, np.inf))
    return interval_of(
        left,
        np.ones(cohort.n_patients, dtype=np.bool_),
        cohort.entry,
        sent["edges"],
        int(sent["n_intervals"]),
        exact=bool(context.settings.get("exact", False)),
    )
