"""Reads what a person typed, or another system sent, as a patient's row; everything wrong is named at once."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from client.cells import number_pattern
from client.page.open_model import OpenModel
from client.page.rows import clinical_columns
from client.page.rules import cell_reasons
from client.page.shapes import Notice, Row
from schemas.artefact_manifest import ArtefactColumn
from schemas.plan import Plan
from schemas.study import Criterion

__all__ = ["criteria_notices", "read_typed"]

_NUMBER = re.compile(number_pattern("."))
_WORDS = {"0": 0.0, "false": 0.0, "no": 0.0, "1": 1.0, "true": 1.0, "yes": 1.0}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_LONGEST_NAME = 60


def read_typed(model: OpenModel, fields: Mapping[str, str]) -> Row | tuple[Notice, ...]:
    """Return the row of `client.page.patients.typed`, or what is wrong."""
    manifest, notices = model.artefact.manifest, list[Notice]()
    columns = {column.column: column for column in clinical_columns(model.artefact)}
    places = {
        f"{layer.name}:{name}": (layer.name, i) for layer in manifest.layers for i, name in enumerate(layer.features)
    }
    blocks = {layer.name: np.full(len(layer.features), np.nan) for layer in manifest.layers}
    cells = dict.fromkeys(columns, math.nan)
    for name, text in fields.items():
        given = text.strip()
        if name in columns:
            value = _value(columns[name], given)
        elif name in places:
            value = _number(given, name)
        else:
            value = Notice("unreadable", {"column": name[:_LONGEST_NAME]})
        if isinstance(value, Notice):
            notices.append(value)
        elif name in columns:
            cells[name] = value
        else:
            layer, i = places[name]
            blocks[layer][i] = value
    read_wrong = {notice.values.get("column") for notice in notices}
    for name, column in columns.items():
        if name not in read_wrong:
            notices += cell_reasons(column, cells[name])
    if model.plan is not None:
        notices += [one for one in criteria_notices(model.plan, cells) if one.values["column"] not in read_wrong]
    if notices:
        return tuple(notices)
    known = {name: block for name, block in blocks.items() if not np.isnan(block).all()}
    return Row("form", manifest.dictionary_hash, cells, blocks=known)


def criteria_notices(plan: Plan, cells: Mapping[str, float]) -> tuple[Notice, ...]:
    """Return the criteria of the study that a patient does not meet; a model says nothing of whom it left out.

    Args:
        plan: Of the run that trained the model.
        cells: Known of the patient; a criterion on a column that is not among them cannot be judged and is passed.
    """
    failed = []
    for criterion in plan.study.eligibility.criteria:
        value = cells.get(criterion.column, math.nan)
        # Not known is refused where the column is required (`client.page.rules`); else the card says for whom.
        if not math.isnan(value) and not _meets(plan, criterion, value):
            failed.append(Notice("ineligible", {"column": criterion.column}))
    return tuple(failed)


def _meets(plan: Plan, criterion: Criterion, value: float) -> bool:
    column = plan.dictionary.column(criterion.column)
    wanted: float = math.nan
    if isinstance(criterion.value, str):
        codes = (column.codes if column is not None else None) or ()
        wanted = float(codes.index(criterion.value)) if criterion.value in codes else -1.0
    else:
        wanted = float(criterion.value)
    return _COMPARE[criterion.op](value, wanted)


def _value(column: ArtefactColumn, text: str) -> float | Notice:
    if not text:
        return math.nan
    if column.type == "category":
        codes = column.codes or ()
        return float(codes.index(text)) if text in codes else Notice("unknown-code", {"column": column.column})
    if column.type == "boolean":
        value = _WORDS.get(text.lower())
        return Notice("unknown-code", {"column": column.column}) if value is None else value
    found = _number(text, column.column)
    is_whole = isinstance(found, Notice) or column.type != "integer" or found == round(found)
    return found if is_whole else Notice("not-a-number", {"column": column.column})


def _number(text: str, name: str) -> float | Notice:
    if not text:
        return math.nan
    value = float(text) if len(text) <= _LONGEST_NAME and _NUMBER.match(text) else math.inf
    return value if math.isfinite(value) else Notice("not-a-number", {"column": name})
