"""Reads a CSV file as text, in the dialect that site.toml declares, and says where the file contradicts it.

Nothing is guessed: a wrong delimiter, quote or encoding is an error that names the line of site.toml to change. The
file is read on as it seems to be written, but only so that everything else that is wrong is named at the same time.
The cells become Arrow text columns in portions of rows, so that a wide file does not fill the memory with Python
strings. Cells are read without the spaces around them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from client.dialect import Dialect
from client.problems import ROWS_SHOWN, Problem
from client.raw_table import MAX_CELLS, MAX_COLUMNS, RawTable, Reading, header_problems, read_once, refused
from schemas.dictionary import PATIENT_ID

__all__ = ["MAX_BYTES", "read_csv"]

MAX_BYTES = 1 << 30
_CELLS_AT_ONCE = 500_000
_LONGEST_CELL = 1 << 17
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # UTF-32 little endian starts with the first of them
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_BOM = b"\xef\xbb\xbf"
_OTHER_FORMATS = (
    (b"PK\x03\x04", "is an Excel workbook or a zip archive, not a CSV file"),
    (b"\xd0\xcf\x11\xe0", "is an old Excel workbook, not a CSV file"),
    (b"PAR1", "is a Parquet file: let its name end in .parquet"),
    (b"\x1f\x8b", "is compressed"),
)
_SAVE_AS = 'save it as "CSV UTF-8"'


def read_csv(path: Path, dialect: Dialect, wanted: Collection[str], known: Collection[str]) -> Reading:
    """Read the columns `wanted` of a CSV file as text.

    Args:
        path: The file.
        dialect: As declared in site.toml.
        wanted: Names of the columns whose cells are kept.
        known: All names that the dictionary has for this table, by which a header is recognised.
    """
    file = path.name
    try:
        if path.stat().st_size > MAX_BYTES:
            return refused(file, "too-large", "is larger than 1 GiB", "save it as Parquet")
        data = path.read_bytes()
    except OSError as error:
        return refused(file, "unreadable", f"cannot be read ({error.strerror})", "check the file's permissions")
    text, problems = _decode(file, data, dialect)
    if text is None:
        return Reading(None, tuple(problems))
    del data
    reading = _parse(file, text, dialect, wanted, known)
    return Reading(reading.table, (*problems, *reading.problems))


# ---------------------------------------------------------------- bytes to text
def _decode(file: str, data: bytes, dialect: Dialect) -> tuple[str | None, list[Problem]]:
    """Return the text, and the problem by which these bytes are not text in the declared encoding.

    With a problem there is still text where another of the encodings fits.
    """
    if not data.strip():
        return None, [Problem(file, "empty", "is empty", "export the table again")]
    for magic, what in _OTHER_FORMATS:
        if data.startswith(magic):
            return None, [Problem(file, "not-csv", what, _SAVE_AS)]
    if data.startswith(_UTF16):
        return None, [Problem(file, "encoding", 'is UTF-16 text (Excel\'s "Unicode text")', _SAVE_AS)]
    if (nul := data.find(b"\0")) >= 0:
        what = "holds a NUL byte: the file is damaged, or UTF-16 text"
        remedy = f"export the table again, or {_SAVE_AS}"
        return None, [Problem(file, "nul-byte", what, remedy, rows=_row(data, nul), n_rows=1)]
    return _decode_cp1252(file, data, dialect) if dialect.encoding == "cp1252" else _decode_utf8(file, data, dialect)


def _decode_cp1252(file: str, data: bytes, dialect: Dialect) -> tuple[str | None, list[Problem]]:
    if data.startswith(_BOM) or (not data.isascii() and _is_utf8(data)):
        place = dialect.where("encoding")
        what = f"is UTF-8 text, but {place} says cp1252"
        text = data.decode("utf-8-sig", errors="replace")
        return text, [Problem(file, "encoding", what, f'set encoding = "utf-8" at {place}')]
    try:
        return data.decode("cp1252"), []
    except UnicodeDecodeError as error:
        what = "holds a byte that cp1252 does not know"
        return None, [Problem(file, "encoding", what, _SAVE_AS, rows=_row(data, error.start), n_rows=1)]


def _decode_utf8(file: str, data: bytes, dialect: Dialect) -> tuple[str, list[Problem]]:
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        place = dialect.where("encoding")
        what = f"holds bytes that are not UTF-8, which {place} declares; this looks like cp1252"
        remedy = f'set encoding = "cp1252" at {place}, or {_SAVE_AS}'
        problem = Problem(file, "encoding", what, remedy, rows=_row(data, error.start), n_rows=1)
        return data.removeprefix(_BOM).decode("cp1252", errors="replace"), [problem]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _row(data: bytes, position: int) -> tuple[int]:
    return (data.count(b"\n", 0, position) + 1,)


# ---------------------------------------------------------------- text to cells
def _reader(text: str, dialect: Dialect) -> Iterator[list[str]]:
    lines = (line.group() for line in _LINE.finditer(text))
    # The limit is the process's own, and libraries raise it; an unclosed quote must not swallow a whole file.
    csv.field_size_limit(_LONGEST_CELL)
    return csv.reader(lines, delimiter=dialect.delimiter, quotechar=dialect.quote, strict=True)


def _first_row(text: str, dialect: Dialect) -> tuple[str, ...]:
    try:
        return tuple(name.strip() for name in next(_reader(text, dialect), []))
    except csv.Error:
        return ()


def _as_written(file: str, text: str, dialect: Dialect) -> tuple[Dialect, list[Problem]]:
    """Return the dialect by which the header holds the identifiers, and where it is not the declared one."""
    names = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
    quotes = (dialect.quote, "'" if dialect.quote == '"' else '"')
    candidates = [
        dialect.model_copy(update={"delimiter": delimiter, "quote": quote})
        for quote in quotes
        for delimiter in (dialect.delimiter, *(other for other in names if other != dialect.delimiter))
    ]
    found = next((one for one in candidates if PATIENT_ID in _first_row(text, one)), dialect)
    problems = []
    if found.delimiter != dialect.delimiter:
        place = dialect.where("delimiter")
        what = f"its cells are divided by {names[found.delimiter]}, but {place} says {names[dialect.delimiter]}"
        shown = "\\t" if found.delimiter == "\t" else found.delimiter
        problems.append(
            Problem(file, "delimiter", what, f'set delimiter = "{shown}" at {place}', rows=(1,), n_rows=1)
        )
    if found.quote != dialect.quote:
        place = dialect.where("quote")
        what = f"its cells are quoted otherwise than {place} says"
        problems.append(Problem(file, "quote", what, f"change quote at {place}", rows=(1,), n_rows=1))
    return found, problems


@dataclass
class _Body:
    """What the rows below the header came to."""

    positions: Sequence[int]
    width: int
    chunks: list[list[pa.Array]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    ragged: list[int] = field(default_factory=list)
    longer: int = 0
    blank: list[int] = field(default_factory=list)
    pending: list[list[str]] = field(default_factory=list)

    def take(self, row: int, record: list[str]) -> None:
        """Sort one record in."""
        if not any(record):
            if record:  # a line of delimiters alone; an empty line is nothing to speak of
                self.blank.append(row)
        elif len(record) != self.width:
            self.ragged.append(row)
            self.longer += len(record) > self.width
        else:
            self.rows.append(row)
            self.pending.append(record)
            if len(self.pending) * self.width >= _CELLS_AT_ONCE:
                self.flush()

    def flush(self) -> None:
        """Turn the pending records into text columns."""
        if self.pending:
            columns = list(zip(*self.pending, strict=True))
            self.chunks.append([pa.array(columns[position], type=pa.large_string()) for position in self.positions])
            self.pending = []

    def column(self, index: int) -> pa.Array:
        """Return one wanted column of all rows."""
        if not self.chunks:
            return pa.array([], type=pa.large_string())
        return pa.concat_arrays([chunk[index] for chunk in self.chunks])


def _parse(file: str, text: str, dialect: Dialect, wanted: Collection[str], known: Collection[str]) -> Reading:
    dialect, problems = _as_written(file, text, dialect)
    header = _first_row(text, dialect)
    if len(header) > MAX_COLUMNS:
        what = f"has more than {MAX_COLUMNS:,} columns"
        return refused(file, "too-large", what, "one row is one patient: turn the table, or keep fewer columns")
    problems += header_problems(file, header, known)
    if any(problem.kind in ("no-header", "no-identifier") for problem in problems):
        return Reading(None, tuple(problems))
    positions = read_once(header, wanted)
    body = _Body(positions, len(header))
    problems += _read_body(file, text, dialect, body)
    problems += _shape_problems(file, body, dialect)
    cells = {header[position]: body.column(index) for index, position in enumerate(positions)}
    return Reading(
        RawTable(file, header, cells, np.asarray(body.rows, dtype=np.int64), is_text=True), tuple(problems)
    )


def _read_body(file: str, text: str, dialect: Dialect, body: _Body) -> list[Problem]:
    records = _reader(text, dialect)
    row = 0
    try:
        for row, record in enumerate(records, start=1):
            if row > 1:
                body.take(row, record)
            if len(body.rows) * max(len(body.positions), 1) > MAX_CELLS:
                what = f"has more than {MAX_CELLS:,} cells"
                return [Problem(file, "too-large", what, "keep fewer columns or rows")]
    except csv.Error:
        what = "a quoted cell is not closed, or goes on after its closing quote; nothing below was read"
        remedy = f"close the quote, or change quote at {dialect.where('quote')}"
        return [Problem(file, "quote", what, remedy, rows=(row + 1,), n_rows=1)]
    finally:
        body.flush()
    return []


def _shape_problems(file: str, body: _Body, dialect: Dialect) -> list[Problem]:
    problems = []
    if body.ragged:
        what = f"another number of cells than the header's {body.width}"
        remedy = "quote cells that hold the delimiter"
        if dialect.delimiter == "," and body.longer == len(body.ragged):
            remedy = "is a decimal comma among them? export with another delimiter, or " + remedy
        shown = tuple(body.ragged[:ROWS_SHOWN])
        problems.append(Problem(file, "ragged", what, remedy, rows=shown, n_rows=len(body.ragged)))
    if body.blank:
        shown = tuple(body.blank[:ROWS_SHOWN])
        what = "no cell is filled; the row is passed over"
        problems.append(Problem(file, "blank-row", what, "", rows=shown, n_rows=len(body.blank), severity="warning"))
    return problems
