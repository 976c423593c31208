"""A site's folder of tables, held against the dictionary and joined on `patient_id`.

`clinical.csv|parquet` says who the patients are; every other layer is one file of the same kind. A layer without a
file is missing at this site, a patient without a row in a layer misses that layer, and a row in a layer without a
patient in the clinical table is a problem. Opted-out patients are removed before any of their cells is looked at.
A layer of many alike columns (`schemas.dictionary.WideLayer`) is read whole, as one block of numbers. What a study
makes of the tables is in `client.selection`; nothing here decides who takes part.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.cells import ParsedColumn, parse_column
from client.csv_file import read_csv
from client.dialect import Dialect
from client.parquet_file import read_parquet
from client.problems import Problem, rows_of
from client.raw_table import RawTable, Reading
from client.wide import parse_block, wide_header_problems
from schemas.dictionary import CLINICAL, PATIENT_ID, Column, Dictionary, WideLayer

__all__ = ["ALL_FEATURES", "Key", "SiteTables", "read_site_tables"]

Key = tuple[str, str]
"""Layer and column; of a wide layer `ALL_FEATURES` stands for the column."""

ALL_FEATURES = "*"

_IDENTIFIER = Column(name=PATIENT_ID, type="identifier", required=True)


@dataclass(frozen=True)
class SiteTables:
    """All columns that were asked for, one row per patient who did not opt out.

    Attributes:
        patient_ids: In the order of the clinical table.
        rows: (n_patients,) the rows of the clinical table as a spreadsheet counts.
        columns: Cells by layer and column, aligned to the patients.
        blocks: (n_patients, n_features) by wide layer, NaN where not known; columns as the dictionary's identifiers.
        known: (n_patients,) by layer, True where the patient has a row in it.
        files: Name of the file of each layer that has one.
        n_rows: Records of the clinical table, opted-out patients among them.
        n_opted_out: Records left out because the patient opted out.
        n_optout_unknown: Identifiers of the opt-out list that the clinical table does not hold.
        problems: What is wrong, uncapped.
    """

    patient_ids: tuple[str, ...] = ()
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    columns: Mapping[Key, ParsedColumn] = field(default_factory=dict)
    blocks: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    known: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    n_rows: int = 0
    n_opted_out: int = 0
    n_optout_unknown: int = 0
    problems: tuple[Problem, ...] = ()

    @property
    def n_patients(self) -> int:
        """Number of patients who did not opt out."""
        return len(self.patient_ids)


def read_site_tables(
    folder: Path,
    dictionary: Dictionary,
    dialect: Dialect,
    opted_out: Collection[str] = frozenset(),
    wanted: Collection[Key] | None = None,
) -> SiteTables:
    """Read and join a site's tables; what is wrong with them is in `problems`, and no file raises.

    Args:
        folder: Of the tables.
        dictionary: What their columns mean.
        dialect: How the CSV files are written.
        opted_out: Identifiers of patients who are left out.
        wanted: The columns to read, of which the clinical ones must exist; None reads the whole dictionary.
    """
    wanted_keys = _all_keys(dictionary) if wanted is None else frozenset(wanted) | {(CLINICAL, PATIENT_ID)}
    clinical, problems = _read_layer(folder, CLINICAL, dictionary, dialect, wanted_keys)
    problems += _folder_problems(folder, dictionary)
    if clinical is None:
        return SiteTables(problems=tuple(problems))
    ids, kept, found = _patients(clinical, dialect, opted_out)
    problems += found
    tables = SiteTables(
        patient_ids=tuple(ids[kept]),
        rows=clinical.rows[kept],
        files={CLINICAL: clinical.file},
        known={CLINICAL: np.ones(int(kept.sum()), dtype=np.bool_)},
        columns={},
        n_rows=clinical.n_rows,
        n_opted_out=sum(name in opted_out for name in ids),
        n_optout_unknown=len(set(opted_out) - set(ids)),
        problems=tuple(problems),
    )
    tables = _with_columns(tables, clinical, CLINICAL, np.flatnonzero(kept), None, dictionary, dialect, wanted_keys)
    for layer in sorted({layer for layer, _ in wanted_keys} - {CLINICAL}):
        tables = _with_layer(tables, folder, layer, dictionary, dialect, wanted_keys, set(ids), opted_out)
    return tables


def _all_keys(dictionary: Dictionary) -> frozenset[Key]:
    wide = frozenset((layer.name, ALL_FEATURES) for layer in dictionary.layers)
    return wide | {(column.layer, column.name) for column in dictionary.columns} | {(CLINICAL, PATIENT_ID)}


# ---------------------------------------------------------------- files
def _read_layer(
    folder: Path, layer: str, dictionary: Dictionary, dialect: Dialect, wanted: Collection[Key]
) -> tuple[RawTable | None, list[Problem]]:
    """Return a layer's file as it stands; None without problems where a layer has no file."""
    paths = [path for kind in ("csv", "parquet") if (path := folder / f"{layer}.{kind}").is_file()]
    if len(paths) > 1:
        what = f"there are {layer}.csv and {layer}.parquet"
        return None, [Problem(paths[0].name, "two-files", what, "keep one of them")]
    if not paths:
        return None, [_no_clinical(folder)] if layer == CLINICAL else []
    wide = dictionary.wide_layer(layer)
    if wide is not None:
        features = frozenset({PATIENT_ID, *wide.identifiers})
        reading = _read(paths[0], dialect, features, features)
        return reading.table, _wide_problems(reading, wide)
    names = {PATIENT_ID} | {name for of, name in wanted if of == layer}
    known = frozenset({PATIENT_ID} | {column.name for column in dictionary.layer_columns(layer)})
    reading = _read(paths[0], dialect, names, known)
    problems = list(reading.problems)
    if reading.table is not None:
        problems += _missing_columns(reading.table, layer, names)
    return reading.table, problems


def _wide_problems(reading: Reading, layer: WideLayer) -> list[Problem]:
    if reading.table is None:
        return list(reading.problems)
    return wide_header_problems(reading.table, layer, reading.problems)


def _read(path: Path, dialect: Dialect, wanted: Collection[str], known: Collection[str]) -> Reading:
    if path.suffix == ".parquet":
        return read_parquet(path, wanted, known)
    return read_csv(path, dialect, wanted, known)


def _no_clinical(folder: Path) -> Problem:
    try:
        present = sorted(path.name for path in folder.iterdir() if path.stem.lower() == CLINICAL)
    except OSError:
        return Problem(
            "tables", "no-folder", "the folder of the tables cannot be opened", "check tables in site.toml"
        )
    found = f"; found {', '.join(present)}" if present else ""
    what = f"there is no clinical.csv and no clinical.parquet{found}"
    return Problem("clinical.csv", "no-file", what, "save the clinical table under one of these names")


def _folder_problems(folder: Path, dictionary: Dictionary) -> list[Problem]:
    """Return a count of tables that no layer of the dictionary claims (their names may say too much)."""
    try:
        tables = [path.stem for path in folder.iterdir() if path.suffix.lower() in (".csv", ".parquet")]
    except OSError:
        return []
    strange = len([stem for stem in tables if stem.lower() not in {CLINICAL, *dictionary.layer_names}])
    if not strange:
        return []
    what = f"{strange} other table{'s are' if strange > 1 else ' is'} not of a layer of the dictionary and not read"
    return [Problem("tables", "unknown-file", what, severity="warning")]


def _missing_columns(table: RawTable, layer: str, wanted: Collection[str]) -> list[Problem]:
    """Return the wanted columns that the header lacks: an error in the clinical table, elsewhere if all do."""
    absent = sorted(set(wanted) - set(table.header))
    spare = [name for name in table.header if name not in wanted]
    all_absent = len(absent) >= len(wanted) - 1
    problems = []
    for name in absent:
        close = difflib.get_close_matches(name, spare, n=1, cutoff=0.75) if len(absent) <= 50 else []
        what = "is missing" + (f"; the header has `{close[0]}`" if close else "")
        if layer == CLINICAL or all_absent:
            remedy = "rename the column, or add it with empty cells if it is not known here"
            problems.append(Problem(table.file, "missing-column", what, remedy, column=name))
        else:
            what += "; it counts as not known of this site's patients"
            problems.append(Problem(table.file, "missing-column", what, "", column=name, severity="warning"))
    return problems


# ---------------------------------------------------------------- patients
def _identifiers(table: RawTable, dialect: Dialect) -> tuple[NDArray[np.object_], list[Problem]]:
    """Return the identifiers of a table's rows, empty where unusable or repeated, and what is wrong with them."""
    if PATIENT_ID not in table.cells:  # the header holds it twice
        return np.full(table.n_rows, "", dtype=object), []
    parsed = parse_column(table.cells[PATIENT_ID], _IDENTIFIER, dialect if table.is_text else None)
    ids = parsed.labels if parsed.labels is not None else np.full(table.n_rows, "", dtype=object)
    problems = _cell_problems(table.file, _IDENTIFIER, parsed, table.rows)
    _, first = np.unique(ids.astype(str), return_index=True)
    repeated = np.ones(len(ids), dtype=np.bool_)
    repeated[first] = False
    repeated &= ids != ""
    if repeated.any():
        rows, n = rows_of(table.rows, repeated)
        what, remedy = "repeats an identifier of a row above", "keep one row for each patient"
        problems.append(Problem(table.file, "double-identifier", what, remedy, PATIENT_ID, rows, n))
        ids = np.where(repeated, "", ids)
    return ids, problems


def _patients(
    table: RawTable, dialect: Dialect, opted_out: Collection[str]
) -> tuple[NDArray[np.object_], NDArray[np.bool_], list[Problem]]:
    """Return the identifier of each row of the clinical table, which rows are kept, and problems."""
    ids, problems = _identifiers(table, dialect)
    kept = np.array([bool(name) and name not in opted_out for name in ids], dtype=np.bool_)
    if not table.n_rows:
        problems.append(Problem(table.file, "no-rows", "has no patient", "export the table again"))
    return ids, kept, problems


# ---------------------------------------------------------------- columns
def _cell_problems(file: str, column: Column, parsed: ParsedColumn, rows: NDArray[np.int64]) -> list[Problem]:
    problems = []
    for finding in parsed.findings:
        shown, n = rows_of(rows, finding.mask)
        problems.append(Problem(file, finding.kind, finding.what, finding.remedy, column.name, shown, n))
    if column.required and parsed.empty.any():
        shown, n = rows_of(rows, parsed.empty)
        problems.append(Problem(file, "empty", "is empty and must not be", "fill it", column.name, shown, n))
    return problems


def _with_columns(
    tables: SiteTables,
    table: RawTable,
    layer: str,
    source: NDArray[np.intp],
    target: NDArray[np.intp] | None,
    dictionary: Dictionary,
    dialect: Dialect,
    wanted: Collection[Key],
) -> SiteTables:
    """Return `tables` with the columns of one file, its rows `source` standing at the patients `target`."""
    columns = dict(tables.columns)
    problems = list(tables.problems)
    for column in dictionary.layer_columns(layer):
        if (layer, column.name) not in wanted or column.name not in table.cells or column.name == PATIENT_ID:
            continue
        parsed = parse_column(table.cells[column.name].take(source), column, dialect if table.is_text else None)
        problems += _cell_problems(table.file, column, parsed, table.rows[source])
        columns[layer, column.name] = parsed if target is None else _spread(parsed, target, tables.n_patients)
    return replace(tables, columns=columns, problems=tuple(problems))


def _spread(parsed: ParsedColumn, target: NDArray[np.intp], n: int) -> ParsedColumn:
    """Return a column at the patients of the clinical table; empty for those without a row."""
    values = np.full(n, np.nan)
    values[target] = parsed.values
    empty = np.ones(n, dtype=np.bool_)
    empty[target] = parsed.empty
    labels = None
    if parsed.labels is not None:
        labels = np.full(n, "", dtype=object)
        labels[target] = parsed.labels
    return ParsedColumn(values, empty, labels)


def _with_layer(
    tables: SiteTables,
    folder: Path,
    layer: str,
    dictionary: Dictionary,
    dialect: Dialect,
    wanted: Collection[Key],
    all_ids: Collection[str],
    opted_out: Collection[str],
) -> SiteTables:
    """Return `tables` with the columns of a layer other than the clinical one."""
    table, problems = _read_layer(folder, layer, dictionary, dialect, wanted)
    known = np.zeros(tables.n_patients, dtype=np.bool_)
    if table is None:
        return replace(tables, known={**tables.known, layer: known}, problems=(*tables.problems, *problems))
    ids, found = _identifiers(table, dialect)
    problems += found
    stray = np.array([bool(name) and name not in all_ids and name not in opted_out for name in ids], dtype=np.bool_)
    if stray.any():
        rows, n = rows_of(table.rows, stray)
        what, remedy = "has no row in the clinical table", "add the patient there, or remove the row here"
        problems.append(Problem(table.file, "stray-identifier", what, remedy, PATIENT_ID, rows, n))
    place = {name: index for index, name in enumerate(tables.patient_ids)}
    # In the order of the file, so that `source` ascends.
    pairs = [(row, place[name]) for row, name in enumerate(ids) if name in place]
    source, target = (np.array(part, dtype=np.intp) for part in (zip(*pairs, strict=True) if pairs else ((), ())))
    known[target] = True
    tables = replace(
        tables,
        known={**tables.known, layer: known},
        files={**tables.files, layer: table.file},
        problems=(*tables.problems, *problems),
    )
    wide = dictionary.wide_layer(layer)
    if wide is None:
        return _with_columns(tables, table, layer, source, target, dictionary, dialect, wanted)
    block = parse_block(table, wide, source, dialect)
    values = np.full((tables.n_patients, block.values.shape[1]), np.nan)
    values[target] = block.values
    return replace(tables, blocks={**tables.blocks, layer: values}, problems=(*tables.problems, *block.problems))
