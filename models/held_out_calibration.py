"""The calibration curve of unseen patients: predicted and observed survival in groups of predicted risk, by horizon.

Each patient is put in a group, and predicted for, by the model of the fold that did not train on them; then groups
are added up over the folds, at the site. Observed survival is the Kaplan-Meier estimate on the grid of all patients
(`models.kaplan_meier`), so no interval of time holds fewer events than the study allows.
"""

from __future__ import annotations

import numpy as np

from models.across_folds import all_asked, judged_folds, sent_to_all
from models.baseline import cumulative_hazard_at
from models.kaplan_meier import KaplanMeier, group_sums
from models.ranking import N_CALIBRATION_GROUPS
from models.scores import log_hazards, prediction_specs
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import observation_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

__all__ = ["HeldOutCalibration"]


class HeldOutCalibration:
    """One round: the counts and predictions of `models.kaplan_meier`, of unseen patients in ten groups.

    Settings:
        folds: F.

    Inputs: of each fold, so (F, ...): what makes x, beta, edges, n_intervals, cumulative_hazard, and cutpoints (9,);
    all_edges (K,) and all_intervals () of the grid of all patients.

    State when done: as of `models.kaplan_meier.KaplanMeier`, with ten groups.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._n_folds = int(context.settings["folds"])
        settings = {**context.settings, "n_groups": N_CALIBRATION_GROUPS}
        self._curves = KaplanMeier(
            Context(context.design, context.n_bins, context.horizons, settings, context.layers)
        )
        cutpoints = (N_CALIBRATION_GROUPS - 1,)
        self._of_fold = (
            *prediction_specs(context),
            ArraySpec(name="cutpoints", shape=cutpoints, meaning="log hazards between the risk groups"),
        )

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question."""
        k = self._context.n_bins
        grid = (
            ArraySpec(name="all_edges", shape=(k,), meaning="upper edges of the grid of all patients"),
            ArraySpec(name="all_intervals", shape=(), meaning="how many of these edges are in use"),
        )
        releases = self._curves.parts()[0].releases
        sends = (*sent_to_all(self._of_fold, self._n_folds), *grid)
        return (PartSpec(name="groups", sends=sends, releases=releases, times=1),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the counts."""
        return Turn(all_asked(self._n_folds), "groups")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's counts and sums over all folds."""
        answer = {spec.name: np.zeros(spec.shape) for spec in self._curves.parts()[0].releases}
        for patients, own in judged_folds(cohort, sent, self._of_fold, self._n_folds):
            for name, array in self._of_patients(patients, own, sent).items():
                answer[name] = answer[name] + array
        return answer

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the curves."""
        grid = {"edges": inputs["all_edges"], "n_intervals": inputs["all_intervals"]}
        return self._curves.finish(part, {}, grid, total)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)

    def _of_patients(self, patients: Cohort, own: Arrays, sent: Arrays) -> dict[str, Floats]:
        exact = bool(self._context.settings.get("exact", False))
        scores = log_hazards(self._context, own, patients)
        seen = observation_of(
            patients.time,
            patients.event,
            patients.entry,
            sent["all_edges"],
            int(sent["all_intervals"]),
            exact=exact,
        )
        hazard = cumulative_hazard_at(
            np.asarray(self._context.horizons, dtype=np.float64),
            own["edges"],
            int(own["n_intervals"]),
            own["cumulative_hazard"],
            exact=exact,
        )
        sums = group_sums(scores, own["cutpoints"], seen, hazard)
        return {"n_patients": np.array(float(patients.n_patients)), **sums}
