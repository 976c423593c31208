"""How a site's CSV files are written: declared in `[csv]` of site.toml, and checked against the files.

French exports use `;`, the decimal comma and cp1252 as a matter of course. Guessing would work on most files and
silently misread the rest ("1,5" as 15), so the dialect is declared and a file that contradicts it is refused with
the line of site.toml to change (`client.sniff`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

__all__ = ["Dialect"]

Delimiter = Literal[",", ";", "\t", "|"]


class Dialect(BaseModel):
    r"""The `[csv]` section of site.toml.

    Attributes:
        delimiter: Between two cells: ``,`` ``;`` ``|`` or a tab (``"\t"``).
        decimal: The decimal sign of numbers.
        encoding: Of the bytes. A byte order mark at the start of a UTF-8 file is accepted under either name.
        quote: Around a cell that holds the delimiter; doubled inside a cell.
        missing: Words that stand for "not known". An empty cell always does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    delimiter: Delimiter = ","
    decimal: Literal[".", ","] = "."
    encoding: Literal["utf-8", "utf-8-sig", "cp1252"] = "utf-8"
    quote: Literal['"', "'"] = '"'
    # Not strict about the kind of list alone: TOML has no tuples.
    missing: Annotated[tuple[Annotated[str, Field(max_length=20)], ...], Field(max_length=20, strict=False)] = (
        "",
        "NA",
    )
    _lines: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("missing")
    @classmethod
    def _trimmed(cls, missing: tuple[str, ...]) -> tuple[str, ...]:
        if any(word != word.strip() for word in missing):
            raise ValueError("cells are read without the spaces around them: remove these here too")
        return missing

    @model_validator(mode="after")
    def _decimal_is_not_delimiter(self) -> Dialect:
        if self.delimiter == self.decimal:
            raise ValueError(
                f"`delimiter` and `decimal` are both {self.delimiter!r}: a file with a decimal comma "
                'is delimited by ";" as a rule'
            )
        return self

    def found_at(self, lines: Mapping[str, str]) -> Dialect:
        """Return this dialect, knowing the place in site.toml of each of its keys."""
        copy = self.model_copy()
        copy._lines = dict(lines)
        return copy

    def where(self, key: str) -> str:
        """Return the place in site.toml where `key` is to be changed or added."""
        return self._lines.get(key, "site.toml, section [csv]")
