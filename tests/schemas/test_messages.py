"""Messages: decoded as encoded, equal messages are equal bytes, hostile bytes are an error and never a crash."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas.codes import Code
from schemas.errors import ArrayTypeError, IncompatibleVersionError, MessageError
from schemas.messages import (
    BLOB_PREFIX,
    MAX_HEADER_BYTES,
    Arrays,
    Draft,
    Message,
    Reply,
    RoundRequest,
    SetupRequest,
    decode,
    decode_as,
    encode,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
counts = st.integers(0, 999_999_999)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda n: n != "__metadata__"
)
arrays = st.dictionaries(
    names,
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), elements=st.floats()),
    max_size=3,
)
codes = st.sampled_from([code.value for code in Code])
blobs = st.just({}) | st.dictionaries(names, st.binary(max_size=20), max_size=3)
setups = st.builds(
    SetupRequest, texts, texts, st.lists(texts, max_size=3).map(tuple), texts, texts, texts, arrays, blobs
)
requests = st.builds(
    RoundRequest, texts, texts, st.lists(texts, max_size=3).map(tuple), texts, texts, counts, texts, arrays, blobs
)
drafts = st.builds(Draft, texts, texts, texts, counts, counts, counts, st.just("") | codes, arrays)
replies = st.one_of(
    st.builds(Reply, texts, texts, texts, counts, st.just("ok"), texts, st.just(""), arrays, blobs),
    st.builds(Reply, texts, texts, texts, counts, st.just("empty"), texts),
    st.builds(Reply, texts, texts, texts, counts, st.just("refused"), texts, codes),
)
messages = st.one_of(setups, requests, drafts, replies)

REQUEST = RoundRequest("run-1", "a" * 64, ("A", "B"), "fit", "gradient", 3, arrays={"beta": np.array([1.0, -2.0])})


def words(message: Message) -> dict[str, Any]:
    return {item.name: getattr(message, item.name) for item in fields(message) if item.name != "arrays"}


def assert_same_arrays(one: Arrays, other: Arrays) -> None:
    assert set(one) == set(other)
    for name in one:
        assert one[name].dtype == other[name].dtype == np.float64
        assert one[name].shape == other[name].shape
        assert one[name].tobytes() == other[name].tobytes(), "bit by bit, NaN and -0.0 included"


@given(messages)
def test_what_is_encoded_is_decoded(message: Message) -> None:
    decoded = decode(encode(message))
    assert type(decoded) is type(message)
    assert words(decoded) == words(message)
    assert_same_arrays(decoded.arrays, message.arrays)


@given(messages)
def test_the_encoding_is_canonical(message: Message) -> None:
    body = encode(message)
    assert encode(decode(body)) == body


@given(requests)
def test_the_order_of_arrays_does_not_change_the_bytes(message: RoundRequest) -> None:
    assert encode(replace(message, arrays=dict(reversed(message.arrays.items())))) == encode(message)


def test_the_layout_of_an_array_does_not_change_the_bytes() -> None:
    square = np.arange(6.0).reshape(2, 3)
    message = replace(REQUEST, arrays={"x": square})
    assert encode(replace(message, arrays={"x": np.asfortranarray(square)})) == encode(message)
    assert encode(replace(message, arrays={"x": np.arange(12.0)[::2].reshape(2, 3) / 2})) == encode(message)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.bool_, np.complex128])
def test_only_float64_is_encoded(dtype: type) -> None:
    with pytest.raises(ArrayTypeError):
        encode(replace(REQUEST, arrays={"x": np.zeros(2, dtype=dtype)}))


@pytest.mark.parametrize("kind", [SetupRequest, Draft, Reply])
def test_another_kind_is_not_taken_for_this_one(kind: type[Draft]) -> None:
    with pytest.raises(MessageError):
        decode_as(encode(REQUEST), kind)
    assert decode_as(encode(REQUEST), RoundRequest).number == 3


# ---------------------------------------------------------------- hostile bytes
def rewritten(change: Callable[[dict[str, Any]], object], message: Message = REQUEST) -> bytes:
    """The message after a change of its header, as someone who knows the format would make it."""
    body = encode(message)
    (length,) = struct.unpack("<Q", body[:8])
    header = json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["archipel"])
    change(header)
    return safetensors.numpy.save(dict(message.arrays), metadata={"archipel": json.dumps(header)})


REFUSED: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("a field more", lambda h: h.update(note="Jane Doe")),
    ("a field less", lambda h: h.pop("phase")),
    ("another kind's fields", lambda h: h.update(kind="draft")),
    ("unknown kind", lambda h: h.update(kind="pickle")),
    ("kind is no text", lambda h: h.update(kind=["round-request"])),
    ("no kind", lambda h: h.pop("kind")),
    ("count below zero", lambda h: h.update(number="-1")),
    ("count with a leading zero", lambda h: h.update(number="03")),
    ("count with blanks", lambda h: h.update(number=" 3")),
    ("count in other digits", lambda h: h.update(number="٣")),
    ("count with a fraction", lambda h: h.update(number="3.0")),
    ("count too long", lambda h: h.update(number="1" * 10)),
    ("count is a number", lambda h: h.update(number=3)),
    ("list is a word", lambda h: h.update(sites='"A"')),
    ("list of numbers", lambda h: h.update(sites="[1]")),
    ("list is broken", lambda h: h.update(sites="[")),
    ("list too deep", lambda h: h.update(sites="[" * 10_000)),
    ("half a surrogate pair", lambda h: h.update(run_id="\ud800")),
    ("half a pair in the list", lambda h: h.update(sites='["\\ud800"]')),
    ("null", lambda h: h.update(part=None)),
]


@pytest.mark.parametrize("change", [c for _, c in REFUSED], ids=[name.replace(" ", "-") for name, _ in REFUSED])
def test_a_header_that_is_not_ours_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(MessageError):
        decode(rewritten(change))


@pytest.mark.parametrize("version", ["0", "2", "", None, 1])
def test_another_version_is_named_as_such(version: object) -> None:
    with pytest.raises(IncompatibleVersionError):
        decode(rewritten(lambda header: header.update(version=version)))


REPLY = Reply("run-1", "fit", "gradient", 3, "ok", arrays={"x": np.zeros(2)})


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "fine"},
        {"status": "empty"},
        {"status": "refused", "code": "STEP_FAILED"},
        {"code": "STEP_FAILED"},
        {"status": "refused", "arrays": {}},
        {"status": "refused", "arrays": {}, "code": "KeyError: 'Jane Doe'"},
        {"status": "empty", "arrays": {}, "blobs": {"masked": b""}},
        {"status": "refused", "arrays": {}, "code": "STEP_FAILED", "blobs": {"masked": b"1"}},
    ],
)
def test_a_reply_cannot_contradict_itself(changed: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        decode(encode(replace(REPLY, **changed)))


def test_an_unknown_code_is_not_taken_from_a_runner() -> None:
    with pytest.raises(MessageError):
        decode(encode(Draft("run-1", "fit", "gradient", 3, 40, 12, code="ValueError: Jane Doe")))


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
def test_only_float64_is_decoded(dtype: type) -> None:
    header = {"kind": "draft", "version": "1", "run_id": "r", "step": "s", "part": "p", "number": "0",
              "n_patients": "10", "n_events": "1", "code": ""}  # fmt: skip
    body = safetensors.numpy.save({"x": np.zeros(2, dtype=dtype)}, metadata={"archipel": json.dumps(header)})
    with pytest.raises(ArrayTypeError):
        decode(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00" * 8,
        b"\xff" * 64,
        struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{" * 100,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 23) + b'{"__metadata__":{"a":1}}'[:23],
        struct.pack("<Q", 20_000) + b"[" * 20_000,
        encode(REQUEST)[:-1],
        encode(REQUEST) + b"\x00",
        safetensors.numpy.save({"x": np.zeros(1)}),
        safetensors.numpy.save({"x": np.zeros(1)}, metadata={"archipel": "[]"}),
        safetensors.numpy.save({"x": np.zeros(1)}, metadata={"archipel": "{}"}),
    ],
)
def test_bytes_that_are_no_message_are_refused(body: bytes) -> None:
    with pytest.raises(MessageError):
        decode(body)


@pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [2**60, 0], [1] * 65, [0] * 65])
def test_a_shape_that_no_array_has_is_refused(shape: list[int]) -> None:
    """Nothing of it needs bytes, so the file format lets it pass; numpy does not."""
    honest = encode(replace(REQUEST, arrays={"x": np.zeros(0 if 0 in shape else 1)}))
    length = struct.unpack("<Q", honest[:8])[0]
    outer = json.loads(honest[8 : 8 + length])
    outer["x"]["shape"] = shape
    header = json.dumps(outer).encode()
    with pytest.raises(MessageError):
        decode(struct.pack("<Q", len(header)) + header + honest[8 + length :])


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(MessageError):
        decode(noise)


@settings(max_examples=400)
@given(messages, st.data())
def test_a_damaged_message_is_refused_or_is_another_message(message: Message, data: st.DataObject) -> None:
    damaged = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode(bytes(damaged))
    except (MessageError, IncompatibleVersionError):
        return
    canonical = encode(decoded)
    assert encode(decode(canonical)) == canonical


@given(messages, st.integers(0, 10**6))
def test_a_message_cut_short_is_refused(message: Message, cut: int) -> None:
    body = encode(message)
    with pytest.raises(MessageError):
        decode(body[: cut % len(body)])


# ---------------------------------------------------------------- blobs
@given(requests)
def test_the_order_of_blobs_does_not_change_the_bytes(message: RoundRequest) -> None:
    assert encode(replace(message, blobs=dict(reversed(message.blobs.items())))) == encode(message)


def test_without_blobs_a_message_has_the_bytes_it_always_had() -> None:
    header = {"kind": "round-request", "version": "1", "run_id": "run-1", "plan_hash": "a" * 64,
              "sites": '["A", "B"]', "step": "fit", "part": "gradient", "number": "3", "phase": "value"}  # fmt: skip
    text = json.dumps(header, sort_keys=True, ensure_ascii=False)
    assert encode(REQUEST) == safetensors.numpy.save(dict(REQUEST.arrays), metadata={"archipel": text})


def with_entry(name: str, array: Any, message: Message = REQUEST) -> bytes:
    """The message with one more tensor, as someone who knows the format would add it."""
    body = encode(message)
    (length,) = struct.unpack("<Q", body[:8])
    text = json.loads(body[8 : 8 + length])["__metadata__"]["archipel"]
    return safetensors.numpy.save({**message.arrays, name: array}, metadata={"archipel": text})


@pytest.mark.parametrize(
    ("situation", "name", "array"),
    [
        ("a blob of two rows", BLOB_PREFIX + "keys", np.zeros((2, 3), dtype=np.uint8)),
        ("a blob without rows", BLOB_PREFIX + "keys", np.zeros((), dtype=np.uint8)),
        ("a blob of signed bytes", BLOB_PREFIX + "keys", np.zeros(3, dtype=np.int8)),
        ("a blob of words", BLOB_PREFIX + "keys", np.zeros(3, dtype=np.uint64)),
        ("an array under a blob's name", BLOB_PREFIX + "keys", np.zeros(3)),
        ("bytes under an array's name", "keys", np.zeros(3, dtype=np.uint8)),
        ("the prefix in capitals", BLOB_PREFIX.upper() + "keys", np.zeros(3, dtype=np.uint8)),
    ],
)
def test_a_blob_is_one_row_of_bytes_under_the_reserved_prefix(situation: str, name: str, array: Any) -> None:
    with pytest.raises(ArrayTypeError):
        decode(with_entry(name, array))


def test_a_draft_carries_no_blob() -> None:
    draft = Draft("run-1", "fit", "gradient", 3, 40, 12)
    with pytest.raises(ArrayTypeError):
        decode(with_entry(BLOB_PREFIX + "keys", np.zeros(3, dtype=np.uint8), draft))


def test_an_array_cannot_pass_for_a_blob() -> None:
    with pytest.raises(ArrayTypeError):
        encode(replace(REQUEST, arrays={BLOB_PREFIX + "x": np.zeros(1)}))
