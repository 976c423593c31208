"""The artefact: a fitted model as one file that nobody can alter unseen and that runs no code when it is read.

A safetensors body: float64 arrays, and a JSON manifest in its metadata that says what they are, from which plan and
dictionary they came, and the SHA-256 of every array. Reading refuses what does not match. It is not signed yet: who
made it has to be known from how it came.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.canonical import canonical_json, sha256_hex
from schemas.errors import IncompatibleVersionError, MessageError
from schemas.study import Method

_MAX_BYTES = 1 << 30
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
Text = Annotated[str, Field(max_length=4000)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ArtefactColumn(BaseModel):
    """One column of the model's matrix: see `schemas.design.DesignColumn`."""

    model_config = _STRICT

    name: Text
    column: Text
    layer: Text
    code: Text | None = None


class Manifest(BaseModel):
    """What an artefact is.

    Attributes:
        mode: Whether real sites trained it, or a simulation.
        columns: Of the model's matrix, in the order of `mean`, `scale` and `beta`.
        time_unit: Of `edges`.
        exact_times: Whether `edges` are exact event times (the hazard steps there) or ends of intervals.
        epsilon: Of the differential privacy under which it was trained; None without. `covariance` is then zeros,
            which stand for "not known".
        delta: Likewise.
        arrays: SHA-256 of each array's little-endian float64 bytes, with its shape before it.
    """

    model_config = _STRICT

    kind: Literal["artefact"] = "artefact"
    version: Literal[1] = 1
    study: Text
    run_id: Text
    mode: Literal["simulate", "federation"]
    method: Method
    code_version: Text
    created_at: datetime.datetime
    plan_hash: Hash
    dictionary: Text
    dictionary_hash: Hash
    endpoint: Text = ""
    time_unit: Text
    exact_times: bool
    columns: Annotated[tuple[ArtefactColumn, ...], Field(min_length=1)]
    epsilon: Annotated[float, Field(gt=0)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    arrays: dict[str, Hash]


@dataclass(frozen=True)
class Artefact:
    """A model as it is stored.

    Attributes:
        manifest: What it is.
        mean: (p,) subtracted from each column; also the value of a missing cell.
        scale: (p,) by which the difference is divided.
        beta: (p,) log hazard ratios of the scaled columns.
        covariance: (p, p) of `beta`.
        edges: (K,) ends of the intervals of the time grid.
        cumulative_hazard: (K,) at `edges`, of a patient at the means.
    """

    manifest: Manifest
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    beta: NDArray[np.float64]
    covariance: NDArray[np.float64]
    edges: NDArray[np.float64]
    cumulative_hazard: NDArray[np.float64]


_ARRAYS = ("mean", "scale", "beta", "covariance", "edges", "cumulative_hazard")


def array_hash(array: NDArray[np.float64]) -> str:
    """Return the SHA-256 of an array's shape and content."""
    return sha256_hex(canonical_json(list(array.shape)) + np.asarray(array, dtype="<f8").tobytes())


def write_artefact(artefact: Artefact) -> bytes:
    """Return the bytes of an artefact; the manifest's `arrays` is filled in from the arrays themselves."""
    arrays = {name: np.asarray(getattr(artefact, name), dtype=np.float64, order="C") for name in _ARRAYS}
    hashes = {name: array_hash(array) for name, array in arrays.items()}
    manifest = artefact.manifest.model_copy(update={"arrays": hashes})
    return safetensors.numpy.save(arrays, metadata={"archipel": manifest.model_dump_json()})


def read_artefact(data: bytes) -> Artefact:
    """Read an artefact.

    Raises:
        IncompatibleVersionError: For a version that this build does not read.
        MessageError: For anything altered, incomplete or not an artefact.
    """
    manifest = _manifest(data)
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError):
        raise MessageError("the artefact's arrays cannot be read") from None
    if set(arrays) != set(_ARRAYS) or set(manifest.arrays) != set(_ARRAYS):
        raise MessageError("the artefact does not hold exactly the arrays of a model")
    _verify_arrays(manifest, arrays)
    return Artefact(manifest, **{name: arrays[name] for name in _ARRAYS})


def _manifest(data: bytes) -> Manifest:
    length = int.from_bytes(data[:8], "little")
    if not 8 < len(data) <= _MAX_BYTES or length > len(data) - 8:
        raise MessageError("too short or too long for an artefact")
    try:
        text = json.loads(data[8 : 8 + length])["__metadata__"]["archipel"]
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        if [entry["loc"] for entry in error.errors()] == [("version",)]:
            raise IncompatibleVersionError(
                "an artefact of another version: read it with the Archipel that wrote it"
            ) from None
        raise MessageError(f"not an artefact of version 1 ({error.error_count()} faults)") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MessageError("not an artefact") from None


def _verify_arrays(manifest: Manifest, arrays: Mapping[str, NDArray[np.float64]]) -> None:
    p, k = len(manifest.columns), arrays["edges"].size
    shapes = {
        "mean": (p,),
        "scale": (p,),
        "beta": (p,),
        "covariance": (p, p),
        "edges": (k,),
        "cumulative_hazard": (k,),
    }
    for name, array in arrays.items():
        if array.dtype != np.float64 or array.shape != shapes[name] or not np.isfinite(array).all():
            raise MessageError(f"the artefact's array {name} is not what the manifest says")
        if array_hash(array) != manifest.arrays[name]:
            raise MessageError(f"the artefact's array {name} was altered after it was written")
