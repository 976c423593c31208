"""The folders of a hub and of a site: made, and introduced to each other. The effects behind `archipel.enrol`.

hub/keys/identity.key    the hub's Ed25519 key, which signs kits          (0600)
hub/keys/models.key      the Ed25519 key with which it signs models       (0600)
hub/keys/heads.key       likewise, with which it countersigns ledgers     (0600)
hub/sites.json           enrolled sites; the running hub follows this file
site/site.toml           settings; `join` writes the hub's address into it
site/keys/identity.key   the site's Ed25519 key, pinned in rosters        (0600)
site/keys/hub.json       the kit that was accepted; pins the hub's key
site/keys/hub-ca.crt     the authority that the site's connection trusts
site/request.json        what the site sends to the hub
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from archipel.enrol import (
    MAX_BYTES,
    EnrolmentError,
    JoinRequest,
    Kit,
    make_kit,
    make_request,
    public_text,
    read_kit,
    read_request,
)
from archipel.folders import make_folder
from archipel.identities import IDENTITY, load_key
from archipel.rotation import next_identity, take_next_keys
from client.restored import settle
from client.settings import SETTINGS_FILE, load_settings
from client.site_process import create_node_key
from privacy.storage import write_durably
from schemas.errors import Fault, FaultsError
from schemas.processes import run_folder
from server.database import DATABASE
from server.heads import HEADS_KEY, HeadStore
from server.hub_home import HubSettings, hub_init, load_hub_settings
from server.store import Store

__all__ = [
    "EnrolledSite",
    "enrol_site",
    "heads_key",
    "init_hub",
    "init_site",
    "join_site",
    "list_sites",
    "model_key",
    "read_limited",
    "revoke_site",
    "utc_now",
]

REQUEST_FILE = "request.json"
_UNKNOWN_HUB = "hub.invalid:1"
_ADDRESS_LINE = re.compile(r"^hub_address\s*=.*$", re.MULTILINE)


@dataclass(frozen=True)
class EnrolledSite:
    """One entry of the hub's `sites.json`.

    Attributes:
        requested: When the site wrote its request; an older request never replaces a newer one.
    """

    name: str
    title: str
    node_public_key: str
    identity_public_key: str
    requested: datetime.datetime
    enrolled: datetime.datetime


def utc_now() -> datetime.datetime:
    """Return the time, with its zone."""
    return datetime.datetime.now(datetime.UTC)


def read_limited(path: Path) -> bytes:
    """Read a file that somebody sent, but never more than a document of enrolment can hold.

    Raises:
        FaultsError: When it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FaultsError(
            str(path), [Fault(path.name, f"cannot be read ({error.strerror})", "check the path")]
        ) from None


# ---------------------------------------------------------------- the hub
def init_hub(
    home: Path,
    *,
    host: str = "127.0.0.1",
    public_port: int = 8443,
    internal_port: int = 8000,
    listen: str | None = None,
    names: Sequence[str] = (),
    renew: bool = False,
) -> tuple[HubSettings, str]:
    """Make the hub's folder, or repair it; what is there is kept.

    Args:
        home: The folder.
        host: Name or address by which sites reach the hub.
        public_port: Port for sites; 0 takes a free one.
        internal_port: Port on loopback for the hub's own processes; 0 takes a free one.
        listen: Address to bind; by default `host` where that is loopback, else every address.
        names: Further names or addresses for the certificate.
        renew: Issue the server's certificate again; the authority stays, so sites change nothing.

    Returns:
        The settings, and the hub's public identity (base64).
    """
    make_folder(home, mode=0o700)
    settings = hub_init(home, host, public_port, internal_port, listen=listen, names=tuple(names), renew=renew)
    model_key(home, create=True)
    heads_key(home, create=True)
    return settings, public_text(load_key(home, IDENTITY, create=True).public_key())


def enrol_site(home: Path, content: bytes, now: datetime.datetime, *, replace: bool = False) -> Kit:
    """Enrol the site whose join request this is, and return its kit.

    The same site may come again with a new connection key, because its kit expired, or with a new identity: after a
    rotation, which its former identity has signed, or after a restoration, which needs a person's word.

    Args:
        home: The hub's folder.
        content: The request.
        now: The clock.
        replace: Whether a person has made sure that a request with another identity comes from that very site.

    Raises:
        EnrolmentError: When the request is not accepted.
        FaultsError: When the hub's folder is not in order.
    """
    request = read_request(content)
    settings = load_hub_settings(home)
    with _sites_locked(home):
        sites = list_sites(home)
        replaced = _refuse_conflict(request, sites, replace=replace)
        entry = EnrolledSite(
            name=request.name,
            title=request.title,
            node_public_key=request.node_public_key,
            identity_public_key=request.identity_public_key,
            requested=request.created,
            enrolled=now,
        )
        with Store(home / DATABASE) as store:
            heads = HeadStore(store)
            if replaced is not None and request.is_rotation:
                heads.carry_on(request.name, replaced, request.identity_public_key)
            restored = request.previous_identity_public_key is not None and not request.is_rotation
            head = heads.newest(request.name) if restored else None
        _write_sites(home, [*(site for site in sites if site.name != request.name), entry])
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return make_kit(
        request,
        load_key(home, IDENTITY),
        f"{host}:{settings.public_port}",
        settings.authority.read_text("ascii"),
        now,
        model_key=public_text(model_key(home, create=True).public_key()),
        heads_key=public_text(heads_key(home, create=True).public_key()),
        ledger_head=head,
    )


def heads_key(home: Path, *, create: bool = False) -> Ed25519PrivateKey:
    """Return the key with which a hub countersigns the heads of ledgers; the process that answers sites holds it.

    Args:
        home: The hub's folder.
        create: Whether to make one where there is none (a hub from before there were heads).

    Raises:
        FaultsError: When it is missing, damaged, or can be read by others.
    """
    return load_key(home, HEADS_KEY, create=create)


def model_key(home: Path, *, create: bool = False) -> Ed25519PrivateKey:
    """Return the key with which a hub signs models; its public half is in every kit.

    Args:
        home: The hub's folder.
        create: Whether to make one where there is none (a hub from before there were models).

    Raises:
        FaultsError: When it is missing, damaged, or can be read by others.
    """
    return load_key(home, "models.key", create=create)


def revoke_site(home: Path, name: str) -> None:
    """Remove a site; a running hub drops its connection at once.

    Raises:
        EnrolmentError: When no such site is enrolled.
    """
    with _sites_locked(home):
        sites = list_sites(home)
        if name not in {site.name for site in sites}:
            raise EnrolmentError(f"No site called {name} is enrolled{_known(sites)}.")
        _write_sites(home, [site for site in sites if site.name != name])


def list_sites(home: Path) -> tuple[EnrolledSite, ...]:
    """Return the enrolled sites by name.

    Raises:
        FaultsError: When `sites.json` is not what `enrol_site` writes.
    """
    path = load_hub_settings(home).sites_file
    try:
        entries = json.loads(path.read_text("utf-8"))
        return tuple(sorted((_entry(value) for value in entries), key=lambda site: site.name))
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError):
        raise FaultsError(
            str(path), [Fault("sites.json", "is not a list of enrolled sites", "restore it from backup")]
        ) from None


def _refuse_conflict(request: JoinRequest, sites: Sequence[EnrolledSite], *, replace: bool) -> str | None:
    """Return the identity that a request replaces, or None; refuse what is another site's."""
    replaced = None
    for site in sites:
        is_same = site.identity_public_key == request.identity_public_key
        if site.name == request.name and is_same:
            if request.created < site.requested:
                raise EnrolmentError(f"The site {site.name} has sent a newer request than this one: enrol that one.")
            continue
        is_rotated = request.is_rotation and request.previous_identity_public_key == site.identity_public_key
        if site.name == request.name and (is_rotated or replace) and site.node_public_key != request.node_public_key:
            replaced = site.identity_public_key
            continue
        # Names that differ in case alone would be confused by people and by some file systems.
        if site.name.casefold() == request.name.casefold():
            raise EnrolmentError(
                f"The name {request.name} is taken by another site{_known(sites)}: the new one must choose another, "
                "or, if it is the same hospital with new keys (a restored site has them), compare fingerprints on "
                "the phone and enrol it with `--replace`."
            )
        if is_same or site.node_public_key == request.node_public_key:
            raise EnrolmentError(
                f"The keys in the request are those of the site {site.name}: each site makes its own "
                "(`archipel site init` in an empty folder)."
            )
    return replaced


def _known(sites: Sequence[EnrolledSite]) -> str:
    return f" (enrolled: {', '.join(site.name for site in sites)})" if sites else " (none is enrolled)"


def _entry(value: Any) -> EnrolledSite:
    return EnrolledSite(
        name=str(value["name"]),
        title=str(value["title"]),
        node_public_key=str(value["node_public_key"]),
        identity_public_key=str(value["identity_public_key"]),
        requested=datetime.datetime.fromisoformat(value["requested"]),
        enrolled=datetime.datetime.fromisoformat(value["enrolled"]),
    )


def _write_sites(home: Path, sites: Sequence[EnrolledSite]) -> None:
    entries = [
        {**vars(site), "requested": site.requested.isoformat(), "enrolled": site.enrolled.isoformat()}
        for site in sorted(sites, key=lambda site: site.name)
    ]
    # In one piece: the running hub may read at any moment.
    write_durably(load_hub_settings(home).sites_file, (json.dumps(entries, indent=1) + "\n").encode())


@contextlib.contextmanager
def _sites_locked(home: Path) -> Iterator[None]:
    with (run_folder(home) / "sites.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------- a site
def init_site(
    home: Path,
    name: str,
    tables: Path,
    now: datetime.datetime,
    *,
    title: str = "",
    csv: str = "",
) -> JoinRequest:
    """Make a site's folder with settings, keys and the request for the hub; keys and settings there are kept.

    Args:
        home: The folder.
        name: Of the site (letters, digits, dot, dash, underscore).
        tables: Folder of `clinical.csv|parquet` and one file per layer.
        now: Time of the request.
        title: The hospital's name, for people.
        csv: The lines of the `[csv]` section, where the files are not plain CSV.

    Raises:
        FaultsError: When the settings (given or already there) are wrong.
    """
    make_folder(home, mode=0o700)
    path = home / SETTINGS_FILE
    if not path.exists():
        path.write_text(_settings_text(name, title, tables, csv), "utf-8")
        try:
            load_settings(home)
        except FaultsError:
            path.unlink()  # made from wrong words; the next try must be free to use others
            raise
    settings = load_settings(home)
    if settings.name != name:
        what = f"says {settings.name}, not {name}: this folder belongs to another site"
        remedy = "name another folder with --home, or change the name in site.toml first"
        raise FaultsError(str(path), [Fault("site.toml, name", what, remedy)])
    create_node_key(home)
    node_key = load_pem_private_key((home / "keys" / "node.key").read_bytes(), None)
    if not isinstance(node_key, ec.EllipticCurvePrivateKey):
        raise FaultsError(str(home), [Fault("keys/node.key", "is not an elliptic curve key", "remove it, then init")])
    request = make_request(settings.name, settings.title, node_key, load_key(home, IDENTITY, create=True), now)
    (home / REQUEST_FILE).write_text(request.to_json(), "utf-8")
    return request


def join_site(home: Path, content: bytes, now: datetime.datetime) -> Kit:
    """Accept the hub's kit: keep its authority and key, and write its address into `site.toml`.

    Whether the hub is the right one, people decide by its fingerprint before this is called.

    Raises:
        EnrolmentError: When the kit is not accepted.
        FaultsError: When the site's folder is not in order.
    """
    settings = load_settings(home)
    kit = read_kit_for(home, content, now)
    if kit.site != settings.name:
        raise EnrolmentError(
            f"The kit is for the site {kit.site}, and this one is called {settings.name} in site.toml: "
            "run `archipel site init` again and send the new request to the hub."
        )
    path = home / SETTINGS_FILE
    line = f"hub_address = {json.dumps(kit.hub_address)}"
    write_durably(path, _ADDRESS_LINE.sub(lambda _: line, path.read_text("utf-8-sig"), count=1).encode())
    (home / "keys" / "hub-ca.crt").write_text(kit.hub_certificate, "ascii")
    take_next_keys(home, kit.identity_public_key)
    write_durably(home / "keys" / "hub.json", kit.to_json().encode())
    settle(home, kit.ledger_head, kit.heads_public_key)
    return kit


def read_kit_for(home: Path, content: bytes, now: datetime.datetime) -> Kit:
    """Verify a kit for the site in `home` and change nothing.

    Raises:
        EnrolmentError: When the kit is not accepted.
    """
    accepted = home / "keys" / "hub.json"
    pinned = json.loads(accepted.read_text("utf-8"))["hub_public_key"] if accepted.exists() else None
    upcoming = next_identity(home)
    if upcoming is not None:
        with contextlib.suppress(EnrolmentError):  # a kit that came late, for the keys in use
            return read_kit(content, upcoming.public_key(), now, pinned_hub_key=pinned)
    return read_kit(content, load_key(home, IDENTITY).public_key(), now, pinned_hub_key=pinned)


def _settings_text(name: str, title: str, tables: Path, csv: str) -> str:
    return (
        'kind = "site"\nversion = 1\n\n'
        f"name = {json.dumps(name)}  # in rosters and results\n"
        f"title = {json.dumps(title, ensure_ascii=False)}  # for people\n\n"
        "# The one outbound connection; `archipel site join` writes it.\n"
        f"hub_address = {json.dumps(_UNKNOWN_HUB)}\n\n"
        "# clinical.csv (or .parquet) and one file per layer; a relative path starts at this file.\n"
        f"tables = {json.dumps(str(tables), ensure_ascii=False)}\n\n"
        '# How the CSV files are written. A French Excel export: delimiter ";", decimal ",", encoding "cp1252".\n'
        f"[csv]\n{csv}\n"
        "# Without a section [budget] (dataset, epsilon, delta) no study under differential privacy is answered.\n"
    )
