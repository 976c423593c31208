"""Makes a study's cohort of a site's tables, or refuses with everything that is wrong with them.

The last place where patients' cells have names; from here on there are arrays, which `models` turns into summands.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.check import refusals
from client.dialect import Dialect
from client.errors import TablesRefusedError, TooFewPatientsError
from client.outcome import EndpointArrays, endpoint_arrays
from client.problems import cap_columns, errors_of
from client.selection import Selection, column_of, needed_keys, select_patients
from client.settings import Floors
from client.tables import SiteTables, read_site_tables
from schemas.cohort import Cohort, Layer
from schemas.design import DesignColumn, design_columns
from schemas.dictionary import Dictionary
from schemas.errors import Fault
from schemas.plan import CohortPart
from schemas.study import FoldColumn, Study

__all__ = ["CohortReport", "cohort_and_counts", "cohort_from_tables", "part_of"]

SUBJECT = "the site's tables"


@dataclass(frozen=True)
class CohortReport:
    """Who is in the cohort and who is not; exact counts, for this site alone.

    Attributes:
        n_rows: Records of the clinical table.
        n_opted_out: Left out because they opted out.
        n_ineligible: Left out by the study's criteria.
        n_incomplete: Left out without a known endpoint or, in complete cases, with an empty covariate.
        n_patients: The cohort: what remains of `n_rows`.
        missing_layers: Layers of the study that count as missing here: no file, or known of too few patients.
    """

    n_rows: int
    n_opted_out: int
    n_ineligible: int
    n_incomplete: int
    n_patients: int
    missing_layers: tuple[str, ...] = ()


def cohort_from_tables(
    tables: Path,
    dictionary: Dictionary,
    study: Study,
    dialect: Dialect,
    floors: Floors,
    opted_out: Collection[str] = frozenset(),
    *,
    site: str = "",
) -> Cohort:
    """Return the cohort alone; see `cohort_and_counts`."""
    return cohort_and_counts(tables, dictionary, study, dialect, floors, opted_out, site=site)[0]


def cohort_and_counts(
    tables: Path,
    dictionary: Dictionary,
    study: Study,
    dialect: Dialect,
    floors: Floors,
    opted_out: Collection[str] = frozenset(),
    *,
    site: str = "",
) -> tuple[Cohort, CohortReport]:
    """Return the patients of a site who take part in a study, and how many do not.

    Args:
        tables: Folder of the tables.
        dictionary: What their columns mean.
        study: The question; only its columns are read.
        dialect: How the CSV files are written.
        floors: The smallest counts; `settings.floors` at a real site, lower ones in `simulate`.
        opted_out: Identifiers of patients who are left out.
        site: Name of the site.

    Raises:
        TablesRefusedError: The tables contradict the dictionary where the study reads them.
        TooFewPatientsError: The tables are sound, but patients or events are fewer than the floors.
    """
    read = read_site_tables(tables, dictionary, dialect, frozenset(opted_out), needed_keys(study, dictionary))
    selection = select_patients(read, study, dictionary, floors)
    problems = [*read.problems, *selection.problems]
    errors = errors_of(problems)
    if errors:
        raise TablesRefusedError(SUBJECT, [problem.fault() for problem in cap_columns(errors)])
    reasons = refusals(problems, study, selection, floors)
    if reasons:
        raise TooFewPatientsError(SUBJECT, [Fault(site or "this site", reason) for reason in reasons])
    # Of a wide layer the cohort holds the features; what the model makes of them is no column of a table.
    wide = study.model.wide_layers
    design = design_columns(study, dictionary)
    columns = tuple(column for column in design if column.layer not in wide and column.missing_layer is None)
    layers = _layers(read, dictionary, columns, selection) | _wide_layers(read, dictionary, wide, selection)
    endpoint = _endpoint(read, study, dictionary, selection)
    cohort = Cohort(
        patient_ids=tuple(np.array(read.patient_ids, dtype=object)[selection.chosen]),
        time=endpoint.time,
        event=endpoint.event,
        entry=endpoint.entry,
        layers=layers,
        group=_labels(read, dictionary, study.evaluation.group, selection),
        fold=_labels(read, dictionary, _fold_column(study), selection),
        site=site,
        outcome=endpoint.outcome,
    )
    report = CohortReport(
        n_rows=read.n_rows,
        n_opted_out=read.n_opted_out,
        n_ineligible=selection.n_ineligible,
        n_incomplete=selection.n_incomplete,
        n_patients=cohort.n_patients,
        missing_layers=tuple(sorted(name for name, layer in layers.items() if not layer.observed.any())),
    )
    return cohort, report


def part_of(cohort: Cohort, part: CohortPart, floor: int) -> Cohort:
    """Return the patients that a plan's step looks at, without covariates that few of them, or of the rest, have.

    Sums over all patients and over those in training both leave the site: where a covariate is known of three of the
    held-out patients, the difference of two sums would be these three. The covariate then counts as missing on both
    sides of the split; the model of all patients keeps it.

    Args:
        cohort: All patients, with their held-out mark.
        part: Which of them.
        floor: The smallest number of patients behind a sum.
    """
    if part == "all" or cohort.held_out is None:
        return cohort.part(part)
    layers = {name: _without_thin(layer, cohort.held_out, floor) for name, layer in cohort.layers.items()}
    return replace(cohort, layers=layers).part(part)


def _without_thin(layer: Layer, held_out: NDArray[np.bool_], floor: int) -> Layer:
    """Return a layer without the columns that few patients on one side of the split have, and empty if few have any.

    The layer as a whole is judged too, since the components of a wide layer are sums over whoever has any of it.
    """
    observed = layer.observed
    sides = [observed[held_out], observed[~held_out]]
    known = np.stack([side.sum(axis=0) for side in sides])
    is_thin = np.asarray(((known > 0) & (known < floor)).any(axis=0))
    if any(0 < int(side.any(axis=1).sum()) < floor for side in sides):
        is_thin |= True
    return Layer(layer.columns, np.where(is_thin, np.nan, layer.values)) if is_thin.any() else layer


def _endpoint(tables: SiteTables, study: Study, dictionary: Dictionary, of: Selection) -> EndpointArrays:
    """Return the endpoint of the cohort; a column that the tables lack is 0."""

    def values(name: str) -> NDArray[np.float64]:
        cells = column_of(tables, dictionary, name)
        return np.zeros(of.n_patients) if cells is None else cells.values[of.chosen]

    return endpoint_arrays(study.endpoint, dictionary, values)


def _fold_column(study: Study) -> str | None:
    folds = study.evaluation.folds
    return folds.column if isinstance(folds, FoldColumn) else None


def _layers(
    tables: SiteTables, dictionary: Dictionary, columns: tuple[DesignColumn, ...], of: Selection
) -> dict[str, Layer]:
    """Return the matrix of every layer of the study; all NaN where the layer counts as missing at this site."""
    layers = {}
    for layer in dict.fromkeys(column.layer for column in columns):
        mine = [column for column in columns if column.layer == layer]
        values = np.full((of.n_patients, len(mine)), np.nan)
        for j, column in enumerate(mine):
            cells = column_of(tables, dictionary, column.column)
            if cells is not None and layer not in of.thin_layers and (layer, column.column) not in of.thin_columns:
                values[:, j] = _design_values(dictionary, column, cells.values[of.chosen])
            if column.treatment is not None:
                arm = next(one for one in columns if one.name == column.treatment)
                values[~_is_treated(tables, dictionary, arm, of), j] = np.nan
        layers[layer] = Layer(tuple(column.name for column in mine), values)
    return layers


def _is_treated(tables: SiteTables, dictionary: Dictionary, arm: DesignColumn, of: Selection) -> NDArray[np.bool_]:
    """Return (n_patients,), True where a patient of the cohort is known to be treated."""
    cells = column_of(tables, dictionary, arm.column)
    if cells is None:
        return np.zeros(of.n_patients, dtype=np.bool_)
    return np.asarray(_design_values(dictionary, arm, cells.values[of.chosen]) == 1, dtype=np.bool_)


def _wide_layers(
    tables: SiteTables, dictionary: Dictionary, names: Collection[str], of: Selection
) -> dict[str, Layer]:
    """Return the block of every wide layer of the study; all NaN where the layer counts as missing at this site."""
    layers = {}
    for name in names:
        described = dictionary.wide_layer(name)
        features = () if described is None else described.identifiers
        if name in tables.blocks and name not in of.thin_layers:
            values = tables.blocks[name][of.chosen]
            values[:, of.thin_features[name]] = np.nan
        else:
            values = np.full((of.n_patients, len(features)), np.nan)
        layers[name] = Layer(features, values)
    return layers


def _design_values(dictionary: Dictionary, column: DesignColumn, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a column's values, or one category's indicator; NaN where the cell is empty."""
    if column.code is None:
        return values
    described = dictionary.column(column.column)
    codes = (described.codes if described is not None else None) or ()
    return np.where(np.isnan(values), np.nan, values == codes.index(column.code))


def _labels(tables: SiteTables, dictionary: Dictionary, name: str | None, of: Selection) -> NDArray[np.str_] | None:
    """Return a column as labels: identifiers and codes as they are, whole numbers in digits."""
    if name is None:
        return None
    column, cells = dictionary.column(name), column_of(tables, dictionary, name)
    if column is None or cells is None:
        return None
    if cells.labels is not None:
        return np.asarray(cells.labels[of.chosen], dtype=np.str_)
    numbers = cells.values[of.chosen].astype(np.int64)
    codes = column.codes
    return np.array([codes[number] if codes else str(number) for number in numbers], dtype=np.str_)
