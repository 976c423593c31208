"""Who of a site's patients takes part in a study, and what in their tables keeps the site from it.

Pure: tables in, verdict out. The order is opt-out (already applied), eligibility, completeness, floors. Nobody is
left out silently: every step has its count, and a table that contradicts its dictionary is refused as a whole
rather than thinned out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cells import ParsedColumn
from client.outcome import endpoint_arrays, unknown_codes
from client.problems import Problem, rows_of
from client.settings import Floors
from client.tables import ALL_FEATURES, Key, SiteTables
from client.units import looks_too_short
from schemas.dictionary import CLINICAL, PATIENT_ID, Column, Dictionary
from schemas.study import Criterion, FoldColumn, Study

__all__ = ["Selection", "column_of", "floor_of", "needed_keys", "select_patients"]

Mask = NDArray[np.bool_]
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """The verdict on every patient of the tables.

    Attributes:
        chosen: (n_patients,) True for the patients of the cohort.
        n_ineligible: Patients who do not meet the criteria.
        n_incomplete: Eligible patients without a known endpoint, or, where the study asks for complete cases,
            with an empty covariate.
        n_events: Observed events of the cohort.
        thin_layers: Layers known of some of the cohort, but of fewer than the floor: missing at this site.
        thin_columns: Covariates known of some of the cohort, but of fewer than the floor: missing at this site.
        thin_features: (n_features,) by wide layer, True for features known of some of the cohort, but of fewer than
            the floor: missing at this site.
        problems: What is wrong with the endpoint of eligible patients.
    """

    chosen: Mask
    n_ineligible: int
    n_incomplete: int
    n_events: int
    thin_layers: tuple[str, ...]
    thin_columns: tuple[Key, ...]
    thin_features: Mapping[str, Mask]
    problems: tuple[Problem, ...]

    @property
    def n_patients(self) -> int:
        """Patients of the cohort."""
        return int(self.chosen.sum())


def needed_keys(study: Study, dictionary: Dictionary) -> frozenset[Key]:
    """Return layer and name of every column that the study reads; of a wide layer all features at once."""
    evaluation = study.evaluation
    names: list[str | None] = [*study.endpoint.columns, evaluation.group]
    names += [*study.model.covariates, *(criterion.column for criterion in study.eligibility.criteria)]
    if isinstance(evaluation.folds, FoldColumn):
        names.append(evaluation.folds.column)
    described = [dictionary.column(name) for name in names if name is not None]
    wide = frozenset((layer, ALL_FEATURES) for layer in study.model.wide_layers)
    return wide | {(column.layer, column.name) for column in described if column} | {(CLINICAL, PATIENT_ID)}


def column_of(tables: SiteTables, dictionary: Dictionary, name: str) -> ParsedColumn | None:
    """Return the cells of a column of the study, or None where this site has no such column."""
    column = dictionary.column(name)
    return None if column is None else tables.columns.get((column.layer, name))


def floor_of(study: Study, floors: Floors) -> int:
    """Return the smallest cohort: the stricter of what study and site ask for."""
    return max(study.privacy.min_patients, floors.min_patients)


def select_patients(tables: SiteTables, study: Study, dictionary: Dictionary, floors: Floors) -> Selection:
    """Return who takes part, and what is wrong with the endpoint of those who would.

    Args:
        tables: Read with at least `needed_keys`.
        study: The question.
        dictionary: The one that the tables were read with.
        floors: The site's smallest counts.
    """
    eligible = np.ones(tables.n_patients, dtype=np.bool_)
    for criterion in study.eligibility.criteria:
        eligible &= _holds(tables, dictionary, criterion)
    complete = np.ones(tables.n_patients, dtype=np.bool_)
    wanted = list(study.endpoint.columns)
    if study.eligibility.complete_cases:
        wanted += study.model.covariates
    for name in wanted:
        complete &= ~np.isnan(_values(tables, dictionary, name))
    chosen = eligible & complete
    event = endpoint_arrays(study.endpoint, dictionary, lambda name: _values(tables, dictionary, name)).event
    return Selection(
        chosen=chosen,
        n_ineligible=int((~eligible).sum()),
        n_incomplete=int((eligible & ~complete).sum()),
        n_events=int(event[chosen].sum()),
        thin_layers=_thin_layers(tables, study, dictionary, chosen, floor_of(study, floors)),
        thin_columns=_thin_columns(tables, study, dictionary, chosen, floor_of(study, floors)),
        thin_features=_thin_features(tables, study, chosen, floor_of(study, floors)),
        problems=tuple(_endpoint_problems(tables, study, dictionary, eligible, floors)),
    )


def _values(tables: SiteTables, dictionary: Dictionary, name: str) -> NDArray[np.float64]:
    cells = column_of(tables, dictionary, name)
    return np.full(tables.n_patients, np.nan) if cells is None else cells.values


def _holds(tables: SiteTables, dictionary: Dictionary, criterion: Criterion) -> Mask:
    """Return where a criterion holds; never where the cell is empty."""
    values = _values(tables, dictionary, criterion.column)
    column = dictionary.column(criterion.column)
    wanted: float | int = -1
    if isinstance(criterion.value, str):
        codes = (column.codes if column is not None else None) or ()
        wanted = codes.index(criterion.value) if criterion.value in codes else -1
    else:
        wanted = float(criterion.value)
    return np.asarray(_COMPARE[criterion.op](values, wanted) & ~np.isnan(values), dtype=np.bool_)


def _thin_layers(
    tables: SiteTables, study: Study, dictionary: Dictionary, chosen: Mask, floor: int
) -> tuple[str, ...]:
    """Return the layers that too few patients of the cohort have to be computed on."""
    thin = []
    known: dict[str, Mask] = {}
    for name in study.model.covariates:
        column = dictionary.column(name)
        if column is not None and column.layer != CLINICAL:
            cells = ~np.isnan(_values(tables, dictionary, name))
            known[column.layer] = known.get(column.layer, np.zeros(tables.n_patients, dtype=np.bool_)) | cells
    for layer in study.model.wide_layers:
        if layer in tables.blocks:
            known[layer] = np.asarray((~np.isnan(tables.blocks[layer])).any(axis=1), dtype=np.bool_)
    for layer, mask in known.items():
        if 0 < int((mask & chosen).sum()) < floor:
            thin.append(layer)
    return tuple(sorted(thin))


def _thin_columns(
    tables: SiteTables, study: Study, dictionary: Dictionary, chosen: Mask, floor: int
) -> tuple[Key, ...]:
    """Return the covariates that too few patients of the cohort are known of: their sum would be those patients."""
    thin = []
    for name in study.model.covariates:
        column = dictionary.column(name)
        known = ~np.isnan(_values(tables, dictionary, name)) & chosen
        if column is not None and 0 < int(known.sum()) < floor:
            thin.append((column.layer, name))
    return tuple(thin)


def _thin_features(tables: SiteTables, study: Study, chosen: Mask, floor: int) -> dict[str, Mask]:
    """Return, for each wide layer read here, which features too few patients of the cohort are known of."""
    thin = {}
    for layer in study.model.wide_layers:
        if layer in tables.blocks:
            n_known = (~np.isnan(tables.blocks[layer][chosen])).sum(axis=0)
            thin[layer] = np.asarray((n_known > 0) & (n_known < floor), dtype=np.bool_)
    return thin


# ---------------------------------------------------------------- endpoint
def _endpoint_problems(
    tables: SiteTables, study: Study, dictionary: Dictionary, eligible: Mask, floors: Floors
) -> list[Problem]:
    endpoint = study.endpoint
    event_name = endpoint.outcome or endpoint.event
    what, remedy, unknown = unknown_codes(endpoint, dictionary, lambda name: _values(tables, dictionary, name))
    judged: list[tuple[str, str, str, str, Mask]] = [(event_name, "not-event", what, remedy, unknown)]
    if endpoint.has_time:
        judged = _time_judgements(tables, study, dictionary, floors) + judged
    evaluation = study.evaluation
    folds = evaluation.folds.column if isinstance(evaluation.folds, FoldColumn) else None
    for name, use in ((evaluation.group, "groups patients"), (folds, "deals folds")):
        cells = None if name is None else column_of(tables, dictionary, name)
        if name is not None and cells is not None:
            judged.append((name, "empty", f"is empty, and the study {use} by it", "fill it", cells.empty))
    problems = [
        problem
        for name, kind, what, remedy, mask in judged
        if (problem := _problem(tables, dictionary, name, kind, what, remedy, mask & eligible)) is not None
    ]
    column = dictionary.column(endpoint.time)
    if column is not None:
        time = _values(tables, dictionary, endpoint.time)
        problems += _short_times(tables, column, time[eligible & ~np.isnan(time)], floors)
    return problems


def _time_judgements(
    tables: SiteTables, study: Study, dictionary: Dictionary, floors: Floors
) -> list[tuple[str, str, str, str, Mask]]:
    """Return what can be wrong with a time: column, kind of problem, in words, remedy, (n,) where it is so."""
    endpoint = study.endpoint
    time = _values(tables, dictionary, endpoint.time)
    event = _values(tables, dictionary, endpoint.event)
    remedy = "correct the date of origin or of last contact, or leave the patient out of the tables"
    wrong = (time <= 0) & ~_adds_nothing(time, event, floors)
    judged: list[tuple[str, str, str, str, Mask]] = [
        (endpoint.time, "not-positive", "is 0 or negative", remedy, wrong)
    ]
    if endpoint.entry is not None:
        entry = _values(tables, dictionary, endpoint.entry)
        remedy = "correct the date of entry or of last contact"
        judged.append((endpoint.entry, "negative-entry", "is negative", "write 0 for entry at the origin", entry < 0))
        judged.append((endpoint.entry, "entry-after-time", f"is not before `{endpoint.time}`", remedy, entry >= time))
    return judged


def _adds_nothing(time: NDArray[np.float64], event: NDArray[np.float64], floors: Floors) -> Mask:
    """Return who left observation at the origin: at risk at no time, hence in no sum, where floors let them pass."""
    return np.asarray(floors.accept_time_zero & (time == 0) & (event == 0), dtype=np.bool_)


def _problem(
    tables: SiteTables, dictionary: Dictionary, name: str, kind: str, what: str, remedy: str, mask: Mask
) -> Problem | None:
    column = dictionary.column(name)
    if column is None or not mask.any():
        return None
    rows, n = rows_of(tables.rows, mask)
    return Problem(tables.files.get(CLINICAL, "clinical.csv"), kind, what, remedy, name, rows, n)


def _short_times(tables: SiteTables, column: Column, times: NDArray[np.float64], floors: Floors) -> list[Problem]:
    """Return the problem of a whole site whose times look like months instead of days."""
    if len(times) < floors.min_patients or not looks_too_short(column, times):
        return []
    longer = "months" if column.unit and column.unit.lower().startswith("d") else "years"
    what = f"no time reaches even a small part of the dictionary's range, at most {column.max:g} {column.unit}"
    remedy = f"check the unit: this looks like {longer}, and the dictionary says {column.unit}"
    return [Problem(tables.files.get(CLINICAL, "clinical.csv"), "unit", what, remedy, column.name)]
