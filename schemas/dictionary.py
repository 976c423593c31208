"""The dictionary: what each column of the sites' tables means, so that years and months cannot be mixed up.

It belongs to the partnership, not to a site: every site checks its own tables against the same dictionary
before it takes part in a study, and the plan binds it by its content.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.canonical import canonical_json, sha256_hex
from schemas.errors import Fault, FaultsError
from schemas.features import read_features
from schemas.toml_source import Source, TomlSource
from schemas.yaml_source import YamlSource

ColumnType = Literal["identifier", "number", "integer", "boolean", "category"]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f<>\[\]]+$")]
LayerName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Transform = Literal["none", "sign-log1p", "log1p"]
PATIENT_ID = "patient_id"
MAX_FEATURES = 50_000
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


class WideLayer(BaseModel):
    """One layer of many alike columns (genes, proteins), described once for all of them.

    Which columns there are stands in a file of its own, since a plan has to know every shape before anybody's table
    is read; the plan carries the identifiers, so that every site works on the same ones in the same order.

    Attributes:
        name: Of the layer; its table is ``<name>.csv`` or ``<name>.parquet``.
        type: How its cells are read; all of one type.
        columns: Which columns of the table belong to it: ``*`` (all), or a pattern such as ``GENE_*``.
        transform: Of every cell, before anything is summed: ``sign-log1p`` is sign(x) log(1 + |x|).
        min_prevalence: Features that are nonzero in a smaller share of the federation's patients get weight zero.
        unit: Of its cells.
        min, max: Smallest and largest value that can be right, in `unit`.
        limit_of_detection: Cells below it count as half of it.
        features: File of the identifiers, one a line, relative to the dictionary.
        genome_build: To which the identifiers refer, from the file (``# genome-build: GRCh38``).
        identifiers: Of the features, in the order of the model; from the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    name: LayerName
    type: Literal["number", "integer", "boolean"] = "number"
    columns: Annotated[str, Field(min_length=1, max_length=200)] = "*"
    transform: Transform = "none"
    min_prevalence: Annotated[float, Field(ge=0, lt=1)] = 0.0
    unit: str | None = Field(default=None, max_length=60)
    min: float | None = None
    max: float | None = None
    limit_of_detection: Annotated[float, Field(gt=0)] | None = None
    description: str = Field(default="", max_length=1000)
    features: Annotated[str, Field(min_length=1, max_length=300)]
    genome_build: str = Field(default="", max_length=60)
    identifiers: Annotated[tuple[Name, ...], Field(max_length=MAX_FEATURES)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> WideLayer:
        if self.name == CLINICAL:
            raise ValueError("the clinical layer is described column by column, under [[columns]]")
        if len(set(self.identifiers)) != len(self.identifiers):
            raise ValueError(f"a feature of layer {self.name} is listed twice")
        if PATIENT_ID in self.identifiers:
            raise ValueError(f"{PATIENT_ID} is no feature of layer {self.name}")
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise ValueError(f"layer {self.name} has min >= max")
        return self

    @property
    def feature(self) -> Column:
        """What every one of its columns is, under the layer's name."""
        return Column(name=self.name, type=self.type, layer=self.name, unit=self.unit, min=self.min, max=self.max)


class Dictionary(BaseModel):
    """All columns of all layers, with their meaning.

    Attributes:
        kind: Always ``dictionary``.
        version: Of this format.
        name: Of the dictionary.
        columns: At least the patient identifier.
        layers: Those of many alike columns; a layer stands either here or under `columns`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["dictionary"]
    version: Literal[1]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    description: str = Field(default="", max_length=4000)
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=100_000)]
    layers: Annotated[tuple[WideLayer, ...], Field(max_length=50)] = ()

    @model_validator(mode="after")
    def _unique(self) -> Dictionary:
        seen: set[tuple[str, str]] = set()
        for column in self.columns:
            if (column.layer, column.name) in seen:
                raise ValueError(f"column {column.name} of layer {column.layer} is described twice")
            seen.add((column.layer, column.name))
        names = [layer.name for layer in self.layers]
        for name in names:
            if names.count(name) > 1 or any(column.layer == name for column in self.columns):
                raise ValueError(f"layer {name} is described twice")
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
    def layer_names(self) -> tuple[str, ...]:
        """The layers in the order in which the dictionary first names them."""
        named = [column.layer for column in self.columns] + [layer.name for layer in self.layers]
        return tuple(dict.fromkeys(named))

    def wide_layer(self, name: str) -> WideLayer | None:
        """Return the layer of many alike columns called `name`."""
        return next((layer for layer in self.layers if layer.name == name), None)


def load_dictionary(path: Path) -> Dictionary:
    """Read a dictionary from a TOML file, or from YAML when its name ends in ``.yaml`` or ``.yml``.

    Raises:
        FaultsError: Naming every fault at once, each with its line.
    """
    source: Source = YamlSource(path) if path.suffix in (".yaml", ".yml") else TomlSource(path)
    return with_features(source.parse(Dictionary), path.parent)


def with_features(dictionary: Dictionary, folder: Path) -> Dictionary:
    """Return the dictionary with the features of its wide layers read from their files in `folder`.

    A layer whose file does not exist yet keeps what it has: nothing, until somebody writes the file.

    Raises:
        FaultsError: For a file that is no list of features.
    """
    faults: list[Fault] = []
    layers: list[WideLayer] = []
    for layer in dictionary.layers:
        path = folder / layer.features
        if layer.identifiers or not path.is_file():
            layers.append(layer)
            continue
        try:
            found = read_features(path)
            named = {"identifiers": found.identifiers, "genome_build": found.genome_build or layer.genome_build}
            layers.append(WideLayer(**{**dict(layer), **named}))
        except FaultsError as error:
            faults += [Fault(f"{layer.features}, {one.where}", one.what, one.remedy) for one in error.faults]
        except ValidationError as error:
            first = error.errors()[0]["msg"].removeprefix("Value error, ")
            faults.append(Fault(layer.features, first, "one identifier a line"))
    if faults:
        raise FaultsError(str(folder), faults)
    return Dictionary(**{**dict(dictionary), "layers": tuple(layers)}) if layers else dictionary
