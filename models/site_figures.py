"""How the federated model does at each single site: the site keeps its own figures, the hub learns mean and spread.

Every site judges the models of the cross-validation on its own unseen patients and counts as one, whatever its size.
First the sites say whether they have patients enough to count, then the sums of the figures, and of their squares,
are formed over those that do: a mean from three sites on, a spread from five. Both are masked sums, so the hub never
sees a site's figure. A hub that lies about how many sites count could have the spread of three or four sites.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np

from models.across_folds import all_asked, judged_folds, sent_to_all
from models.brier import Brier, integral_weights
from models.calibration import calibration_slope
from models.concordance import c_index, harrell
from models.moments import n_patients_spec
from models.scores import log_hazards, prediction_specs
from models.step import Arrays, Context, DivergedError, Floats, Turn
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec
from schemas.result_intervals import SITES_FOR_MEAN, SITES_FOR_SPREAD, SiteFigure

__all__ = ["FIGURES", "OwnFigures", "SiteFigures"]

FIGURES = get_args(SiteFigure)
_MIN_PATIENTS, _MIN_EVENTS = 20, 10
# A slope beyond it comes from a score that almost separates the events, and would be all there is of a mean.
_LARGEST_SLOPE = 10.0


@dataclass(frozen=True)
class OwnFigures:
    """The figures of one site, which stay there.

    Attributes:
        n_patients: Unseen patients, each judged by the model of the fold that did not train on them.
        n_events: Of them.
        values: Figure -> value; None where it does not exist.
    """

    n_patients: int
    n_events: int
    values: Mapping[str, float | None]

    @property
    def counted(self) -> Floats:
        """(3,) 1 for each figure that counts among the sites', else 0."""
        enough = self.n_patients >= _MIN_PATIENTS and self.n_events >= _MIN_EVENTS
        return np.array([float(enough and self.values[name] is not None) for name in FIGURES])


class SiteFigures:
    """Two rounds: how many sites count, then the sums of their figures.

    Settings:
        folds: F.

    Inputs: of each fold, so (F, ...): what makes x, beta, edges, n_intervals, cumulative_hazard, events and
    censoring_survival (`models.brier`).

    State when done: n_sites (3,), mean (3,) and sd (3,) of `FIGURES` over the sites; mean and sd are 0 where too few
    sites count (`SITES_FOR_MEAN`, `SITES_FOR_SPREAD`). n_patients ().
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._n_folds = int(context.settings["folds"])
        self._brier = Brier(context)
        shape = (context.n_bins,)
        self._of_fold = (
            *prediction_specs(context),
            ArraySpec(name="events", shape=shape, meaning="events in each interval of the grid"),
            ArraySpec(
                name="censoring_survival", shape=shape, meaning="probability of not being censored before each edge"
            ),
        )

    def parts(self) -> tuple[PartSpec, ...]:
        """Return both questions; either can be asked again when a site has left."""
        n = (len(FIGURES),)
        names = "C, integrated Brier score and calibration slope"
        n_sites = ArraySpec(name="n_sites", shape=n, meaning=f"sites that count for {names}", bound=1e4)
        counted = ArraySpec(name="counted", shape=n, meaning=f"whether this site counts for {names}", bound=1)
        sends = sent_to_all(self._of_fold, self._n_folds)
        sums = (
            n_patients_spec(),
            ArraySpec(name="total", shape=n, meaning=f"{names} of this site's unseen patients", bound=1e3),
            ArraySpec(name="squares", shape=n, meaning="their squares", bound=1e3),
        )
        return (
            PartSpec(name="counts", sends=sends, releases=(n_patients_spec(), counted), times=2),
            PartSpec(name="figures", sends=(*sends, n_sites), releases=sums, times=2),
        )

    def begin(self, inputs: Arrays) -> Turn:
        """Ask which sites count."""
        return Turn(all_asked(self._n_folds), "counts")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return whether this site counts, or its figures as far as enough sites do."""
        own = self.own(sent, cohort)
        n_patients: Floats = np.array(float(cohort.n_patients))
        if part == "counts":
            return {"n_patients": n_patients, "counted": own.counted}
        values = np.array([own.values[name] or 0.0 for name in FIGURES]) * own.counted
        total = np.where(sent["n_sites"] >= SITES_FOR_MEAN, values, 0.0)
        squares = np.where(sent["n_sites"] >= SITES_FOR_SPREAD, values**2, 0.0)
        return {"n_patients": n_patients, "total": total, "squares": squares}

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Ask for the figures, or return mean and spread over the sites."""
        if part == "counts":
            n_sites = np.rint(total["counted"])
            if not (n_sites >= SITES_FOR_MEAN).any():
                nothing = np.zeros(len(FIGURES))
                done = {"n_sites": n_sites, "mean": nothing, "sd": nothing, "n_patients": total["n_patients"]}
                return Turn(done, None)
            return Turn({**all_asked(self._n_folds), "n_sites": n_sites}, "figures")
        n = state["n_sites"]
        mean = np.where(n >= SITES_FOR_MEAN, total["total"] / np.maximum(n, 1.0), 0.0)
        about = np.maximum(total["squares"] - n * mean**2, 0.0) / np.maximum(n - 1.0, 1.0)
        sd = np.where(n >= SITES_FOR_SPREAD, np.sqrt(about), 0.0)
        return Turn({"n_sites": n, "mean": mean, "sd": sd, "n_patients": total["n_patients"]}, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Begin again: another number of sites counts."""
        return Turn(all_asked(self._n_folds), "counts")

    def own(self, sent: Arrays, cohort: Cohort) -> OwnFigures:
        """Return the figures of one site's unseen patients.

        C is over the pairs inside each fold, the integrated Brier score the mean of the folds' by patients, and the
        slope a Cox fit of all out-of-fold log hazards at the site's exact times (`models.calibration`).
        """
        pairs = np.zeros(3)
        brier, parts = [], []
        for patients, own in judged_folds(cohort, sent, self._of_fold, self._n_folds):
            scores = log_hazards(self._context, own, patients)
            pairs += harrell(patients.time, patients.event, scores, patients.entry)
            brier.append((self._ibs(own, patients), patients.n_patients))
            parts.append((patients, scores))
        n = sum(patients.n_patients for patients, _ in parts)
        return OwnFigures(
            n_patients=n,
            n_events=sum(patients.n_events for patients, _ in parts),
            values={
                "c_index": c_index(*pairs) if pairs[2] else None,
                "ibs": sum(score * size for score, size in brier) / n if n else None,
                "calibration_slope": _slope(parts),
            },
        )

    def _ibs(self, own: Arrays, patients: Cohort) -> float:
        weights = integral_weights(own["edges"], own["events"], int(own["n_intervals"]))
        entered = self._brier.local("censoring", own, patients)["n_entered"]
        share = np.divide(weights, entered, out=np.zeros(weights.size), where=entered > 0)
        return float(share @ self._brier.local("errors", {**own, "share": share}, patients)["squared_error"])


def _slope(parts: list[tuple[Cohort, Floats]]) -> float | None:
    if not parts or not any(patients.n_events for patients, _ in parts):
        return None
    time, event, entry = (
        np.concatenate([getattr(patients, name) for patients, _ in parts]) for name in ("time", "event", "entry")
    )
    try:
        slope, error = calibration_slope(time, event, np.concatenate([scores for _, scores in parts]), entry)
    except DivergedError:
        return None
    return slope if error > 0 and abs(slope) <= _LARGEST_SLOPE else None
