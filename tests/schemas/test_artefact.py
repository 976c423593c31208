from __future__ import annotations

import datetime
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from privacy.model_signature import SignatureError, public_text, read_signed_artefact, sign_artefact
from schemas.artefact import (
    Artefact,
    ArtefactCause,
    ArtefactColumn,
    ArtefactLayer,
    HorizonEvents,
    Manifest,
    read_artefact,
    write_artefact,
)
from schemas.canonical import canonical_json
from schemas.errors import IncompatibleVersionError, MessageError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ARCHIVE = Path(__file__).parent / "archive"


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
            ArtefactColumn(name="rna 1", column="rna", layer="rna", component=0),
        ),
        layers=(ArtefactLayer(name="rna", features=("TP53", "BRCA1", "IDH1"), n_components=1),),
        arrays={},
    )
    arrays = {
        "mean": np.array([50.0, 0.0]),
        "scale": np.array([10.0, 1.0]),
        "beta": np.array([0.3, -0.2]),
        "covariance": np.array([[0.04, 0.01], [0.01, 0.09]]),
        "edges": np.array([10.0, 20.0, 40.0]),
        "cumulative_hazard": np.array([0.1, 0.2, 0.5]),
        "hazard_variance": np.array([0.01, 0.02, 0.03]),
        "hazard_slope": np.array([[0.1, 0.0], [0.0, 0.1], [0.2, -0.1]]),
        "rna_mean": np.array([1.0, 2.0, 3.0]),
        "rna_scale": np.array([1.0, 0.0, 2.0]),
        "rna_loadings": np.array([[0.5], [0.1], [-0.5]]),
    }
    return Artefact(manifest, arrays)


def with_arrays(**changes: Any) -> Artefact:
    arrays = {name: array for name, array in ({**artefact().arrays, **changes}).items() if array is not None}
    return replace(artefact(), arrays=arrays)


def competing(**changes: Any) -> Artefact:
    """The same model with two other kinds of event."""
    bare = artefact()
    causes = (
        ArtefactCause(code="relapse"),
        ArtefactCause(
            code="death", n_events="40", events_by_horizon=(HorizonEvents(horizon=20, events="15", at_least=13),)
        ),
        ArtefactCause(code="other"),
    )
    arrays = dict(bare.arrays)
    for number in (2, 3):
        arrays |= {
            f"cause_{number}_beta": np.array([0.25 * number, 0.5]),
            f"cause_{number}_cumulative_hazard": np.array([0.0, 0.1, 0.25 * number]),
            f"cause_{number}_covariance": np.array([[0.05, 0.0], [0.0, 0.08]]),
            f"cause_{number}_hazard_variance": np.array([0.0, 0.02, 0.01]),
            f"cause_{number}_hazard_slope": np.array([[0.0, 0.0], [0.1, 0.1], [0.2, -0.1]]),
        }
    arrays = {name: array for name, array in ({**arrays, **changes}).items() if array is not None}
    return Artefact(Manifest(**{**dict(bare.manifest), "causes": causes}), arrays)


def signed() -> bytes:
    return write_artefact(sign_artefact(artefact(), KEY))


def test_an_artefact_is_read_as_it_was_written() -> None:
    data = write_artefact(artefact())
    again = read_artefact(data)
    assert set(again.arrays) == set(artefact().arrays)
    for name, array in artefact().arrays.items():
        assert np.array_equal(again.arrays[name], array)
    assert write_artefact(again) == data
    assert again.written_as == 2


def test_a_signed_artefact_is_accepted_by_the_key_that_signed_it() -> None:
    again = read_signed_artefact(signed(), public_text(KEY))
    assert again.manifest.signed_by == public_text(KEY)
    assert write_artefact(again) == signed()


def test_a_site_refuses_an_unsigned_artefact_and_another_key() -> None:
    with pytest.raises(SignatureError, match="not signed"):
        read_signed_artefact(write_artefact(artefact()), public_text(KEY))
    with pytest.raises(SignatureError, match="another key"):
        read_signed_artefact(signed(), public_text(Ed25519PrivateKey.generate()))


def test_a_signature_of_another_model_is_refused() -> None:
    other = sign_artefact(with_arrays(beta=np.array([0.31, -0.2])), KEY)
    ours = sign_artefact(artefact(), KEY)
    moved = replace(ours, manifest=ours.manifest.model_copy(update={"signature": other.manifest.signature}))
    with pytest.raises(SignatureError, match="not signed by the hub"):
        read_signed_artefact(write_artefact(moved), public_text(KEY))


def test_a_signature_has_one_spelling() -> None:
    """The last letter of base64 of 64 bytes has four bits that say nothing."""
    ours = sign_artefact(artefact(), KEY)
    text = ours.manifest.signature
    assert text is not None
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = text[:85] + letters[letters.index(text[85]) ^ 1] + "=="
    moved = replace(ours, manifest=ours.manifest.model_copy(update={"signature": other}))
    with pytest.raises(SignatureError):
        read_signed_artefact(write_artefact(moved), public_text(KEY))


def test_no_byte_of_a_signed_file_can_be_altered_unseen() -> None:
    data = signed()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises((MessageError, SignatureError, IncompatibleVersionError)):
            read_signed_artefact(bytes(changed), public_text(KEY))


@pytest.mark.parametrize("tail", [b"\0", b" ", bytes(8)])
def test_nothing_can_be_added(tail: bytes) -> None:
    with pytest.raises(MessageError):
        read_artefact(signed() + tail)


def rewritten(change: Any, *, arrays: Any = None, spaces: bool = False) -> bytes:
    """A file whose manifest or arrays somebody changed with the right tools."""
    data = write_artefact(artefact())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    manifest = json.loads(header["__metadata__"]["archipel"])
    change(manifest)
    text = json.dumps(manifest) if spaces else canonical_json(manifest).decode()
    return safetensors.numpy.save(arrays or safetensors.numpy.load(data), metadata={"archipel": text})


def test_only_the_canonical_text_is_read() -> None:
    with pytest.raises(MessageError, match="canonical"):
        read_artefact(rewritten(lambda manifest: None, spaces=True))


def test_another_version_says_so() -> None:
    with pytest.raises(IncompatibleVersionError):
        read_artefact(rewritten(lambda manifest: manifest.update(version=3)))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "plan"},
        {"version": "2"},
        {"version": True},
        {"unknown": 1},
        {"columns": []},
        {"horizons": [-1.0]},
        {"plan_hash": "A" * 64},
        {"created_at": "2026-11-20T00:00:00"},
        {"signed_by": "A" * 43 + "="},
        {"treatment": "nobody"},
        {"layers": []},
        {"arrays": {}},
    ],
    ids=str,
)
def test_a_manifest_that_is_not_one_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        read_artefact(rewritten(lambda manifest: manifest.update(change)))


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": np.array([0.3])},
        {"covariance": np.eye(3)},
        {"edges": np.array([1.0, np.nan, 2.0])},
        {"edges": np.array([20.0, 10.0, 40.0])},
        {"cumulative_hazard": np.array([0.1])},
        {"cumulative_hazard": np.array([0.3, 0.2, 0.1])},
        {"cumulative_hazard": np.array([-0.1, 0.2, 0.5])},
        {"scale": np.array([0.0, 1.0])},
        {"rna_scale": np.array([-1.0, 1.0, 1.0])},
        {"covariance": -np.eye(2)},
        {"hazard_variance": np.array([-1.0, 0.0, 0.0])},
        {"hazard_slope": None},
        {"rna_loadings": None},
        {"covariance": None},
        {"surprise": np.zeros(1)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_arrays_that_are_no_model_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        read_artefact(write_artefact(with_arrays(**changes)))


def test_a_model_without_intervals_is_read() -> None:
    bare = with_arrays(covariance=None, hazard_variance=None, hazard_slope=None)
    assert read_artefact(write_artefact(bare)).covariance is None


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float16, np.uint8])
def test_another_dtype_is_refused(dtype: Any) -> None:
    arrays = {name: np.asarray(array) for name, array in artefact().arrays.items()}
    with pytest.raises(MessageError, match="float64"):
        read_artefact(rewritten(lambda manifest: None, arrays=arrays | {"beta": arrays["beta"].astype(dtype)}))


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was run",))


def test_a_pickle_is_refused_and_never_run() -> None:
    for data in (pickle.dumps(_Bomb()), pickle.dumps({"beta": np.ones(3)}), b"PK\x03\x04" + pickle.dumps(_Bomb())):
        with pytest.raises(MessageError):
            read_artefact(data)


def test_a_header_that_promises_too_much_is_refused_before_it_is_read() -> None:
    for length in (0, 1 << 62, 33 << 20):
        with pytest.raises(MessageError, match="too short or too long"):
            read_artefact(length.to_bytes(8, "little") + b"{}" * 50)
    deep = b'{"__metadata__":' + b"[" * 100_000
    with pytest.raises(MessageError):
        read_artefact(len(deep).to_bytes(8, "little") + deep)


def test_a_file_of_version_1_is_still_read() -> None:
    """Written by the Archipel of 20 November 2026, from a simulation of the demo."""
    old = read_artefact((ARCHIVE / "artefact-v1.safetensors").read_bytes())
    assert old.written_as == 1
    assert old.manifest.study == "cgd-infection"
    assert [column.name for column in old.manifest.columns][:2] == ["treatment[rIFN-g]", "sex[female]"]
    assert old.beta.shape == (8,)
    assert old.manifest.signature is None
    with pytest.raises(SignatureError, match="not signed"):
        read_signed_artefact((ARCHIVE / "artefact-v1.safetensors").read_bytes(), public_text(KEY))


def test_a_file_of_version_2_is_still_read() -> None:
    old = read_signed_artefact((ARCHIVE / "artefact-v2.safetensors").read_bytes(), public_text(KEY))
    assert old.written_as == 2
    assert old.manifest.layers[0].features == ("TP53", "BRCA1", "IDH1")


def test_a_field_of_a_later_archipel_changes_no_older_file() -> None:
    """What is left at a default is not written, so nothing that is added later is missing in an older file."""
    data = signed()
    manifest = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["archipel"])
    assert "network" not in manifest
    assert "epsilon" not in manifest
    assert (manifest["kind"], manifest["version"]) == ("artefact", 2)


def test_version_1_cannot_carry_what_version_2_says() -> None:
    with pytest.raises(MessageError, match="version 1"):
        read_artefact(rewritten(lambda manifest: manifest.update(version=1)))


# ---------------------------------------------------------------- competing events
def test_a_model_of_competing_events_is_read_as_it_was_written() -> None:
    data = write_artefact(sign_artefact(competing(), KEY))
    again = read_signed_artefact(data, public_text(KEY))
    assert write_artefact(again) == data
    assert [cause.code for cause in again.manifest.causes] == ["relapse", "death", "other"]
    np.testing.assert_array_equal(again.of_cause(1)["beta"], again.beta)
    np.testing.assert_array_equal(again.of_cause(3)["beta"], [0.75, 0.5])
    bare = {name: None for name in competing().arrays if name.endswith(("covariance", "hazard_variance", "slope"))}
    assert "covariance" not in read_artefact(write_artefact(competing(**bare))).of_cause(2)


def test_an_archived_model_of_competing_events_is_still_read() -> None:
    """Written by the Archipel of 21 November 2026."""
    old = read_signed_artefact((ARCHIVE / "artefact-v2-competing.safetensors").read_bytes(), public_text(KEY))
    assert old.manifest.causes[1].events_by_horizon[0].at_least == 13
    assert old.of_cause(3)["cumulative_hazard"].tolist() == [0.0, 0.1, 0.75]


@pytest.mark.parametrize(
    "changes",
    [
        {"cause_2_beta": None},
        {"cause_2_beta": np.zeros(3)},
        {"cause_3_cumulative_hazard": None},
        {"cause_3_cumulative_hazard": np.array([0.2, 0.1, 0.3])},
        {"cause_3_cumulative_hazard": np.array([-0.1, 0.1, 0.3])},
        {"cause_2_covariance": None},
        {"cause_2_covariance": -np.eye(2)},
        {"cause_2_hazard_variance": np.array([-1.0, 0.0, 0.0])},
        {"cause_2_hazard_slope": None},
        {"cause_4_beta": np.zeros(2)},
        {"cause_1_beta": np.zeros(2)},
        {"cause_2_mean": np.zeros(2)},
        {"covariance": None, "hazard_variance": None, "hazard_slope": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_arrays_that_are_no_model_of_competing_events_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        read_artefact(write_artefact(competing(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"causes": [{"code": "alone"}]},
        {"causes": [{"code": "same"}, {"code": "same"}, {"code": "third"}]},
        {"causes": [{"code": str(i)} for i in range(7)]},
        {"causes": [{"code": ""}, {"code": "b"}, {"code": "c"}]},
        {"causes": [{"code": "a", "more": 1}, {"code": "b"}, {"code": "c"}]},
        {"causes": []},
        {"method": "cox-stratified"},
    ],
    ids=str,
)
def test_a_manifest_that_is_not_one_of_competing_events_is_refused(changes: dict[str, Any]) -> None:
    data = write_artefact(competing())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    manifest = json.loads(header["__metadata__"]["archipel"]) | changes
    text = canonical_json(manifest).decode()
    with pytest.raises(MessageError):
        read_artefact(safetensors.numpy.save(safetensors.numpy.load(data), metadata={"archipel": text}))


def test_other_kinds_of_event_cannot_be_taken_out_of_a_file_unseen() -> None:
    """Without them the model would promise more of the event of interest than there will be."""
    ours = sign_artefact(competing(), KEY)
    content = {name: value for name, value in dict(ours.manifest).items() if name != "causes"}
    kept = {name: array for name, array in ours.arrays.items() if not name.startswith("cause_")}
    hashes = {name: ours.manifest.arrays[name] for name in kept}
    cut = Artefact(Manifest(**{**content, "arrays": hashes}), kept)
    with pytest.raises(SignatureError, match="not signed by the hub"):
        read_signed_artefact(write_artefact(cut), public_text(KEY))


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        read_artefact(data)


@given(st.data())
def test_no_damage_to_a_header_does_more_than_be_refused(draw: st.DataObject) -> None:
    """Cut, doubled or replaced pieces of a real file."""
    data = signed()
    start = draw.draw(st.integers(0, len(data) - 1))
    stop = draw.draw(st.integers(start, len(data)))
    piece = draw.draw(
        st.one_of(st.binary(max_size=40), st.just(data[start:stop] * 2), st.just(b"NaN"), st.just(b"1e999"))
    )
    changed = data[:start] + piece + data[stop:]
    if changed == data:
        return
    with pytest.raises((MessageError, SignatureError, IncompatibleVersionError)):
        read_signed_artefact(changed, public_text(KEY))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e300, 1e300) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(Manifest.model_fields)), values)
def test_no_value_in_a_manifest_does_more_than_be_refused(key: str, value: Any) -> None:
    data = rewritten(lambda manifest: manifest.update({key: value}))
    try:
        again = read_artefact(data)
    except (MessageError, IncompatibleVersionError):
        return
    assert write_artefact(again) == data
