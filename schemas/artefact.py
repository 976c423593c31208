"""The artefact: a fitted model as one file that nobody can alter unseen and that runs no code when it is read.

A safetensors body: float64 arrays, and a JSON manifest in its metadata that says what they are, from which plan and
dictionary they came, and the SHA-256 of every array. The hub signs the manifest, and with it the arrays, before it
releases a model (`privacy.model_signature`); sites take signed artefacts alone. Nothing is unpickled.

A file is hostile until it has passed `read_artefact`: length, header, dtypes and shapes are judged before an array is
made; the text of the manifest has to be canonical and the file has to be exactly what `write_artefact` writes, so
that one model has one file and one hash. Files of version 1 are still read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import ValidationError

from schemas.artefact_manifest import (
    ArtefactCause,
    ArtefactColumn,
    ArtefactLayer,
    ArtefactNetwork,
    Hash,
    HorizonEvents,
    Key32,
    LogHazardQuantile,
    Manifest,
    PopulationRange,
    Signature64,
)
from schemas.canonical import canonical_json, sha256_hex
from schemas.design import DesignColumn, LayerDesign
from schemas.errors import IncompatibleVersionError, MessageError

__all__ = [
    "MAX_BYTES", "OF_CAUSE", "Artefact", "ArtefactCause", "ArtefactColumn", "ArtefactLayer", "ArtefactNetwork",
    "Hash", "HorizonEvents", "Key32", "LogHazardQuantile", "Manifest", "PopulationRange", "Signature64", "array_hash",
    "read_artefact", "with_hashes", "write_artefact",
]  # fmt: skip

MAX_BYTES = 256 << 20
"""Of a file: what the hub's public listener carries in one message."""

_MAX_HEADER = 32 << 20
Floats = NDArray[np.float64]


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
            (`models.baseline_spread`, `models.prediction`). Where events compete these are of the event of interest,
            and `cause_2_beta`, `cause_2_cumulative_hazard`, ... the same of the others, on the same columns and grid.
        written_as: Version of the file it came from.
    """

    manifest: Manifest
    arrays: Mapping[str, Floats]
    written_as: int = 2

    @cached_property
    def design(self) -> tuple[DesignColumn, ...]:
        """The manifest's columns as the plan knew them; made once, since a page asks for each patient."""
        return self.manifest.design

    @cached_property
    def layer_designs(self) -> tuple[LayerDesign, ...]:
        """The manifest's wide layers as the plan knew them."""
        return self.manifest.layer_designs

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

    def of_cause(self, number: int) -> Mapping[str, Floats]:
        """Return the arrays of one kind of event under the names of a single one: 1 of interest, 2 and on others."""
        start = "" if number == 1 else f"cause_{number}_"
        return {name: self.arrays[start + name] for name in OF_CAUSE if start + name in self.arrays}

    @property
    def edges(self) -> Floats:
        """(K,) ends of the intervals of the time grid."""
        return self.arrays["edges"]

    @property
    def cumulative_hazard(self) -> Floats:
        """(K,) at `edges`, of a patient at the means."""
        return self.arrays["cumulative_hazard"]


OF_CAUSE = ("beta", "cumulative_hazard", "covariance", "hazard_variance", "hazard_slope")
"""The arrays that each kind of event has of its own."""

_ALWAYS = frozenset({"mean", "scale", "beta", "edges", "cumulative_hazard"})
_INTERVAL = frozenset({"hazard_variance", "hazard_slope"})
_OPTIONAL = ("covariance", "hazard_variance", "hazard_slope")
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
    needed = {name for name in shapes if not name.endswith(_OPTIONAL)}
    if needed - set(arrays):
        raise MessageError("the artefact lacks the arrays of a layer, or of a kind of event")
    if any(set(artefact.of_cause(cause)) != set(artefact.of_cause(1)) for cause in _others(manifest)):
        raise MessageError("the artefact tells how sure it is of one kind of event and not of another")
    _verify_values(arrays)
    for cause in _others(manifest):
        _verify_values({**arrays, **artefact.of_cause(cause)})


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


def _others(manifest: Manifest) -> range:
    """Return the numbers of the competing kinds of event."""
    return range(2, len(manifest.causes) + 1)


def _shapes(manifest: Manifest, k: int) -> dict[str, tuple[int, ...]]:
    p = len(manifest.columns)
    shapes: dict[str, tuple[int, ...]] = {
        "mean": (p,), "scale": (p,), "beta": (manifest.n_weights,), "edges": (k,), "cumulative_hazard": (k,),
        "covariance": (p, p), "hazard_variance": (k,), "hazard_slope": (k, p),
    }  # fmt: skip
    shapes |= {f"cause_{cause}_{name}": shapes[name] for cause in _others(manifest) for name in OF_CAUSE}
    for layer in manifest.layers:
        m = len(layer.features)
        shapes |= {f"{layer.name}_mean": (m,), f"{layer.name}_scale": (m,)}
        if layer.n_components:
            shapes[f"{layer.name}_loadings"] = (m, layer.n_components)
    return shapes
