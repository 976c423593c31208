"""One row becomes what a model scores: a cohort of one patient, whose times and events nobody looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.page.shapes import Row
from schemas.artefact import Artefact
from schemas.artefact_manifest import ArtefactColumn, Manifest
from schemas.cohort import Cohort, Layer, Origin

__all__ = ["clinical_columns", "is_treated", "patient_of", "treatment_of", "with_arm"]

Floats = NDArray[np.float64]


def clinical_columns(artefact: Artefact) -> tuple[ArtefactColumn, ...]:
    """Return one column of the model for each column of the dictionary that is read cell by cell.

    Indicators of one category, interactions and what stands for wide layers are left out.
    """
    manifest = artefact.manifest
    found: dict[str, ArtefactColumn] = {}
    for column, design in zip(manifest.columns[: _n_covariates(manifest)], artefact.design, strict=False):
        if design.missing_layer is None and column.treatment is None:
            found.setdefault(column.column, column)
    return tuple(found.values())


def patient_of(artefact: Artefact, row: Row) -> Cohort:
    """Return the cohort of one patient."""
    manifest = artefact.manifest
    covariates = manifest.columns[: _n_covariates(manifest)]
    treated = is_treated(manifest, row)
    cells: dict[str, dict[str, float]] = {}
    for column in covariates:
        value = _value(column, row.cells)
        # As in training: an interaction's cell is the covariate's in the treated, and missing in the others.
        if column.treatment is not None and treated is not True:
            value = np.nan
        cells.setdefault(column.layer, {})[column.name] = value
    layers = {name: Layer(tuple(own), np.array([list(own.values())])) for name, own in cells.items()}
    others = dict(layers)
    for layer in manifest.layers:
        block = row.blocks.get(layer.name)
        values = np.full(len(layer.features), np.nan) if block is None else block
        layers[layer.name] = Layer(layer.features, values[None, :])
        if layer.adjust and layer.name in row.neighbours:
            others[layer.name] = Layer(layer.features, row.neighbours[layer.name])
    patient = _cohort(1, layers)
    learned = {name: layer for name, layer in others.items() if name in row.neighbours}
    if not learned:
        return patient
    n = next(iter(learned.values())).values.shape[0]
    site = _cohort(n, learned)
    return replace(patient, origins={patient.site: Origin(site, np.ones(n, dtype=np.bool_))})


def is_treated(manifest: Manifest, row: Row) -> bool | None:
    """Return whether the row says that the patient is treated; None where it says nothing, or there is no arm."""
    column = treatment_of(manifest)
    value = np.nan if column is None else _value(column, row.cells)
    return None if np.isnan(value) else bool(value == 1)


def treatment_of(manifest: Manifest) -> ArtefactColumn | None:
    """Return the column that is 1 in treated patients."""
    return next((column for column in manifest.columns if column.name == manifest.treatment), None)


def with_arm(manifest: Manifest, row: Row, *, treated: bool) -> Row:
    """Return the same patient under one arm; a treatment of two codes has 0 and 1 for their places."""
    column = treatment_of(manifest)
    if column is None:
        raise ValueError("the model has no treatment")
    return replace(row, cells={**row.cells, column.column: float(treated)})


def _value(column: ArtefactColumn, cells: Mapping[str, float]) -> float:
    """Return a cell, or one category's indicator; NaN where the cell is empty."""
    value = cells.get(column.column, np.nan)
    if column.code is None or np.isnan(value):
        return float(value)
    codes = column.codes or ()
    return float(column.code in codes and value == codes.index(column.code))


def _n_covariates(manifest: Manifest) -> int:
    return len(manifest.columns) - sum(layer.n_components or len(layer.features) for layer in manifest.layers)


def _cohort(n: int, layers: Mapping[str, Layer]) -> Cohort:
    nothing = np.zeros(n)
    return Cohort(("",) * n, nothing, nothing.astype(np.bool_), nothing, layers)
