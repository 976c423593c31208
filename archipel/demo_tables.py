"""Deals the demo's tables out into one folder per site, as partners would hold them.

Pure but for `write_site_folders`. The chronic granulomatous disease trial had thirteen centres: each with ten or
more patients becomes a site, and the others together one site more, since a site answers for ten patients at least.
The adrenocortical carcinoma tables have several layers, each with its own rows of patients: a site's table of a layer
has those rows that belong to its patients.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SMALL_CENTRES", "Row", "deal_by_centre", "deal_by_label", "read_rows", "site_name", "write_site_folders"]

SMALL_CENTRES = "small-centres"
Row = Mapping[str, str]


@dataclass(frozen=True)
class Dealt:
    """One site's share of a table.

    Attributes:
        name: Of the site.
        centres: The values of the dealing column that it holds, for people.
        rows: Its patients, in the order of the table.
    """

    name: str
    centres: tuple[str, ...]
    rows: tuple[Row, ...]


def site_name(text: str) -> str:
    """Return a plain name made from a centre's: ``Univ. of Zurich`` becomes ``univ-of-zurich``."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower().replace("'", "")
    words = "".join(character if character.isalnum() else " " for character in plain).split()
    return "-".join(words)[:60].strip("-") or "site"


def deal_by_centre(rows: Sequence[Row], column: str, smallest: int = 10) -> tuple[Dealt, ...]:
    """Return one share for each centre of at least `smallest` patients, and one for all others together.

    Shares come in the order of their size, the largest first, and the small centres last.
    """
    centres = _by_value(rows, column)
    large = {centre: found for centre, found in centres.items() if len(found) >= smallest}
    shares = [
        Dealt(site_name(centre), (centre,), tuple(found))
        for centre, found in sorted(large.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    rest = tuple(row for row in rows if row[column] not in large)
    if rest:
        shares.append(Dealt(SMALL_CENTRES, tuple(centre for centre in centres if centre not in large), rest))
    return tuple(shares)


def deal_by_label(rows: Sequence[Row], column: str, prefix: str) -> tuple[Dealt, ...]:
    """Return one share for each value of a column that names the site: ``A`` becomes ``PREFIX-a``."""
    return tuple(
        Dealt(site_name(f"{prefix} {label}"), (label,), tuple(found))
        for label, found in sorted(_by_value(rows, column).items())
    )


def _by_value(rows: Sequence[Row], column: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[column], []).append(row)
    return found


def read_rows(path: Path) -> tuple[Row, ...]:
    """Read a demo table; every cell stays text."""
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def write_site_folders(
    shares: Sequence[Dealt],
    folder: Path,
    *,
    without: Sequence[str] = (),
    layers: Mapping[str, Sequence[Row]] | None = None,
    absent: Collection[tuple[str, str]] = (),
) -> dict[str, Path]:
    """Write ``FOLDER/SITE/clinical.csv``, and one file per layer, for each share and return the sites' folders.

    Args:
        shares: Of the clinical table.
        folder: Made where it is not there.
        without: Columns that a site's own clinical table does not have (the one that names the site).
        layers: Tables of further layers by name; a site without a row in one gets no file.
        absent: Site and layer of tables that a site is not given.
    """
    folders: dict[str, Path] = {}
    for share in shares:
        home = folder / share.name
        home.mkdir(parents=True, exist_ok=True)
        _write_table(home / "clinical.csv", share.rows, without)
        patients = {row["patient_id"] for row in share.rows}
        for layer, rows in (layers or {}).items():
            own = [row for row in rows if row["patient_id"] in patients]
            if own and (share.name, layer) not in absent:
                _write_table(home / f"{layer}.csv", own)
        folders[share.name] = home
    return folders


def _write_table(path: Path, rows: Sequence[Row], without: Sequence[str] = ()) -> None:
    columns = [name for name in rows[0] if name not in without]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
