from __future__ import annotations

import datetime
import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from schemas.artefact import Artefact, ArtefactColumn, Manifest, read_artefact, write_artefact
from schemas.errors import IncompatibleVersionError, MessageError


def artefact() -> Artefact:
    manifest = Manifest(
        study="small",
        run_id="small-1",
        mode="simulate",
        method="hazard",
        code_version="0.1.0",
        created_at=datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC),
        plan_hash="a" * 64,
        dictionary="small",
        dictionary_hash="b" * 64,
        time_unit="day",
        exact_times=False,
        columns=(
            ArtefactColumn(name="age", column="age", layer="clinical"),
            ArtefactColumn(name="sex[f]", column="sex", layer="clinical", code="f"),
        ),
        arrays={},
    )
    return Artefact(
        manifest=manifest,
        mean=np.array([50.0, 0.5]),
        scale=np.array([10.0, 0.5]),
        beta=np.array([0.3, -0.2]),
        covariance=np.array([[0.04, 0.01], [0.01, 0.09]]),
        edges=np.array([10.0, 20.0, 40.0]),
        cumulative_hazard=np.array([0.1, 0.2, 0.5]),
    )


def test_an_artefact_is_read_as_it_was_written() -> None:
    data = write_artefact(artefact())
    again = read_artefact(data)
    for name in ("mean", "scale", "beta", "covariance", "edges", "cumulative_hazard"):
        assert np.array_equal(getattr(again, name), getattr(artefact(), name))
    assert write_artefact(again) == data


def test_no_byte_can_be_altered_unseen() -> None:
    data = write_artefact(artefact())
    numbers_start = 8 + int.from_bytes(data[:8], "little")
    for position in range(numbers_start, len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(MessageError):
            read_artefact(bytes(changed))


def test_another_version_says_so() -> None:
    data = write_artefact(artefact())
    arrays = safetensors.numpy.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    manifest = json.loads(header["__metadata__"]["archipel"]) | {"version": 2}
    with pytest.raises(IncompatibleVersionError):
        read_artefact(safetensors.numpy.save(arrays, metadata={"archipel": json.dumps(manifest)}))


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": np.array([0.3])},
        {"covariance": np.eye(3)},
        {"edges": np.array([1.0, np.nan, 2.0])},
        {"cumulative_hazard": np.array([0.1])},
    ],
)
def test_arrays_that_contradict_the_manifest_are_refused(changes: dict[str, np.ndarray]) -> None:
    with pytest.raises(MessageError):
        read_artefact(write_artefact(replace(artefact(), **changes)))


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        read_artefact(data)
