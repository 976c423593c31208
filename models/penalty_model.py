"""The hub's model of how well each vector of penalties predicts, made from one expansion of the likelihood a fold.

Penalties are chosen by cross-validation with the baseline profiled out (statistics.md, point 4; Verweij & van
Houwelingen 1993 for the form): the criterion of a vector of penalties is

    sum over inner folds f of  max_alpha l(all; alpha, beta_f) - max_alpha l(training part of f; alpha, beta_f) ,

beta_f fitted to the training part of f. Both likelihoods are known to second order at one point, so beta_f and the
criterion of every candidate follow without asking anybody (`FoldModels`); only the candidate chosen is then fitted
and asked. The baseline is profiled as that of Poisson counts: with d events and information h at the point, the
hazard of an interval moves by log(d / h), which is exact where hazards are small (Whitehead 1980).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.newton import packed, unpacked
from models.penalties import OFF
from models.step import Arrays, Floats

SWEEPS = 2
"""Of a coordinate search over the layers."""

STANDARD_ERRORS = 0.5
"""By how many standard errors more shrinkage may look worse and is still preferred (see `most_shrunken`)."""

# Events below this share of the information are rounding.
_NO_EVENTS = 1e-9
_LONGEST_ALPHA_STEP = 5.0
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Profile:
    """A log-likelihood near one beta, the baseline profiled out.

    Attributes:
        value: At the point.
        gradient: (p,) there.
        information: (p, p) there.
        give: (K, p) how much each log baseline hazard gives way to each coefficient.
        rise: (K,) from the log baseline hazards of the point to their best ones there.
        n_events: Counted by the likelihood, to rounding.
    """

    value: float
    gradient: Floats
    information: Floats
    give: Floats
    rise: Floats
    n_events: float

    @staticmethod
    def of(sums: Arrays) -> Profile:
        """Return the profile of a summed expansion (`models.grouped_likelihood.summand`)."""
        information, gradient = sums["hessian_alpha"], sums["gradient_alpha"]
        p = sums["gradient_beta"].size
        used = information > 0
        safe = np.where(used, information, 1.0)
        events = np.where(used, np.maximum(gradient + information, 0.0), 0.0)
        has_events = events > _NO_EVENTS * safe
        ratio = np.log(np.where(has_events, events / safe, 1.0))
        gain = np.where(has_events, events * ratio, 0.0) - np.where(used, gradient, 0.0)
        give = np.where(used[:, None], sums["hessian_alpha_beta"] / safe[:, None], 0.0)
        # At the best baseline an interval weighs d, and not h: the same on average over the intervals.
        share = float(events.sum()) / max(float(information[used].sum()), _NO_EVENTS) if used.any() else 0.0
        schur = unpacked(sums["hessian_beta"], p) - sums["hessian_alpha_beta"].T @ give
        rise = np.where(used, np.where(has_events, ratio, -_LONGEST_ALPHA_STEP), 0.0)
        return Profile(
            value=float(sums["log_likelihood"]) + float(gain.sum()),
            gradient=sums["gradient_beta"] - give.T @ gradient,
            information=share * (schur + schur.T) / 2,
            give=give,
            rise=np.clip(rise, -_LONGEST_ALPHA_STEP, _LONGEST_ALPHA_STEP),
            n_events=float(events.sum()),
        )


@dataclass(frozen=True)
class FoldModels:
    """Second-order models of all inner folds at the fit of one vector of penalties.

    The second axis of `value`, `gradient` and `information` is: training part, all patients.

    Attributes:
        beta: (F, p) where they were made.
        value: (F, 2).
        gradient: (F, 2, p).
        information: (F, 2, p, p).
    """

    beta: Floats
    value: Floats
    gradient: Floats
    information: Floats

    @staticmethod
    def of(beta: Floats, training: Sequence[Profile], everybody: Sequence[Profile]) -> FoldModels:
        """Return the models of the folds' profiles, made at their (F, p) `beta`."""
        pairs = list(zip(training, everybody, strict=True))
        return FoldModels(
            beta,
            np.array([[one.value for one in pair] for pair in pairs]),
            np.array([[one.gradient for one in pair] for pair in pairs]),
            np.array([[one.information for one in pair] for pair in pairs]),
        )

    def arrays(self) -> dict[str, Floats]:
        """Return what a step's state keeps, information as packed triangles."""
        triangles = np.array([[packed(one) for one in pair] for pair in self.information])
        return {"beta": self.beta, "value": self.value, "gradient": self.gradient, "information": triangles}

    @classmethod
    def of_arrays(cls, arrays: Arrays) -> FoldModels:
        """Return the models that `arrays` wrote."""
        p = arrays["beta"].shape[-1]
        full = np.array([[unpacked(one, p) for one in pair] for pair in arrays["information"]])
        return cls(arrays["beta"], arrays["value"], arrays["gradient"], full)

    def fits(self, penalties: Floats) -> Floats:
        """Return the (C, F, p) fits to the training parts under each of the (C, p) penalties."""
        information, gradient = self.information[:, 0], self.gradient[:, 0]
        p = self.beta.shape[-1]
        system = np.broadcast_to(information, (len(penalties), *information.shape)).copy()
        system[..., np.arange(p), np.arange(p)] += penalties[:, None, :]
        pull = gradient + np.einsum("fij,fj->fi", information, self.beta)
        right = np.broadcast_to(pull, system.shape[:-1])[..., None]
        beta = np.linalg.solve(system, right)[..., 0]
        return np.where(penalties[:, None, :] >= OFF, 0.0, beta)

    def criteria(self, penalties: Floats) -> Floats:
        """Return what each fold adds to the criteria of the (C, p) penalties, (C, F), to second order."""
        difference = self.fits(penalties) - self.beta
        gradient = self.gradient[:, 1] - self.gradient[:, 0]
        information = self.information[:, 1] - self.information[:, 0]
        by_fold = difference.swapaxes(0, 1)
        slope = gradient[:, None, :] - by_fold @ information / 2
        gain = self.value[:, 1] - self.value[:, 0]
        return np.asarray(gain[:, None] + np.sum(slope * by_fold, axis=2), dtype=np.float64).T


def coordinate_search(
    start: Sequence[int], sizes: Sequence[int], criteria: Callable[[list[tuple[int, ...]]], Floats]
) -> tuple[int, ...]:
    """Return the grid point that sweeps over the coordinates, one at a time, find (see `most_shrunken`).

    Args:
        start: Index of each coordinate.
        sizes: Of each coordinate's grid, penalties ascending.
        criteria: Of C grid points at once, (C, F): what each fold adds.
    """
    chosen = tuple(start)
    for _ in range(SWEEPS):
        before = chosen
        for axis, size in enumerate(sizes):
            candidates = [(*chosen[:axis], index, *chosen[axis + 1 :]) for index in range(size)]
            chosen = candidates[most_shrunken(criteria(candidates))]
        if chosen == before:
            break
    return chosen


def most_shrunken(criteria: Floats) -> int:
    """Return the last of the C candidates whose criterion is not clearly below the best one's.

    Not clearly: by less than `STANDARD_ERRORS` of the difference, which the folds' own differences give. This is the
    rule of one standard error (Breiman et al. 1984, section 3.4.3), paired over the folds.

    Args:
        criteria: (C, F) what each fold adds.
    """
    best = int(np.argmax(criteria.sum(axis=1)))
    deficit = criteria[best] - criteria
    error = np.std(deficit, axis=1, ddof=1) * np.sqrt(criteria.shape[1])
    # What differs by rounding alone, as where no feature of a layer takes part, must not depend on the rounding.
    rounding = _ROUNDING * (1 + np.abs(criteria[best]).sum())
    return int(np.flatnonzero(deficit.sum(axis=1) <= STANDARD_ERRORS * error + rounding)[-1])
