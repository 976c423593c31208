"""One body of bytes is one record and back; everything else is refused, also another Flower."""

from __future__ import annotations

import time
import types
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore import telemetry
from flwr.supercore.inflatable import inflatable_utils
from hypothesis import given
from hypothesis import strategies as st

from schemas import audited, wire


@given(st.binary(max_size=2000))
def test_a_body_survives_its_record(body: bytes) -> None:
    assert wire.from_record(wire.to_record(body)) == body


BODY = ConfigRecord({"body": b"x"})


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"other": BODY},
        {"archipel": BODY, "extra": ConfigRecord({"body": b"y"})},
        {"archipel": BODY, "metrics": MetricRecord({"n": 1})},
        {"archipel": MetricRecord({"body": 1})},
        {"archipel": ArrayRecord({"body": Array(np.zeros(2))})},
        {"archipel": ConfigRecord({})},
        {"archipel": ConfigRecord({"body": b"x", "note": "Jeanne Moreau"})},
        {"archipel": ConfigRecord({"body": "x"})},
        {"archipel": ConfigRecord({"body": [b"x"]})},
        {"archipel": ConfigRecord({"body": 1})},
    ],
)
def test_anything_but_one_body_is_refused(record: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.from_record(RecordDict(record))


@pytest.mark.parametrize("table", [audited.SUPERLINK, audited.AGENT, audited.LAUNCHER])
def test_the_installed_flower_is_the_audited_one(table: dict[str, str]) -> None:
    assert table
    wire.verify_flower(table)


@pytest.mark.parametrize(
    "name",
    [
        "flwr.superlink.main:create_app",
        "flwr.superlink.main:absent",
        "flwr.absent:create_app",
        "flwr.common.constant:SYSTEM_TIME_TOLERANCE",
    ],
)
def test_another_flower_is_named_with_what_to_do(name: str) -> None:
    with pytest.raises(wire.FlowerDiffersError, match=r"requirements\.lock") as caught:
        wire.verify_flower({**audited.AGENT, name: "0" * 16})
    assert name in str(caught.value)
    assert str(caught.value).count("flwr.") == 1  # only what differs


def test_telemetry_is_off_whoever_imported_flower_first() -> None:
    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"


def test_sleeps_of_a_module_are_capped_and_the_rest_of_time_stays() -> None:
    module = types.ModuleType("polls")
    wire.cap_sleeps(module, 0.01)
    start = time.monotonic()
    module.time.sleep(60)
    assert time.monotonic() - start < 20
    assert module.time.monotonic is time.monotonic


def test_backoff_is_shortened_for_later_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree):
        monkeypatch.setattr(function, "__kwdefaults__", dict(function.__kwdefaults__ or {}))
    wire.shorten_backoff()
    calls = []

    def arrives_third(object_id: str) -> bytes:
        calls.append(object_id)
        if len(calls) < 3:
            raise inflatable_utils.ObjectUnavailableError(object_id)
        return b"here"

    start = time.monotonic()
    assert inflatable_utils.pull_objects(["a"], arrives_third) == {"a": b"here"}
    assert time.monotonic() - start < 2.0  # Flower: 1 s, then 2 s
