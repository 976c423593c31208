"""A small invented partnership: a dictionary with every type, a study on it, and tables that agree with both."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from client.check import CheckReport, check_tables
from client.dialect import Dialect
from client.settings import SiteFloors
from schemas.dictionary import Column, Dictionary
from schemas.study import Study

GENES = ("G1", "G2", "G3")


def dictionary(**changed: Mapping[str, Any]) -> Dictionary:
    columns: dict[str, dict[str, Any]] = {
        "patient_id": {"type": "identifier", "required": True},
        "time_days": {"type": "number", "unit": "day", "min": 0, "max": 400, "required": True},
        "event": {"type": "boolean", "required": True},
        "age_years": {"type": "number", "unit": "year", "min": 0, "max": 120},
        "height_cm": {"type": "number", "unit": "cm", "min": 40, "max": 220},
        "lesions": {"type": "integer", "min": 0, "max": 50},
        "steroids": {"type": "boolean"},
        "sex": {"type": "category", "codes": ("male", "female")},
        "entry_days": {"type": "number", "unit": "day"},
        "family": {"type": "identifier"},
    }
    described = [Column(name=name, **{**content, **changed.get(name, {})}) for name, content in columns.items()]
    described += [Column(name=gene, type="number", layer="rna") for gene in GENES]
    return Dictionary(kind="dictionary", version=1, name="kit", columns=tuple(described))


def study(**changed: Any) -> Study:
    content: dict[str, Any] = {
        "kind": "study",
        "version": 1,
        "name": "kit-study",
        "dictionary": "dictionary.toml",
        "endpoint": {"time": "time_days", "event": "event"},
        "model": {"covariates": ["age_years", "sex", "steroids", "lesions"]},
    }
    return Study.model_validate_json(json.dumps({**content, **changed}))


def clinical(n: int = 24) -> dict[str, list[str]]:
    """Return the columns of a table without any problem; every second patient has an event."""
    return {
        "patient_id": [f"P{i:03d}" for i in range(n)],
        "time_days": [str(30 + 14 * i) for i in range(n)],
        "event": [str(i % 2) for i in range(n)],
        "age_years": [f"{20 + i}.5" for i in range(n)],
        "height_cm": [str(150 + i) for i in range(n)],
        "lesions": [str(i % 5) for i in range(n)],
        "steroids": [str(i % 3 % 2) for i in range(n)],
        "sex": [("male", "female")[i % 2] for i in range(n)],
        "entry_days": [str(i) for i in range(n)],
        "family": [f"F{i // 2}" for i in range(n)],
    }


def rna(patients: Sequence[str]) -> dict[str, list[str]]:
    table = {gene: [f"{i + 0.25 * k}" for i in range(len(patients))] for k, gene in enumerate(GENES, start=1)}
    return {"patient_id": list(patients), **table}


def as_csv(
    table: Mapping[str, Sequence[str]], dialect: Dialect | None = None, *, quote_all: bool = False, line: str = "\n"
) -> bytes:
    """Return a table of text cells as the bytes that a program following `dialect` writes."""
    dialect = dialect or Dialect()
    out = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    writer = csv.writer(
        out, delimiter=dialect.delimiter, quotechar=dialect.quote, quoting=quoting, lineterminator=line
    )
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return out.getvalue().encode(dialect.encoding)


def write(folder: Path, table: Mapping[str, Sequence[str]] | bytes, name: str = "clinical.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(table if isinstance(table, bytes) else as_csv(table))
    return folder


def check(folder: Path, of: Study | None = None, dialect: Dialect | None = None, **more: Any) -> CheckReport:
    described = more.pop("dictionary", None) or dictionary()
    return check_tables(folder, described, of, dialect or Dialect(), floors=SiteFloors(), **more)


def kinds(report: CheckReport) -> set[str]:
    return {problem.kind for problem in report.problems}
