"""Where the training patients lie, from summed histograms: what a page needs to say "few were like this patient".

Quantiles are not sums, histograms over fixed bins are. A site's own histogram would show single patients, so the step
exists under the secure sum alone (`models.compile`), and what `finish` keeps is coarser than what was summed: an edge
is kept only where at least ten patients lie beyond it, and between two kept edges lie ten or more.
"""

from __future__ import annotations

import numpy as np

from models.contributions import layers_of
from models.moments import n_patients_spec
from models.network_parts import layer_log_hazards
from models.network_shape import Shape
from models.preparation import Preparation
from models.scores import score_specs
from models.step import Arrays, Context, Floats, Turn
from schemas.cohort import Cohort
from schemas.dictionary import Column, Dictionary
from schemas.plan import ArraySpec, PartSpec
from schemas.study import Study

__all__ = ["BEYOND", "Population", "counted_columns", "counted_settings", "layer_parts_of"]

BEYOND = 10
"""Patients beyond a kept edge, and between two of them, at least."""

N_BINS = 64
_REACH = 4.0
"""The inner bins of the log hazard reach so many standard deviations to either side of the mean."""


def counted_columns(study: Study, dictionary: Dictionary) -> tuple[Column, ...]:
    """Return the covariates that are counted: numbers to which the dictionary gives a range."""
    columns = (dictionary.column(name) for name in study.model.covariates)
    return tuple(
        column
        for column in columns
        if column is not None
        and column.type in ("number", "integer")
        and column.min is not None
        and column.max is not None
    )


def counted_settings(study: Study, dictionary: Dictionary) -> dict[str, list[float] | list[str]]:
    """Return the settings of `Population` for a study."""
    columns = counted_columns(study, dictionary)
    return {
        "covariates": [column.name for column in columns],
        "low": [float(column.min or 0.0) for column in columns],
        "high": [float(column.max or 0.0) for column in columns],
    }


def layer_parts_of(context: Context) -> tuple[str, ...]:
    """Return the names of the parts that the log hazard is summed from: layers, or the encoders of a network."""
    if "network" in context.settings:
        return tuple(encoder.name for encoder in Shape.of(context).encoders)
    return layers_of(context.design)


class Population:
    """Histograms of covariates and of the log hazard, and moments of the layers' log hazards.

    Settings:
        covariates: Names of c design columns to count, numbers.
        low, high: The range of each, which `N_BINS` equal bins fill; cells outside count in the outer bins.

    Inputs: those that make x; `beta` of a fit; `mean_log_hazard`, `sd_log_hazard` of `risk_groups`.

    State when done:
        known: (c,) 1 where low and high are known, else 0.
        low, high: (c,) bin edges at or beyond which at least ten patients lie, the outermost such; 0 where unknown.
        share: (N - 1,) share of the patients at or below `log_hazard`; 0 where the edge is not kept.
        log_hazard: (N - 1,) edges between the bins of the log hazard.
        layer_covariance: (L, L) of the layers' log hazards over the patients.
        n_patients: ().
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._preparation = Preparation(context)
        self._columns = tuple(str(name) for name in context.settings["covariates"])
        self._low = np.asarray(context.settings["low"], dtype=np.float64)
        self._high = np.asarray(context.settings["high"], dtype=np.float64)
        self._shape = Shape.of(context) if "network" in context.settings else None
        self._layers = layer_parts_of(context)
        self._counted = tuple(column for column in context.design if column.name in self._columns)

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question."""
        number = ArraySpec(name="mean_log_hazard", shape=(), meaning="mean log hazard over all sites")
        spread = ArraySpec(name="sd_log_hazard", shape=(), meaning="its standard deviation")
        n_layers = len(self._layers)
        releases = [
            n_patients_spec(),
            ArraySpec(name="log_hazards", shape=(N_BINS,), meaning="patients in each bin of the log hazard"),
            ArraySpec(name="layer_totals", shape=(n_layers,), meaning="sum of each layer's part of the log hazard"),
            ArraySpec(
                name="layer_products",
                shape=(n_layers, n_layers),
                meaning="products of two layers' parts of the log hazard",
            ),
        ]
        if self._columns:
            what = "patients in each bin of the dictionary's range of " + ", ".join(self._columns)
            shape = (len(self._columns), N_BINS)
            releases.append(ArraySpec(name="values", shape=shape, meaning=_short(what)))
        sends = (*score_specs(self._context), number, spread)
        return (PartSpec(name="histograms", sends=sends, releases=tuple(releases), times=1),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the histograms."""
        return Turn({}, "histograms")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's counts and sums."""
        by_layer = self._by_layer(cohort, sent)
        edges = _log_hazard_edges(float(sent["mean_log_hazard"]), float(sent["sd_log_hazard"]))
        answer = {
            "n_patients": np.array(float(cohort.n_patients)),
            "log_hazards": _counts(by_layer.sum(axis=1), edges),
            "layer_totals": by_layer.sum(axis=0),
            "layer_products": by_layer.T @ by_layer,
        }
        if self._columns:
            cells = cohort.matrix(self._counted)
            answer["values"] = np.array([_counts(cells[:, j], self._edges(j)) for j in range(len(self._columns))])
        return answer

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the edges that ten patients or more stand behind."""
        n = max(float(total["n_patients"]), 1.0)
        edges = _log_hazard_edges(float(inputs["mean_log_hazard"]), float(inputs["sd_log_hazard"]))
        ends = [outer_edges(total["values"][j], self._edges(j)) for j in range(len(self._columns))]
        known = np.array([float(end is not None) for end in ends])
        mean = total["layer_totals"] / n
        done = {
            "known": known,
            "low": np.array([0.0 if end is None else end[0] for end in ends]),
            "high": np.array([0.0 if end is None else end[1] for end in ends]),
            "share": kept_shares(total["log_hazards"]),
            "log_hazard": edges,
            "layer_covariance": total["layer_products"] / n - np.outer(mean, mean),
            "n_patients": total["n_patients"],
        }
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)

    def _by_layer(self, cohort: Cohort, sent: Arrays) -> Floats:
        """Return the (n, L) parts of the log hazard."""
        x = self._preparation.matrix(cohort, sent)
        if self._shape is not None:
            present = self._shape.present(cohort, [layer.name for layer in self._context.layers])
            return layer_log_hazards(self._shape, sent["beta"], x, present)
        terms = x * sent["beta"]
        layers = np.array([column.layer for column in self._context.design])
        return np.column_stack([terms[:, layers == name].sum(axis=1) for name in self._layers])

    def _edges(self, j: int) -> Floats:
        return np.linspace(self._low[j], self._high[j], N_BINS + 1)[1:-1]


def outer_edges(counts: Floats, edges: Floats) -> tuple[float, float] | None:
    """Return the outermost two edges with ten patients at or beyond each, or None where there are no two.

    Args:
        counts: (N,) patients in each bin.
        edges: (N - 1,) between the bins.
    """
    below, above = np.cumsum(counts)[:-1], np.cumsum(counts[::-1])[::-1][1:]
    lows, highs = np.flatnonzero(below >= BEYOND), np.flatnonzero(above >= BEYOND)
    if not lows.size or not highs.size or lows[0] > highs[-1]:
        return None
    return float(edges[lows[0]]), float(edges[highs[-1]])


def kept_shares(counts: Floats) -> Floats:
    """Return the (N - 1,) shares at or below each edge, 0 where fewer than ten lie beyond it or since the last kept.

    Args:
        counts: (N,) patients in each bin.
    """
    below, n = np.cumsum(counts)[:-1], float(counts.sum())
    shares, last = np.zeros(below.size), 0.0
    for k, count in enumerate(below):
        if count - last >= BEYOND and n - count >= BEYOND:
            shares[k], last = count / n, float(count)
    return shares


def _log_hazard_edges(mean: float, sd: float) -> Floats:
    return mean + max(sd, 1e-12) * np.linspace(-_REACH, _REACH, N_BINS - 1)


def _counts(values: Floats, edges: Floats) -> Floats:
    """Return the (len(edges) + 1,) counts; a value at an edge counts below it, a missing one nowhere."""
    known = values[~np.isnan(values)]
    return np.bincount(np.searchsorted(edges, known, side="left"), minlength=edges.size + 1).astype(np.float64)


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:299] + "…"
