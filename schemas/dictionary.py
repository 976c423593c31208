"""The dictionary: what each column of the sites' tables means, so that years and months cannot be mixed up.

It belongs to the partnership, not to a site: every site checks its own tables against the same dictionary
before it takes part in a study, and the plan binds it by its content.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.canonical import canonical_json, sha256_hex
from schemas.toml_source import Source, TomlSource
from schemas.yaml_source import YamlSource

ColumnType = Literal["identifier", "number", "integer", "boolean", "category"]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f<>\[\]]+$")]
LayerName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
PATIENT_ID = "patient_id"
CLINICAL = "clinical"


class Column(BaseModel):
    """One column of one layer's table.

    Attributes:
        name: As in the header of the table.
        type: How its cells are read.
        layer: The table it stands in.
        unit: Of a number (``year``, ``day``, ``cm``).
        min: Smallest value that can be right, in `unit`.
        max: Largest value that can be right, in `unit`.
        codes: The categories, the reference first.
        required: No cell may be empty.
        description: For people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    name: Name
    type: ColumnType
    layer: LayerName = CLINICAL
    unit: str | None = Field(default=None, max_length=60)
    min: float | None = None
    max: float | None = None
    codes: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] | None = None
    required: bool = False
    description: str = Field(default="", max_length=1000)

    @model_validator(mode="after")
    def _consistent(self) -> Column:
        is_numeric = self.type in ("number", "integer")
        if self.type == "category":
            if not self.codes or len(self.codes) < 2:
                raise ValueError(f"column {self.name} is a category and needs at least two codes")
            if len(set(self.codes)) != len(self.codes):
                raise ValueError(f"column {self.name} has a code twice")
        elif self.codes is not None:
            raise ValueError(f"column {self.name} has codes, but its type is {self.type}, not category")
        if not is_numeric and (self.min is not None or self.max is not None):
            raise ValueError(f"column {self.name} has a range, but its type is {self.type}")
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise ValueError(f"column {self.name} has min >= max")
        return self


class Dictionary(BaseModel):
    """All columns of all layers, with their meaning.

    Attributes:
        kind: Always ``dictionary``.
        version: Of this format.
        name: Of the dictionary.
        columns: At least the patient identifier.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["dictionary"]
    version: Literal[1]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    description: str = Field(default="", max_length=4000)
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=100_000)]

    @model_validator(mode="after")
    def _unique(self) -> Dictionary:
        seen: set[tuple[str, str]] = set()
        for column in self.columns:
            if (column.layer, column.name) in seen:
                raise ValueError(f"column {column.name} of layer {column.layer} is described twice")
            seen.add((column.layer, column.name))
        return self

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the dictionary's canonical content."""
        return sha256_hex(canonical_json(self.model_dump(mode="json")))

    @cached_property
    def _by_name(self) -> Mapping[str, Column]:
        found: dict[str, Column] = {}
        for column in self.columns:
            if column.name not in found or column.layer == CLINICAL:
                found[column.name] = column
        return found

    def column(self, name: str) -> Column | None:
        """Return the column called `name`; one of the clinical layer goes before others."""
        return self._by_name.get(name)

    def layer_columns(self, layer: str) -> tuple[Column, ...]:
        """Return the columns of one layer, in the dictionary's order."""
        return tuple(column for column in self.columns if column.layer == layer)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers in the order in which the dictionary first names them."""
        return tuple(dict.fromkeys(column.layer for column in self.columns))


def load_dictionary(path: Path) -> Dictionary:
    """Read a dictionary from a TOML file, or from YAML when its name ends in ``.yaml`` or ``.yml``.

    Raises:
        FaultsError: Naming every fault at once, each with its line.
    """
    source: Source = YamlSource(path) if path.suffix in (".yaml", ".yml") else TomlSource(path)
    return source.parse(Dictionary)
