"""Sites at the edge of the exchange that answer under masks: the real secure sum over real steps, in memory."""

from __future__ import annotations

import datetime
import hashlib
from base64 import b64encode
from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.compile import build_step
from privacy.approval import ApprovalError, sign_approval, verify_approvals
from privacy.fixed_point import encode_arrays
from privacy.secure_errors import SecureSumError
from privacy.secure_protocol import SecureRun, Survivors
from privacy.secure_state import State, read_state, state_bytes
from privacy.secure_sum import Announced, Dealt, Ready, begin, consent, deal, mask, receive, reveal
from privacy.verified import PassedOn, is_verified, open_passed_on, signed_bytes
from schemas.codes import Code
from schemas.cohort import Cohort
from schemas.messages import SETUP, Reply, RoundRequest, SetupRequest, encode
from schemas.plan import Plan, read_plan
from schemas.roster import Roster, make_roster, read_approval, read_roster
from tests.simulated_federation import (
    SITES,
    Behaviour,
    Request,
    SimulatedFederation,
    SimulatedSite,
    cohort,
    real_plan,
    refusal,
)

TODAY = datetime.date(2026, 11, 20)


def identity(site: str) -> Ed25519PrivateKey:
    """The same key for the same name, so that tests need not carry keys around."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"test identity {site}".encode()).digest())


def roster_of(sites: Sequence[str]) -> Roster:
    public = {site: identity(site).public_key().public_bytes_raw() for site in sites}
    return make_roster({site: b64encode(key).decode() for site, key in public.items()})


def secure_plan(**changed: object) -> Plan:
    return real_plan(privacy={"secure_sum": True}, **changed)


def secure_federation(
    *behaviours: Behaviour, sites: tuple[str, ...] = SITES, **settings: object
) -> SimulatedFederation:
    members: dict[str, SimulatedSite] = {
        name: SecureSite(name, cohort(name, 30 + 7 * i, seed=i)) for i, name in enumerate(sites)
    }
    return SimulatedFederation(members, behaviours=list(behaviours), **settings)  # type: ignore[arg-type]


def passed_on(request: RoundRequest) -> PassedOn:
    def of(kind: str) -> dict[str, bytes]:
        return {n.removeprefix(f"{kind}/"): blob for n, blob in request.blobs.items() if n.startswith(f"{kind}/")}

    survivors = Survivors.read(request.blobs["survivors"])
    return PassedOn(survivors, of("keys"), of("masked"), of("signature"), of("shares"))


class SecureSite(SimulatedSite):
    """A site under the secure sum. What it knows between messages is bytes, as on a disk.

    Attributes:
        summands: What it masked, by step and number: what no hub may ever find in what it received.
        opened: Step -> the words of the sum that it opened itself.
        masked: The last vector that it signed.
    """

    def __init__(self, name: str, cohort: Cohort) -> None:
        super().__init__(cohort)
        self.name = name
        self.stored = b""
        self.set_up: dict[str, tuple[bytes, bytes]] = {}
        self.summands: dict[tuple[str, int], dict[str, np.ndarray]] = {}
        self.opened: dict[str, np.ndarray] = {}
        self.masked = b""

    @property
    def state(self) -> State:
        return read_state(self.stored)

    @state.setter
    def state(self, state: State) -> None:
        self.stored = state_bytes(state)

    def answer(self, request: Request, body: bytes) -> bytes:
        try:
            return super().answer(request, body)
        except (SecureSumError, ApprovalError):
            return refusal(request, Code.SECURE_SUM_REFUSED)

    def _set_up(self, request: SetupRequest) -> bytes:
        asked = encode(request)
        if request.phase in self.set_up:
            before, answered = self.set_up[request.phase]
            return answered if before == asked else refusal(request, Code.RUN_CHANGED)
        blobs = {"keys": self._keys, "shares": self._boxes, "inbox": self._inbox}[request.phase](request)
        answer = encode(Reply(request.run_id, SETUP, SETUP, 0, "ok", request.phase, blobs=blobs))
        self.set_up[request.phase] = (asked, answer)
        return answer

    def _keys(self, request: SetupRequest) -> dict[str, bytes]:
        self.plan, self.sites = read_plan(request.plan.encode()), request.sites
        self.roster = read_roster(request.roster.encode())
        run = SecureRun(self.roster, self.plan.hash, request.run_id, request.sites, self.plan.max_rounds)
        key = identity(self.name)
        self.state, announced = begin(run, self.name, key)
        approval = sign_approval(key, self.name, self.plan.hash, self.roster, self.plan.terms_hash, TODAY)
        return {"approval": approval.content, "keys": announced}

    def _boxes(self, request: SetupRequest) -> dict[str, bytes]:
        assert self.plan is not None
        sent = [read_approval(request.blobs[f"approval/{site}"]) for site in request.sites]
        verify_approvals(sent, self.roster, self.plan.hash, self.plan.terms_hash, TODAY)
        state = self.state
        assert isinstance(state, Announced | Dealt)
        self.state, boxes = deal(state, {site: request.blobs[f"keys/{site}"] for site in request.sites})
        return {f"box/{peer}": box for peer, box in boxes.items()}

    def _inbox(self, request: SetupRequest) -> dict[str, bytes]:
        state = self.state
        assert isinstance(state, Dealt | Ready)
        self.state = receive(state, {name.removeprefix("box/"): box for name, box in request.blobs.items()})
        return {}

    def _compute(self, request: RoundRequest, plan: Plan) -> bytes:
        number = plan.round_index(request.step, request.number)
        state = self.state
        assert isinstance(state, Ready)
        if request.phase == "value":
            vector = self._vector(request, plan)
            self.state, masked = mask(state, number, vector)
            blobs = {"masked": masked.tobytes()}
            if is_verified(plan, plan.by_name[request.step].part(request.part)):
                blobs["signature"] = identity(self.name).sign(signed_bytes(state.run, number, blobs["masked"]))
                self.masked = blobs["masked"]
        elif request.phase == "verify":
            self.opened[request.step] = open_passed_on(state.run, number, self.name, self.masked, passed_on(request))
            blobs = {}
        else:
            survivors = Survivors.read(request.blobs["survivors"])
            consents = {
                name.removeprefix("consent/"): blob for name, blob in request.blobs.items() if name != "survivors"
            }
            if request.phase == "consent":
                self.state, signature = consent(state, number, survivors, identity(self.name))
                blobs = {"consent": signature}
            else:
                self.state, shares = reveal(state, number, survivors, consents)
                blobs = {"shares": shares}
        where = (request.run_id, request.step, request.part, request.number)
        return encode(Reply(*where, "ok", request.phase, blobs=blobs))

    def _vector(self, request: RoundRequest, plan: Plan) -> np.ndarray:
        step = plan.by_name[request.step]
        releases = step.part(request.part).releases
        patients = self.cohort.part(step.cohort)
        arrays = {spec.name: np.zeros(spec.shape) for spec in releases}
        if patients.n_patients >= step.min_patients:
            found = build_step(plan, request.step).local(request.part, request.arrays, patients)
            arrays = {name: np.asarray(array, dtype=np.float64) for name, array in found.items()}
        self.summands[request.step, request.number] = arrays
        return encode_arrays(arrays, releases, len(self.roster.names))
