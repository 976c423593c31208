"""A site's guard with a small approved plan, its requests and its runner's drafts, for tests and their children."""

from __future__ import annotations

import base64
import datetime
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.decisions import Approval, Approvals, RosterDecision
from client.guard import SiteGuard
from client.guard_protocol import Answer, Run
from client.members import Members
from client.secure import SecureSite
from client.settings import DatasetBudget
from client.state import SitePaths
from privacy.approval import sign_approval
from privacy.gate import Floors
from privacy.ledger import Entry, entries
from privacy.storage import write_durably
from schemas.canonical import canonical_json
from schemas.messages import Draft, Reply, RoundRequest, SetupRequest, decode, decode_as, encode
from schemas.plan import Plan
from schemas.roster import Roster, make_roster
from tests.plans import small_plan

NOON = datetime.datetime(2026, 11, 20, 12, 0, tzinfo=datetime.UTC)
SITES = ("A", "B", "C")
GRADIENT = {"gradient": np.array([1.0, 2.0]), "hessian": np.array([[3.0, 0.0], [0.0, 4.0]])}


def identity_of(site: str) -> Ed25519PrivateKey:
    """The same key for the same name, so that tests and their children need not carry keys around."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"test identity {site}".encode()).digest())


def roster_of(*names: str, **others: Ed25519PrivateKey) -> Roster:
    """The roster of sites by name; `others` have another key than their own."""
    keys = {name: identity_of(name) for name in names} | others
    return make_roster(
        {name: base64.b64encode(key.public_key().public_bytes_raw()).decode() for name, key in keys.items()}
    )


@dataclass
class GuardedSite:
    """A site whose tables are one word, whose clock stands, and whose plans count as compiled here."""

    home: Path
    plan: Plan = field(default_factory=small_plan)
    name: str = "A"
    tables: str = "tables as of today"
    patients: range = range(40)
    now: datetime.datetime = NOON
    max_rounds: int | None = None
    budget: DatasetBudget | None = None

    def __post_init__(self) -> None:
        self.paths = SitePaths(self.home)
        self.guard = self.open()

    def open(self) -> SiteGuard:
        """Return the guard as after a restart of the agent."""
        self.guard = SiteGuard(
            self.paths,
            site=SecureSite(self.name, lambda: identity_of(self.name)),
            floors=Floors(),
            source=lambda: self.tables,
            max_rounds=self.max_rounds,
            now=lambda: self.now,
            judge_plan=lambda plan, floors: None,
            budget=self.budget,
        )
        return self.guard

    def decide(self, roster: Roster | None = None, **changed: Any) -> None:
        """Write down an approval of the plan, with a roster where its sums are masked."""
        rosters = {}
        if roster is not None:
            until = changed.get("expires") or NOON.date() + datetime.timedelta(days=30)
            signed = sign_approval(
                identity_of(self.name), self.name, self.plan.hash, roster, self.plan.terms_hash, until
            )
            rosters = {roster.hash: RosterDecision(approver="Dr. Weiß", approved_at=NOON, signed=signed)}
        approval = Approval(approver="Dr. Weiß", approved_at=NOON, rosters=rosters, **changed)
        content = Approvals(by_hash={self.plan.hash: approval}).model_dump(mode="json")
        write_durably(self.paths.approvals, canonical_json(content))

    def setup(self, **changed: Any) -> bytes:
        request = SetupRequest("run-1", self.plan.hash, SITES, self.plan.content.decode())
        return encode(replace(request, **changed))

    def ask(self, number: int = 0, *, part: str = "gradient", **changed: Any) -> bytes:
        arrays = {"beta": np.array([0.1, float(number)])}
        request = RoundRequest("run-1", self.plan.hash, SITES, "fit", part, number, arrays=arrays)
        return encode(replace(request, **changed))

    def draft(self, number: int = 0, **changed: Any) -> bytes:
        return encode(replace(Draft("run-1", "fit", "gradient", number, 40, 12, arrays=GRADIENT), **changed))

    def answer(self, request: bytes, draft: bytes | None) -> Reply:
        """Return what leaves: as the agent asks, first one question and then the other."""
        verdict = self.guard.admit(request)
        if isinstance(verdict, Answer):
            return decode_as(verdict.body, Reply)
        assert isinstance(verdict, Run)
        self.record(request)
        return decode_as(self.guard.release(request, draft), Reply)

    def record(self, request: bytes) -> None:
        """Write down whose patients these are, as the runner does at set-up."""
        message = decode(request)
        if isinstance(message, SetupRequest):
            rows = {f"patient {i}": f"row {i}" for i in self.patients}
            members = Members(
                question="q", reads="r", masked=self.plan.study.privacy.secure_sum, sites=message.sites, rows=rows
            )
            content = canonical_json(members.model_dump(mode="json"))
            write_durably(self.paths.members(message.run_id), content)

    def set_up(self) -> Reply:
        """Approve the plan and set the run up."""
        if not self.paths.approvals.exists():
            self.decide()
        return self.answer(self.setup(), encode(Draft("run-1", "setup", "setup", 0, 40, 12)))

    def ledger(self) -> list[Entry]:
        return list(entries(self.paths.ledger))

    def events(self) -> list[tuple[str, str, int, str]]:
        """Kind, step, number and rule of every entry; a release's rule is left out."""
        found = [entry.event for entry in self.ledger()]
        return [(e.kind, e.step, e.number, e.rule if e.kind == "refusal" else "") for e in found]
