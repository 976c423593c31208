"""Every abort of the secure sum over real processes: a hub that was taken over asks, and each site refuses by itself.

Each refusal has its code, its reason in the site's own log where the code stands for several, and its entry in the
site's ledger; and in all bytes that the hub received in the run there is no number of any single site.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from archipel.homes import utc_now
from privacy.approval import sign_approval
from privacy.secure_errors import SecureSumError
from privacy.secure_protocol import KEY, SIGNATURE, Survivors, announcement_bound
from schemas.codes import Code
from schemas.messages import Reply, SetupRequest
from schemas.plan import Plan
from schemas.roster import Roster, make_roster
from tests.hostile_federation import (
    SITES,
    SMALL,
    HostileFederation,
    HostileHub,
    assert_nothing_of_one_site,
    assert_refused,
    forms,
    plan_of,
    roster_of,
    summands,
)

pytestmark = pytest.mark.processes

Attack = Callable[[HostileHub], dict[str, Reply]]
VICTIM, INVENTED = "brest", "rennes"
OTHERS = tuple(site for site in SITES if site != VICTIM)
WITHOUT_PARIS = Survivors(("brest", "lyon", "nantes"), ("paris",))
WITHOUT_BREST = Survivors(("lyon", "nantes", "paris"), ("brest",))
ALL = Survivors(SITES, ())
HUBS_KEY = Ed25519PrivateKey.generate()


# ---------------------------------------------------------------- before keys are made: the roster
def _roster(hub: HostileHub, *, without: tuple[str, ...] = (), **hubs_own: Ed25519PrivateKey) -> Roster:
    keys = {site.name: site.public_key for site in hub.roster.sites if site.name not in without}
    forged = {name: base64.b64encode(key.public_key().public_bytes_raw()).decode() for name, key in hubs_own.items()}
    return make_roster(keys | forged, two_sites=len(keys | forged) == 2)


def _keys_under(hub: HostileHub, roster: Roster, *sites: str) -> dict[str, Reply]:
    request = replace(hub.keys_request(), roster=roster.content.decode(), sites=roster.names)
    return hub.send_all(dict.fromkeys(sites, request))


def _swapped_identity(hub: HostileHub) -> dict[str, Reply]:
    return _keys_under(hub, _roster(hub, **{VICTIM: HUBS_KEY}), *OTHERS)


def _swapped_identity_to_its_owner(hub: HostileHub) -> dict[str, Reply]:
    return _keys_under(hub, _roster(hub, **{VICTIM: HUBS_KEY}), VICTIM)


def _invented_hospital(hub: HostileHub) -> dict[str, Reply]:
    return _keys_under(hub, _roster(hub, **{INVENTED: HUBS_KEY}), *SITES)


def _alone_among_invented(hub: HostileHub) -> dict[str, Reply]:
    invented = {f"{INVENTED}-{i}": Ed25519PrivateKey.generate() for i in range(3)}
    return _keys_under(hub, _roster(hub, without=OTHERS, **invented), VICTIM)


def _lowered_threshold(hub: HostileHub) -> dict[str, Reply]:
    request = hub.keys_request()
    lowered = request.roster.replace('"threshold":3', '"threshold":2')
    assert lowered != request.roster
    return hub.to_all(replace(request, roster=lowered))


def _two_sites(hub: HostileHub) -> dict[str, Reply]:
    return _keys_under(hub, _roster(hub, without=("nantes", "paris")), "brest", "lyon")


def _sums_in_clear(hub: HostileHub) -> dict[str, Reply]:
    return hub.to_all(replace(hub.keys_request(), phase="value", roster=""))


# ---------------------------------------------------------------- keys, approvals and boxes
def _with(request: SetupRequest, **blobs: bytes) -> SetupRequest:
    return replace(request, blobs={**request.blobs, **{k.replace("_", "/"): blob for k, blob in blobs.items()}})


def _swapped_key(hub: HostileHub) -> dict[str, Reply]:
    """The hub puts a channel key of its own in the place of the victim's, and signs, since the victim does not."""
    hub.announce()
    body = hub.announced[VICTIM].blobs["keys"][:-SIGNATURE]
    body = body[:KEY] + X25519PrivateKey.generate().public_key().public_bytes_raw() + body[2 * KEY :]
    forged = body + HUBS_KEY.sign(announcement_bound(hub.run, VICTIM, body))
    return hub.to_all(_with(hub.shares_request(), **{f"keys_{VICTIM}": forged}))


def _keys_of_another_run(hub: HostileHub) -> dict[str, Reply]:
    earlier = HostileHub(hub.plan, hub.roster, federation=hub.federation)
    earlier.announce()
    hub.announce()
    replayed = earlier.announced[VICTIM].blobs["keys"]
    return hub.to_all(_with(hub.shares_request(), **{f"keys_{VICTIM}": replayed}))


def _keys_of_an_invented_peer(hub: HostileHub) -> dict[str, Reply]:
    hub.announce()
    return hub.to_all(_with(hub.shares_request(), **{f"keys_{INVENTED}": hub.announced[VICTIM].blobs["keys"]}))


def _with_approvals(hub: HostileHub, approvals: Mapping[str, bytes]) -> dict[str, Reply]:
    request = hub.shares_request()
    keys = {name: blob for name, blob in request.blobs.items() if name.startswith("keys/")}
    return hub.to_all(replace(request, blobs=keys | {f"approval/{site}": blob for site, blob in approvals.items()}))


def _too_few_approvals(hub: HostileHub) -> dict[str, Reply]:
    hub.announce()
    return _with_approvals(hub, {site: hub.announced[site].blobs["approval"] for site in SITES[:2]})


def _approvals_signed_by_the_hub(hub: HostileHub) -> dict[str, Reply]:
    hub.announce()
    terms = (hub.plan.hash, hub.plan.terms_hash)

    def approval(site: str) -> bytes:
        roster = _roster(hub, **{site: HUBS_KEY})
        return sign_approval(HUBS_KEY, site, terms[0], roster, terms[1], utc_now().date()).content

    return _with_approvals(hub, {site: approval(site) for site in SITES})


def _boxes_of_the_hub(hub: HostileHub) -> dict[str, Reply]:
    hub.announce()
    hub.deal()
    length = len(hub.boxes["lyon"][VICTIM])
    forged = {site: _with(hub.inbox_request(site), **{f"box_{VICTIM}": os.urandom(length)}) for site in OTHERS}
    return hub.send_all(forged)


# ---------------------------------------------------------------- in a round
def _begun(hub: HostileHub) -> HostileHub:
    """Set up, and every site has sent its masked summand."""
    hub.set_up()
    hub.ask_value()
    return hub


def _list(
    hub: HostileHub, survivors: Survivors, *sites: str, phase: str = "shares", **consents: bytes
) -> dict[str, Reply]:
    request = hub.list_request(*hub.round, survivors, phase, **consents)
    return hub.send_all(dict.fromkeys(sites, request))


def _signed(hub: HostileHub, survivors: Survivors, *sites: str) -> dict[str, bytes]:
    replies = _list(hub, survivors, *sites, phase="consent")
    return {site: reply.blobs["consent"] for site, reply in replies.items()}


def _second_list_after_the_shares(hub: HostileHub) -> dict[str, Reply]:
    shares = _list(_begun(hub), ALL, *SITES)
    assert {reply.status for reply in shares.values()} == {"ok"}
    return _list(hub, WITHOUT_PARIS, *WITHOUT_PARIS.alive, phase="consent")


def _second_list_after_the_signature(hub: HostileHub) -> dict[str, Reply]:
    signed = _signed(_begun(hub), WITHOUT_PARIS, *WITHOUT_PARIS.alive)
    assert len(signed) == hub.roster.threshold
    return _list(hub, WITHOUT_BREST, "lyon", "nantes", phase="consent")


def _one_list_to_some_and_another_to_the_rest(hub: HostileHub) -> dict[str, Reply]:
    """Neither list opens: of one the hub has two shares, and under the other are two signatures."""
    some = _list(_begun(hub), ALL, "brest", "lyon")
    with pytest.raises(SecureSumError, match="2"):
        hub.opened(*hub.round, ALL, {site: reply.blobs["shares"] for site, reply in some.items()})
    return _list(hub, WITHOUT_BREST, "nantes", "paris", **_signed(hub, WITHOUT_BREST, "nantes", "paris"))


def _consents_of_an_earlier_round(hub: HostileHub) -> dict[str, Reply]:
    consents = _signed(_begun(hub), WITHOUT_PARIS, *WITHOUT_PARIS.alive)
    hub.skip_to("grid")
    hub.ask_value()
    return _list(hub, WITHOUT_PARIS, *WITHOUT_PARIS.alive, **consents)


def _list_of_a_round_that_was_passed_over(hub: HostileHub) -> dict[str, Reply]:
    replayed = hub.list_request(*_begun(hub).round, ALL)
    hub.skip_to("grid")
    hub.ask_value()
    return hub.to_all(replayed)


def _list_of_another_run(hub: HostileHub) -> dict[str, Reply]:
    replayed = _begun(hub).list_request(*hub.round, ALL)
    return hub.to_all(replace(replayed, run_id=f"{hub.run_id}-again"))


def _summand_of_a_past_round(hub: HostileHub) -> dict[str, Reply]:
    hub.set_up()
    past = hub.value_request(*hub.round, hub.question.arrays)
    hub.skip_to("grid")
    hub.ask_value()
    return hub.to_all(past)


def _second_question_in_a_round(hub: HostileHub) -> dict[str, Reply]:
    hub.set_up()
    while hub.question.step != "fit":
        hub.ask_value()
        hub.finish_round()
    hub.ask_value()
    arrays = {**hub.question.arrays, "beta": hub.question.arrays["beta"] + 0.01}
    return hub.to_all(hub.value_request(*hub.round, arrays))


def _fewer_sites_than_were_set_up(hub: HostileHub) -> dict[str, Reply]:
    request = _begun(hub).list_request(*hub.round, ALL)
    return hub.to_all(replace(request, sites=WITHOUT_PARIS.alive))


REFUSED = Code.SECURE_SUM_REFUSED
ABORTS: dict[str, tuple[Attack, Code, str]] = {
    # swapped key
    "swapped identity": (_swapped_identity, Code.ROSTER_KEY_CHANGED, ""),
    "swapped identity, to its owner": (_swapped_identity_to_its_owner, Code.ROSTER_WRONG, ""),
    "swapped key": (_swapped_key, REFUSED, "the keys of brest are not signed by the identity in the roster"),
    "key of another run": (_keys_of_another_run, REFUSED, "the keys of brest belong to another run"),
    "boxes of the hub": (_boxes_of_the_hub, REFUSED, "the shares from brest were not sealed by it"),
    # invented peers
    "invented hospital": (_invented_hospital, Code.ROSTER_NOT_APPROVED, ""),
    "alone among invented hospitals": (_alone_among_invented, Code.ROSTER_NOT_APPROVED, ""),
    "keys of an invented peer": (_keys_of_an_invented_peer, REFUSED, "a peer that is not expected in this run"),
    "approvals signed by the hub": (_approvals_signed_by_the_hub, Code.APPROVALS_MISSING, "approvals refused"),
    "invented survivor": (
        lambda hub: _list(_begun(hub), Survivors((*SITES, INVENTED), ()), *SITES), REFUSED,
        "names a site that is not in the run",
    ),
    # two survivor lists
    "second list after the shares": (_second_list_after_the_shares, REFUSED, "stands by another list of survivors"),
    "second list after the signature": (_second_list_after_the_signature, Code.ROUND_ANSWERED_OTHERWISE, ""),
    "one list to some, another to the rest": (
        _one_list_to_some_and_another_to_the_rest, REFUSED, "2 sites consent to the list; the roster asks for 3",
    ),
    # alive and dead
    "alive and dead": (
        lambda hub: _list(_begun(hub), Survivors(SITES, ("paris",)), *SITES), REFUSED,
        "listed as alive and as dropped",
    ),
    "neither alive nor dead": (
        lambda hub: _list(_begun(hub), Survivors(WITHOUT_PARIS.alive, ()), *WITHOUT_PARIS.alive), REFUSED,
        "does not hold each site of the run once",
    ),
    # replay
    "consents of an earlier round": (_consents_of_an_earlier_round, REFUSED, "the consent of brest to the list"),
    "list of a round passed over": (_list_of_a_round_that_was_passed_over, REFUSED, "round 0 is over at this site"),
    "list of another run": (_list_of_another_run, Code.RUN_UNKNOWN, ""),
    "summand of a past round": (_summand_of_a_past_round, Code.ROUND_STALE, ""),
    "second question in a round": (_second_question_in_a_round, Code.ROUND_ANSWERED_OTHERWISE, ""),
    # below the threshold
    "lowered threshold": (_lowered_threshold, Code.ROSTER_WRONG, ""),
    "two sites": (_two_sites, Code.ROSTER_WRONG, ""),
    "too few approvals": (_too_few_approvals, Code.APPROVALS_MISSING, "approvals refused"),
    "two survivors": (
        lambda hub: _list(_begun(hub), Survivors(SITES[:2], SITES[2:]), *SITES[:2]), REFUSED,
        "the list has 2 survivors; the roster asks for 3",
    ),
    "fewer sites than were set up": (_fewer_sites_than_were_set_up, Code.RUN_CHANGED, ""),
    # no masks at all
    "sums in clear": (_sums_in_clear, Code.SECURE_SUM_REQUIRED, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", ABORTS)
def test_every_site_refuses_by_itself_and_the_hub_learns_nothing(hub: HostileHub, name: str) -> None:
    attack, code, reason = ABORTS[name]
    assert_refused(hub, attack(hub), code, reason)
    assert_nothing_of_one_site(hub)


def test_a_site_of_nine_patients_takes_no_part(federation: HostileFederation, plan: Plan) -> None:
    invited = (*SITES[:3], SMALL)
    federation.approve(plan, [SMALL], invited=invited)
    hub = HostileHub(plan, roster_of(federation, *invited), federation=federation)
    asked = hub.send(SMALL, hub.keys_request())
    assert_refused(hub, {SMALL: asked}, Code.TOO_FEW_PATIENTS)
    assert_refused(hub, {SMALL: hub.send(SMALL, hub.value_request(*hub.round, {}))}, Code.RUN_UNKNOWN)
    assert [event.n_patients for event in federation.refusals(SMALL, hub.run_id)] == [None, None]
    assert_nothing_of_one_site(hub)


def test_what_was_looked_for_is_what_the_sums_are_made_of(hub: HostileHub) -> None:
    """The oracle of all tests here: sites that refuse so much do answer, and the recording shows what they send."""
    _begun(hub)
    own, question = summands(hub.federation, hub.plan, hub.question), hub.question
    opened = hub.finish_round()
    for name, array in opened.items():
        np.testing.assert_allclose(array, np.sum([one[name] for one in own.values()], axis=0), atol=1e-6)
    assert all(reply.blobs["masked"] in hub.received() for reply in hub.masked.values())
    assert all(len(forms(hub.plan, question, one)) >= 4 for one in own.values())
    assert_nothing_of_one_site(hub)


def test_in_clear_the_search_finds_the_numbers_of_every_site(federation: HostileFederation) -> None:
    """Without masks, so that nobody takes the silence of the other tests for a search that cannot find."""
    plan = plan_of("in-clear", secure_sum=False)
    federation.approve(plan, SITES)
    run = HostileHub(plan, roster_of(federation), federation=federation)
    for request in (
        SetupRequest(run.run_id, plan.hash, SITES, plan.content.decode()),
        run.value_request(*run.round, {}),
    ):
        assert {reply.status for reply in run.to_all(request).values()} == {"ok"}
    received = run.received()
    for own in summands(federation, plan, run.question).values():
        assert sum(value in received for value in forms(plan, run.question, own)) >= 2


def test_the_same_question_again_gets_the_same_bytes_and_no_second_entry(hub: HostileHub) -> None:
    _begun(hub)
    hub.finish_round()
    n_entries = {site: len(hub.federation.ledger(site)) for site in SITES}
    replayed = [hub.keys_request(), hub.shares_request(), hub.list_request("moments", "sums", 0, ALL)]
    before = {site: list(heard) for site, heard in hub.heard.items()}
    for request in replayed:
        hub.to_all(request)
    for site in SITES:
        keys, shares, _, _, opened = before[site]
        assert hub.heard[site][len(before[site]) :] == [keys, shares, opened]
    assert {site: len(hub.federation.ledger(site)) for site in SITES} == n_entries
