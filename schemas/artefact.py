"""The artefact: a fitted model as one file that nobody can alter unseen and that runs no code when it is read.

A safetensors body: float64 arrays, and a JSON manifest in its metadata that says what they are, from which plan and
dictionary they came, and the SHA-256 of every array. The hub signs the manifest, and with it the arrays, before it
releases a model (`privacy.model_signature`); sites take signed artefacts alone. Nothing is unpickled.

A file is hostile until it has passed `read_artefact`: length, header, dtypes and shapes are judged before an array is
made; the text of the manifest has to be canonical and the file has to be exactly what `write_artefact` writes, so
that one model has one file and one hash. Files of version 1 are still read.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.canonical import canonical_json, sha256_hex
from schemas.design import DesignColumn, LayerDesign
from schemas.dictionary import ColumnType, Transform
from schemas.errors import IncompatibleVersionError, MessageError
from schemas.study import Method

__all__ = [
    "MAX_BYTES", "Artefact", "ArtefactColumn", "ArtefactLayer", "ArtefactNetwork", "HorizonEvents",
    "LogHazardQuantile", "Manifest", "PopulationRange", "array_hash", "read_artefact", "write_artefact",
]  # fmt: skip

MAX_BYTES = 256 << 20
"""Of a file: what the hub's public listener carries in one message."""

_MAX_HEADER = 32 << 20
_MAX_ELEMENTS = MAX_BYTES // 8
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
Floats = NDArray[np.float64]
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


class Manifest(BaseModel):
    """What an artefact is.

    Attributes:
        mode: Whether real sites trained it, or a simulation.
        time_unit: Of `edges` and of every horizon.
        exact_times: Whether `edges` are exact event times (the hazard steps there) or ends of intervals.
        columns: Of the model's matrix, in the order of `mean`, `scale` and `beta`.
        layers: The wide layers, in the order of their columns, which stand behind all others.
        network: Its shape, where the model is a network; `beta` then holds its weights.
        treatment: Name of the column that is 1 in treated patients; None where the study has no treatment.
        n_patients, n_events: As people may see them.
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
    horizons: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(max_length=10)] = ()
    exact_times: bool
    columns: Annotated[tuple[ArtefactColumn, ...], Field(min_length=1, max_length=200_000)]
    layers: Annotated[tuple[ArtefactLayer, ...], Field(max_length=50)] = ()
    network: ArtefactNetwork | None = None
    treatment: Line | None = None
    n_patients: Annotated[str, Field(max_length=20)] = ""
    n_events: Annotated[str, Field(max_length=20)] = ""
    events_by_horizon: Annotated[tuple[HorizonEvents, ...], Field(max_length=10)] = ()
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
            LayerDesign(one.name, one.features, one.transform, one.min_prevalence, one.n_components)
            for one in self.layers
        )


@dataclass(frozen=True)
class Artefact:
    """A model as it is stored.

    Attributes:
        manifest: What it is.
        arrays: Always `mean`, `scale` (p,), `beta` (p,), `edges` (K,) ends of the intervals of the time grid and
            `cumulative_hazard` (K,) there, of a patient at the means. Of each wide layer `NAME_mean`, `NAME_scale`
            (m,) and, with components, `NAME_loadings` (m, r). Where the fit has them: `covariance` (p, p) of beta;
            and of each interval's baseline hazard its variance at given coefficients `hazard_variance` (K,) and its
            derivative by them `hazard_slope` (K, p): what the interval of a predicted curve needs
            (`models.baseline_spread`, `models.prediction`).
        written_as: Version of the file it came from.
    """

    manifest: Manifest
    arrays: Mapping[str, Floats]
    written_as: int = 2

    @property
    def mean(self) -> Floats:
        """(p,) subtracted from each column; also the value of a missing cell."""
        return self.arrays["mean"]

    @property
    def scale(self) -> Floats:
        """(p,) by which the difference is divided."""
        return self.arrays["scale"]

    @property
    def beta(self) -> Floats:
        """(p,) log hazard ratios of the scaled columns; of a network its (P,) weights."""
        return self.arrays["beta"]

    @property
    def covariance(self) -> Floats | None:
        """(p, p) of `beta`; None where the fit gives none."""
        return self.arrays.get("covariance")

    @property
    def edges(self) -> Floats:
        """(K,) ends of the intervals of the time grid."""
        return self.arrays["edges"]

    @property
    def cumulative_hazard(self) -> Floats:
        """(K,) at `edges`, of a patient at the means."""
        return self.arrays["cumulative_hazard"]


_ALWAYS = frozenset({"mean", "scale", "beta", "edges", "cumulative_hazard"})
_INTERVAL = frozenset({"hazard_variance", "hazard_slope"})
_V1 = ("mean", "scale", "beta", "covariance", "edges", "cumulative_hazard")
# fmt: off
_V1_KEYS = frozenset({
    "study", "run_id", "mode", "method", "code_version", "created_at", "plan_hash", "dictionary", "dictionary_hash",
    "endpoint", "time_unit", "exact_times", "columns", "epsilon", "delta", "arrays",
})
# fmt: on


def array_hash(array: Floats) -> str:
    """Return the SHA-256 of an array's shape and content."""
    return sha256_hex(canonical_json(list(array.shape)) + np.asarray(array, dtype="<f8").tobytes())


def with_hashes(artefact: Artefact) -> Artefact:
    """Return the artefact with the manifest's `arrays` filled in from the arrays themselves."""
    hashes = {name: array_hash(artefact.arrays[name]) for name in sorted(artefact.arrays)}
    return replace(artefact, manifest=artefact.manifest.model_copy(update={"arrays": hashes}))


def write_artefact(artefact: Artefact) -> bytes:
    """Return the bytes of an artefact, with the hashes of its arrays; the same artefact gives the same bytes."""
    complete = artefact if artefact.manifest.arrays else with_hashes(artefact)
    arrays = {name: np.asarray(array, dtype=np.float64, order="C") for name, array in complete.arrays.items()}
    text = canonical_json(complete.manifest.said).decode()
    return safetensors.numpy.save(arrays, metadata={"archipel": text})


def read_artefact(data: bytes) -> Artefact:
    """Read an artefact of version 1 or 2; a signature in it is not verified here.

    Raises:
        IncompatibleVersionError: For a version that this build does not read.
        MessageError: For anything altered, incomplete, oversized or not an artefact.
    """
    text = _manifest_text(data)
    version, content = _parse(text)
    manifest = _manifest(version, content)
    try:
        loaded = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError):
        raise MessageError("the artefact's arrays cannot be read") from None
    artefact = Artefact(manifest, {name: loaded[name] for name in sorted(loaded)}, written_as=version)
    _verify_arrays(artefact)
    if version == 2 and write_artefact(artefact) != data:
        raise MessageError("the artefact is not in canonical form: it was altered after it was written")
    return artefact


def _manifest_text(data: bytes) -> str:
    """Return the manifest's text, from a header whose every tensor is float64, before any tensor is read."""
    length = int.from_bytes(data[:8], "little")
    if not 8 < len(data) <= MAX_BYTES or not 0 < length <= min(len(data) - 8, _MAX_HEADER):
        raise MessageError("too short or too long for an artefact")
    try:
        header = json.loads(data[8 : 8 + length])
        text = header.pop("__metadata__")["archipel"]
        if not all(entry["dtype"] == "F64" for entry in header.values()) or type(text) is not str:
            raise MessageError("an artefact holds float64 numbers alone")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MessageError("not an artefact") from None
    return str(text)


def _parse(text: str) -> tuple[int, dict[str, Any]]:
    try:
        content = json.loads(text)
        kind, version = content.pop("kind"), content.pop("version")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MessageError("not an artefact") from None
    if kind != "artefact" or type(version) is not int:
        raise MessageError("not an artefact")
    if version not in (1, 2):
        raise IncompatibleVersionError(
            "an artefact of another version: read it with the Archipel that wrote it, or a newer one"
        )
    return version, content


def _manifest(version: int, content: dict[str, Any]) -> Manifest:
    if version == 1 and set(content) - _V1_KEYS:
        raise MessageError("not an artefact of version 1")
    try:
        return Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise MessageError(f"not an artefact of version {version} ({error.error_count()} faults)") from None
    except (ValueError, RecursionError):
        raise MessageError("not an artefact") from None


def _verify_arrays(artefact: Artefact) -> None:
    manifest, arrays = artefact.manifest, artefact.arrays
    if set(arrays) != set(manifest.arrays) or not set(arrays) >= _ALWAYS:
        raise MessageError("the artefact does not hold exactly the arrays of a model")
    if artefact.written_as == 1 and set(arrays) != set(_V1):
        raise MessageError("the artefact does not hold exactly the arrays of a model")
    if set(arrays) & _INTERVAL and not set(arrays) >= _INTERVAL | {"covariance"}:
        raise MessageError("the artefact holds a part of what an interval needs")
    shapes = _shapes(manifest, arrays["edges"].size)
    for name, array in arrays.items():
        if name not in shapes or array.dtype != np.float64 or array.shape != shapes[name]:
            raise MessageError(f"the artefact's array {name[:60]!a} is not what the manifest says")
        if not np.isfinite(array).all():
            raise MessageError(f"the artefact's array {name} holds what is no number")
        if array_hash(array) != manifest.arrays[name]:
            raise MessageError(f"the artefact's array {name} was altered after it was written")
    needed = {name for name in shapes if name not in _INTERVAL | {"covariance"}}
    if needed - set(arrays):
        raise MessageError("the artefact lacks the arrays of a layer")
    _verify_values(arrays)


def _verify_values(arrays: Mapping[str, Floats]) -> None:
    """Refuse a grid that does not rise, a survival that does, and a scale that divides by zero or turns a sign."""
    edges, cumulative = arrays["edges"], arrays["cumulative_hazard"]
    rising = edges.size > 0 and edges[0] > 0 and (np.diff(edges) > 0).all()
    growing = (cumulative >= 0).all() and (np.diff(cumulative) >= 0).all()
    scales = [array for name, array in arrays.items() if name == "scale" or name.endswith("_scale")]
    if not rising or not growing or (arrays["scale"] <= 0).any() or any((scale < 0).any() for scale in scales):
        raise MessageError("the artefact's arrays are no survival model")
    spread = [arrays[name] for name in ("hazard_variance",) if name in arrays]
    if "covariance" in arrays:
        spread.append(np.diag(arrays["covariance"]))
    if any((one < 0).any() for one in spread):
        raise MessageError("the artefact holds a negative variance")


def _shapes(manifest: Manifest, k: int) -> dict[str, tuple[int, ...]]:
    p = len(manifest.columns)
    shapes: dict[str, tuple[int, ...]] = {
        "mean": (p,), "scale": (p,), "beta": (manifest.n_weights,), "edges": (k,), "cumulative_hazard": (k,),
        "covariance": (p, p), "hazard_variance": (k,), "hazard_slope": (k, p),
    }  # fmt: skip
    for layer in manifest.layers:
        m = len(layer.features)
        shapes |= {f"{layer.name}_mean": (m,), f"{layer.name}_scale": (m,)}
        if layer.n_components:
            shapes[f"{layer.name}_loadings"] = (m, layer.n_components)
    return shapes
