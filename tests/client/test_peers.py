"""Peers: the keys that people have compared, and the rosters that contradict them."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from client.peers import (
    PeerError,
    changed_keys,
    forget_peer,
    load_identity,
    load_peers,
    pin_peers,
    roster_verdict,
)
from client.state import SitePaths
from privacy.ledger import entries
from privacy.storage import StorageError
from schemas.codes import Code
from schemas.roster import Roster, fingerprint, make_roster
from tests.guards import identity_of, roster_of

OWN = identity_of("A").public_key().public_bytes_raw()
ROSTER = roster_of("A", "B", "C")
KEYS = {site.name: site.public_key for site in ROSTER.sites}


@pytest.fixture
def paths(tmp_path: Path) -> SitePaths:
    return SitePaths(tmp_path)


def write_identity(paths: SitePaths, content: bytes | None = None, mode: int = 0o600) -> None:
    paths.identity.parent.mkdir(exist_ok=True)
    pem = identity_of("A").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    paths.identity.write_bytes(pem if content is None else content)
    paths.identity.chmod(mode)


# ---------------------------------------------------------------- rosters
@pytest.mark.parametrize(
    ("situation", "roster", "sites", "pins", "code"),
    [
        ("nobody known yet", ROSTER, "ABC", {}, None),
        ("everybody known", ROSTER, "CAB", KEYS, None),
        ("a peer that is not in it", ROSTER, "ABC", {"D": KEYS["B"]}, None),
        ("another key", ROSTER, "ABC", {"B": KEYS["C"]}, Code.ROSTER_KEY_CHANGED),
        ("fewer sites invited", ROSTER, "AB", {}, Code.ROSTER_WRONG),
        ("a site invited twice", ROSTER, "ABCC", {}, Code.ROSTER_WRONG),
        ("without this site", roster_of("B", "C", "D"), "BCD", {}, Code.ROSTER_WRONG),
        ("another key of this site", roster_of("B", "C", A=identity_of("x")), "ABC", {}, Code.ROSTER_WRONG),
        ("this site's key under another name", roster_of("B", "C", D=identity_of("A")), "BCD", {},
         Code.ROSTER_WRONG),
        ("two sites", make_roster({"A": KEYS["A"], "B": KEYS["B"]}, two_sites=True), "AB", {}, Code.ROSTER_WRONG),
    ],
)  # fmt: skip
def test_a_roster_names_this_site_the_runs_sites_and_the_keys_that_were_compared(
    situation: str, roster: Roster, sites: str, pins: dict[str, str], code: Code | None
) -> None:
    assert roster_verdict(roster, tuple(sites), "A", OWN, pins) is code, situation


def test_one_key_written_in_two_ways_is_one_key() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    key = KEYS["B"]  # the last character before the padding holds two bits that no byte needs
    twin = key[:-2] + alphabet[alphabet.index(key[-2]) ^ 1] + "="
    assert twin != key
    assert changed_keys(ROSTER, {"B": twin}) == ()


# ---------------------------------------------------------------- pins
def test_a_key_is_pinned_once_and_stays(paths: SitePaths) -> None:
    assert load_peers(paths) == {}
    pin_peers(paths, ROSTER, "A")
    assert load_peers(paths) == {"B": KEYS["B"], "C": KEYS["C"]}
    pin_peers(paths, roster_of("A", "B", "D"), "A")
    assert set(load_peers(paths)) == {"B", "C", "D"}
    with pytest.raises(PeerError, match="another key than the pinned one for B"):
        pin_peers(paths, roster_of("A", "C", B=identity_of("the hub's own")), "A")
    assert load_peers(paths)["B"] == KEYS["B"]
    assert paths.peers.stat().st_mode & 0o077 == 0


def test_a_person_forgets_a_key_and_the_ledger_says_who(paths: SitePaths) -> None:
    pin_peers(paths, ROSTER, "A")
    assert forget_peer(paths.home, "B", who="Dr. Weiß") == fingerprint(KEYS["B"])
    assert set(load_peers(paths)) == {"C"}
    (event,) = (entry.event for entry in entries(paths.ledger))
    assert (event.kind, event.who, event.rule) == (
        "peer", "Dr. Weiß", f"forgot the key {fingerprint(KEYS['B'])} of B",
    )  # fmt: skip
    with pytest.raises(PeerError, match=r"No key of a site B is pinned here \(pinned: C\)"):
        forget_peer(paths.home, "B", who="Dr. Weiß")


def test_damaged_pins_judge_no_roster(paths: SitePaths) -> None:
    pin_peers(paths, ROSTER, "A")
    paths.peers.write_bytes(paths.peers.read_bytes()[:-5])
    for read in (lambda: load_peers(paths), lambda: pin_peers(paths, ROSTER, "A")):
        with pytest.raises(StorageError, match=r"peers\.json is damaged"):
            read()


# ---------------------------------------------------------------- the site's own key
def test_the_own_key_is_read_from_the_keys_folder(paths: SitePaths) -> None:
    write_identity(paths)
    assert load_identity(paths).public_key().public_bytes_raw() == OWN


def test_a_key_that_is_missing_open_or_of_another_kind_is_named(paths: SitePaths) -> None:
    with pytest.raises(StorageError, match="is missing: run `archipel site init`"):
        load_identity(paths)
    write_identity(paths, mode=0o640)
    with pytest.raises(StorageError, match="can be read by other users"):
        load_identity(paths)
    elliptic = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"noise", elliptic):
        write_identity(paths, content)
        with pytest.raises(StorageError, match="is not an Ed25519 key"):
            load_identity(paths)
