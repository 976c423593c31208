"""What an artefact says of itself: the manifest that the hub signs.

Values and their validity; files are read and written in `schemas.artefact`.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from schemas.canonical import canonical_json
from schemas.design import DesignColumn, LayerDesign
from schemas.dictionary import ColumnType, Transform
from schemas.study import Adjust, Method

_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
Text = Annotated[str, Field(max_length=4000)]
Line = Annotated[str, Field(max_length=300)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Key32 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]
Signature64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]
LayerName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class ArtefactColumn(BaseModel):
    """One column of the model's matrix: see `schemas.design.DesignColumn`.

    Attributes:
        treatment: Of an interaction: the treatment's design column.
        type: How the dictionary reads the cell behind it.
        codes: All categories of its dictionary column, the reference first; None for other types.
        unit: Of the cell.
        min, max: Smallest and largest value that the dictionary allows, in `unit`.
        required: Whether the dictionary allows no empty cell.
        description: For people.
    """

    model_config = _STRICT

    name: Line
    column: Line
    layer: LayerName
    code: Line | None = None
    component: Annotated[int, Field(ge=0, lt=1000)] | None = None
    treatment: Line | None = None
    type: ColumnType = "number"
    codes: Annotated[tuple[Line, ...], Field(max_length=1000)] | None = None
    unit: Annotated[str, Field(max_length=60)] | None = None
    min: float | None = None
    max: float | None = None
    required: bool = False
    description: Annotated[str, Field(max_length=1000)] = ""


class ArtefactLayer(BaseModel):
    """A wide layer: how its cells become scores (`schemas.design.LayerDesign`, `models.preparation`).

    Attributes:
        features: m identifiers, in the order of the layer's arrays.
        n_components: r; 0 where the features themselves are columns of the model.
        limit_of_detection: Cells below it count as half of it.
        adjust: ``site`` where each site corrects location and scale by its own patients (`models.adjustment`).
    """

    model_config = _STRICT

    name: LayerName
    type: Literal["number", "integer", "boolean"] = "number"
    transform: Transform = "none"
    min_prevalence: Annotated[float, Field(ge=0, lt=1)] = 0.0
    unit: Annotated[str, Field(max_length=60)] | None = None
    limit_of_detection: Annotated[float, Field(gt=0)] | None = None
    genome_build: Annotated[str, Field(max_length=60)] = ""
    features: Annotated[tuple[Line, ...], Field(min_length=1, max_length=50_000)]
    n_components: Annotated[int, Field(ge=0, le=1000)]
    adjust: Adjust = ""


class ArtefactNetwork(BaseModel):
    """The shape of a network (`models.network_shape`): one encoder a layer, or one for all of them.

    Attributes:
        hidden: Width of each encoder's hidden layer.
    """

    model_config = _STRICT

    hidden: Annotated[int, Field(ge=1, le=512)]
    fusion: Literal["late", "early"]


class PopulationRange(BaseModel):
    """Between which values of a number the model was trained.

    Attributes:
        column: Of the dictionary.
        low, high: At least ten patients lie at or beyond each; None where the dictionary gives no range to count in,
            or fewer than twenty patients were observed.
    """

    model_config = _STRICT

    column: Line
    low: float | None
    high: float | None


class LogHazardQuantile(BaseModel):
    """One quantile of the log hazards of those who trained the model; ten patients or more lie on either side.

    Attributes:
        share: Of the patients at or below `log_hazard`.
    """

    model_config = _STRICT

    share: Annotated[float, Field(gt=0, lt=1)]
    log_hazard: float


class HorizonEvents(BaseModel):
    """How many had the event by a horizon, as people may see it (`schemas.result.shown_count`)."""

    model_config = _STRICT

    horizon: Annotated[float, Field(gt=0)]
    events: Annotated[str, Field(max_length=20)]
    at_least: Annotated[int, Field(ge=0)]


class ArtefactCause(BaseModel):
    """One of several kinds of event, each of which can keep the others from ever happening.

    Attributes:
        code: As the study names it.
        n_events: As people may see it.
        events_by_horizon: Of this kind.
    """

    model_config = _STRICT

    code: Annotated[str, Field(min_length=1, max_length=200)]
    n_events: Annotated[str, Field(max_length=20)] = ""
    events_by_horizon: Annotated[tuple[HorizonEvents, ...], Field(max_length=10)] = ()


class Manifest(BaseModel):
    """What an artefact is.

    Attributes:
        mode: Whether real sites trained it, or a simulation.
        time_unit: Of `edges` and of every horizon.
        time_origin: From when to when time is counted, as the dictionary describes the column; empty where it does
            not.
        exact_times: Whether `edges` are exact event times (the hazard steps there) or ends of intervals.
        columns: Of the model's matrix, in the order of `mean`, `scale` and `beta`.
        layers: The wide layers, in the order of their columns, which stand behind all others.
        network: Its shape, where the model is a network; `beta` then holds its weights.
        treatment: Name of the column that is 1 in treated patients; None where the study has no treatment.
        n_patients, n_events: As people may see them.
        causes: Where events compete: all kinds, that of interest first (`beta` and all else that is said once is of
            that one; of the others there are arrays `cause_2_beta` and so on). Empty for one kind of event. An
            Archipel that knows no competing events refuses a file with this field, as it must: the survival of one
            kind alone is nobody's.
        population: Of the numbers among the covariates.
        log_hazards: From the lowest share to the highest.
        importance: Share of the variance of the log hazard over the training patients, by layer; layers share what
            they have in common half and half, so the shares sum to 1 (`models.contributions`).
        expires: Last day on which a site may use it.
        epsilon, delta: Of the differential privacy under which it was trained; None without.
        card_hash: SHA-256 of the card's JSON that was released with it.
        arrays: SHA-256 of each array's shape and little-endian float64 bytes.
        signed_by: The hub's public model key (Ed25519, base64), and its signature over `signed_bytes`.
    """

    model_config = _STRICT

    kind: Literal["artefact"] = "artefact"
    version: Literal[2] = 2
    study: Line
    title: Line = ""
    run_id: Line
    mode: Literal["simulate", "federation"]
    method: Method
    code_version: Line
    created_at: AwareDatetime
    plan_hash: Hash
    dictionary: Line
    dictionary_version: Annotated[int, Field(ge=1)] = 1
    dictionary_hash: Hash
    endpoint: Line = ""
    time_unit: Line
    time_origin: Text = ""
    horizons: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(max_length=10)] = ()
    exact_times: bool
    columns: Annotated[tuple[ArtefactColumn, ...], Field(min_length=1, max_length=200_000)]
    layers: Annotated[tuple[ArtefactLayer, ...], Field(max_length=50)] = ()
    network: ArtefactNetwork | None = None
    treatment: Line | None = None
    n_patients: Annotated[str, Field(max_length=20)] = ""
    n_events: Annotated[str, Field(max_length=20)] = ""
    events_by_horizon: Annotated[tuple[HorizonEvents, ...], Field(max_length=10)] = ()
    causes: Annotated[tuple[ArtefactCause, ...], Field(max_length=6)] = ()
    population: Annotated[tuple[PopulationRange, ...], Field(max_length=2000)] = ()
    log_hazards: Annotated[tuple[LogHazardQuantile, ...], Field(max_length=200)] = ()
    importance: Annotated[dict[LayerName, float], Field(max_length=60)] = Field(default_factory=dict)
    epsilon: Annotated[float, Field(gt=0)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    expires: datetime.date | None = None
    intended_use: Text = ""
    not_for: Annotated[tuple[Text, ...], Field(max_length=20)] = ()
    contact: Line = ""
    card_hash: Hash | None = None
    arrays: Annotated[dict[str, Hash], Field(max_length=200)]
    signed_by: Key32 | None = None
    signature: Signature64 | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            raise ValueError("a layer stands twice")
        # What `schemas.design` makes of a study: covariates, then one run of columns for each wide layer.
        wide = [
            (layer.name, k if layer.n_components else None)
            for layer in self.layers
            for k in range(layer.n_components or len(layer.features))
        ]
        first = len(self.columns) - len(wide)
        if first < 0 or [(column.layer, column.component) for column in self.columns[first:]] != wide:
            raise ValueError("the columns of the wide layers are not those that the layers describe")
        if any(column.component is not None or column.layer in names for column in self.columns[:first]):
            raise ValueError("a column of a wide layer among the covariates")
        if self.treatment is not None and self.treatment not in {column.name for column in self.columns}:
            raise ValueError("the treatment is no column of the model")
        if (self.network is not None) != (self.method == "hazard-network"):
            raise ValueError("a network without its shape, or the shape of a network that is none")
        if len(self.causes) == 1 or len({cause.code for cause in self.causes}) != len(self.causes):
            raise ValueError("one kind of event does not compete, and a kind stands once")
        if self.causes and self.method not in ("hazard", "cox"):
            raise ValueError("this method has no cumulative incidence of competing events")
        if (self.signed_by is None) != (self.signature is None):
            raise ValueError("a signature without its key, or a key without a signature")
        return self

    @property
    def signed_bytes(self) -> bytes:
        """What the signature covers: everything else, under the document's own kind and version."""
        content = {key: value for key, value in self.said.items() if key != "signature"}
        return f"archipel {self.kind} {self.version}\n".encode() + canonical_json(content)

    @property
    def said(self) -> dict[str, Any]:
        """What the manifest says as JSON, without what it leaves at a default.

        A field that a later Archipel adds is not in an older file, so the file stays canonical and keeps its
        signature there.
        """
        return {**self.model_dump(mode="json", exclude_unset=True), "kind": self.kind, "version": self.version}

    @property
    def n_weights(self) -> int:
        """How many numbers `beta` holds: one a column, or the weights of all encoders."""
        if self.network is None:
            return len(self.columns)
        h = self.network.hidden
        wide = {layer.name for layer in self.layers}
        groups = {column.layer if column.layer in wide else "" for column in self.columns}
        n_encoders = len(groups) if self.network.fusion == "late" else 1
        return len(self.columns) * (1 + h) + 2 * h * n_encoders

    @property
    def design(self) -> tuple[DesignColumn, ...]:
        """The columns as the plan knew them."""
        return tuple(DesignColumn(c.name, c.column, c.layer, c.code, c.component, c.treatment) for c in self.columns)

    @property
    def layer_designs(self) -> tuple[LayerDesign, ...]:
        """The wide layers as the plan knew them."""
        return tuple(
            LayerDesign(one.name, one.features, one.transform, one.min_prevalence, one.n_components, one.adjust)
            for one in self.layers
        )
