"""A hub and a site in two folders, and the call by which the site has its ledger countersigned, without a wire."""

from __future__ import annotations

import datetime
import json
from http import HTTPStatus
from pathlib import Path

from archipel.homes import enrol_site, init_hub, init_site, join_site
from client.heads import send_head
from client.hub_post import Answered, Post, node_key, signed_headers
from client.state import SitePaths
from privacy.ledger import Event, Ledger
from schemas.canonical import canonical_json
from schemas.ledger_head import CountersignedHead
from server.database import DATABASE
from server.heads import Alarm, HeadCalls, HeadStore
from server.hub_home import load_hub_settings
from server.store import Store

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)


class HeadsHub:
    """A hub's folder that countersigns."""

    def __init__(self, home: Path) -> None:
        self.home = home
        init_hub(home, public_port=0, internal_port=0)

    def site(self, home: Path, name: str = "brest") -> Path:
        """Make and enrol a site."""
        request = init_site(home, name, home / "tables", NOW)
        self.enrol(home, request.to_json().encode())
        return home

    def enrol(self, home: Path, request: bytes, *, replace: bool = False) -> None:
        """Enrol a site with a request and let it join with the kit."""
        kit = enrol_site(self.home, request, NOW, replace=replace)
        join_site(home, kit.to_json().encode(), NOW)

    def post(self, site: Path) -> Post:
        """Return the call of a site: signed, and answered as over TLS."""
        calls = HeadCalls(load_hub_settings(self.home), clock=lambda: NOW.timestamp())

        def call(path: str, body: bytes, limit: int) -> Answered:
            found = calls.answer(path, signed_headers(node_key(site), path, body, int(NOW.timestamp())), body)
            sentence = "" if found.status == HTTPStatus.OK else found.reason
            return Answered(found.status, found.body[: limit + 1], sentence)

        return call

    def countersign(self, site: Path) -> CountersignedHead | None:
        """Do what the site's agent does now and then."""
        return send_head(site, self.post(site), now=lambda: NOW)

    def alarms(self) -> list[Alarm]:
        """Return the alarms that `archipel hub status` shows."""
        with Store(self.home / DATABASE) as store:
            return HeadStore(store).alarms()


def append(site: Path, n: int = 1) -> None:
    """Write entries into a site's ledger."""
    ledger = Ledger(SitePaths(site).ledger)
    for _ in range(n):
        ledger.append(Event("refusal", run="run-0", rule="PLAN_UNKNOWN"))


def truncate(site: Path, keep: int) -> None:
    """Cut the ledger's end off, and write a head file that fits: what the chain alone does not show."""
    path = SitePaths(site).ledger
    lines = path.read_bytes().splitlines(keepends=True)[:keep]
    for file in (path, path.with_suffix(".head")):
        file.unlink()
    path.write_bytes(b"".join(lines))
    if lines:
        last = json.loads(lines[-1])
        head = {"kind": "ledger-head", "version": 1, "count": last["index"] + 1, "hash": last["hash"]}
        path.with_suffix(".head").write_bytes(canonical_json(head) + b"\n")
