"""Who this site is to its peers, and which keys of theirs its people have compared.

A roster comes from the hub, which could put a key of its own beside a hospital's name. So the first time that a
person approves a roster, whose fingerprints they compared with the other hospitals outside the hub, the site pins
each name's key; a later roster that gives a pinned name another key is refused until a person forgets the old one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.state import SitePaths
from models.compile import CODE_VERSION
from privacy.ledger import Event, Ledger
from privacy.storage import StorageError, locked, storage_error, write_durably
from schemas.canonical import canonical_json
from schemas.codes import Code
from schemas.errors import ArchipelError
from schemas.roster import Key32, Roster, SiteName, fingerprint

__all__ = [
    "MIN_SITES",
    "PeerError",
    "changed_keys",
    "forget_peer",
    "load_identity",
    "load_peers",
    "pin_peers",
    "roster_verdict",
]

MIN_SITES = 3
"""In a sum of two each site can compute the other's summand, so the secure sum begins at three."""


class PeerError(ArchipelError):
    """A peer that this site does not know."""


class _Peers(BaseModel):
    """The file.

    Attributes:
        keys: Name -> public identity (Ed25519, base64 of 32 bytes).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["peers"] = "peers"
    version: Literal[1] = 1
    keys: dict[SiteName, Key32] = Field(default_factory=dict)


def roster_verdict(
    roster: Roster, sites: Collection[str], own_name: str, own_key: bytes, pins: Mapping[str, str]
) -> Code | None:
    """Judge a roster before a person is asked.

    Args:
        roster: As the hub sent it.
        sites: Those that the hub invites to the run.
        own_name: This site's name.
        own_key: The 32 bytes of its public identity.
        pins: Name -> public key that was compared.

    Returns:
        Why it is refused, or None.
    """
    is_ours = roster.keys.get(own_name) == own_key
    if not is_ours or len(roster.names) < MIN_SITES or sorted(sites) != list(roster.names):
        return Code.ROSTER_WRONG
    return Code.ROSTER_KEY_CHANGED if changed_keys(roster, pins) else None


def changed_keys(roster: Roster, pins: Mapping[str, str]) -> tuple[str, ...]:
    """Return the sites of a roster whose key is not the pinned one; by fingerprint, since base64 is not unique."""
    return tuple(
        site.name for site in roster.sites if site.name in pins and fingerprint(pins[site.name]) != site.fingerprint
    )


def load_identity(paths: SitePaths) -> Ed25519PrivateKey:
    """Return the site's key; `archipel site init` makes it.

    Raises:
        StorageError: When it is missing, damaged, or can be read by others.
    """
    path = paths.identity
    try:
        if path.stat().st_mode & 0o077:
            raise StorageError(f"keys/{path.name} can be read by other users of this machine: chmod 600")
        key = load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        raise StorageError(
            f"keys/{path.name} is missing: run `archipel site init`, then enrol the site anew"
        ) from None
    except OSError as error:
        raise storage_error(path, error) from None
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise StorageError(f"keys/{path.name} is not an Ed25519 key: restore it from backup")
    return key


def load_peers(paths: SitePaths) -> Mapping[str, str]:
    """Return name -> public key of the pinned peers.

    Raises:
        StorageError: When they cannot be read: without them no roster can be judged.
    """
    try:
        return _Peers.model_validate_json(paths.peers.read_bytes()).keys
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise storage_error(paths.peers, error) from None
    except ValidationError:
        raise StorageError(
            f"{paths.peers.name} is damaged: move it away, and compare fingerprints with the other sites anew"
        ) from None


def pin_peers(paths: SitePaths, roster: Roster, own_name: str) -> None:
    """Pin the keys of a roster whose fingerprints a person has compared; a pinned key is never replaced here.

    Raises:
        StorageError: When they cannot be written.
        PeerError: When a pinned key is another, pinned in between.
    """
    with locked(paths.peers.with_suffix(".lock"), exclusive=True):
        pins = dict(load_peers(paths))
        changed = changed_keys(roster, pins)
        if changed:
            raise PeerError(f"the roster holds another key than the pinned one for {', '.join(changed)}")
        fresh = {site.name: site.public_key for site in roster.sites if site.name not in {own_name, *pins}}
        if fresh:
            _write(paths, {**pins, **fresh})


def forget_peer(home: Path, name: str, *, who: str) -> str:
    """Forget the key of a peer, so that a roster with another one can be approved; returns the old fingerprint.

    Raises:
        PeerError: When no such peer is pinned.
        StorageError: When that cannot be written; the pin then stays.
    """
    paths = SitePaths(home)
    with locked(paths.peers.with_suffix(".lock"), exclusive=True):
        pins = dict(load_peers(paths))
        if name not in pins:
            known = ", ".join(sorted(pins)) or "none"
            raise PeerError(f"No key of a site {name} is pinned here (pinned: {known}).")
        forgotten = fingerprint(pins.pop(name))
        event = Event("peer", rule=f"forgot the key {forgotten} of {name}", who=who, code_version=CODE_VERSION)
        Ledger(paths.ledger).append(event)
        _write(paths, pins)
        return forgotten


def _write(paths: SitePaths, keys: Mapping[str, str]) -> None:
    write_durably(paths.peers, canonical_json(_Peers(keys=dict(keys)).model_dump(mode="json")))
