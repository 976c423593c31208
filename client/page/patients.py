"""Finds one patient in the site's tables by the exact identifier, or takes one whom a person typed in.

The tables are those of the current patients (`[view] tables` in site.toml, else the site's own); no outcome is read
or needed. They are read once and kept in memory until a file changes. Patients on the site's opt-out list are not
found. A cell that is not what the dictionary allows is not known, and the patient's page says so instead of a number.

By which dictionary: the one that `[view] dictionary` names; else the one of the model's plan, where this site holds
it; else what the model's file says of its columns.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.errors import TablesRefusedError
from client.members import is_member
from client.optout import OPTOUT_FILE, load_optout
from client.page.open_model import OpenModel
from client.page.rows import clinical_columns
from client.page.shapes import FormField, Notice, Row
from client.page.typing_in import criteria_notices, read_typed
from client.problems import Problem
from client.settings import SiteSettings, load_settings
from client.state import SitePaths
from client.tables import ALL_FEATURES, Key, SiteTables, read_site_tables
from privacy.ledger import entries
from schemas.artefact import Artefact
from schemas.dictionary import PATIENT_ID, Column, Dictionary, WideLayer, load_dictionary

__all__ = ["Patients", "dictionary_of", "form_fields", "typed"]

_MOST_TABLES = 2
_OF_SOME = frozenset({"stray-identifier", "more-columns", "missing-column"})
_TABLE_SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class _Read:
    """Tables as they were read for one model."""

    tables: SiteTables
    dictionary: Dictionary
    dictionary_hash: str
    places: Mapping[str, int]


class Patients:
    """The current patients of one site; safe for several threads."""

    def __init__(self, home: Path, settings: SiteSettings | None = None) -> None:
        """Read nothing yet.

        Args:
            home: The site's folder.
            settings: Of the site; read from site.toml where not given.
        """
        self._home = home
        self._settings = settings or load_settings(home)
        self._held: OrderedDict[tuple[object, ...], _Read] = OrderedDict()
        self._runs: tuple[tuple[int, int], frozenset[str]] = ((-1, -1), frozenset())
        self._lock = threading.Lock()

    @property
    def folder(self) -> Path:
        """Of the tables."""
        return self._settings.view.tables or self._settings.tables

    def find(self, model: OpenModel, patient_id: str) -> Row | None:
        """Return the patient with exactly this identifier, as far as a model needs them.

        Raises:
            TablesRefusedError: When the tables as a whole cannot be read, or name a patient twice.
            FaultsError: When opt-outs or the dictionary cannot be read.
            StorageError: When the site's records cannot be read.
        """
        read = self._read(model)
        place = read.places.get(patient_id)
        if place is None:
            return None
        tables = read.tables
        cells, problems = _cells_of(model.artefact, tables, place)
        if model.plan is not None:
            every = {name: float(parsed.values[place]) for (_, name), parsed in tables.columns.items()}
            problems = (*problems, *criteria_notices(model.plan, every))
        others = np.arange(tables.n_patients) != place
        adjusted = [layer.name for layer in model.artefact.manifest.layers if layer.adjust]
        return Row(
            source="table",
            dictionary_hash=read.dictionary_hash,
            cells=cells,
            blocks={name: block[place] for name, block in tables.blocks.items()},
            neighbours={name: tables.blocks[name][others] for name in adjusted if name in tables.blocks},
            problems=problems,
            in_sample=self.has_trained(model.artefact, patient_id),
            patient_id=patient_id,
        )

    def has_trained(self, artefact: Artefact, patient_id: str) -> bool | None:
        """Return whether a patient of this site trained a model; None where the site cannot tell.

        A site knows the members of the runs that it took part in. A model of a simulation may have seen anybody.

        Raises:
            LedgerBrokenError: When the site's ledger is not what it wrote.
            StorageError: When it cannot be read.
        """
        if artefact.manifest.mode == "simulate":
            return None
        paths = SitePaths(self._home)
        known = is_member(paths, artefact.manifest.run_id, patient_id)
        if known is not None:
            return known
        return None if artefact.manifest.run_id in self._runs_of(paths.ledger) else False

    def _runs_of(self, ledger: Path) -> frozenset[str]:
        """Return the runs that this site's ledger names; read again only when it grew."""
        if not ledger.exists():
            return frozenset()
        status = ledger.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        with self._lock:
            if self._runs[0] != stamp:
                found = (entry.event for entry in entries(ledger))
                self._runs = (stamp, frozenset(event.run for event in found if event.kind in ("setup", "release")))
            return self._runs[1]

    def _read(self, model: OpenModel) -> _Read:
        with self._lock:
            stamp = (model.hash, *_stamps(self.folder, self._home / OPTOUT_FILE, self._settings.view.dictionary))
            if stamp not in self._held:
                self._held[stamp] = self._read_anew(model)
            self._held.move_to_end(stamp)
            while len(self._held) > _MOST_TABLES:
                self._held.popitem(last=False)
            return self._held[stamp]

    def _read_anew(self, model: OpenModel) -> _Read:
        manifest = model.artefact.manifest
        dictionary, dictionary_hash = dictionary_of(model, self._settings.view.dictionary)
        # Cells that follow another dictionary are not looked at: the page says why, and nothing else.
        wanted = _wanted(model, dictionary) if dictionary_hash == manifest.dictionary_hash else frozenset[Key]()
        tables = read_site_tables(
            self.folder, dictionary, self._settings.dialect, load_optout(self._home / OPTOUT_FILE), wanted
        )
        faults = [problem.fault() for problem in tables.problems if _spoils_all(problem)]
        if faults:
            raise TablesRefusedError("the current patients' tables", faults)
        places = {name: place for place, name in enumerate(tables.patient_ids)}
        return _Read(tables, dictionary, dictionary_hash, places)


def dictionary_of(model: OpenModel, file: Path | None) -> tuple[Dictionary, str]:
    """Return the dictionary by which tables are read for a model, and the hash that is held to the model's.

    Raises:
        FaultsError: When the file cannot be read.
    """
    if file is not None:
        dictionary = load_dictionary(file)
        return dictionary, dictionary.hash
    expected = model.artefact.manifest.dictionary_hash
    if model.plan is not None and model.plan.dictionary.hash == expected:
        return model.plan.dictionary, expected
    return _dictionary_in(model.artefact), expected


def _dictionary_in(artefact: Artefact) -> Dictionary:
    """Return what a model's file says of its columns."""
    manifest = artefact.manifest
    columns = [
        Column(
            name=column.column, type=column.type, layer=column.layer, unit=column.unit, min=column.min,
            max=column.max, codes=column.codes, required=column.required, description=column.description,
        )
        for column in clinical_columns(artefact)
    ]  # fmt: skip
    layers = [
        WideLayer(
            name=layer.name, type=layer.type, transform=layer.transform, unit=layer.unit,
            limit_of_detection=layer.limit_of_detection, features=f"{layer.name}.features",
            identifiers=layer.features,
        )
        for layer in manifest.layers
    ]  # fmt: skip
    identifier = Column(name=PATIENT_ID, type="identifier", required=True)
    return Dictionary(
        kind="dictionary", version=1, name=manifest.dictionary, columns=(identifier, *columns), layers=tuple(layers)
    )


def form_fields(model: OpenModel) -> tuple[FormField, ...]:
    """Return the fields for typing a patient in; layers of many columns are not typed."""
    return tuple(
        FormField(
            name=column.column,
            label=column.description or column.column,
            layer=column.layer,
            type=column.type,
            unit=column.unit or "",
            low=column.min,
            high=column.max,
            codes=column.codes or (),
            required=column.required,
        )
        for column in clinical_columns(model.artefact)
    )


def typed(model: OpenModel, fields: Mapping[str, str]) -> Row | tuple[Notice, ...]:
    """Return a patient who was typed in, or everything that is wrong with the fields; nothing is stored.

    Args:
        model: Whose columns are asked for.
        fields: By column of the dictionary, as text with a decimal point; ``layer:feature`` for a cell of a wide
            layer. Empty or absent is not known.
    """
    return read_typed(model, fields)


def _cells_of(artefact: Artefact, tables: SiteTables, place: int) -> tuple[dict[str, float], tuple[Notice, ...]]:
    """Return one patient's cells, and those that are not what the dictionary says: there, but not read as a value."""
    cells: dict[str, float] = {}
    problems: list[Notice] = []
    for column in clinical_columns(artefact):
        parsed = tables.columns.get((column.layer, column.column))
        cells[column.column] = math.nan if parsed is None else float(parsed.values[place])
        if parsed is not None and math.isnan(parsed.values[place]) and not parsed.empty[place]:
            problems.append(Notice("unreadable", {"column": column.column}))
    return cells, tuple(problems)


def _wanted(model: OpenModel, dictionary: Dictionary) -> frozenset[Key]:
    columns = {(column.layer, column.column) for column in clinical_columns(model.artefact)}
    wide = {(layer.name, ALL_FEATURES) for layer in model.artefact.manifest.layers}
    criteria = () if model.plan is None else model.plan.study.eligibility.criteria
    described = [dictionary.column(criterion.column) for criterion in criteria]
    return frozenset(columns | wide | {(column.layer, column.name) for column in described if column is not None})


def _spoils_all(problem: Problem) -> bool:
    """Return whether no patient of the tables can be told from them, rather than one cell or one column."""
    if problem.severity != "error" or problem.kind in _OF_SOME:
        return False
    is_of_file = problem.column is None and not problem.rows
    return is_of_file or problem.kind == "double-identifier"


def _stamps(folder: Path, *others: Path | None) -> tuple[object, ...]:
    """Return what changes when a file does; a folder that cannot be opened is told by reading it."""
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _TABLE_SUFFIXES)
    except OSError:
        files = []
    found: list[object] = []
    for path in (*files, *others):
        if path is not None and path.exists():
            status = path.stat()
            found.append((path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return tuple(found)
