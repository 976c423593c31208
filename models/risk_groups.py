"""Where to cut the log hazard into low, middle and high risk, from sums alone.

Quantiles are not sums. Tertiles of a normal distribution with the patients' mean and standard deviation are, and
the groups exist to look at, not to test with, so their sizes need not be equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.moments import n_patients_spec
from models.scores import log_hazards, score_specs
from models.step import Arrays, Context, Turn
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

# The standard normal distribution has a third of its mass above this.
_UPPER_TERTILE = 0.43072729929545744


@dataclass(frozen=True)
class RiskGroups:
    """One round: sum and sum of squares of the log hazards.

    Inputs: mean(p), scale(p), beta(p).

    State when done:
        cutpoints: (2,) log hazards; low risk is up to the first, high risk above the second.
        mean_log_hazard: () over all patients.
        sd_log_hazard: () dividing by n.
        n_patients: ().
    """

    context: Context

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: the sums."""
        releases = (
            n_patients_spec(),
            ArraySpec(name="log_hazard_total", shape=(), meaning="sum of the log hazards"),
            ArraySpec(name="log_hazard_squares", shape=(), meaning="sum of squares of the log hazards"),
        )
        return (PartSpec(name="spread", sends=score_specs(self.context), releases=releases, times=1),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the sums."""
        return Turn({}, "spread")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's sums."""
        scores = log_hazards(self.context, sent, cohort)
        return {
            "n_patients": np.array(float(cohort.n_patients)),
            "log_hazard_total": np.asarray(scores.sum()),
            "log_hazard_squares": np.asarray((scores**2).sum()),
        }

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return mean -+ 0.4307 standard deviations."""
        n = max(float(total["n_patients"]), 1.0)
        mean = float(total["log_hazard_total"]) / n
        sd = float(np.sqrt(max(float(total["log_hazard_squares"]) / n - mean**2, 0.0)))
        done = {
            "cutpoints": np.array([mean - _UPPER_TERTILE * sd, mean + _UPPER_TERTILE * sd]),
            "mean_log_hazard": np.asarray(mean),
            "sd_log_hazard": np.asarray(sd),
            "n_patients": total["n_patients"],
        }
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)
