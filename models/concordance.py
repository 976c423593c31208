"""Concordance within sites: how often, of two patients of one site, the one with the higher log hazard fails first.

Pairs across sites would need both patients' scores in one place, so a real federation counts pairs inside sites
only; `archipel simulate` counts all pairs with the same function, `harrell`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.scores import log_hazards, score_specs
from models.step import Arrays, Context, Floats, Turn
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

_CELLS_AT_A_TIME = 4_000_000


def harrell(
    time: Floats, event: NDArray[np.bool_], log_hazard: Floats, entry: Floats | None = None
) -> tuple[float, float, float]:
    """Count Harrell's pairs (Harrell et al. 1982, JAMA 247:2543), delayed entry included.

    A pair (i, j) is comparable when i had the event at t_i while j was under observation and outlived it:
    entry_j < t_i, and t_j > t_i, or t_j = t_i and j was censored (censoring comes after events of the same time).
    It is concordant when i has the higher log hazard, tied when both have the same. Two events at one time are not
    comparable. Counts as `survival::concordance` in R.

    Args:
        time: (n,) time to event or censoring.
        event: (n,), True where the event was observed.
        log_hazard: (n,), higher means an earlier event; only its order counts.
        entry: (n,) observed only after it, or None for 0.

    Returns:
        Numbers of concordant, tied and comparable pairs; C is (concordant + tied / 2) / comparable.
    """
    concordant, tied, comparable = (each.sum() / 2 for each in pairs_of_each(time, event, log_hazard, entry))
    return float(concordant), float(tied), float(comparable)


def pairs_of_each(
    time: Floats,
    event: NDArray[np.bool_],
    log_hazard: Floats,
    entry: Floats | None = None,
    weight: Floats | None = None,
) -> tuple[Floats, Floats, Floats]:
    """Return the (n,) concordant, tied and comparable pairs that each patient is in.

    Args:
        time: (n,); this and the next three as of `harrell`.
        event: (n,).
        log_hazard: (n,).
        entry: (n,) or None for 0.
        weight: (n,) of a pair whose first event is the patient's, or None for 1 (`models.censoring.uno_weights`).
    """
    n = len(time)
    entered = np.zeros(n) if entry is None else entry
    found = np.zeros((3, n))
    failing = np.flatnonzero(event if weight is None else event & (weight > 0))
    block = max(1, _CELLS_AT_A_TIME // max(n, 1))
    for start in range(0, len(failing), block):
        rows = failing[start : start + block]
        t, score = time[rows, None], log_hazard[rows, None]
        pairs = (entered < t) & ((time > t) | ((time == t) & ~event))
        kinds = (pairs & (score > log_hazard), pairs & (score == log_hazard), pairs)
        for own, these in zip(found, kinds, strict=True):
            first = these.sum(axis=1)
            own[rows] += first if weight is None else weight[rows] * first
            own += these.sum(axis=0) if weight is None else weight[rows] @ these
    return found[0], found[1], found[2]


def ratio_variance(right: Floats, comparable: Floats) -> float:
    """Return the variance of C from the pairs that each patient is in (see `concordance_state`); 0 without pairs.

    Args:
        right: (n,) pairs in the right order, ties counted half.
        comparable: (n,) all pairs.
    """
    pairs = float(comparable.sum()) / 2
    if pairs <= 0:
        return 0.0
    own = right - float(right.sum()) / 2 / pairs * comparable
    return float((own**2).sum()) / pairs**2


def c_index(concordant: float, tied: float, comparable: float) -> float:
    """Return Harrell's C of counted pairs; 0 where there was no pair, which `comparable` = 0 tells apart."""
    return (concordant + 0.5 * tied) / comparable if comparable else 0.0


@dataclass(frozen=True)
class Concordance:
    """One round: every site counts the pairs of its own patients.

    Inputs: mean(p), scale(p), beta(p). State: c_index (0 where comparable is 0: look there first), its variance, and
    the sums of `PAIR_COUNTS`.
    """

    context: Context

    def parts(self) -> tuple[PartSpec, ...]:
        """Ask for the counts of pairs."""
        return (PartSpec(name="pairs", sends=score_specs(self.context), releases=PAIR_COUNTS, times=1),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask at once."""
        return Turn({}, "pairs")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Count this site's pairs."""
        log_hazard = log_hazards(self.context, sent, cohort)
        return pair_counts(cohort, log_hazard, cohort.n_patients)

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Form C over all sites' pairs."""
        return Turn(concordance_state(total), None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same: a count forgets nobody."""
        return Turn(state, part)


PAIR_COUNTS = (
    ArraySpec(name="concordant", shape=(), meaning="pairs of patients of one site in the right order"),
    ArraySpec(name="tied", shape=(), meaning="pairs of patients of one site with the same log hazard"),
    ArraySpec(name="comparable", shape=(), meaning="pairs of patients of one site whose order of events is known"),
    ArraySpec(name="right_squares", shape=(), meaning="squares of the pairs in the right order that a patient is in"),
    ArraySpec(name="right_products", shape=(), meaning="products of these and of all pairs that a patient is in"),
    ArraySpec(name="pair_squares", shape=(), meaning="squares of all pairs that a patient is in"),
    ArraySpec(name="n_patients", shape=(), meaning="patients behind these numbers", bound=1e9),
)


def pair_counts(cohort: Cohort, log_hazard: Floats, n_patients: int) -> dict[str, Floats]:
    """Return the arrays of `PAIR_COUNTS` for one site's patients."""
    concordant, tied, comparable = pairs_of_each(cohort.time, cohort.event, log_hazard, cohort.entry)
    right = concordant + 0.5 * tied
    counts = {
        "concordant": concordant.sum() / 2,
        "tied": tied.sum() / 2,
        "comparable": comparable.sum() / 2,
        "right_squares": (right**2).sum(),
        "right_products": (right * comparable).sum(),
        "pair_squares": (comparable**2).sum(),
        "n_patients": n_patients,
    }
    return {name: np.asarray(count, dtype=np.float64) for name, count in counts.items()}


def concordance_state(total: Arrays) -> dict[str, Floats]:
    """Return the summed counts, their C and its variance.

    The variance is that of the infinitesimal jackknife (Efron 1982, The jackknife, section 6.3; R's
    `survival::concordance`): with A_i of the B_i pairs of patient i in the right order, sum_i (A_i - C B_i)^2 over
    the square of all pairs. It is a sum over patients, and so over sites; no patient and no site is left out.
    """
    comparable = float(total["comparable"])
    c = c_index(float(total["concordant"]), float(total["tied"]), comparable)
    squares = total["right_squares"] - 2 * c * total["right_products"] + c**2 * total["pair_squares"]
    variance = max(float(squares), 0.0) / comparable**2 if comparable else 0.0
    counts = {spec.name: total[spec.name] for spec in PAIR_COUNTS}
    return {**counts, "c_index": np.asarray(c), "variance": np.asarray(variance)}
