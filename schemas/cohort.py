"""A site's patients as arrays: what `client.tables` makes of the tables and `models` computes on.

A Cohort lives inside a site. No function sends one; steps turn it into summands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas.design import DesignColumn
from schemas.memo import Memo
from schemas.plan import CohortPart

Floats = NDArray[np.float64]
_Labels = TypeVar("_Labels", NDArray[np.str_], Floats)


@dataclass(frozen=True)
class Layer:
    """One layer's matrix.

    Attributes:
        columns: Names of the design columns (see `schemas.design`).
        values: (n_patients, n_columns) float64; NaN where the cell, or the whole layer of a patient, is missing.
    """

    columns: tuple[str, ...]
    values: Floats

    @property
    def observed(self) -> NDArray[np.bool_]:
        """(n_patients, n_columns), True where the cell is known."""
        return ~np.isnan(self.values)


@dataclass(frozen=True)
class Cohort:
    """The eligible patients of one site.

    Attributes:
        patient_ids: The site's identifiers; they stay in the site's memory.
        time: (n_patients,) float64, time to event or censoring, in the dictionary's unit.
        event: (n_patients,) bool, True where the event (of several competing ones, that of interest) was observed;
            for an outcome without a time, True where it is not the reference.
        entry: (n_patients,) float64, observed only after it; 0 where observed from the origin.
        layers: By name.
        group: (n_patients,) labels of relatives, or None.
        fold: (n_patients,) labels of the column that deals folds, or None.
        held_out: (n_patients,) bool, True for the patients that this site keeps from training to judge the
            model on (real federation), or None.
        fold_of: (n_patients,) int, the fold of a cross-validation that the site has dealt each patient into, or None.
        inner_fold_of: (n_patients,) int, the same for the folds that choose penalties, or None.
        site: Name of the site, for `simulate` and local display.
        site_of: (n_patients,) name of each patient's site, where several sites' patients stand in one table; or None.
        origins: Site -> the patients from whom it learns what it corrects by itself; without one, its own here.
        memo: What was computed from these patients and may be asked again.
        outcome: (n_patients,) float64 codes, or None. Of an outcome without a time: 0 is the reference; time and
            entry are then 0. With competing events: 0 is censoring, 1 the event of interest, 2 and on the others.
    """

    patient_ids: tuple[str, ...]
    time: Floats
    event: NDArray[np.bool_]
    entry: Floats
    layers: Mapping[str, Layer]
    group: NDArray[np.str_] | None = None
    fold: NDArray[np.str_] | None = None
    held_out: NDArray[np.bool_] | None = None
    fold_of: NDArray[np.intp] | None = None
    inner_fold_of: NDArray[np.intp] | None = None
    site: str = ""
    outcome: Floats | None = None
    site_of: NDArray[np.str_] | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict, repr=False, compare=False)
    memo: Memo = field(default_factory=Memo, init=False, repr=False, compare=False)
    _index: Mapping[tuple[str, str], int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check that all parts speak of the same patients."""
        n = len(self.patient_ids)
        for name, array in (("time", self.time), ("event", self.event), ("entry", self.entry)):
            if array.shape != (n,):
                raise ValueError(f"{name} has shape {array.shape}, expected ({n},)")
        index: dict[tuple[str, str], int] = {}
        for layer_name, layer in self.layers.items():
            if layer.values.shape != (n, len(layer.columns)):
                raise ValueError(f"layer {layer_name} has shape {layer.values.shape}")
            index.update({(layer_name, column): j for j, column in enumerate(layer.columns)})
        object.__setattr__(self, "_index", index)

    @property
    def n_patients(self) -> int:
        """Number of patients."""
        return len(self.patient_ids)

    @property
    def n_events(self) -> int:
        """Number of observed events."""
        return int(self.event.sum())

    def matrix(self, design: Sequence[DesignColumn | str]) -> Floats:
        """Return the (n_patients, p) float64 matrix of design columns, NaN where missing.

        A column that this site does not hold at all is missing for all of its patients; one that is given by name
        alone may stand in any layer. The indicator of a missing layer is known of everybody. Components of a wide
        layer are no cells of a table: `models.preparation` makes them.
        """
        x = np.full((self.n_patients, len(design)), np.nan)
        for j, wanted in enumerate(design):
            if not isinstance(wanted, str) and wanted.missing_layer is not None:
                x[:, j] = ~self.has_layer(wanted.missing_layer)
                continue
            layers = self.layers if isinstance(wanted, str) else (wanted.layer,)
            name = wanted if isinstance(wanted, str) else wanted.name
            places = [(layer, self._index[layer, name]) for layer in layers if (layer, name) in self._index]
            if places:
                layer, column = places[0]
                x[:, j] = self.layers[layer].values[:, column]
        return x

    def layer_matrix(self, layer: str, columns: Sequence[str]) -> Floats:
        """Return the (n_patients, m) float64 cells of a layer's columns; NaN where a cell or a column is missing."""
        held = self.layers.get(layer)
        if held is None:
            return np.full((self.n_patients, len(columns)), np.nan)
        if held.columns == tuple(columns):
            return held.values
        x = np.full((self.n_patients, len(columns)), np.nan)
        for j, name in enumerate(columns):
            column = self._index.get((layer, name))
            if column is not None:
                x[:, j] = held.values[:, column]
        return x

    def has_layer(self, layer: str) -> NDArray[np.bool_]:
        """Return (n_patients,), True for patients of whom any cell of the layer is known."""
        held = self.layers.get(layer)
        if held is None:
            return np.zeros(self.n_patients, dtype=np.bool_)
        return np.asarray(held.observed.any(axis=1), dtype=np.bool_)

    def part(self, part: CohortPart) -> Cohort:
        """Return the patients that a plan's step looks at; all of them train where none are held out.

        ``split`` is everybody, with `held_out` to tell them apart, and nobody at a site that holds out none.
        """
        if part in ("all", "folds"):
            return self
        held_out = np.zeros(self.n_patients, dtype=np.bool_) if self.held_out is None else self.held_out
        if part == "training":
            return self.take(~held_out)
        return self._judged(self if part == "split" and held_out.any() else self.take(held_out), held_out)

    def judged(self, rows: NDArray[np.bool_]) -> Cohort:
        """Return the patients of a mask, who are judged by what the others of their site have taught."""
        return self._judged(self.take(rows), rows)

    def _judged(self, patients: Cohort, held_out: NDArray[np.bool_]) -> Cohort:
        if not held_out.any() or held_out.all():
            return patients
        return replace(patients, origins={**self.origins, self.site: Origin(self, ~held_out)})

    def by_site(self) -> Iterator[tuple[NDArray[np.intp], Origin | None]]:
        """Yield the rows of each site in this table, and from whom it learns if not from these."""
        if self.site_of is None:
            yield np.arange(self.n_patients), self.origins.get(self.site)
            return
        for site in np.unique(self.site_of):
            yield np.flatnonzero(self.site_of == site), self.origins.get(str(site))

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Cohort:
        """Return the cohort of the patients that `rows` (indices or mask) selects."""
        index = np.flatnonzero(rows) if rows.dtype == np.bool_ else np.asarray(rows, dtype=np.intp)
        return replace(
            self,
            patient_ids=tuple(self.patient_ids[i] for i in index),
            time=self.time[index],
            event=self.event[index],
            entry=self.entry[index],
            layers={name: Layer(layer.columns, layer.values[index]) for name, layer in self.layers.items()},
            group=None if self.group is None else self.group[index],
            fold=None if self.fold is None else self.fold[index],
            held_out=None if self.held_out is None else self.held_out[index],
            fold_of=None if self.fold_of is None else self.fold_of[index],
            inner_fold_of=None if self.inner_fold_of is None else self.inner_fold_of[index],
            outcome=None if self.outcome is None else self.outcome[index],
            site_of=None if self.site_of is None else self.site_of[index],
        )


@dataclass(frozen=True)
class Origin:
    """Patients of a site, taken only when somebody asks."""

    cohort: Cohort
    rows: NDArray[np.bool_]

    @property
    def patients(self) -> Cohort:
        """The patients."""
        return self.cohort.take(self.rows)


def concatenate(cohorts: Sequence[Cohort]) -> Cohort:
    """Return one cohort of all patients: the pooled table, which exists in `simulate` alone."""
    first = cohorts[0]
    columns = {name: layer.columns for cohort in cohorts for name, layer in cohort.layers.items()}
    layers = {
        name: Layer(names, np.vstack([cohort.layer_matrix(name, names) for cohort in cohorts]))
        for name, names in columns.items()
    }
    return Cohort(
        patient_ids=tuple(patient for cohort in cohorts for patient in cohort.patient_ids),
        time=np.concatenate([cohort.time for cohort in cohorts]),
        event=np.concatenate([cohort.event for cohort in cohorts]),
        entry=np.concatenate([cohort.entry for cohort in cohorts]),
        layers=layers,
        group=_joined([cohort.group for cohort in cohorts]),
        fold=_joined([cohort.fold for cohort in cohorts]),
        inner_fold_of=_joined_folds([cohort.inner_fold_of for cohort in cohorts]),
        outcome=_joined([cohort.outcome for cohort in cohorts]),
        site_of=np.concatenate([_sites(cohort) for cohort in cohorts]),
        origins={site: origin for cohort in cohorts for site, origin in cohort.origins.items()},
        site=first.site if len(cohorts) == 1 else "pooled",
    )


def _sites(cohort: Cohort) -> NDArray[np.str_]:
    return np.full(cohort.n_patients, cohort.site) if cohort.site_of is None else cohort.site_of


def _joined(parts: Sequence[_Labels | None]) -> _Labels | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def _joined_folds(parts: Sequence[NDArray[np.intp] | None]) -> NDArray[np.intp] | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None
