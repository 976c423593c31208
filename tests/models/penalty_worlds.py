"""Invented patients with wide layers, and the slow search that the quick one must agree with."""

import numpy as np

from models.folds import N_INNER_FOLDS
from models.grouped_likelihood import summand
from models.newton import unpacked
from models.penalties import OFF
from models.penalty_model import coordinate_search
from models.penalty_search import CLINICAL_GRID, WIDE_GRID
from models.step import Context
from models.time_grid import interval_of
from schemas.cohort import Cohort, Layer
from schemas.design import DesignColumn, LayerDesign

CLINICAL = ("x0", "x1", "x2")
FEATURES = {"rna": tuple(f"g{j}" for j in range(10)), "noise": tuple(f"n{j}" for j in range(8))}
EDGES = np.array([1.0, 2.0, 3.0, 5.0, 8.0, 13.0])


def world(n: int = 240, seed: int = 0, *, wide: bool = True, n_folds: int = N_INNER_FOLDS) -> Cohort:
    """n patients; `x0` and a few genes matter, layer `noise` does not."""
    rng = np.random.default_rng(seed)
    x, genes, noise = rng.normal(size=(n, 3)), rng.normal(size=(n, 10)), rng.normal(size=(n, 8))
    hazard = 0.12 * np.exp(0.8 * x[:, 0] + genes[:, :3] @ [0.5, -0.4, 0.3])
    failure, censoring = rng.exponential(1 / hazard), rng.uniform(0.5, 16, size=n)
    layers = {"clinical": Layer(CLINICAL, x)}
    if wide:
        layers |= {"rna": Layer(FEATURES["rna"], genes), "noise": Layer(FEATURES["noise"], noise)}
    return Cohort(
        patient_ids=tuple(f"p{i}" for i in range(n)),
        time=np.minimum(failure, censoring),
        event=failure <= censoring,
        entry=np.zeros(n),
        layers=layers,
        inner_fold_of=np.arange(n) % n_folds,
    )


def search_context(*, wide: bool = True, n_bins: int = len(EDGES)) -> Context:
    """The context of a search over those layers, all features as columns."""
    design = [DesignColumn(name, name, "clinical") for name in CLINICAL]
    layers = []
    if wide:
        for layer, features in FEATURES.items():
            design += [DesignColumn(f"{layer}:{name}", name, layer) for name in features]
            layers.append(LayerDesign(layer, features))
    return Context(design=tuple(design), n_bins=n_bins, horizons=(), settings={}, layers=tuple(layers))


def search_inputs(*, wide: bool = True, edges=EDGES):
    """What earlier steps would have made: the identity as standardisation."""
    p = len(search_context(wide=wide).design)
    inputs = {
        "mean": np.zeros(p),
        "scale": np.ones(p),
        "edges": edges,
        "n_intervals": np.array(float(len(edges))),
    }
    if wide:
        for layer, features in FEATURES.items():
            inputs |= {f"{layer}_mean": np.zeros(len(features)), f"{layer}_scale": np.ones(len(features))}
    return inputs


class SlowSearch:
    """The same criterion, every vector fitted to the end in every fold, baselines profiled by Newton steps."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        self.x = np.hstack([np.clip(layer.values, -5, 5) for layer in cohort.layers.values()])
        self.layer_of = np.repeat(np.arange(len(cohort.layers)), [len(one.columns) for one in cohort.layers.values()])
        self.grids = [CLINICAL_GRID] + [WIDE_GRID] * (len(cohort.layers) - 1)
        self.known: dict[tuple[int, ...], np.ndarray] = {}

    def criterion(self, indices: tuple[int, ...]) -> float:
        """The criterion of one vector."""
        return float(self.by_fold(indices).sum())

    def by_fold(self, indices: tuple[int, ...]) -> np.ndarray:
        """What each fold adds to it."""
        if indices not in self.known:
            penalties = np.array([grid[k] for grid, k in zip(self.grids, indices, strict=True)])[self.layer_of]
            folds = range(int(self.cohort.inner_fold_of.max()) + 1)
            self.known[indices] = np.array([self._fold(fold, penalties) for fold in folds])
        return self.known[indices]

    def choose(self) -> tuple[int, ...]:
        """The vector that a coordinate search finds from the same start."""
        start = [1] + [2] * (len(self.grids) - 1)
        sizes = [len(grid) for grid in self.grids]
        return coordinate_search(start, sizes, lambda several: np.array([self.by_fold(one) for one in several]))

    def _fold(self, fold: int, penalties) -> float:
        training = self.cohort.inner_fold_of != fold
        everybody = np.ones_like(training)
        alpha, beta = np.full(len(EDGES), -2.0), np.zeros(self.x.shape[1])
        off = penalties >= OFF
        for _ in range(12):
            sums = self._sums(training, alpha, beta)
            p, k = beta.size, alpha.size
            information = np.block(
                [
                    [np.diag(sums["hessian_alpha"]), sums["hessian_alpha_beta"]],
                    [sums["hessian_alpha_beta"].T, unpacked(sums["hessian_beta"], p) + np.diag(penalties)],
                ]
            )
            gradient = np.concatenate((sums["gradient_alpha"], sums["gradient_beta"] - penalties * beta))
            step = np.linalg.solve(information, gradient)
            alpha, beta = alpha + np.clip(step[:k], -1, 1), np.where(off, 0.0, beta + step[k:])
        return self._profile(everybody, alpha, beta) - self._profile(training, alpha, beta)

    def _profile(self, rows, alpha, beta) -> float:
        for _ in range(12):
            sums = self._sums(rows, alpha, beta)
            alpha = alpha + np.clip(sums["gradient_alpha"] / sums["hessian_alpha"], -1, 1)
        return float(self._sums(rows, alpha, beta)["log_likelihood"])

    def _sums(self, rows, alpha, beta):
        c = self.cohort
        spells = interval_of(c.time[rows], c.event[rows], c.entry[rows], EDGES, len(EDGES), exact=False)
        return summand(spells, self.x[rows], self.x[rows] @ beta, alpha, expected=False)
