"""The share of patients who have had each kind of event by a time, where one kind keeps the others from happening.

One minus the Kaplan-Meier curve of the event of interest would count a patient who died of something else as if they
could still have it, and so promise too much of it. The cumulative incidence does not. Observed it is Aalen and
Johansen's (1978, Scandinavian Journal of Statistics 5:141)

    F_c(t_k) = sum_{j <= k} S_{j-1} d_cj / r_j,   S_j = prod_{i <= j} (1 - d_i / r_i),  d_i events of any kind;

predicted, the hazards h_cj of each cause are constant within an interval, so that

    F_c(t_k) = sum_{j <= k} S_{j-1} (h_cj / h_j) (1 - exp(-h_j)),   S_j = exp(-sum_{i <= j} h_i),   h_j = sum_c h_cj .
"""

from __future__ import annotations

import numpy as np

from models.baseline import cumulative_hazard_at
from models.cause import with_cause
from models.kaplan_meier import N_GROUPS
from models.moments import n_patients_spec
from models.preparation import Preparation
from models.scores import individual_hazard, prediction_specs
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import observation_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec


def aalen_johansen(at_risk: Floats, events: Floats) -> tuple[Floats, Floats]:
    """Return the cumulative incidence of each cause and its standard error.

    The variance is Marubini & Valsecchi's (1995, Analysing Survival Data, section 10.5) by the delta method, without
    censoring F (1 - F) / n:

        sum_j (F_k - F_j)^2 d_j / (r_j (r_j - d_j)) + sum_j S_{j-1}^2 d_cj (r_j - d_cj) / r_j^3
        - 2 sum_j (F_k - F_j) S_{j-1} d_cj / r_j^2 .

    Args:
        at_risk: (..., K) r.
        events: (..., C, K) d of each cause, together at most `at_risk`.

    Returns:
        (..., C, K) cumulative incidence and standard error.
    """
    r, own = np.where(at_risk > 0, at_risk, 1.0)[..., None, :], events
    all_causes = events.sum(axis=-2, keepdims=True)
    left = np.maximum(r - all_causes, 0.0)
    surviving = np.cumprod(np.where(at_risk[..., None, :] > 0, left / r, 1.0), axis=-1)
    before = np.concatenate((np.ones_like(surviving[..., :1]), surviving[..., :-1]), axis=-1)
    incidence = np.cumsum(before * own / r, axis=-1)
    lasting = np.divide(all_causes, r * left, out=np.zeros_like(left), where=left > 0)
    jump = before**2 * own * (r - own) / r**3
    both = before * own / r**2
    # (F_k - F_j)^2 = F_k^2 - 2 F_k F_j + F_j^2, so every sum over j is a running sum.
    variance = (
        incidence**2 * np.cumsum(lasting, axis=-1)
        - 2 * incidence * np.cumsum(incidence * lasting, axis=-1)
        + np.cumsum(incidence**2 * lasting, axis=-1)
        + np.cumsum(jump, axis=-1)
        - 2 * (incidence * np.cumsum(both, axis=-1) - np.cumsum(incidence * both, axis=-1))
    )
    return incidence, np.sqrt(np.maximum(variance, 0.0))


def predicted_incidence(hazards: Floats) -> Floats:
    """Return the (C, n, K) cumulative incidence of each cause at the end of each interval.

    Args:
        hazards: (C, n, K) of each patient in each interval (the increments of the cumulative hazards).
    """
    together = hazards.sum(axis=0)
    until = np.cumsum(together, axis=1)
    before = np.exp(-np.concatenate((np.zeros((len(until), 1)), until[:, :-1]), axis=1))
    ends = -np.expm1(-together)
    # Where nothing can happen the share of a cause is 0 / 0; its limit times 0 is 0.
    share = np.divide(hazards, together, out=np.zeros_like(hazards), where=together > 0)
    return np.cumsum(before * share * ends, axis=2)


class CumulativeIncidence:
    """One round: patients at risk, events by cause, and sums of predicted incidence, by risk group and interval.

    Settings:
        n_causes: C, that of interest first.
        exact: Whether the grid holds the exact event times (of any cause).

    Inputs: those of a prediction for the event of interest; `beta_c` and `cumulative_hazard_c` of each other cause
    c = 2, 3, ...; `cutpoints` (2,) of the log hazard of interest. G = 3 groups, low risk first; T = K edges, then H
    horizons.

    State when done:
        incidence, standard_error: (G, C, K) observed at the edges, padded with the last value.
        at_risk: (G, K); events: (G, C, K); n_group: (G,).
        predicted: (G, C, H) mean predicted incidence at the horizons; 0 in a group without patients.
        observed, observed_standard_error: (G, C, H), linear within an interval.
        overall, overall_standard_error: (C, K) observed over all patients.
        overall_predicted: (C, T) mean predicted over all patients.
        n_patients: ().
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._preparation = Preparation(context)
        self._k = context.n_bins
        self._n_causes = int(context.settings["n_causes"])
        self._exact = bool(context.settings.get("exact", False))
        self._horizons = np.asarray(context.horizons, dtype=np.float64)

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: counts and predictions by group."""
        p, k, c, g = len(self._context.design), self._k, self._n_causes, N_GROUPS
        others = [
            spec
            for cause in range(2, c + 1)
            for spec in (
                ArraySpec(name=f"beta_{cause}", shape=(p,), meaning=f"log hazard ratios of cause {cause}"),
                ArraySpec(
                    name=f"cumulative_hazard_{cause}", shape=(k,), meaning=f"baseline of cause {cause} at each edge"
                ),
            )
        ]
        cutpoints = ArraySpec(name="cutpoints", shape=(2,), meaning="log hazards between low, middle and high risk")
        releases = (
            n_patients_spec(),
            ArraySpec(name="n_group", shape=(g,), meaning="patients of low, middle and high risk"),
            ArraySpec(
                name="at_risk", shape=(g, k), meaning="of them, at risk in each interval, by the share of it observed"
            ),
            ArraySpec(name="events", shape=(g, c, k), meaning="of them, with each kind of event in each interval"),
            ArraySpec(
                name="predicted",
                shape=(g, c, k + self._horizons.size),
                meaning="sum over each group of the predicted incidence of each kind of event at each time",
            ),
        )
        sends = (*prediction_specs(self._context), *others, cutpoints)
        return (PartSpec(name="groups", sends=sends, releases=releases, times=1),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the counts."""
        return Turn({}, "groups")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's counts and sums."""
        x = self._preparation.matrix(cohort, sent)
        score = (x * sent["beta"]).sum(axis=1)
        group = (score > sent["cutpoints"][0]).astype(np.intp) + (score > sent["cutpoints"][1])
        member = (group[:, None] == np.arange(N_GROUPS)).astype(np.float64)
        seen = [self._seen(sent, with_cause(cohort, cause)) for cause in range(1, self._n_causes + 1)]
        # Whoever has any event in an interval was at risk there as one whole.
        has_any = np.sum([has_event for _, has_event in seen], axis=0)
        at_risk = np.where(has_any > 0, 1.0, seen[0][0])
        return {
            "n_patients": np.array(float(cohort.n_patients)),
            "n_group": member.sum(axis=0),
            "at_risk": member.T @ at_risk,
            "events": np.stack([member.T @ has_event for _, has_event in seen], axis=1),
            "predicted": np.einsum("ng,cnt->gct", member, self._predicted(sent, x)),
        }

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the curves."""
        incidence, error = aalen_johansen(total["at_risk"], total["events"])
        overall, overall_error = aalen_johansen(total["at_risk"].sum(axis=0), total["events"].sum(axis=0))
        n_group = np.maximum(total["n_group"], 1.0)[:, None, None]
        done = {
            "incidence": incidence,
            "standard_error": error,
            "at_risk": total["at_risk"],
            "events": total["events"],
            "n_group": total["n_group"],
            "predicted": total["predicted"][:, :, self._k :] / n_group,
            "observed": self._at_horizons(incidence, inputs),
            "observed_standard_error": self._at_horizons(error, inputs),
            "overall": overall,
            "overall_standard_error": overall_error,
            "overall_predicted": total["predicted"].sum(axis=0) / np.maximum(total["n_patients"], 1.0),
            "n_patients": total["n_patients"],
        }
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)

    def _seen(self, sent: Arrays, cohort: Cohort) -> tuple[Floats, Floats]:
        """Return (n, K) share under observation, and 1 where the patient has the event."""
        seen = observation_of(
            cohort.time, cohort.event, cohort.entry, sent["edges"], int(sent["n_intervals"]), exact=self._exact
        )
        return seen.share, seen.has_event

    def _predicted(self, sent: Arrays, x: Floats) -> Floats:
        """Return the (C, n, T) incidence of each cause at the edges and the horizons."""
        names = [("beta", "cumulative_hazard")]
        names += [(f"beta_{cause}", f"cumulative_hazard_{cause}") for cause in range(2, self._n_causes + 1)]
        # Rounding may leave a cumulative hazard falling by a last digit.
        steps = [np.maximum(np.diff(sent[baseline], prepend=0.0), 0.0) for _, baseline in names]
        scores = [(x * sent[beta]).sum(axis=1) for beta, _ in names]
        hazards = np.stack([individual_hazard(step, score) for step, score in zip(steps, scores, strict=True)])
        at_edges = predicted_incidence(hazards)
        reached = [self._share_until(horizon, sent) for horizon in self._horizons]
        at_horizons = [predicted_incidence(hazards * share)[:, :, -1:] for share in reached]
        return np.concatenate((at_edges, *at_horizons), axis=2)

    def _share_until(self, time: float, sent: Arrays) -> Floats:
        """Return the (K,) share of each interval that lies before a time."""
        upper = sent["edges"]
        if self._exact:
            return np.asarray(upper <= time, dtype=np.float64)
        lower = np.concatenate(([0.0], upper[:-1]))
        width = np.where(upper > lower, upper - lower, 1.0)
        return np.clip((time - lower) / width, 0.0, 1.0)

    def _at_horizons(self, curves: Floats, grid: Arrays) -> Floats:
        """Return any (..., K) curves that start from 0 at the (H,) horizons, read off as a cumulative hazard is."""
        edges, n = grid["edges"], int(grid["n_intervals"])
        flat = [
            cumulative_hazard_at(self._horizons, edges, n, curve, exact=self._exact)
            for curve in curves.reshape(-1, self._k)
        ]
        return np.stack(flat).reshape(*curves.shape[:-1], self._horizons.size)
