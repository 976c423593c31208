"""Reads a TOML file and remembers on which line every key stands, so that a fault can name its line.

`tomllib` gives no positions. The small index here reads table headers and keys at the start of a line, which is
how people write these files; a key inside an inline table is reported at the line of its table.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.errors import Fault, FaultsError

_HEADER = re.compile(r"^\s*(\[\[|\[)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*([A-Za-z0-9_-]+|"[^"]+"|'[^']+')\s*(?:\.\s*([A-Za-z0-9_-]+)\s*)?=""")

_LOOKS = 3  # the rules of a section are looked at when its keys are sound, those of the whole when its sections are

Path_ = tuple[str | int, ...]
_M = TypeVar("_M", bound=BaseModel)


class Source:
    """A parsed file with the line of each key.

    Attributes:
        name: The file's name, as faults show it.
        data: The parsed content.
    """

    name: str
    data: dict[str, Any]
    _lines: dict[Path_, int]

    def where(self, path: Sequence[str | int]) -> str:
        """Return ``file line N`` for the key at `path`, or for the nearest table that holds it."""
        for length in range(len(path), 0, -1):
            line = self._lines.get(tuple(path[:length]))
            if line is not None:
                return f"{self.name} line {line}"
        return self.name

    def parse(self, model: type[_M]) -> _M:
        """Return the content as `model`; strictly, so that "10" is not taken for 10 nor 1 for true.

        Raises:
            FaultsError: Naming every fault at once, each with its line.
        """
        try:
            return model.model_validate_json(json.dumps(self.data, default=str))
        except ValidationError as error:
            raise FaultsError(self.name, self.faults_of(error)) from None

    def parse_sound_part(self, model: type[_M], stand_ins: Mapping[str, Any]) -> _M | None:
        """Return the content as `model` without the keys at fault, so that the others can be looked at too.

        Args:
            model: What it is to be.
            stand_ins: For keys of the file itself that have no default, and that nobody will look at.

        Returns:
            None where a key that is at fault or missing cannot be done without.
        """
        rest = copy.deepcopy(self.data)
        for _ in range(_LOOKS):
            try:
                return model.model_validate_json(json.dumps({**stand_ins, **rest}, default=str))
            except ValidationError as error:
                wrong = {self._known(entry["loc"], False) for entry in error.errors() if entry["type"] != "missing"}
            # The deep ones first, and lists from their end, so that each is still in its place.
            ordered = sorted(wrong, key=lambda path: (len(path), *(f"{part:>12}" for part in path)), reverse=True)
            if not any([_take_out(rest, path) for path in ordered]):  # noqa: C419 - each is taken out
                return None
        return None

    def faults_of(self, error: ValidationError, at: Path_ = ()) -> list[Fault]:
        """Translate a pydantic error into faults, in the order of their lines.

        Args:
            error: What pydantic says.
            at: The section that was parsed, where it was not the whole file.
        """
        # One value that fits no member of a union makes one error for each member: the first one says enough.
        faults: dict[tuple[str, str], Fault] = {}
        for entry in error.errors():
            loc = self._known((*at, *entry["loc"]), entry["type"] == "missing")
            key = ".".join(str(part + 1) if isinstance(part, int) else part for part in loc)
            words = _in_words(entry["type"], entry.get("ctx", {}), entry["msg"])
            faults.setdefault((self.where(loc), key), self._fault(loc, key, entry["type"], words))
        return sorted(faults.values(), key=_line_of)

    def _known(self, loc: Path_, missing: bool) -> Path_:  # noqa: FBT001 - a private word between two lines
        """Return the part of pydantic's location that stands in the file (it also names union members)."""
        here: Any = self.data
        known: list[str | int] = []
        for part in loc:
            is_here = part in here if isinstance(here, dict) else isinstance(here, list) and isinstance(part, int)
            if is_here:
                here = here[part]
                known.append(part)
        return (*known, loc[-1]) if missing else tuple(known)

    def _fault(self, loc: Path_, key: str, kind: str, message: str) -> Fault:
        if kind == "missing":
            return Fault(self.where(loc), f"`{key}` is missing", "add it")
        if kind == "extra_forbidden":
            return Fault(self.where(loc), f"`{key}` is not a known key", "check its spelling or remove it")
        return Fault(self.where(loc), f"`{key}`: {message}" if key else message)


class TomlSource(Source):
    """A parsed TOML file."""

    def __init__(self, path: Path) -> None:
        """Read and parse `path`.

        Raises:
            FaultsError: When the file is absent, not UTF-8, or not TOML; the fault carries the line.
        """
        self.name = path.name
        text = read_text(path)
        try:
            self.data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise FaultsError(str(path), [Fault(self.name, f"is not valid TOML: {error}")]) from None
        self._lines = _index_lines(text)


_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_KINDS = {
    "string": "text, in quotes",
    "bool": "true or false, without quotes",
    "int": "a whole number, without quotes",
    "float": "a number, without quotes",
    "date": "a date without quotes, as in 2030-12-31",
    "tuple": 'a list, as in ["a", "b"]',
    "list": 'a list, as in ["a", "b"]',
    "model": "a section with its own keys",
    "dict": "a section with its own keys",
}
_PATTERNS = {
    r"^[a-z0-9][a-z0-9-]{1,59}$": "lower-case letters, digits and hyphens, 2 to 60 of them",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$": (
        "letters, digits, dots, dashes and underscores, beginning with a letter or digit and 60 at most"
    ),
    r"^[a-z][a-z0-9_]{0,39}$": "lower-case letters, digits and underscores, beginning with a letter and 40 at most",
    r"^[^\x00-\x1f<>\[\]]+$": "one line without the signs < > [ ]",
}


def _in_words(kind: str, context: Mapping[str, Any], message: str) -> str:
    """Return pydantic's message as somebody who does not know pydantic would say it."""
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {context[name]:g}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "too_short":
        return f"needs {context['min_length']} or more"
    if kind == "string_pattern_mismatch" and context["pattern"] in _PATTERNS:
        return f"must consist of {_PATTERNS[context['pattern']]}"
    kinds = [words for name, words in _KINDS.items() if re.fullmatch(rf"{name}_(type|parsing|from_.*)", kind)]
    if kinds:
        return f"must be {kinds[0]}"
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")


def _take_out(data: Any, path: Path_) -> bool:
    """Take one key, or one element of a list of values, out of `data`; False where it is the whole or a table."""
    if not path:
        return False
    for part in path[:-1]:
        data = data[part]
    last = path[-1]
    if isinstance(data, dict):
        del data[last]
        return True
    if not isinstance(last, int) or isinstance(data[last], dict):
        return False  # the lines of the tables behind it would no longer be theirs
    del data[last]
    return True


def _line_of(fault: Fault) -> int:
    return int(match.group(1)) if (match := re.search(r" line (\d+)$", fault.where)) else 0


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text, without its byte order mark.

    Raises:
        FaultsError: When the file is absent or not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        fault = Fault(str(path), f"cannot be read ({error.strerror})", "check the path")
    except UnicodeDecodeError:
        fault = Fault(path.name, "is not UTF-8 text", "save the file as UTF-8")
    raise FaultsError(str(path), [fault])


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
