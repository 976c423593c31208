"""Lists the features of a dictionary's wide layers from the headers of tables, in the files that it names for them.

A plan knows every shape before any hospital's table is read, so somebody writes the list once: who holds tables
like those of the sites (`archipel study features`), or `simulate`, which holds all of them. The list is the union of
the tables' columns that the layer's pattern takes, in the order in which they first appear.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from archipel.site_folders import find_site_folders, read_dialect
from client.csv_file import read_csv
from client.dialect import Dialect
from client.parquet_file import read_parquet
from client.raw_table import RawTable
from schemas.dictionary import CLINICAL, MAX_FEATURES, PATIENT_ID, Dictionary, Name, WideLayer
from schemas.errors import Fault, FaultsError
from schemas.features import write_features
from schemas.study import Study

__all__ = [
    "Listed",
    "Table",
    "complete_dictionary",
    "features_faults",
    "list_features",
    "tables_of",
    "tables_of_sites",
]

_NAME = TypeAdapter(Name)


@dataclass(frozen=True)
class Table:
    """A table whose header says which features a layer has.

    Attributes:
        layer: Whose table it is.
        path: Of its file.
        dialect: How it is written, where it is a CSV file.
        patients: The clinical table beside it, if any: no feature is called like a patient.
    """

    layer: str
    path: Path
    dialect: Dialect
    patients: Path | None = None


@dataclass(frozen=True)
class Listed:
    """What became of one layer's list.

    Attributes:
        layer: Its name.
        path: Of the features file.
        identifiers: Of the features.
        n_tables: From how many tables.
        outcome: In words, for the end of a sentence.
    """

    layer: str
    path: Path
    identifiers: tuple[str, ...]
    n_tables: int
    outcome: str

    def __str__(self) -> str:
        """Return the whole sentence."""
        tables = f"{self.n_tables} table{'s' if self.n_tables > 1 else ''}"
        return f"{self.layer}: {len(self.identifiers):,} features in {tables}; {self.outcome}"


def features_faults(study: Study, dictionary: Dictionary, path: Path) -> tuple[Fault, ...]:
    """Return the wide layers of a study whose features nobody has listed yet, each with what to do.

    Args:
        study: Read from `path`.
        dictionary: That it names.
        path: Of the study.
    """
    folder = (path.parent / study.dictionary).parent
    return tuple(
        Fault(
            f"{study.dictionary}, layer {layer.name}",
            f"its features are not listed: there is no file {folder / layer.features}",
            f"`archipel study features {path} --sites DIR` writes it from tables",
        )
        for name in study.model.wide_layers
        if (layer := dictionary.wide_layer(name)) is not None and not layer.identifiers
    )


def tables_of_sites(dictionary: Dictionary, sites_dir: Path) -> tuple[Table, ...]:
    """Return the tables of all wide layers in the site folders of `sites_dir`, in the order of the sites' names.

    Raises:
        ArchipelError: When there is no site folder.
        FaultsError: When a site's `site.toml` is wrong.
    """
    found = []
    for home in find_site_folders(sites_dir).values():
        clinical = next(path for kind in ("csv", "parquet") if (path := home / f"{CLINICAL}.{kind}").is_file())
        paths = [home / f"{layer.name}.{kind}" for layer in dictionary.layers for kind in ("csv", "parquet")]
        found += [Table(path.stem, path, read_dialect(home), clinical) for path in paths if path.is_file()]
    return tuple(found)


def tables_of(dictionary: Dictionary, paths: Iterable[Path]) -> tuple[Table, ...]:
    """Return tables given one by one; the name of a file says its layer, and `site.toml` beside it how it is written.

    Raises:
        FaultsError: For a file that is not there, or of no wide layer.
    """
    found: list[Table] = []
    faults: list[Fault] = []
    for path in paths:
        if not path.is_file():
            faults.append(Fault(str(path), "there is no such file"))
        elif dictionary.wide_layer(path.stem) is None or path.suffix not in (".csv", ".parquet"):
            names = ", ".join(layer.name for layer in dictionary.layers) or "none"
            what = f"is no table of a layer with [[layers]] in the dictionary ({names})"
            faults.append(Fault(str(path), what, "name the file LAYER.csv or LAYER.parquet"))
        else:
            found.append(Table(path.stem, path, read_dialect(path.parent)))
    if faults:
        raise FaultsError("the tables", faults)
    return tuple(found)


def list_features(
    dictionary: Dictionary, folder: Path, tables: Sequence[Table], *, replace: bool = False
) -> tuple[Listed, ...]:
    """Write the features files of the layers that `tables` show, and return what became of each.

    Args:
        dictionary: With or without its lists.
        folder: Of the dictionary.
        tables: Of its wide layers.
        replace: Whether a list that is there already gives way to a different one.

    Raises:
        FaultsError: When a table cannot be read, or a column's name can be no feature; nothing is written then.
        OSError: When a file cannot be written.
    """
    listed = []
    for layer in dictionary.layers:
        mine = [table for table in tables if table.layer == layer.name]
        if not mine:
            continue
        identifiers = _identifiers(layer, mine)
        path = folder / layer.features
        if identifiers == layer.identifiers:
            outcome = f"{path} says so already"
        elif layer.identifiers and not replace:
            outcome = (
                f"{path} lists {len(layer.identifiers):,} others and was left as it is (--replace writes it anew)"
            )
        else:
            outcome = f"written to {path}"
        listed.append(Listed(layer.name, path, identifiers, len(mine), outcome))
    for one in listed:
        described = dictionary.wide_layer(one.layer)
        if described is not None and one.outcome.startswith("written"):
            write_features(one.path, one.identifiers, described.genome_build)
    return tuple(listed)


def complete_dictionary(
    study: Study, dictionary: Dictionary, folder: Path, sites_dir: Path
) -> tuple[Dictionary, tuple[str, ...]]:
    """Return the dictionary with the features of every wide layer of the study, and a sentence for each new list.

    Only a simulation may look at the sites' tables before the plan is made. The lists are also written beside the
    dictionary where this user may, so that the next run, and a real federation, means the same features.

    Raises:
        FaultsError: When a table's header cannot be read, or no site has a table of the layer.
    """
    wanted = {
        name
        for name in study.model.wide_layers
        if (layer := dictionary.wide_layer(name)) is not None and not layer.identifiers
    }
    if not wanted:
        return dictionary, ()
    tables = tables_of_sites(dictionary, sites_dir)
    layers: list[WideLayer] = []
    sentences: list[str] = []
    for layer in dictionary.layers:
        mine = [table for table in tables if table.layer == layer.name]
        if layer.name in wanted and not mine:
            what = f"there is no file {layer.features} and no site has a table of this layer"
            raise FaultsError(study.dictionary, [Fault(f"layer {layer.name}", what, "leave the layer out")])
        if layer.name in wanted:
            identifiers = _identifiers(layer, mine)
            layers.append(WideLayer(**{**dict(layer), "identifiers": identifiers}))
            sentences.append(_written(layer, identifiers, folder))
        else:
            layers.append(layer)
    return Dictionary(**{**dict(dictionary), "layers": tuple(layers)}), tuple(sentences)


def _written(layer: WideLayer, identifiers: Sequence[str], folder: Path) -> str:
    what = f"The {len(identifiers):,} features of layer {layer.name} were listed from the sites' tables"
    try:
        write_features(folder / layer.features, identifiers, layer.genome_build)
    except OSError:
        return f"{what}, for this run alone: {layer.features} cannot be written beside the dictionary."
    return f"{what} and written to {layer.features} beside the dictionary; a real federation needs that file."


# ---------------------------------------------------------------- headers
def _identifiers(layer: WideLayer, tables: Sequence[Table]) -> tuple[str, ...]:
    """Return the union of the tables' columns that are features of the layer, in the order of their appearance."""
    found: dict[str, None] = {}
    faults: list[Fault] = []
    for table in tables:
        read, wrong = _read(table.path, table.dialect)
        faults += wrong
        if read is None:
            continue
        names = [name for name in read.header if name != PATIENT_ID and fnmatchcase(name, layer.columns)]
        faults += _name_faults(table, names)
        found.update(dict.fromkeys(names))
    if not found and not faults:
        what = f"no column of its tables fits the pattern {layer.columns}"
        faults.append(Fault(f"layer {layer.name}", what, "correct `columns` in the dictionary"))
    if len(found) > MAX_FEATURES:
        what = f"{len(found):,} features are more than the {MAX_FEATURES:,} that a layer may have"
        faults.append(Fault(f"layer {layer.name}", what, "choose them by `columns`, or list fewer yourself"))
    if faults:
        raise FaultsError(f"the features of layer {layer.name}", faults)
    return tuple(found)


def _read(path: Path, dialect: Dialect, wanted: frozenset[str] = frozenset()) -> tuple[RawTable | None, list[Fault]]:
    known = frozenset({PATIENT_ID})
    reading = (
        read_parquet(path, wanted, known) if path.suffix == ".parquet" else read_csv(path, dialect, wanted, known)
    )
    if reading.table is not None:
        return reading.table, []
    place = f"{path.parent.name}/{path.name}"
    return None, [Fault(place, problem.what, problem.remedy) for problem in reading.problems if problem.blocks]


def _name_faults(table: Table, names: Sequence[str]) -> list[Fault]:
    """Return what keeps columns from being features; a table turned on its side has patients there."""
    place = f"{table.path.parent.name}/{table.path.name}"
    patients = frozenset({PATIENT_ID})
    if table.patients is not None:
        clinical, _ = _read(table.patients, table.dialect, patients)
        if clinical is not None and PATIENT_ID in clinical.cells:
            ids = {str(cell).strip() for cell in clinical.cells[PATIENT_ID].to_pylist()}
            if ids & set(names):
                what = "columns are called like patients: one row has to be one patient"
                return [Fault(place, what, "turn the table")]
    wrong = sum(not _is_name(name) for name in names)
    if not wrong:
        return []
    many = "s are" if wrong > 1 else " is"
    what = f"{wrong:,} column name{many} no feature's: empty, too long, with # in front, with a line break or < > [ ]"
    return [Fault(place, what, "rename them, or choose others by `columns`")]


def _is_name(text: str) -> bool:
    try:
        _NAME.validate_python(text)
    except ValidationError:
        return False
    return not text.startswith("#") and text.splitlines() == [text]
