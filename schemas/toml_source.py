"""Reads a TOML file and remembers on which line every key stands, so that a fault can name its line.

`tomllib` gives no positions. The small index here reads table headers and keys at the start of a line, which is
how people write these files; a key inside an inline table is reported at the line of its table.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.errors import Fault, FaultsError

_HEADER = re.compile(r"^\s*(\[\[|\[)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*([A-Za-z0-9_-]+|"[^"]+"|'[^']+')\s*(?:\.\s*([A-Za-z0-9_-]+)\s*)?=""")

Path_ = tuple[str | int, ...]


class TomlSource:
    """A parsed TOML file with the line of each key.

    Attributes:
        name: The file's name, as faults show it.
        data: The parsed content.
    """

    def __init__(self, path: Path) -> None:
        """Read and parse `path`.

        Raises:
            FaultsError: When the file is absent, not UTF-8, or not TOML; the fault carries the line.
        """
        self.name = path.name
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise FaultsError(
                str(path), [Fault(str(path), f"cannot be read ({error.strerror})", "check the path")]
            ) from None
        except UnicodeDecodeError:
            raise FaultsError(str(path), [Fault(self.name, "is not UTF-8 text", "save the file as UTF-8")]) from None
        try:
            self.data: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise FaultsError(str(path), [Fault(self.name, f"is not valid TOML: {error}")]) from None
        self._lines = _index_lines(text)

    def where(self, path: Sequence[str | int]) -> str:
        """Return ``file line N`` for the key at `path`, or for the nearest table that holds it."""
        for length in range(len(path), 0, -1):
            line = self._lines.get(tuple(path[:length]))
            if line is not None:
                return f"{self.name} line {line}"
        return self.name

    def faults_of(self, error: ValidationError) -> list[Fault]:
        """Translate a pydantic error into faults with lines."""
        return [self._fault(tuple(entry["loc"]), entry) for entry in error.errors()]

    def _fault(self, loc: Path_, entry: Any) -> Fault:
        key = ".".join(str(part) for part in loc if isinstance(part, str) and not part.startswith("function-"))
        kind = entry["type"]
        if kind == "missing":
            return Fault(self.where(loc), f"`{key}` is missing", "add it")
        if kind == "extra_forbidden":
            return Fault(self.where(loc), f"`{key}` is not a known key", "check its spelling or remove it")
        message = str(entry["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        return Fault(self.where(loc), f"`{key}`: {message}" if key else message)


def _index_lines(text: str) -> dict[Path_, int]:
    lines: dict[Path_, int] = {}
    table: Path_ = ()
    counters: dict[Path_, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            names: Path_ = tuple(part.strip().strip("\"'") for part in header.group(2).split("."))
            if header.group(1) == "[[":
                index = counters.get(names, -1) + 1
                counters[names] = index
                names = (*names, index)
            table = names
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            first = (*table, key.group(1).strip("\"'"))
            lines.setdefault(first, number)
            if key.group(2):
                lines.setdefault((*first, key.group(2)), number)
    return lines


def raise_faults(subject: str, faults: Iterable[Fault]) -> None:
    """Raise one `FaultsError` naming all `faults`, or return when there are none."""
    found = list(faults)
    if found:
        raise FaultsError(subject, found)
