"""The guard under the secure sum: totals are exact, nothing else leaves, and every abort ends in its code."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.peers import pin_peers
from privacy.approval import sign_approval
from privacy.ledger import verify_ledger
from privacy.secure_protocol import Survivors
from privacy.secure_state import read_state
from privacy.secure_sum import Ready
from schemas.canonical import sha256_hex
from schemas.codes import Code
from schemas.messages import Reply, RoundRequest, SetupRequest, decode_as, encode
from schemas.roster import Roster, make_roster
from tests.guards import identity_of, roster_of
from tests.plans import small_plan
from tests.secure_guards import MASKED_PLAN, SITES, MaskedSite, hub_of, masked_sites
from tests.secure_hub import SecureHub

BETA = {"beta": np.array([0.1, 0.2])}
ROUND = ("fit", "gradient", 0)


@pytest.fixture
def sites(tmp_path: Path) -> dict[str, MaskedSite]:
    return masked_sites(tmp_path)


@pytest.fixture
def hub(sites: dict[str, MaskedSite]) -> SecureHub:
    """Set up, nothing asked yet."""
    made = hub_of(sites)
    made.set_up()
    return made


@pytest.fixture
def ready(hub: SecureHub) -> SecureHub:
    """Set up, one round answered and opened."""
    hub.value(*ROUND, BETA)
    hub.open(*ROUND)
    return hub


def plain_total(sites: dict[str, MaskedSite], step: str, part: str) -> dict[str, np.ndarray]:
    terms = [site.summand(step, part) for site in sites.values()]
    return {name: np.sum([term[name] for term in terms], axis=0) for name in terms[0]}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-9)


# ---------------------------------------------------------------- the way of an honest run
def test_the_hub_gets_the_sum_and_no_reply_holds_a_summand(hub: SecureHub, sites: dict[str, MaskedSite]) -> None:
    hub.value("moments", "sums", 0, {})
    assert_same(hub.open("moments", "sums", 0), plain_total(sites, "moments", "sums"))
    hub.value(*ROUND, BETA)
    assert_same(hub.open(*ROUND), plain_total(sites, "fit", "gradient"))
    for name, site in sites.items():
        received = b"".join(hub.heard[name])
        for step, part in (("moments", "sums"), ("fit", "gradient")):
            for array in site.summand(step, part).values():
                assert all(value.tobytes() not in received for value in np.atleast_1d(array).ravel() if value)


def test_three_sites_need_all_three(hub: SecureHub) -> None:
    assert hub.roster.threshold == 3
    hub.value(*ROUND, BETA, alive=("A", "B"))
    two = Survivors(("A", "B"), ("C",))
    for phase in ("consent", "shares"):
        reply = hub.send("A", hub.list_request(*ROUND, two, phase))
        assert (reply.status, reply.code) == ("refused", Code.SECURE_SUM_REFUSED)


def test_four_sites_go_on_without_one(tmp_path: Path) -> None:
    sites = masked_sites(tmp_path, ("A", "B", "C", "D"))
    hub = hub_of(sites)
    hub.set_up()
    alive = ("A", "B", "D")
    hub.value(*ROUND, BETA, alive=alive)
    without = {name: site for name, site in sites.items() if name in alive}
    assert_same(hub.open(*ROUND, alive=alive), plain_total(without, "fit", "gradient"))
    assert sites["A"].ledger()[-1].event.rule == "ok: shares for the sum over 3 of 4 sites"


@pytest.mark.parametrize("n_patients", [0, 9])
def test_a_site_with_too_few_patients_adds_nothing_unnoticed(
    hub: SecureHub, sites: dict[str, MaskedSite], n_patients: int
) -> None:
    sites["B"].n_patients = n_patients
    replies = hub.value(*ROUND, BETA)
    assert {(reply.status, len(reply.blobs["masked"])) for reply in replies.values()} == {
        ("ok", len(replies["A"].blobs["masked"]))
    }
    others = {name: site for name, site in sites.items() if name != "B"}
    assert_same(hub.open(*ROUND), plain_total(others, "fit", "gradient"))
    assert sites["B"].ledger()[-2].event.n_patients == 0


def test_the_ledger_says_what_is_in_the_masked_vector_and_never_what_it_is(
    hub: SecureHub, sites: dict[str, MaskedSite]
) -> None:
    reply = hub.value(*ROUND, BETA)["A"]
    hub.open(*ROUND)
    *before, value, shares = (entry.event for entry in sites["A"].ledger())
    assert [event.kind for event in before] == ["setup", "setup", "setup"]
    assert (value.kind, value.arrays, value.n_patients) == (
        "release", (("gradient", (2,)), ("hessian", (2, 2))), 40,
    )  # fmt: skip
    assert value.digest == sha256_hex(encode(reply))
    assert value.rule == "ok: approved plan, at least 10 patients, masked"
    assert (shares.kind, shares.n_patients, shares.arrays) == ("shares", None, ())
    assert shares.rule == "ok: shares for the sum over 3 of 3 sites"


def test_a_run_goes_on_after_a_restart_of_every_agent(hub: SecureHub, sites: dict[str, MaskedSite]) -> None:
    hub.value(*ROUND, BETA)
    for site in sites.values():
        site.open()
    assert_same(hub.open(*ROUND), plain_total(sites, "fit", "gradient"))
    for site in sites.values():
        site.open()
    hub.value("fit", "gradient", 1, BETA)
    assert_same(hub.open("fit", "gradient", 1), plain_total(sites, "fit", "gradient"))


def test_identical_requests_get_identical_bytes_in_every_phase(hub: SecureHub, sites: dict[str, MaskedSite]) -> None:
    hub.value(*ROUND, BETA)
    hub.open(*ROUND)
    all_alive = hub.run.survivors(SITES)
    requests = [
        hub.keys_request(), hub.shares_request(), hub.inbox_request("A"), hub.value_request(*ROUND, BETA),
        hub.list_request(*ROUND, all_alive),
    ]  # fmt: skip
    n_entries = len(sites["A"].ledger())
    assert [sites["A"](encode(request)) for request in requests] == hub.heard["A"]
    sites["A"].open()
    assert [sites["A"](encode(request)) for request in requests] == hub.heard["A"]
    assert len(sites["A"].ledger()) == n_entries


def test_a_fresh_key_and_seed_serve_each_round(hub: SecureHub) -> None:
    first = hub.value(*ROUND, BETA)["A"].blobs["masked"]
    hub.open(*ROUND)
    second = hub.value("fit", "gradient", 1, BETA)["A"].blobs["masked"]
    assert first != second, "the same summand under the same masks"


def test_the_secrets_of_a_round_that_is_over_are_gone_from_the_disk(
    hub: SecureHub, sites: dict[str, MaskedSite]
) -> None:
    def state_of(site: MaskedSite) -> Ready:
        found = site.guard._answers.secure("run-1")
        assert found is not None
        state = read_state(found[1])
        assert isinstance(state, Ready)
        return state

    number = hub.plan.round_index("fit", 0)
    hub.value(*ROUND, BETA)
    before = state_of(sites["A"])
    secrets = [before.secrets[kind, number - before.first].tobytes() for kind in (0, 1)]
    files = sorted(sites["A"].paths.state.glob("answers.sqlite*"))
    assert all(any(secret in file.read_bytes() for file in files) for secret in secrets)
    hub.open(*ROUND)
    assert state_of(sites["A"]).first == number + 1
    assert not any(secret in file.read_bytes() for secret in secrets for file in files)
    assert {file.stat().st_mode & 0o077 for file in (sites["A"].paths.state, *files)} == {0}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_request_neither_raises_nor_gets_anything_but_its_own_answer(
    ready: SecureHub, data: st.DataObject
) -> None:
    site = ready.sites["A"]
    requests = [
        ready.keys_request(), ready.shares_request(), ready.inbox_request("A"), ready.value_request(*ROUND, BETA),
        ready.list_request(*ROUND, ready.run.survivors(SITES)),
    ]  # fmt: skip
    damaged = bytearray(encode(data.draw(st.sampled_from(requests))))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    body = site(bytes(damaged))
    assert body in ready.heard["A"] or decode_as(body, Reply).status == "refused"


# ---------------------------------------------------------------- before a run: rosters and approvals
def test_a_roster_waits_for_a_person(tmp_path: Path) -> None:
    sites = masked_sites(tmp_path)
    site, hub = sites["A"], hub_of(sites)
    site.decide()
    assert hub.send("A", hub.keys_request()).code == Code.ROSTER_NOT_APPROVED
    assert site.paths.roster(MASKED_PLAN.hash, hub.roster.hash).read_bytes() == hub.roster.content
    site.decide(hub.roster)
    assert hub.send("A", hub.keys_request()).status == "ok"


def _strangers(name: str) -> Ed25519PrivateKey:
    return identity_of(f"the hub's own {name}")


def other_threshold() -> Roster:
    return make_roster({site.name: site.public_key for site in roster_of("A", "B", "C", "D").sites}, threshold=4)


Change = Callable[[SetupRequest], SetupRequest]


def with_roster(roster: Roster) -> Change:
    return lambda request: replace(request, roster=roster.content.decode(), sites=roster.names)


def swapped_byte(request: SetupRequest) -> SetupRequest:
    key = roster_of(*SITES).sites[1].public_key
    return replace(request, roster=request.roster.replace(key, ("B" if key[0] == "A" else "A") + key[1:]))


ROSTERS: list[tuple[str, Change, Code]] = [
    ("one byte of a peer's key", swapped_byte, Code.ROSTER_NOT_APPROVED),
    ("an invented peer", with_roster(roster_of(*SITES, "D")), Code.ROSTER_NOT_APPROVED),
    ("another threshold", with_roster(other_threshold()), Code.ROSTER_NOT_APPROVED),
    ("a key of the hub's for this site", with_roster(roster_of("B", "C", A=_strangers("A"))), Code.ROSTER_WRONG),
    ("without this site", with_roster(roster_of("B", "C", "D")), Code.ROSTER_WRONG),
    ("other sites than invited", lambda r: replace(r, sites=("A", "B", "C", "D")), Code.ROSTER_WRONG),
    ("two sites", with_roster(make_roster({s.name: s.public_key for s in roster_of("A", "B", "C").sites[:2]},
                                          two_sites=True)), Code.ROSTER_WRONG),
    ("no roster", lambda r: replace(r, roster=""), Code.ROSTER_WRONG),
    ("no text of a roster", lambda r: replace(r, roster="[" * 10_000), Code.ROSTER_WRONG),
    ("blanks in the text", lambda r: replace(r, roster=r.roster + " "), Code.ROSTER_WRONG),
    ("the plain protocol", lambda r: replace(r, phase="value", roster=""), Code.SECURE_SUM_REQUIRED),
    ("arrays", lambda r: replace(r, arrays=BETA), Code.REQUEST_NOT_IN_PLAN),
    ("blobs", lambda r: replace(r, blobs={"keys/A": b"x"}), Code.REQUEST_NOT_IN_PLAN),
]  # fmt: skip


def assert_refused(site: MaskedSite, reply: Reply, code: Code) -> None:
    assert (reply.status, reply.code, dict(reply.blobs), dict(reply.arrays)) == ("refused", code, {}, {})
    event = site.ledger()[-1].event
    assert (event.kind, event.rule, event.digest) == ("refusal", code, "")
    assert verify_ledger(site.paths.ledger).torn_bytes == 0


@pytest.mark.parametrize(("change", "code"), [r[1:] for r in ROSTERS], ids=[r[0].replace(" ", "-") for r in ROSTERS])
def test_a_roster_that_was_not_approved_byte_for_byte_sets_nothing_up(
    sites: dict[str, MaskedSite], change: Change, code: Code
) -> None:
    hub = hub_of(sites)
    assert_refused(sites["A"], hub.send("A", change(hub.keys_request())), code)
    assert sites["A"].guard._answers.roster_hash("run-1") is None


def test_another_key_for_a_pinned_name_is_refused_before_a_person_is_asked(sites: dict[str, MaskedSite]) -> None:
    pin_peers(sites["A"].paths, roster_of(*SITES), "A")
    changed = roster_of("A", "C", B=_strangers("B"))
    hub = hub_of(sites, changed)
    assert_refused(sites["A"], hub.send("A", hub.keys_request()), Code.ROSTER_KEY_CHANGED)
    assert not sites["A"].paths.roster(MASKED_PLAN.hash, changed.hash).exists()


def test_the_roster_of_a_run_cannot_change(hub: SecureHub, sites: dict[str, MaskedSite]) -> None:
    longer = roster_of(*SITES, "D")
    sites["A"].decide(longer)
    request = replace(hub.keys_request(), roster=longer.content.decode(), sites=longer.names)
    assert_refused(sites["A"], hub.send("A", request), Code.RUN_CHANGED)


def test_a_plain_plan_takes_no_roster(tmp_path: Path) -> None:
    site = MaskedSite(tmp_path, small_plan(), "A")
    site.decide()
    hub = SecureHub(site.plan, roster_of(*SITES), {"A": site})
    assert_refused(site, hub.send("A", hub.keys_request()), Code.REQUEST_NOT_IN_PLAN)


def _without(request: SetupRequest, *names: str) -> SetupRequest:
    return replace(request, blobs={name: blob for name, blob in request.blobs.items() if name not in names})


def _with(request: SetupRequest, **changed: bytes) -> SetupRequest:
    return replace(request, blobs={**request.blobs, **{k.replace("_", "/"): blob for k, blob in changed.items()}})


def approval_of(site: str, roster: Roster, **changed: object) -> bytes:
    key = changed.get("key", identity_of(site))
    assert isinstance(key, Ed25519PrivateKey)
    until = changed.get("until", datetime.date(2026, 12, 20))
    assert isinstance(until, datetime.date)
    terms = str(changed.get("terms", MASKED_PLAN.terms_hash))
    return sign_approval(key, site, str(changed.get("plan", MASKED_PLAN.hash)), roster, terms, until).content


ALL = roster_of(*SITES)
SHARES: list[tuple[str, Change, Code]] = [
    ("one approval missing", lambda r: _without(r, "approval/C"), Code.APPROVALS_MISSING),
    ("no approval", lambda r: _without(r, "approval/A", "approval/B", "approval/C"), Code.APPROVALS_MISSING),
    ("approval of another plan", lambda r: _with(r, approval_B=approval_of("B", ALL, plan="0" * 64)),
     Code.APPROVALS_MISSING),
    ("approval of another roster", lambda r: _with(r, approval_B=approval_of("B", roster_of(*SITES, "D"))),
     Code.APPROVALS_MISSING),
    ("approval under other terms", lambda r: _with(r, approval_B=approval_of("B", ALL, terms="0" * 64)),
     Code.APPROVALS_MISSING),
    ("expired approval", lambda r: _with(r, approval_B=approval_of("B", ALL, until=datetime.date(2026, 11, 19))),
     Code.APPROVALS_MISSING),
    ("approval signed by the hub", lambda r: _with(r, approval_B=approval_of(
        "B", roster_of("A", "C", B=_strangers("B")), key=_strangers("B"))), Code.APPROVALS_MISSING),
    ("one site's approval under another's name", lambda r: _with(r, approval_B=r.blobs["approval/C"]),
     Code.APPROVALS_MISSING),
    ("noise for an approval", lambda r: _with(r, approval_B=b"\x00" * 50), Code.APPROVALS_MISSING),
    ("swapped key", lambda r: _with(r, keys_B=r.blobs["keys/B"][:40] + b"\x01" + r.blobs["keys/B"][41:]),
     Code.SECURE_SUM_REFUSED),
    ("one peer's keys for another's", lambda r: _with(r, keys_B=r.blobs["keys/C"]), Code.SECURE_SUM_REFUSED),
    ("another's keys for this site's", lambda r: _with(r, keys_A=r.blobs["keys/B"]), Code.SECURE_SUM_REFUSED),
    ("keys of an invented peer", lambda r: _with(r, keys_D=r.blobs["keys/B"]), Code.SECURE_SUM_REFUSED),
    ("keys missing", lambda r: _without(r, "keys/B"), Code.SECURE_SUM_REFUSED),
    ("short keys", lambda r: _with(r, keys_B=b""), Code.SECURE_SUM_REFUSED),
    ("something else among the blobs", lambda r: _with(r, rows_B=b"x"), Code.SECURE_SUM_REFUSED),
    ("a blob without a sender", lambda r: _with(r, keys=b"x"), Code.SECURE_SUM_REFUSED),
    ("another roster", with_roster(roster_of(*SITES, "D")), Code.RUN_CHANGED),
    ("other sites", lambda r: replace(r, sites=("A", "B")), Code.RUN_CHANGED),
    ("another run", lambda r: replace(r, run_id="run-2"), Code.RUN_UNKNOWN),
    ("the boxes first", lambda r: replace(r, phase="inbox", blobs={"box/B": b"x", "box/C": b"x"}),
     Code.SECURE_SUM_REFUSED),
]  # fmt: skip


@pytest.mark.parametrize(("change", "code"), [s[1:] for s in SHARES], ids=[s[0].replace(" ", "-") for s in SHARES])
def test_keys_or_approvals_that_do_not_hold_open_nothing(
    sites: dict[str, MaskedSite], change: Change, code: Code
) -> None:
    hub = hub_of(sites)
    hub.announce()
    assert_refused(sites["A"], hub.send("A", change(hub.shares_request())), code)
    hub.deal()  # what is refused is no answer: the honest message is answered


@pytest.mark.parametrize(
    ("situation", "change"),
    [
        ("damaged", lambda r: _with(r, box_B=r.blobs["box/B"][:-1] + bytes([r.blobs["box/B"][-1] ^ 1]))),
        ("of another sender", lambda r: _with(r, box_B=r.blobs["box/C"])),
        ("cut off", lambda r: _with(r, box_B=r.blobs["box/B"][:-1])),
        ("missing", lambda r: _without(r, "box/B")),
        ("of an invented peer", lambda r: _with(r, box_D=r.blobs["box/B"])),
        ("of this site itself", lambda r: _with(r, box_A=r.blobs["box/B"])),
    ],
)
def test_a_box_that_its_sender_did_not_seal_is_refused(
    sites: dict[str, MaskedSite], situation: str, change: Change
) -> None:
    hub = hub_of(sites)
    hub.announce()
    hub.deal()
    assert_refused(sites["A"], hub.send("A", change(hub.inbox_request("A"))), Code.SECURE_SUM_REFUSED)
    reply = hub.send("A", hub.value_request(*ROUND, BETA))
    assert_refused(sites["A"], reply, Code.RUN_UNKNOWN)
    assert hub.send("A", hub.inbox_request("A")).status == "ok", situation


def test_other_keys_than_those_dealt_to_are_refused(sites: dict[str, MaskedSite]) -> None:
    hub = hub_of(sites)
    hub.announce()
    hub.deal()
    changed = _with(hub.shares_request(), approval_B=approval_of("B", ALL, until=datetime.date(2027, 1, 1)))
    assert_refused(sites["A"], hub.send("A", changed), Code.ROUND_ANSWERED_OTHERWISE)


# ---------------------------------------------------------------- in a run
Attack = Callable[[SecureHub], Reply]
FOUR = ("A", "B", "C", "D")
THREE_OF_FOUR = Survivors(("A", "B", "C"), ("D",))
ALL_OF_FOUR = Survivors(FOUR, ())


def _ask(hub: SecureHub, survivors: Survivors, phase: str = "shares", **consents: bytes) -> Reply:
    return hub.send("A", hub.list_request(*ROUND, survivors, phase, **consents))


def _consents(hub: SecureHub, survivors: Survivors, *sites: str) -> dict[str, bytes]:
    asked = hub.list_request(*ROUND, survivors, "consent")
    return {site: hub.send(site, asked).blobs["consent"] for site in sites}


def _second_list(hub: SecureHub) -> Reply:
    assert _ask(hub, ALL_OF_FOUR).status == "ok"
    return _ask(hub, THREE_OF_FOUR, **_consents(hub, THREE_OF_FOUR, "B", "C"))


def _shares_after_another_consent(hub: SecureHub) -> Reply:
    _consents(hub, THREE_OF_FOUR, "A")
    return _ask(hub, ALL_OF_FOUR)


def _forged_consent(hub: SecureHub) -> Reply:
    consents = _consents(hub, THREE_OF_FOUR, "A", "B")
    return _ask(hub, THREE_OF_FOUR, **consents, C=consents["B"])


def _second_vector(hub: SecureHub) -> Reply:
    return hub.send("A", hub.value_request(*ROUND, {"beta": np.array([1.0, 0.0])}))


def _past_round(hub: SecureHub) -> Reply:
    hub.value("fit", "gradient", 1, BETA)
    return _ask(hub, ALL_OF_FOUR)


def _withdrawn(hub: SecureHub) -> Reply:
    site = hub.sites["A"]
    assert isinstance(site, MaskedSite)
    site.decide(hub.roster, withdrawn_at=site.now)
    return _ask(hub, ALL_OF_FOUR)


def _expired(hub: SecureHub) -> Reply:
    site = hub.sites["A"]
    assert isinstance(site, MaskedSite)
    site.now += datetime.timedelta(days=31)
    return _ask(hub, ALL_OF_FOUR)


def _roster_no_longer_approved(hub: SecureHub) -> Reply:
    site = hub.sites["A"]
    assert isinstance(site, MaskedSite)
    site.decide()
    return _ask(hub, ALL_OF_FOUR)


def _another_parts_shares(hub: SecureHub) -> Reply:
    return hub.send("A", hub.list_request("fit", "objective", 0, ALL_OF_FOUR))


def _blob(hub: SecureHub, content: bytes) -> Reply:
    request = hub.list_request(*ROUND, ALL_OF_FOUR)
    return hub.send("A", replace(request, blobs={"survivors": content}))


ATTACKS: list[tuple[str, Attack, Code]] = [
    ("two lists", _second_list, Code.ROUND_ANSWERED_OTHERWISE),
    ("shares for another list than consented to", _shares_after_another_consent, Code.SECURE_SUM_REFUSED),
    ("alive and dropped overlap", lambda h: _ask(h, Survivors(FOUR, ("D",))), Code.SECURE_SUM_REFUSED),
    ("below the threshold", lambda h: _ask(h, Survivors(("A", "B"), ("C", "D"))), Code.SECURE_SUM_REFUSED),
    ("an invented survivor", lambda h: _ask(h, Survivors((*FOUR, "E"), ())), Code.SECURE_SUM_REFUSED),
    ("a site left out of both", lambda h: _ask(h, Survivors(("A", "B", "C"), ())), Code.SECURE_SUM_REFUSED),
    ("the asked site dropped", lambda h: _ask(h, Survivors(("B", "C", "D"), ("A",))), Code.SECURE_SUM_REFUSED),
    ("a list without consents", lambda h: _ask(h, THREE_OF_FOUR), Code.SECURE_SUM_REFUSED),
    ("too few consents", lambda h: _ask(h, THREE_OF_FOUR, **_consents(h, THREE_OF_FOUR, "A", "B")),
     Code.SECURE_SUM_REFUSED),
    ("a forged consent", _forged_consent, Code.SECURE_SUM_REFUSED),
    ("a consent that brings consents", lambda h: _ask(h, THREE_OF_FOUR, "consent", B=b"x" * 64),
     Code.SECURE_SUM_REFUSED),
    ("noise for a list", lambda h: _blob(h, b"\xff" * 40), Code.SECURE_SUM_REFUSED),
    ("a list in another writing", lambda h: _blob(h, ALL_OF_FOUR.content + b" "), Code.SECURE_SUM_REFUSED),
    ("a second vector in the round", _second_vector, Code.ROUND_ANSWERED_OTHERWISE),
    ("a round that was passed over", _past_round, Code.SECURE_SUM_REFUSED),
    ("a round not asked yet", lambda h: h.send("A", h.list_request("fit", "gradient", 1, ALL_OF_FOUR)),
     Code.SECURE_SUM_REFUSED),
    ("shares under another part's name", _another_parts_shares, Code.ROUND_ANSWERED_OTHERWISE),
    ("a replay in another run", lambda h: h.send("A", replace(h.list_request(*ROUND, ALL_OF_FOUR), run_id="run-2")),
     Code.RUN_UNKNOWN),
    ("approval withdrawn in the round", _withdrawn, Code.APPROVAL_WITHDRAWN),
    ("approval expired in the round", _expired, Code.APPROVAL_EXPIRED),
    ("roster no longer approved", _roster_no_longer_approved, Code.ROSTER_NOT_APPROVED),
    ("fewer sites", lambda h: h.send("A", replace(h.list_request(*ROUND, ALL_OF_FOUR), sites=("A", "B", "C"))),
     Code.RUN_CHANGED),
]  # fmt: skip


@pytest.mark.parametrize(("attack", "code"), [a[1:] for a in ATTACKS], ids=[a[0].replace(" ", "-") for a in ATTACKS])
def test_an_attack_on_a_round_ends_in_its_code_and_opens_nothing(tmp_path: Path, attack: Attack, code: Code) -> None:
    sites = masked_sites(tmp_path, FOUR)
    hub = hub_of(sites)
    hub.set_up()
    hub.value(*ROUND, BETA)
    assert_refused(sites["A"], attack(hub), code)


def test_two_lists_of_one_round_cannot_both_be_opened(tmp_path: Path) -> None:
    sites = masked_sites(tmp_path, FOUR)
    hub = hub_of(sites)
    hub.set_up()
    hub.value(*ROUND, BETA)
    lists = (Survivors(("A", "B", "C"), ("D",)), Survivors(("B", "C", "D"), ("A",)))
    opened = []
    for survivors in lists:
        asked = hub.list_request(*ROUND, survivors, "consent")
        signed = [hub.send(site, asked).status == "ok" for site in survivors.alive]
        opened.append(sum(signed) >= hub.roster.threshold)
    assert opened == [True, False]


def test_a_mask_cannot_be_taken_after_the_shares(hub: SecureHub, sites: dict[str, MaskedSite]) -> None:
    hub.value(*ROUND, BETA)
    hub.open(*ROUND)
    reply = hub.send("A", hub.value_request("moments", "sums", 0, {}))
    assert_refused(sites["A"], reply, Code.ROUND_STALE)


def test_a_value_beyond_the_plans_bound_does_not_leave(hub: SecureHub, sites: dict[str, MaskedSite]) -> None:
    sites["A"].summand = lambda step, part: {  # type: ignore[method-assign]
        "gradient": np.array([1e7, 0.0]), "hessian": np.zeros((2, 2)),
    }  # fmt: skip
    assert_refused(sites["A"], hub.send("A", hub.value_request(*ROUND, BETA)), Code.RELEASE_TOO_LARGE)


def test_a_plain_round_of_a_masked_plan_is_never_answered(sites: dict[str, MaskedSite]) -> None:
    hub = hub_of(sites)
    hub.announce()
    request = RoundRequest("run-1", MASKED_PLAN.hash, SITES, *ROUND, arrays=BETA)
    assert_refused(sites["A"], hub.send("A", request), Code.RUN_UNKNOWN)


def test_a_damaged_state_releases_nothing(hub: SecureHub, sites: dict[str, MaskedSite]) -> None:
    sites["A"].guard._answers._db.execute("UPDATE secure SET state = x'00'")
    assert_refused(sites["A"], hub.send("A", hub.value_request(*ROUND, BETA)), Code.STORAGE_FAILED)
