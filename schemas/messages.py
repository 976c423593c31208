"""What hub and site say to each other, as bytes, and back; hostile until decoded.

One message is a safetensors body: a JSON header of strings (kind, version, who, which round) and float64 arrays.
safetensors because its reader is strict (no overlap, no holes, no code) and kept by others; the checks on top of
it are that the header holds exactly our fields and that every array is float64.

A round is identified by (run, step, number). `phase` is there from the first day because the secure sum answers
a round in two messages; the plain sum uses ``value`` alone.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from schemas.codes import Code
from schemas.errors import ArrayTypeError, IncompatibleVersionError, MessageError

Arrays = Mapping[str, NDArray[np.float64]]
VERSION = "1"
MAX_HEADER_BYTES = 4 << 20
MAX_MESSAGE_BYTES = 1 << 30


@dataclass(frozen=True)
class SetupRequest:
    """First message of a run to every site: the plan and the fixed list of sites.

    Attributes:
        plan: The plan's canonical bytes, as text.
        phase: ``value`` alone for the plain sum; the secure sum sets up in more than one message.
    """

    KIND: ClassVar[str] = "setup-request"
    run_id: str
    plan_hash: str
    sites: tuple[str, ...]
    plan: str
    phase: str = "value"
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class RoundRequest:
    """What the hub asks of a site in one round."""

    KIND: ClassVar[str] = "round-request"
    run_id: str
    plan_hash: str
    sites: tuple[str, ...]
    step: str
    part: str
    number: int
    phase: str = "value"
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    """A summand inside the site, on its way from the runner to the gate; never on the wire.

    Attributes:
        n_patients: Patients behind the numbers, for the gate's floor.
        n_events: Events behind the numbers.
        code: Why there is no summand; empty where there is one.
    """

    KIND: ClassVar[str] = "draft"
    run_id: str
    step: str
    part: str
    number: int
    n_patients: int
    n_events: int
    code: str = ""
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What leaves a site.

    Attributes:
        status: ``ok`` (arrays are the summand), ``empty`` (the site has no patients for this step and adds
            nothing), or ``refused`` (no arrays; `code` says why).
    """

    KIND: ClassVar[str] = "reply"
    run_id: str
    step: str
    part: str
    number: int
    status: Literal["ok", "empty", "refused"]
    phase: str = "value"
    code: str = ""
    arrays: Arrays = field(default_factory=dict)


Message = SetupRequest | RoundRequest | Draft | Reply
SETUP = "setup"
_M = TypeVar("_M", SetupRequest, RoundRequest, Draft, Reply)
_TYPES: dict[str, type[Message]] = {kind.KIND: kind for kind in (SetupRequest, RoundRequest, Draft, Reply)}


def encode(message: Message) -> bytes:
    """Return the bytes of a message; equal messages give equal bytes."""
    header = {"kind": message.KIND, "version": VERSION}
    for item in fields(message):
        if item.name != "arrays":
            header[item.name] = _to_text(getattr(message, item.name))
    arrays = {name: np.asarray(message.arrays[name], order="C") for name in sorted(message.arrays)}
    for name, array in arrays.items():
        if array.dtype != np.float64:
            raise ArrayTypeError(f"array {name} is {array.dtype}, not float64")
    # safetensors does not sort the metadata; one entry keeps equal messages equal in their bytes.
    text = json.dumps(header, sort_keys=True, ensure_ascii=False)
    return safetensors.numpy.save(arrays, metadata={"archipel": text})


def decode(body: bytes) -> Message:
    """Read the bytes of a message.

    Raises:
        IncompatibleVersionError: For a message of another version.
        MessageError: For anything that is not exactly one of our messages.
    """
    header = _header(body)
    kind = header.pop("kind", None)
    version = header.pop("version", None)
    message_type = _TYPES.get(kind) if isinstance(kind, str) else None
    if message_type is None:
        raise MessageError("not a message of a known kind")
    if version != VERSION:
        raise IncompatibleVersionError("a message of another version")
    names = {item.name for item in fields(message_type)} - {"arrays"}
    if set(header) != names:
        raise MessageError("the header does not hold exactly the fields of its kind")
    values: dict[str, Any] = {
        item.name: _from_text(item.name, str(item.type), header[item.name])
        for item in fields(message_type)
        if item.name != "arrays"
    }
    message: Message = message_type(arrays=_arrays(body), **values)
    _verify_words(message)
    return message


def decode_as(body: bytes, kind: type[_M]) -> _M:
    """Read a message of one kind; any other kind is refused.

    Raises:
        IncompatibleVersionError: For a message of another version.
        MessageError: For anything that is not exactly a message of this kind.
    """
    message = decode(body)
    if not isinstance(message, kind):
        raise MessageError(f"expected a {kind.KIND}")
    return message


def _to_text(value: object) -> str:
    if isinstance(value, tuple):
        return json.dumps(list(value), ensure_ascii=False)
    return str(value)


def _from_text(name: str, annotation: str, text: object) -> object:
    if not isinstance(text, str):
        raise MessageError(f"header field {name} is not text")
    if annotation == "int":
        if not text.isdecimal() or len(text) > 9 or str(int(text)) != text:
            raise MessageError(f"header field {name} is not a count")
        return int(text)
    if annotation == "tuple[str, ...]":
        try:
            items = json.loads(text)
        except (ValueError, RecursionError):
            raise MessageError(f"header field {name} is not a list") from None
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise MessageError(f"header field {name} is not a list of names")
        return tuple(_characters(name, item) for item in items)
    return _characters(name, text)


def _characters(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can write and UTF-8 cannot
        raise MessageError(f"header field {name} is not text") from None
    return text


def _header(body: bytes) -> dict[str, object]:
    if not 8 < len(body) <= MAX_MESSAGE_BYTES:
        raise MessageError("too short or too long for a message")
    (length,) = struct.unpack("<Q", body[:8])
    if length > min(MAX_HEADER_BYTES, len(body) - 8):
        raise MessageError("the header is longer than allowed")
    try:
        outer = json.loads(body[8 : 8 + length])
        header = json.loads(outer["__metadata__"]["archipel"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MessageError("the header cannot be read") from None
    if not isinstance(header, dict):
        raise MessageError("the header cannot be read")
    return header


def _arrays(body: bytes) -> dict[str, NDArray[np.float64]]:
    try:
        entries = safetensors.deserialize(body)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError:
        raise MessageError("the arrays cannot be read") from None
    arrays: dict[str, NDArray[np.float64]] = {}
    for name, entry in entries:
        if entry["dtype"] != "F64":
            raise ArrayTypeError("an array is not float64")
        try:
            shaped = np.frombuffer(entry["data"], dtype="<f8").reshape(entry["shape"])
        except ValueError:  # too many axes, or an empty array with an axis beyond numpy's largest
            raise MessageError("an array has a shape that none can have") from None
        arrays[name] = shaped.astype(np.float64)
    return arrays


def _verify_words(message: Message) -> None:
    if isinstance(message, Reply):
        if message.status not in ("ok", "empty", "refused"):
            raise MessageError("a reply of unknown status")
        if (message.status == "refused") != bool(message.code) or (message.status != "ok" and message.arrays):
            raise MessageError("a reply whose status contradicts its content")
    if isinstance(message, Reply | Draft) and message.code and message.code not in Code.__members__:
        raise MessageError("an unknown code")
