"""Requests and kits: what is accepted, and that nothing else is."""

import base64
import datetime
import json
import re

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from archipel.enrol import (
    EnrolmentError,
    JoinRequest,
    Kit,
    fingerprint,
    make_kit,
    make_request,
    read_kit,
    read_request,
)
from server.hub_home import hub_init

NOW = datetime.datetime(2026, 11, 20, 9, 0, tzinfo=datetime.UTC)
NODE = ec.generate_private_key(ec.SECP384R1())
IDENTITY = Ed25519PrivateKey.generate()
HUB = Ed25519PrivateKey.generate()
STRANGER = Ed25519PrivateKey.generate()
NO_CERTIFICATE = "-----BEGIN CERTIFICATE-----\n" + "A" * 64 + "\n-----END CERTIFICATE-----"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    settings = hub_init(tmp_path_factory.mktemp("hub"), public_port=0, internal_port=0)
    return settings.authority.read_text()


@pytest.fixture(scope="module")
def request_():
    return make_request("chu-lille", "CHU de Lille", NODE, IDENTITY, NOW)


@pytest.fixture(scope="module")
def kit(request_, certificate):
    return make_kit(request_, HUB, "hub.example.org:8443", certificate, NOW)


def _encode(document):
    return document.to_json().encode()


def test_request_survives_the_way(request_):
    assert read_request(_encode(request_)) == request_


def test_kit_survives_the_way(kit):
    assert read_kit(_encode(kit), IDENTITY.public_key(), NOW) == kit


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "chu-paris"),
        ("title", "CHU de Paris"),
        ("created", "2026-11-21T09:00:00Z"),
        ("identity_public_key", make_request("x", "", NODE, STRANGER, NOW).identity_public_key),
        (
            "node_public_key",
            make_request("x", "", ec.generate_private_key(ec.SECP384R1()), IDENTITY, NOW).node_public_key,
        ),
        ("signature", ""),
        ("node_signature", ""),
    ],
    # Both workers of `make test` must find the same names, and keys are drawn anew in each.
    ids=["name", "title", "created", "identity", "node", "signature", "node signature"],
)
def test_changed_request_is_refused(request_, field, value):
    changed = json.loads(request_.to_json()) | {field: value}
    with pytest.raises(EnrolmentError, match="not signed by the keys in it"):
        read_request(json.dumps(changed).encode())


def test_request_for_a_key_that_its_writer_does_not_hold_is_refused(request_):
    # A thief of names signs with an identity of his own, but cannot sign with the other site's connection key.
    theirs = request_.model_copy(update={"name": "thief"})
    other = make_request("thief", "", ec.generate_private_key(ec.SECP384R1()), STRANGER, NOW)
    mixed = other.model_copy(update={"node_public_key": theirs.node_public_key})
    signature = base64.b64encode(STRANGER.sign(mixed.signed_bytes())).decode()
    resigned = mixed.model_copy(update={"signature": signature})
    with pytest.raises(EnrolmentError):
        read_request(_encode(resigned))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("site", "chu-paris"),
        ("hub_address", "evil.example.org:8443"),
        ("hub_certificate", NO_CERTIFICATE),
        ("expires", "2036-11-20T09:00:00Z"),
        ("signature", ""),
    ],
)
def test_changed_kit_is_refused(kit, field, value):
    changed = json.loads(kit.to_json()) | {field: value}
    with pytest.raises(EnrolmentError, match="not signed by the hub's key"):
        read_kit(json.dumps(changed).encode(), IDENTITY.public_key(), NOW)


def test_kit_of_another_hub_is_refused_after_the_first(kit, request_, certificate):
    other = make_kit(request_, STRANGER, "evil.example.org:8443", certificate, NOW)
    with pytest.raises(EnrolmentError, match="another hub"):
        read_kit(_encode(other), IDENTITY.public_key(), NOW, pinned_hub_key=kit.hub_public_key)


def test_kit_of_another_site_is_refused(kit):
    with pytest.raises(EnrolmentError, match="another request"):
        read_kit(_encode(kit), STRANGER.public_key(), NOW)


@pytest.mark.parametrize(("days", "sentence"), [(31, "expired on 2026-12-20"), (-1, "set this machine's clock")])
def test_kit_holds_for_thirty_days(kit, days, sentence):
    with pytest.raises(EnrolmentError, match=sentence):
        read_kit(_encode(kit), IDENTITY.public_key(), NOW + datetime.timedelta(days=days))
    read_kit(_encode(kit), IDENTITY.public_key(), NOW + datetime.timedelta(days=29))


@pytest.mark.parametrize("read", [read_request, lambda content: read_kit(content, IDENTITY.public_key(), NOW)])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"{" * 10_000,
        b" " * 70_000,
        b'{"kind": "join-request", "version": 2}',
        b'{"kind": "kit", "version": 2}',
        b'{"kind": "plan", "version": 1}',
    ],
)
def test_hostile_file_is_one_sentence(read, content):
    with pytest.raises(EnrolmentError) as caught:
        read(content)
    assert "\n" not in str(caught.value)


@given(name=st.text(max_size=80))
def test_only_plain_names_can_be_requested(request_, name):
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None
    changed = json.dumps(json.loads(request_.to_json()) | {"name": name}).encode()
    with pytest.raises(EnrolmentError) as caught:
        read_request(changed)
    shape_was_right = "not signed" in str(caught.value)
    assert shape_was_right == (plain and 1 <= len(name) <= 60)


@given(noise=st.binary(max_size=200), at=st.integers(0, 10_000))
def test_no_damaged_kit_is_accepted_as_another(kit, noise, at):
    content = bytearray(_encode(kit))
    start = at % len(content)
    content[start : start + len(noise)] = noise
    try:
        read = read_kit(bytes(content), IDENTITY.public_key(), NOW)
    except EnrolmentError:
        return
    assert read == kit


def test_signatures_of_one_kind_are_none_of_the_other(request_, kit):
    assert not request_.signed_bytes().startswith(kit.signed_bytes()[:12])


def test_fingerprints_tell_keys_apart(request_, kit):
    assert fingerprint(request_.identity_public_key) != fingerprint(kit.hub_public_key)
    assert len(fingerprint(kit.hub_public_key).split()) == 8


def test_documents_say_kind_and_version(request_, kit):
    assert (json.loads(request_.to_json())["kind"], JoinRequest.model_fields["version"].default) == (
        "join-request",
        1,
    )
    assert (json.loads(kit.to_json())["kind"], Kit.model_fields["version"].default) == ("kit", 1)
