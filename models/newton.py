"""The Newton engine of every separable likelihood: the hub's side of a search whose steps are summed releases.

Sites send value, gradient and information (minus the second derivatives) of their log-likelihood at the asked
point; the hub subtracts the penalty 1/2 sum_j lambda_j beta_j^2, solves for the Newton step and asks again, until
one more step, which needs no further round, is exact to rounding. A step that does not raise the penalised
log-likelihood is halved.

What is left to the methods: the likelihood itself, and the structure of their information matrix. The search
travels in a step's state between rounds (`Search.arrays`), since steps keep nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from models.step import Arrays, DivergedError, Floats
from schemas.plan import ArraySpec

MAX_ROUNDS = 40
# Beyond these a site refuses to evaluate: no patient has e^40 times the hazard at the means, and sums over risk sets
# would hold nobody but them. Hazards near 0 harm no sum; e^-500 is still a number.
LOG_HAZARD_LIMIT = 40.0
_LOG_HAZARD_FLOOR = -500.0
# What a site answers there as log-likelihood: below every real one, and finite, as all releases are.
REFUSED = -1e15
# Sums of hazards and of products of covariates, at the limit above.
DERIVATIVE_BOUND = 1e18

_MAX_HALVINGS = 30
# Share of the log-likelihood by which summing in another order may change it.
_ROUNDING = 1e-10
# Of a search whose standard errors are those of its last question, one step before the coefficients: they are then
# good to about 1e-7 of themselves, and the coefficients to rounding.
TOLERANCE = 1e-16
# Infinite coefficients: nothing is left to gain, and yet the step is long in units of the first standard errors.
_NOTHING_TO_GAIN = 1e-8
_LONG_STEP = 0.5
# Information below this share of its own terms is their rounding.
_INFORMATIVE = 1e-11


@dataclass(frozen=True)
class Search:
    """A damped Newton search between two rounds.

    Attributes:
        point: (q,) last point that raised the objective.
        direction: (q,) Newton step from there.
        length: Share of the step that is being tried.
        objective: Penalised log-likelihood at `point`; None where not known yet, or no longer comparable.
        rounds: Rounds answered so far.
        first_information: (q,) diagonal of the information at the first point: the scale on which a step is long.
    """

    point: Floats
    direction: Floats
    length: float = 1.0
    objective: float | None = None
    rounds: int = 0
    first_information: Floats | None = None

    @property
    def candidate(self) -> Floats:
        """The (q,) point at which the likelihood is being asked."""
        return self.point + self.length * self.direction

    def arrays(self) -> dict[str, Floats]:
        """Return the search as a step's state, all finite."""
        first = np.zeros_like(self.point) if self.first_information is None else self.first_information
        return {
            "point": self.point,
            "direction": self.direction,
            "length": np.array(self.length),
            "objective": np.array(0.0 if self.objective is None else self.objective),
            "has_objective": np.array(float(self.objective is not None)),
            "rounds": np.array(float(self.rounds)),
            "first_information": first,
            "has_information": np.array(float(self.first_information is not None)),
        }

    @classmethod
    def of(cls, state: Arrays) -> Search:
        """Return the search that `arrays` wrote."""
        return cls(
            point=state["point"],
            direction=state["direction"],
            length=float(state["length"]),
            objective=float(state["objective"]) if state["has_objective"] else None,
            rounds=int(state["rounds"]),
            first_information=state["first_information"] if state["has_information"] else None,
        )

    def falls(self, objective: float) -> bool:
        """Whether the objective at the candidate is lower than before, or no number."""
        if not np.isfinite(objective) or objective <= REFUSED / 2:
            return True
        return self.objective is not None and objective < self.objective - _ROUNDING * (1 + abs(self.objective))

    def halved(self) -> Search:
        """Return the search that tries half the step.

        Raises:
            DivergedError: When even a minute step does not raise the likelihood.
        """
        if self.objective is None or self.length < 2.0**-_MAX_HALVINGS:
            raise DivergedError(
                "the likelihood cannot be evaluated along the Newton step: a covariate has values far from all "
                "others; check its unit and range in the dictionary, or add a penalty"
            )
        return self._counted(replace(self, length=self.length / 2))

    def stepped(
        self, objective: float, step: NewtonStep, names: Sequence[str], tolerance: float = TOLERANCE
    ) -> Search | None:
        """Return the search after the candidate has been accepted, or None when one last step ends it.

        Args:
            objective: Penalised log-likelihood at the candidate.
            step: The Newton step from the candidate.
            names: (q,) names of the parameters for error messages; empty for those no person knows.
            tolerance: Share of the objective below which the Newton decrement, twice what is left to gain, ends it.

        Raises:
            DivergedError: When coefficients run to infinity, or the rounds are used up.
        """
        first = step.information if self.first_information is None else self.first_information
        _refuse_infinite(step, first, names)
        if step.decrement <= tolerance * (1 + abs(objective)):
            return None
        return self._counted(
            Search(self.candidate, step.direction, 1.0, objective, self.rounds, first_information=first)
        )

    def restarted(self) -> Search:
        """Return the search without what it would compare with: the sum is now over fewer sites."""
        return replace(self, direction=np.zeros_like(self.direction), length=1.0, objective=None)

    def _counted(self, search: Search) -> Search:
        if self.rounds + 1 >= MAX_ROUNDS:
            raise DivergedError(
                f"the fit has not converged in {MAX_ROUNDS} rounds; add a penalty, or leave out covariates that "
                "few patients have, that nearly repeat each other, or with values far from all others"
            )
        return replace(search, rounds=self.rounds + 1)


@dataclass(frozen=True)
class NewtonStep:
    """The Newton step at a point and what it says about the end.

    Attributes:
        direction: (q,) inverse information times gradient.
        decrement: gradient times direction, twice the gain that the step expects.
        information: (q,) diagonal of the information, penalty included.
    """

    direction: Floats
    decrement: float
    information: Floats


def _refuse_infinite(step: NewtonStep, first: Floats, names: Sequence[str]) -> None:
    # Under monotone likelihood (perfect separation) each step raises a coefficient by about 1/|x|, for ever, while
    # what is left to gain and the information both fall by a factor e (Heinze & Schemper 2001, section 2).
    length = np.abs(step.direction) * np.sqrt(first)
    if step.decrement > _NOTHING_TO_GAIN or not np.any(length > _LONG_STEP):
        return
    named = np.array([bool(name) for name in names])
    worst = int(np.argmax(np.where(named, length, -1.0)))
    culprit = f", for example of `{names[worst]}`," if named.any() else ""
    raise DivergedError(
        f"coefficients{culprit} grow without end, because the covariates tell patients with and without the event "
        "apart perfectly (all or none of a group have it); add a penalty, or leave that covariate out"
    )


def inverse(information: Floats, scale: Floats) -> Floats:
    """Invert an information matrix on the coefficients that the data determine.

    As in R, a column that is constant, or a linear combination of columns before it, gets no coefficient: its rows
    and columns of the inverse are 0, so are its Newton steps, and a variance of 0 says that there is none. With a
    penalty only columns without any information are left out.

    Args:
        information: (p, p), penalty included.
        scale: (p,) size of the terms of which each diagonal element is the sum or difference; 0 for a column that
            carries none.

    Returns:
        (p, p), the covariance of the coefficients.
    """
    p = scale.size
    diagonal = np.diag(information)
    kept = np.flatnonzero((scale > 0) & (diagonal > _INFORMATIVE * scale))
    # Equal diagonals first: the units of the columns must not decide what counts as singular.
    unit = 1 / np.sqrt(diagonal[kept])
    correlation = information[np.ix_(kept, kept)] * np.outer(unit, unit)
    factor = _cholesky(correlation)
    if factor is None:
        independent = _independent(correlation)
        kept, unit = kept[independent], unit[independent]
        factor = linalg.cholesky(correlation[np.ix_(independent, independent)], lower=True)
    covariance = np.zeros((p, p))
    inner = linalg.cho_solve((factor, True), np.eye(kept.size)) if kept.size else np.zeros((0, 0))
    covariance[np.ix_(kept, kept)] = inner * np.outer(unit, unit)
    return covariance


def _cholesky(matrix: Floats) -> Floats | None:
    """Return the lower factor of a matrix with unit diagonal, or None where a pivot is lost in rounding."""
    try:
        factor: Floats = linalg.cholesky(matrix, lower=True)
    except linalg.LinAlgError:
        return None
    return factor if np.all(np.diag(factor) ** 2 > _INFORMATIVE) else None


def _independent(matrix: Floats) -> NDArray[np.intp]:
    """Return the columns, from the first on, that are no linear combination of those taken before."""
    taken: list[int] = []
    rows = np.zeros((0, matrix.shape[0]))  # of the upper Cholesky factor
    for j in range(matrix.shape[0]):
        pivot = matrix[j, j] - float(rows[:, j] @ rows[:, j])
        if pivot > _INFORMATIVE:
            row = (matrix[j] - rows[:, j] @ rows) / np.sqrt(pivot)
            rows = np.vstack((rows, row))
            taken.append(j)
    return np.asarray(taken, dtype=np.intp)


def packed(matrix: Floats) -> Floats:
    """Return the p(p+1)/2 upper triangle of a symmetric matrix, row by row."""
    return matrix[np.triu_indices(matrix.shape[0])]


def unpacked(triangle: Floats, p: int) -> Floats:
    """Return the symmetric (p, p) matrix of a `packed` triangle."""
    matrix = np.zeros((p, p))
    matrix[np.triu_indices(p)] = triangle
    return matrix + np.triu(matrix, 1).T


def can_evaluate(log_hazard: Floats) -> bool:
    """Whether all of a site's (n,) log hazards are within the limits."""
    return bool(np.all((log_hazard <= LOG_HAZARD_LIMIT) & (log_hazard >= _LOG_HAZARD_FLOOR)))


def refused(releases: Sequence[ArraySpec], value: str, n_patients: int) -> dict[str, Floats]:
    """Return what a site answers where it cannot evaluate: `value` is `REFUSED`, everything else 0."""
    answer = {spec.name: np.zeros(spec.shape) for spec in releases}
    return answer | {value: np.array(REFUSED), "n_patients": np.array(float(n_patients))}


def within_bounds(releases: Sequence[ArraySpec], answer: Arrays) -> bool:
    """Whether every number of an answer is finite and within its bound, so that the gate lets it pass."""
    return all(bool(np.all(np.abs(answer[spec.name]) <= spec.bound)) for spec in releases)
