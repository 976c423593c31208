"""Chooses one penalty for each layer by cross-validation of the grouped hazard likelihood, all folds in one message.

Each site deals its patients into inner folds. In a round the hub asks, for every inner fold at a point of its own,
for value, gradient and information of the likelihood of the fold's training part and of the rest. Newton steps bring
all folds to the fit of one vector of penalties; there the hub knows that vector's criterion, and, to second order,
that of every other (`models.penalty_model`). It goes to the best of them and looks from there, until the best is one
where it has been. So the search costs rounds for the few vectors that are fitted, and nothing for those that are only
looked at; a vector is chosen for its own criterion, never for a promise from afar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.cox import no_events
from models.folds import N_INNER_FOLDS
from models.grouped_likelihood import summand
from models.moments import n_patients_spec
from models.newton import DERIVATIVE_BOUND, REFUSED, can_evaluate
from models.penalties import OFF
from models.penalty_model import FoldModels, Profile, coordinate_search
from models.penalty_walk import Points, Tried, Walk
from models.preparation import Preparation
from models.step import Arrays, Context, DivergedError, Floats, Turn
from models.time_grid import Spells, grid_specs, interval_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

CLINICAL_GRID = (1.0, 10.0, 100.0, 1000.0)
WIDE_GRID = (3.0, 30.0, 300.0, 3e3, 3e4, OFF)
MAX_SEARCH_ROUNDS = 20
"""Of the plan: twelve, and those that are asked again when a site has left."""
MAX_TRIED = 8

_START = {CLINICAL_GRID: 1, WIDE_GRID: 2}  # 10 and 300
_FIRST_ALPHA = -7.0
_ALPHA_RANGE = (-30.0, 10.0)
# Newton decrement of a fold, twice what is left to gain: the criterion is then right to a small share of it.
_CONVERGED = 0.02
# After so many rounds no further vector is tried, and then the search ends: a site answers a fit at twelve points.
_LAST_MOVE = 9
_LAST_ROUND = 12
_MAX_HALVINGS = 12
_ROUNDING = 1e-9
_ONE_EVENT = 0.5
_LONGEST_ALPHA_STEP = 5.0
_SUMS = {
    "log_likelihood": "log-likelihood",
    "gradient_alpha": "its slope in each baseline hazard",
    "gradient_beta": "its slope in each coefficient",
    "hessian_alpha": "its information on each baseline hazard",
    "hessian_alpha_beta": "its information on each baseline hazard and coefficient",
    "hessian_beta": "its information on each pair of coefficients",
}


class PenaltySearch:
    """The search, over the layers' grids.

    Settings:
        n_inner_folds: F (default 10), as the site deals `Cohort.inner_fold_of`.

    Inputs: `mean`, `scale` of `moments`; `edges`, `n_intervals` of `event_grid`.

    State when done:
        penalties: (p,) chosen, one for each column; `OFF` where the layer is left out.
        layer_penalties: (L,) the same for each layer, in the order in which the columns name them.
        criterion: () of the choice.
        tried: (M, L) vectors that were fitted, in order; 0 as padding.
        criteria: (M,) of each, 0 as padding.
        n_tried: () of them.
        n_patients: () patients.
    """

    def __init__(self, context: Context) -> None:
        self._preparation = Preparation(context)
        self._p = len(context.design)
        self._n_bins = context.n_bins
        self._n_folds = int(context.settings.get("n_inner_folds", N_INNER_FOLDS))
        wide = {layer.name for layer in context.layers}
        self._layers = tuple(dict.fromkeys(column.layer for column in context.design))
        self._grids = tuple(WIDE_GRID if layer in wide else CLINICAL_GRID for layer in self._layers)
        self._layer_of = np.array([self._layers.index(column.layer) for column in context.design], dtype=np.intp)

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: both parts of every fold at a point of its own."""
        f, p, k = self._n_folds, self._p, self._n_bins
        sends = (
            *self._preparation.specs(),
            *grid_specs(k),
            ArraySpec(name="alpha", shape=(f, k), meaning="log baseline hazards, by inner fold"),
            ArraySpec(name="beta", shape=(f, p), meaning="log hazard ratios, by inner fold"),
        )
        shapes = _shapes(p, k)
        releases = tuple(
            ArraySpec(
                name=name,
                shape=(f, 2, *shapes[name]),
                meaning=f"{meaning}, of the training part and the rest of each inner fold",
                bound=DERIVATIVE_BOUND,
            )
            for name, meaning in _SUMS.items()
        )
        return (
            PartSpec(name="expand", sends=sends, releases=(n_patients_spec(), *releases), times=MAX_SEARCH_ROUNDS),
        )

    def begin(self, inputs: Arrays) -> Turn:
        """Ask at beta = 0, with hazards so small that the likelihood is Poisson's."""
        p, f = self._p, self._n_folds
        point = Points(np.full((f, self._n_bins), _FIRST_ALPHA), np.zeros((f, p)))
        start = tuple(_START[grid] for grid in self._grids)
        return self._ask(Walk.starting(start, point))

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's expansions of the training part and of the rest of every fold."""
        if cohort.inner_fold_of is None:
            raise ValueError("the site has not dealt its patients into inner folds")
        x = self._preparation.matrix(cohort, sent)
        spells = interval_of(
            cohort.time, cohort.event, cohort.entry, sent["edges"], int(sent["n_intervals"]), exact=False
        )
        shapes = _shapes(self._p, self._n_bins)
        answer = {name: np.zeros((self._n_folds, 2, *shapes[name])) for name in _SUMS}
        for fold in range(self._n_folds):
            log_hazard = x @ sent["beta"][fold]
            if not can_evaluate(log_hazard):
                answer["log_likelihood"][fold] = REFUSED
                continue
            held_out = cohort.inner_fold_of == fold
            for side, rows in enumerate((~held_out, held_out)):
                if rows.any():
                    own = Spells(spells.first[rows], spells.stop[rows], spells.event[rows], spells.n_bins)
                    sums = summand(own, x[rows], log_hazard[rows], sent["alpha"][fold], expected=False)
                    for name in _SUMS:
                        answer[name][fold, side] = sums[name]
        return {"n_patients": np.array(float(cohort.n_patients)), **answer}

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the next points, or the choice.

        Raises:
            DivergedError: When no patient has the event on this grid, or the folds cannot be fitted.
        """
        walk = Walk.of(state)
        training = [Profile.of({name: total[name][fold, 0] for name in _SUMS}) for fold in range(self._n_folds)]
        everybody = [
            Profile.of({name: total[name][fold].sum(axis=0) for name in _SUMS}) for fold in range(self._n_folds)
        ]
        refused = np.any(total["log_likelihood"] <= REFUSED / 2, axis=1)
        if not refused.all() and max(one.n_events for one in everybody) < _ONE_EVENT:
            raise no_events()
        penalties = self._penalties(walk.chosen)
        values = np.array([one.value for one in training])
        objective = values - _penalty(penalties, walk.asked.beta)
        falls = refused | (objective < walk.objective - _ROUNDING * (1 + np.abs(objective)))
        target = _newton(walk.asked, training, penalties)
        gradients = np.array([one.gradient for one in training]) - penalties * walk.asked.beta
        decrement = np.sum(gradients * (target.beta - walk.asked.beta), axis=1)
        walk = walk.answered(falls, objective, target)
        is_last = walk.rounds >= _LAST_ROUND or walk.length.min() < 2.0**-_MAX_HALVINGS
        if not falls.any() and decrement.max() <= _CONVERGED:
            return self._look_around(walk, training, everybody, total)
        return self._chosen(walk, total) if is_last else self._ask(walk)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Go on from the last fits, over the remaining sites; what the former sums said is not comparable."""
        walk = Walk.of(state)
        return self._ask(Walk.starting(walk.chosen, walk.anchor, rounds=min(walk.rounds, _LAST_MOVE - 1)))

    def _look_around(
        self, walk: Walk, training: Sequence[Profile], everybody: Sequence[Profile], total: Arrays
    ) -> Turn:
        """Note the criterion of the vector that has been fitted, and go to the best one seen from there, if any."""
        models = FoldModels.of(walk.anchor.beta, training, everybody)
        criterion = float(models.criteria(self._penalties(walk.chosen)[None]).sum())
        tried = (*walk.tried, Tried(walk.chosen, criterion, models))
        sizes = [len(grid) for grid in self._grids]
        following = coordinate_search(walk.chosen, sizes, lambda several: self._criteria(tried, several))
        if following in {one.indices for one in tried}:
            return self._chosen(replace(walk, tried=tried), total, following)
        if len(tried) >= MAX_TRIED or walk.rounds >= _LAST_MOVE:
            return self._chosen(replace(walk, tried=tried), total)
        return self._ask(self._towards(replace(walk, tried=tried), following, training))

    def _towards(self, walk: Walk, following: tuple[int, ...], training: Sequence[Profile]) -> Walk:
        """Return the search that goes from the fits of one vector to those of another."""
        penalties = self._penalties(following)
        beta = walk.anchor.beta
        values = np.array([one.value for one in training]) - _penalty(penalties, beta)
        loses = np.any((penalties >= OFF) & (beta != 0), axis=1)
        return replace(
            walk,
            chosen=following,
            target=_newton(walk.anchor, training, penalties),
            # A layer that is left out is so from now on, and what it took part in is no lower bound of anything.
            anchor=Points(walk.anchor.alpha, np.where(penalties >= OFF, 0.0, beta)),
            objective=np.where(loses, REFUSED, values),
        )

    def _criteria(self, tried: Sequence[Tried], several: Sequence[tuple[int, ...]]) -> Floats:
        """Return the criteria of several vectors, each as seen from the nearest that has been fitted."""
        grid = np.array([one.indices for one in tried])
        # Of equally near ones the last.
        nearest = [len(tried) - 1 - int(np.argmin(np.abs(grid - one).sum(axis=1)[::-1])) for one in several]
        criteria = np.empty((len(several), self._n_folds))
        for place in set(nearest):
            rows = [row for row, near in enumerate(nearest) if near == place]
            penalties = np.stack([self._penalties(several[row]) for row in rows])
            criteria[rows] = tried[place].models.criteria(penalties)
        return criteria

    def _penalties(self, indices: Sequence[int]) -> Floats:
        return self._layer_penalties(indices)[self._layer_of]

    def _layer_penalties(self, indices: Sequence[int]) -> Floats:
        return np.array([grid[index] for grid, index in zip(self._grids, indices, strict=True)])

    def _ask(self, walk: Walk) -> Turn:
        asked = walk.asked
        return Turn({**walk.arrays(), "alpha": asked.alpha, "beta": asked.beta}, "expand")

    def _chosen(self, walk: Walk, total: Arrays, indices: tuple[int, ...] | None = None) -> Turn:
        """Return the choice: `indices`, or the best vector that was tried, where the rounds end before the search."""
        if not walk.tried:
            raise DivergedError(
                "no penalty could be chosen: the inner folds cannot be fitted, because a covariate has values far "
                "from all others; check its unit and range in the dictionary, or fix the penalty in the study"
            )
        best = max(walk.tried, key=lambda one: (one.indices == indices, one.criterion))
        tried, criteria = np.zeros((MAX_TRIED, len(self._layers))), np.zeros(MAX_TRIED)
        for row, one in enumerate(walk.tried):
            tried[row], criteria[row] = self._layer_penalties(one.indices), one.criterion
        done: dict[str, Floats] = {
            "penalties": self._penalties(best.indices),
            "layer_penalties": self._layer_penalties(best.indices),
            "criterion": np.array(best.criterion),
            "tried": tried,
            "criteria": criteria,
            "n_tried": np.array(float(len(walk.tried))),
            "n_patients": total["n_patients"],
        }
        return Turn(done, None)


def _penalty(penalties: Floats, beta: Floats) -> Floats:
    """Return the (F,) penalties of the (F, p) coefficients; those of a layer left out are 0."""
    return np.asarray(0.5 * np.sum(penalties * beta**2, axis=1), dtype=np.float64)


def _newton(at: Points, training: Sequence[Profile], penalties: Floats) -> Points:
    """Return where the Newton steps of the folds lead."""
    models = FoldModels.of(at.beta, training, training)
    beta = models.fits(penalties[None])[0]
    alpha = np.array(
        [
            own + np.clip(one.rise - one.give @ difference, -_LONGEST_ALPHA_STEP, _LONGEST_ALPHA_STEP)
            for own, one, difference in zip(at.alpha, training, beta - at.beta, strict=True)
        ]
    )
    return Points(np.clip(alpha, *_ALPHA_RANGE), beta)


def _shapes(p: int, k: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each sum over one part of one fold."""
    return {
        "log_likelihood": (),
        "gradient_alpha": (k,),
        "gradient_beta": (p,),
        "hessian_alpha": (k,),
        "hessian_alpha_beta": (k, p),
        "hessian_beta": (p * (p + 1) // 2,),
    }
