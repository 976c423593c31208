"""What hub and site say to each other, as bytes, and back; hostile until decoded.

One message is a safetensors body: a JSON header of strings (kind, version, who, which round) and float64 arrays.
safetensors because its reader is strict (no overlap, no holes, no code) and kept by others; the checks on top of
it are that the header holds exactly our fields and that every array is float64.

A round is identified by (run, step, number). `phase` is there from the first day because the secure sum answers
a round in two messages; the plain sum uses ``value`` alone.

Keys, shares and masked vectors of the secure sum are no numbers and travel as `blobs`: byte strings by name, each a
row of U8 whose name begins with a reserved prefix. A message without blobs has the bytes it had before there were
any.
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
Blobs = Mapping[str, bytes]
VERSION = "1"
MAX_HEADER_BYTES = 4 << 20
MAX_MESSAGE_BYTES = 1 << 30
BLOB_PREFIX = "archipel-blob:"


@dataclass(frozen=True)
class SetupRequest:
    """First message of a run to every site: the plan and the fixed list of sites.

    Attributes:
        plan: The plan's canonical bytes, as text.
        phase: ``value`` alone for the plain sum; the secure sum sets up in more than one message.
        blobs: What the secure sum's set-up passes on.
    """

    KIND: ClassVar[str] = "setup-request"
    run_id: str
    plan_hash: str
    sites: tuple[str, ...]
    plan: str
    phase: str = "value"
    arrays: Arrays = field(default_factory=dict)
    blobs: Blobs = field(default_factory=dict)


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
    blobs: Blobs = field(default_factory=dict)


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
        blobs: Keys, shares or a masked vector; with ``ok`` alone.
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
    blobs: Blobs = field(default_factory=dict)


Message = SetupRequest | RoundRequest | Draft | Reply
SETUP = "setup"
_M = TypeVar("_M", SetupRequest, RoundRequest, Draft, Reply)
_TYPES: dict[str, type[Message]] = {kind.KIND: kind for kind in (SetupRequest, RoundRequest, Draft, Reply)}


def encode(message: Message) -> bytes:
    """Return the bytes of a message; equal messages give equal bytes.

    Raises:
        ArrayTypeError: For an array that is not float64, or named like a blob.
    """
    header = {"kind": message.KIND, "version": VERSION}
    for name in _words(type(message)):
        header[name] = _to_text(getattr(message, name))
    entries: dict[str, NDArray[Any]] = {}
    for name in sorted(message.arrays):
        entries[name] = np.asarray(message.arrays[name], order="C")
        if entries[name].dtype != np.float64:
            raise ArrayTypeError(f"array {name} is {entries[name].dtype}, not float64")
        if name.startswith(BLOB_PREFIX):
            raise ArrayTypeError("an array is named like a blob")
    blobs = {} if isinstance(message, Draft) else message.blobs
    for name in sorted(blobs):
        entries[BLOB_PREFIX + name] = np.frombuffer(blobs[name], dtype=np.uint8)
    # safetensors does not sort the metadata; one entry keeps equal messages equal in their bytes.
    text = json.dumps(header, sort_keys=True, ensure_ascii=False)
    return safetensors.numpy.save(entries, metadata={"archipel": text})


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
    words = _words(message_type)
    if set(header) != set(words):
        raise MessageError("the header does not hold exactly the fields of its kind")
    values: dict[str, Any] = {name: _from_text(name, kind, header[name]) for name, kind in words.items()}
    values["arrays"], blobs = _entries(body)
    if message_type is not Draft:
        values["blobs"] = blobs
    elif blobs:
        raise ArrayTypeError("an array is not float64")
    message: Message = message_type(**values)
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


def _words(message_type: type[Message]) -> dict[str, str]:
    """Return the fields that stand in the header, with their types."""
    return {item.name: str(item.type) for item in fields(message_type) if item.name not in ("arrays", "blobs")}


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


def _entries(body: bytes) -> tuple[dict[str, NDArray[np.float64]], dict[str, bytes]]:
    """Return the arrays and the blobs of a message."""
    try:
        entries = safetensors.deserialize(body)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError:
        raise MessageError("the arrays cannot be read") from None
    arrays: dict[str, NDArray[np.float64]] = {}
    blobs: dict[str, bytes] = {}
    for name, entry in entries:
        is_blob = name.startswith(BLOB_PREFIX)
        if entry["dtype"] != ("U8" if is_blob else "F64"):
            raise ArrayTypeError("an array is not float64")
        if not is_blob:
            arrays[name] = _array(entry["data"], entry["shape"])
        elif len(entry["shape"]) != 1:
            raise ArrayTypeError("a blob is not one row of bytes")
        else:
            blobs[name.removeprefix(BLOB_PREFIX)] = bytes(entry["data"])
    return arrays, blobs


def _array(data: bytes, shape: list[int]) -> NDArray[np.float64]:
    try:
        return np.frombuffer(data, dtype="<f8").reshape(shape).astype(np.float64)
    except ValueError:  # too many axes, or an empty array with an axis beyond numpy's largest
        raise MessageError("an array has a shape that none can have") from None


def _verify_words(message: Message) -> None:
    if isinstance(message, Reply):
        if message.status not in ("ok", "empty", "refused"):
            raise MessageError("a reply of unknown status")
        if (message.status == "refused") != bool(message.code) or (
            message.status != "ok" and (message.arrays or message.blobs)
        ):
            raise MessageError("a reply whose status contradicts its content")
    if isinstance(message, Reply | Draft) and message.code and message.code not in Code.__members__:
        raise MessageError("an unknown code")
