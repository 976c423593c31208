"""`archipel site check`: every problem of a site's tables at once, and whether the site can take part in a study.

The report is for the hospital's own data manager. It names files, rows and columns and no cell value, and counts of
patients below 10 are not shown, so that it can be sent to the partnership's help desk as it is.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.dialect import Dialect
from client.optout import OPTOUT_FILE
from client.problems import Problem, cap_columns, errors_of
from client.selection import Selection, floor_of, needed_keys, select_patients
from client.settings import Floors, SiteFloors
from client.tables import Key, SiteTables, read_site_tables
from schemas.dictionary import CLINICAL, Dictionary
from schemas.study import Study

__all__ = ["CheckReport", "check_tables"]

SMALLEST_SHOWN = 10


@dataclass(frozen=True)
class CheckReport:
    """What the check found.

    Attributes:
        dictionary: Name of the dictionary.
        study: Name of the study, or None where the tables were held against the dictionary alone.
        problems: Errors first, then warnings, each in the order of the files.
        n_patients: Patients of the cohort (without a study: who did not opt out); exact, for this site alone. None
            where the clinical table could not be read.
        n_events: Observed events among them; None without a study.
        n_opted_out: Patients left out because they opted out.
        n_ineligible: Patients who do not meet the study's criteria.
        n_incomplete: Eligible patients without a known endpoint or, in complete cases, with an empty covariate.
        reasons: Why the site cannot take part; empty when it can.
    """

    dictionary: str
    study: str | None
    problems: tuple[Problem, ...]
    n_patients: int | None
    n_events: int | None
    n_opted_out: int
    n_ineligible: int
    n_incomplete: int
    reasons: tuple[str, ...]

    @property
    def can_take_part(self) -> bool:
        """Whether nothing keeps the site from the study (or the tables from agreeing with the dictionary)."""
        return not self.reasons

    @property
    def verdict(self) -> str:
        """The last line of the report."""
        subject = (
            f"The tables agree with dictionary {self.dictionary}"
            if self.study is None
            else f"This site can take part in study {self.study}"
        )
        return f"{subject}: yes" if self.can_take_part else f"{subject}: no, because {'; '.join(self.reasons)}"

    def text(self) -> str:
        """Return the report in plain words; its last line is the verdict."""
        against = f"dictionary {self.dictionary}" + (f" and study {self.study}" if self.study else "")
        lines = [f"Tables checked against {against}", ""]
        for file in dict.fromkeys(problem.file for problem in self.problems):
            lines.append(file)
            lines += [f"  {_line(problem)}" for problem in self.problems if problem.file == file]
            lines.append("")
        if not self.problems:
            lines += ["No problem was found.", ""]
        lines += self._counts()
        return "\n".join([*lines, self.verdict])

    def _counts(self) -> list[str]:
        # No total is shown beside the counts below it: from both, a hidden one could be solved.
        if self.n_patients is None:
            return ["Patients: the clinical table could not be read"]
        events = "" if self.n_events is None else f", {_shown(self.n_events)} with an observed event"
        lines = [f"Patients {'in the study' if self.study else 'read'}: {_shown(self.n_patients)}{events}"]
        for what, count in (
            ("opted out", self.n_opted_out),
            ("not eligible", self.n_ineligible),
            ("incomplete", self.n_incomplete),
        ):
            if count:
                lines.append(f"Left out, {what}: {_shown(count)}")
        return lines

    def as_json(self) -> str:
        """Return the report for programs; counts of patients below 10 read "<10"."""
        counts = ("n_patients", "n_events", "n_opted_out", "n_ineligible", "n_incomplete")
        body = {
            "kind": "check",
            "version": 1,
            "dictionary": self.dictionary,
            "study": self.study,
            "can_take_part": self.can_take_part,
            "reasons": self.reasons,
            **{name: _coarse(getattr(self, name)) for name in counts},
            "problems": [asdict(problem) for problem in self.problems],
        }
        return json.dumps(body, indent=2, ensure_ascii=False)


def check_tables(
    folder: Path,
    dictionary: Dictionary,
    study: Study | None,
    dialect: Dialect,
    opted_out: Collection[str] = frozenset(),
    floors: Floors | None = None,
    today: datetime.date | None = None,
) -> CheckReport:
    """Check a site's tables; whatever they hold, a report comes out and nothing is raised.

    Args:
        folder: Of the tables.
        dictionary: What their columns mean.
        study: The study to take part in, or None.
        dialect: How the CSV files are written.
        opted_out: Identifiers of patients who are left out.
        floors: The site's smallest counts.
        today: The day on which the site would take part; today, by default.
    """
    floors = floors or SiteFloors()
    today = today or datetime.date.today()
    opted_out = frozenset(opted_out)
    wanted = None if study is None else needed_keys(study, dictionary)
    tables = read_site_tables(folder, dictionary, dialect, opted_out)
    is_read = CLINICAL in tables.files
    selection = select_patients(tables, study, dictionary, floors) if study is not None and is_read else None
    problems = [_weighed(problem, tables, dictionary, wanted) for problem in tables.problems]
    problems += _content_warnings(tables, dictionary, selection, wanted)
    if tables.n_optout_unknown:
        what = f"{tables.n_optout_unknown} of its identifiers are not in the clinical table"
        remedy = "check their spelling: whoever is misspelt here has not been left out"
        problems.append(Problem(OPTOUT_FILE, "unknown-optout", what, remedy, severity="warning"))
    if selection is not None:
        problems += selection.problems
    problems.sort(key=lambda problem: not problem.blocks)
    return CheckReport(
        dictionary=dictionary.name,
        study=None if study is None else study.name,
        problems=cap_columns(problems),
        n_patients=selection.n_patients if selection else tables.n_patients if is_read else None,
        n_events=selection.n_events if selection else None,
        n_opted_out=tables.n_opted_out,
        n_ineligible=0 if selection is None else selection.n_ineligible,
        n_incomplete=0 if selection is None else selection.n_incomplete,
        reasons=refusals(problems, study, selection, floors) + _refused_terms(study, floors, today),
    )


def _refused_terms(study: Study | None, floors: Floors, today: datetime.date) -> tuple[str, ...]:
    """Return what of a study's terms this site does not accept whatever its tables hold."""
    if study is None:
        return ()
    reasons = []
    if study.expires is not None and study.expires < today:
        reasons.append(f"the study's last day, {study.expires}, has passed")
    for what in ("min_patients", "min_events_per_interval"):
        asked, floor = getattr(study.privacy, what), getattr(floors, what)
        if asked < floor:
            reasons.append(f"the study's {what} is {asked}, and this site answers from {floor} on")
    return tuple(reasons)


def refusals(
    problems: Collection[Problem], study: Study | None, selection: Selection | None, floors: Floors
) -> tuple[str, ...]:
    """Return why a site cannot take part, in words; empty when it can."""
    reasons = []
    errors = errors_of(problems)
    if errors:
        files = ", ".join(dict.fromkeys(problem.file for problem in errors))
        many = f"{len(errors)} problems have" if len(errors) > 1 else "1 problem has"
        reasons.append(f"{many} to be corrected in {files}")
    if selection is not None and study is not None:
        floor = floor_of(study, floors)
        if selection.n_patients < floor:
            reasons.append(f"it has fewer than {floor} patients for this study")
        elif selection.n_events < floors.min_events:
            few = "no observed event" if floors.min_events == 1 else f"fewer than {floors.min_events} observed events"
            reasons.append(f"it has {few} in this study")
    return tuple(reasons)


def _weighed(problem: Problem, tables: SiteTables, dictionary: Dictionary, wanted: Collection[Key] | None) -> Problem:
    """Return the problem, marked where the study does not read what it concerns."""
    layers = {file: layer for layer, file in tables.files.items()}
    layer = layers.get(problem.file, problem.file.rpartition(".")[0])
    if wanted is None or layer not in (CLINICAL, *dictionary.layer_names):
        return problem
    if layer not in {of for of, _ in wanted}:
        return replace(problem, needed=False)
    if dictionary.wide_layer(layer) is not None:
        return problem
    described = problem.column is not None and problem.column in {column.name for column in dictionary.columns}
    return replace(problem, needed=not described or (layer, problem.column) in wanted)


def _content_warnings(
    tables: SiteTables, dictionary: Dictionary, selection: Selection | None, wanted: Collection[Key] | None
) -> list[Problem]:
    """Return what is allowed and yet worth knowing: columns that say nothing, layers that few patients have."""
    rows = np.ones(tables.n_patients, dtype=np.bool_) if selection is None else selection.chosen
    problems = []
    for (layer, name), cells in tables.columns.items():
        if (wanted is None or (layer, name) in wanted) and cells.labels is None and not cells.findings and rows.any():
            what = _says_nothing(cells.values[rows & tables.known[layer]])
            if what:
                problems.append(Problem(tables.files[layer], "constant", what, "", name, severity="warning"))
    asked = dictionary.layer_names if wanted is None else sorted({layer for layer, _ in wanted})
    # Of mutations, most are nobody's at a small site; of measurements, one that never varies is worth a look.
    problems += _same_features(tables, [name for name in asked if not _is_boolean(dictionary, name)], rows)
    for layer in asked:
        if tables.files and layer not in tables.files:
            what = "this layer has no readable table here and counts as missing"
            problems.append(Problem(layer, "missing-layer", what, severity="warning"))
    return problems if selection is None else problems + _thin_warnings(tables, selection)


def _is_boolean(dictionary: Dictionary, layer: str) -> bool:
    described = dictionary.wide_layer(layer)
    return described is not None and described.type == "boolean"


def _same_features(tables: SiteTables, layers: Collection[str], rows: NDArray[np.bool_]) -> list[Problem]:
    """Return, for each wide layer, how many of its features are the same for all patients who have them."""
    problems = []
    for layer in layers:
        known = tables.blocks[layer][rows] if layer in tables.blocks else np.empty((0, 0))
        n_known = (~np.isnan(known)).sum(axis=0)
        lowest = np.where(np.isnan(known), np.inf, known).min(axis=0, initial=np.inf)
        highest = np.where(np.isnan(known), -np.inf, known).max(axis=0, initial=-np.inf)
        n = int(((n_known > 1) & (lowest == highest)).sum())
        if n:
            what = f"{n:,} feature{'s are' if n > 1 else ' is'} the same for all patients"
            problems.append(Problem(tables.files[layer], "constant-features", what, severity="warning"))
    return problems


def _thin_warnings(tables: SiteTables, selection: Selection) -> list[Problem]:
    what = "is known of too few patients of the study and counts as missing here"
    problems = [
        Problem(tables.files[layer], "thin-layer", what, severity="warning") for layer in selection.thin_layers
    ]
    for layer, thin in selection.thin_features.items():
        n = int(thin.sum())
        if n and layer not in selection.thin_layers:
            many = (
                f"{n:,} feature{'s are' if n > 1 else ' is'} known of too few patients of the study and not used here"
            )
            problems.append(Problem(tables.files[layer], "thin-features", many, severity="warning"))
    return problems + [
        Problem(tables.files[layer], "thin-column", what, column=name, severity="warning")
        for layer, name in selection.thin_columns
        if layer not in selection.thin_layers
    ]


def _says_nothing(values: NDArray[np.float64]) -> str:
    known = values[~np.isnan(values)]
    if not len(known):
        return "no cell is filled"
    return "is the same for all patients" if len(known) > 1 and known.min() == known.max() else ""


def _line(problem: Problem) -> str:
    place = problem.where.removeprefix(problem.file).strip()
    severity = problem.severity if problem.needed else "note, not read by this study"
    said = problem.what + (f" -> {problem.remedy}" if problem.remedy else "")
    return f"{severity}: {place}: {said}" if place else f"{severity}: {said}"


def _shown(count: int) -> str:
    return str(count) if count >= SMALLEST_SHOWN else f"fewer than {SMALLEST_SHOWN}"


def _coarse(count: int | None) -> int | str | None:
    return count if count is None or count >= SMALLEST_SHOWN else f"<{SMALLEST_SHOWN}"
