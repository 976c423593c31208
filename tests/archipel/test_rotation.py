"""New keys for a site that is well: the old ones serve until the new kit is joined, and not a moment longer."""

from __future__ import annotations

import json
from http import HTTPStatus
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from archipel.enrol import EnrolmentError, make_request
from archipel.homes import enrol_site, join_site, list_sites
from archipel.identities import IDENTITY, load_key
from archipel.rotation import next_identity, rotate_site
from client.heads import HeadRefusedError
from client.hub_post import node_key, signed_headers
from client.state import SitePaths
from privacy.ledger import entries, verify_ledger
from schemas.ledger_head import HEAD_PATH
from server.heads import HeadCalls
from server.hub_home import load_hub_settings
from tests.ledger_heads import NOW, HeadsHub, append


@pytest.fixture
def hub(tmp_path: Path) -> HeadsHub:
    return HeadsHub(tmp_path / "hub")


@pytest.fixture
def site(hub: HeadsHub, tmp_path: Path) -> Path:
    home = hub.site(tmp_path / "brest")
    append(home, 3)
    hub.countersign(home)
    return home


def _keys(site: Path) -> tuple[bytes, bytes]:
    return (site / "keys" / "node.key").read_bytes(), (site / "keys" / IDENTITY).read_bytes()


def _rotate(site: Path) -> bytes:
    return rotate_site(site, site / "request.json", NOW, who="A").to_json().encode()


def test_the_old_keys_serve_until_the_kit_is_joined(hub: HeadsHub, site: Path) -> None:
    before = _keys(site)
    request = _rotate(site)
    assert _keys(site) == before
    append(site)
    assert hub.countersign(site) is not None  # nothing is cut off by asking
    hub.enrol(site, request)  # the hub needs no further word: the old identity has signed
    assert not set(_keys(site)) & set(before)
    assert next_identity(site) is None
    assert not (site / "keys" / "next").exists()
    signed = hub.countersign(site)
    assert signed is not None
    assert signed.head.count == verify_ledger(SitePaths(site).ledger).head.count
    assert [e.event.kind for e in entries(SitePaths(site).ledger)].count("rotation") == 2


def test_the_old_key_is_refused_from_enrolment_on(hub: HeadsHub, site: Path) -> None:
    old = node_key(site)
    request = _rotate(site)
    kit = enrol_site(hub.home, request, NOW)
    calls = HeadCalls(load_hub_settings(hub.home), clock=lambda: NOW.timestamp())
    answer = calls.answer(HEAD_PATH, signed_headers(old, HEAD_PATH, b"", int(NOW.timestamp())), b"")
    assert (answer.status, answer.reason) == (HTTPStatus.UNAUTHORIZED, "not-enrolled")
    with pytest.raises(HeadRefusedError, match="not-enrolled"):
        hub.countersign(site)
    join_site(site, kit.to_json().encode(), NOW)
    assert hub.countersign(site) is not None


def test_asking_twice_gives_the_same_keys(site: Path) -> None:
    first, second = json.loads(_rotate(site)), json.loads(_rotate(site))
    assert first["identity_public_key"] == second["identity_public_key"]
    assert first["node_public_key"] == second["node_public_key"]


def test_a_join_that_died_half_way_is_joined_again(hub: HeadsHub, site: Path) -> None:
    kit = enrol_site(hub.home, _rotate(site), NOW).to_json().encode()
    (site / "keys" / "next" / "node.key").replace(site / "keys" / "node.key")  # and then the power went
    join_site(site, kit, NOW)
    assert next_identity(site) is None
    assert hub.countersign(site) is not None


def test_nobody_rotates_anothers_keys(hub: HeadsHub, site: Path, tmp_path: Path) -> None:
    """A stranger names the site and its identity, and signs with what it has."""
    stranger = Ed25519PrivateKey.generate()
    node = node_key(hub.site(tmp_path / "nantes", "nantes"))
    victim = next(one for one in list_sites(hub.home) if one.name == "brest").identity_public_key
    named = make_request("brest", "", node, stranger, NOW, previous=victim)
    forged = make_request("brest", "", node, stranger, NOW, previous=stranger)
    mixed = forged.model_copy(update={"previous_identity_public_key": victim})
    for request in (named, forged, mixed):
        with pytest.raises(EnrolmentError):
            enrol_site(hub.home, request.to_json().encode(), NOW)
    assert next(one for one in list_sites(hub.home) if one.name == "brest").identity_public_key == victim


def test_a_request_from_before_a_rotation_brings_the_old_key_back_no_more(hub: HeadsHub, site: Path) -> None:
    first = (site / "request.json").read_bytes()
    hub.enrol(site, _rotate(site))
    with pytest.raises(EnrolmentError, match="is taken by another site"):
        enrol_site(hub.home, first, NOW)
    assert load_key(site, IDENTITY) is not None
