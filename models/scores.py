"""What every judgement of a model starts from: log hazards, predicted survival, patients on the common grid."""

from __future__ import annotations

import numpy as np

from models.predictor import Predictor
from models.step import Arrays, Context, Floats
from models.time_grid import Spells, grid_specs, interval_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec

# exp of more, times a hazard, may overflow float64; nobody survives a hazard of e^600.
_LARGEST_LOG = 600.0


def score_specs(context: Context) -> tuple[ArraySpec, ...]:
    """Return what a site is sent to score its patients: what makes x, and the coefficients."""
    return Predictor(context).specs()


def prediction_specs(context: Context) -> tuple[ArraySpec, ...]:
    """Return what a site is sent to predict survival on the common grid: scores, grid and baseline."""
    baseline = ArraySpec(
        name="cumulative_hazard",
        shape=(context.n_bins,),
        meaning="cumulative hazard, at each edge, of a patient at the means",
    )
    return (*score_specs(context), *grid_specs(context.n_bins), baseline)


def log_hazards(context: Context, sent: Arrays, cohort: Cohort) -> Floats:
    """Return the (n,) log hazards of the model that was sent, relative to a patient at the means."""
    return Predictor(context).log_hazard(cohort, sent)


def spells_of(context: Context, sent: Arrays, cohort: Cohort) -> Spells:
    """Return the intervals of the grid in which each patient is at risk."""
    exact = bool(context.settings.get("exact", False))
    n_intervals = int(sent["n_intervals"])
    return interval_of(cohort.time, cohort.event, cohort.entry, sent["edges"], n_intervals, exact=exact)


def individual_hazard(hazard: Floats, log_hazard: Floats) -> Floats:
    """Return each patient's hazards, hazard x e^log_hazard.

    Args:
        hazard: (m,) or (n, m) hazards, cumulative or not, of a patient at the means, >= 0.
        log_hazard: (n,).

    Returns:
        (n, m).
    """
    return np.exp(np.minimum(log_hazard, _LARGEST_LOG))[:, None] * hazard
