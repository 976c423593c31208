"""Runs under the secure sum over simulated sites: the plain sum, whoever is missing and whenever the hub dies."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from models.step import Arrays
from privacy.fixed_point import decode_arrays, encode_arrays
from schemas.codes import SENTENCES, Code
from schemas.messages import Reply, RoundRequest, SetupRequest, decode, encode
from schemas.roster import make_roster
from server.conduct import DATABASE, conduct
from server.exchange import Failure
from server.runs import list_released, list_rounds
from server.store import Store
from tests.secure_sites import SecureSite, roster_of, secure_federation, secure_plan
from tests.server.conducting import RUN, arrays, assert_asked_the_same, go, launch, record, told
from tests.simulated_federation import (
    SITES,
    Behaviour,
    HubKilledError,
    SimulatedFederation,
    federation,
    late,
    lies,
    offline,
    pooled_result,
    real_plan,
    refuses,
)

THREE = SITES[:3]


def in_phase(phase: str, behaviour: Behaviour) -> Behaviour:
    """The behaviour, in one phase of a round alone."""
    applies = behaviour.applies
    behaviour.applies = (  # type: ignore[method-assign]
        lambda site, request: request.phase == phase and applies(site, request)
    )
    return behaviour


def assert_equal(found: Arrays, expected: Arrays, tolerance: float = 1e-9) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance, err_msg=name)


def assert_one_list_a_round(sites: SimulatedFederation) -> None:
    """Whatever happened, nobody was ever asked for the shares of two lists in one round."""
    lists: dict[tuple[str, int], set[bytes]] = {}
    for _, request, _ in sites.asked:
        if isinstance(request, RoundRequest) and request.phase != "value":
            lists.setdefault((request.step, request.number), set()).add(request.blobs["survivors"])
    assert lists, "no sum was opened"
    assert {question: len(found) for question, found in lists.items() if len(found) != 1} == {}


# ---------------------------------------------------------------- the same sums
@pytest.mark.parametrize("n_sites", [3, 5])
def test_masked_sums_give_what_plain_sums_give(tmp_path: Path, n_sites: int) -> None:
    plan = launch(tmp_path, secure_plan(), SITES[:n_sites])
    sites = secure_federation(sites=SITES[:n_sites])
    run = go(tmp_path, sites)
    assert (run.status, run.sites, run.message[:4]) == ("done", SITES[:n_sites], "Done")
    assert_equal(arrays(tmp_path), pooled_result(plan, sites.sites))
    assert_asked_the_same(sites)
    assert_one_list_a_round(sites)


def test_set_up_takes_three_messages_a_round_two_and_the_grids_three(tmp_path: Path) -> None:
    launch(tmp_path, secure_plan())
    sites = secure_federation()
    go(tmp_path, sites)
    with Store(tmp_path / DATABASE) as store:
        rounds = list_rounds(store, RUN)
        released = list_released(store, RUN)
        # No answer of a run that is done is kept, public keys included.
        assert store.kept_replies(RUN, "setup", "setup", 0) == []
    assert sites.calls == 3 + 2 * len(rounds) + 1
    phases = [request.phase for site, request, _ in sites.asked if site == "brest"]
    assert phases[:8] == ["keys", "shares", "inbox", "value", "shares", "value", "shares", "verify"]
    assert phases.count("verify") == 1
    assert all(done.heard == SITES and not done.silent and not done.missing for done in rounds)
    assert sum(sum(part.bytes_by_site.values()) for part in released) == sum(done.bytes_up for done in rounds)


def test_a_site_with_too_few_patients_for_a_step_cannot_be_told_from_the_others(tmp_path: Path) -> None:
    plan = launch(tmp_path, secure_plan())
    sites = secure_federation()
    small = sites.sites["brest"]
    small.cohort = small.cohort.take(np.arange(5))
    assert go(tmp_path, sites).status == "done"
    rest = {name: site for name, site in sites.sites.items() if name != "brest"}
    assert_equal(arrays(tmp_path), pooled_result(plan, rest))
    with Store(tmp_path / DATABASE) as store:
        assert all(done.heard == SITES and not done.silent for done in list_rounds(store, RUN))


def test_where_nobody_has_anything_to_add_the_run_says_so(tmp_path: Path) -> None:
    launch(tmp_path, secure_plan())
    sites = secure_federation()
    for site in sites.sites.values():
        site.cohort = site.cohort.take(np.arange(5))
    run = go(tmp_path, sites)
    assert (run.status, run.message) == ("failed", "step moments: no site has enough patients for it")


# ---------------------------------------------------------------- a hub that dies
@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    home = tmp_path_factory.mktemp("whole")
    launch(home, secure_plan())
    sites = secure_federation()
    go(home, sites)
    assert sites.calls > LAST_KILL
    return arrays(home)


LAST_KILL = 13  # three messages of set-up, then value and shares of five rounds, the last of them in the fit


@pytest.mark.parametrize("before", [True, False], ids=["before the sites", "after the sites"])
@pytest.mark.parametrize("kill_at", range(LAST_KILL))
def test_killed_at_any_message_the_run_resumes_to_the_same_bits(
    tmp_path: Path, uninterrupted: Arrays, kill_at: int, *, before: bool
) -> None:
    launch(tmp_path, secure_plan())
    sites = secure_federation(kill_at=kill_at, kill_before_sites=before)
    with pytest.raises(HubKilledError):
        go(tmp_path, sites)
    assert go(tmp_path, sites).status == "done"
    # Sums of whole numbers do not round, so neither order nor a restart nor other keys can change a bit.
    found = {name: array.tobytes() for name, array in arrays(tmp_path).items()}
    assert found == {name: array.tobytes() for name, array in uninterrupted.items()}
    assert_asked_the_same(sites)
    assert_one_list_a_round(sites)


def test_killed_between_two_messages_the_first_is_not_asked_again(tmp_path: Path) -> None:
    launch(tmp_path, secure_plan())
    sites = secure_federation(kill_at=6, kill_before_sites=True)  # three of set-up; value, shares, value, shares
    with pytest.raises(HubKilledError):
        go(tmp_path, sites)
    asked = len(sites.asked)
    assert go(tmp_path, sites).status == "done"
    assert sites.asked[asked][1].phase == "shares"
    assert "setup" not in {getattr(request, "step", "setup") for _, request, _ in sites.asked[asked:]}


# ---------------------------------------------------------------- missing sites
def test_with_three_sites_a_missing_one_pauses_whatever_the_study_says(tmp_path: Path) -> None:
    plan = launch(tmp_path, secure_plan(on_dropout="continue"), THREE)
    sites = secure_federation(late("caen", step="fit", number=1, times=3), sites=THREE)
    states: list[str] = []
    sites.on_ask = lambda _call: states.append(record(tmp_path).status)
    run = go(tmp_path, sites)
    assert (run.status, run.dropped) == ("done", {})
    assert states.count("paused") == 3
    assert_equal(arrays(tmp_path), pooled_result(plan, sites.sites))
    assert_one_list_a_round(sites)


def test_continue_gives_the_exact_sums_of_the_others(tmp_path: Path) -> None:
    plan = launch(tmp_path, secure_plan(on_dropout="continue"))
    sites = secure_federation(late("caen", step="moments"), late("caen", step="grid"), late("caen", step="fit"))
    run = go(tmp_path, sites)
    rest = {name: site for name, site in sites.sites.items() if name != "caen"}
    assert (run.status, run.remaining) == ("done", tuple(rest))
    assert run.dropped == {"caen": "caen did not answer before the deadline."}
    assert_equal(arrays(tmp_path), pooled_result(plan, rest))
    assert {phase for phase, names in phases_by_name(sites).items() if "caen" not in names} == {"consent", "verify"}
    assert_one_list_a_round(sites)


def test_every_site_opens_the_sum_that_the_hub_opened(tmp_path: Path) -> None:
    plan = launch(tmp_path, secure_plan())
    sites = secure_federation()
    assert go(tmp_path, sites).status == "done"
    opened = {site.opened["grid"].tobytes() for site in sites.sites.values() if isinstance(site, SecureSite)}
    assert len(opened) == 1
    releases = plan.by_name["grid"].parts[0].releases
    found = decode_arrays(np.frombuffer(opened.pop(), dtype="<u8"), releases, len(SITES))
    assert found["events"].sum() == sum(site.cohort.n_events for site in sites.sites.values())


def test_a_site_that_has_not_checked_the_grid_is_waited_for(tmp_path: Path) -> None:
    plan = launch(tmp_path, secure_plan())
    sites = secure_federation(in_phase("verify", late("caen", times=2)))
    run = go(tmp_path, sites)
    assert (run.status, run.dropped) == ("done", {})
    assert_equal(arrays(tmp_path), pooled_result(plan, sites.sites))


def test_under_continue_a_site_that_has_not_checked_the_grid_leaves_with_its_counts_in_it(tmp_path: Path) -> None:
    plan = launch(tmp_path, secure_plan(on_dropout="continue"))
    sites = secure_federation(in_phase("verify", late("caen")))
    run = go(tmp_path, sites)
    assert (run.status, set(run.dropped)) == ("done", {"caen"})
    rest = {name: site for name, site in sites.sites.items() if name != "caen"}
    found, of_all, of_the_rest = arrays(tmp_path), pooled_result(plan, sites.sites), pooled_result(plan, rest)
    np.testing.assert_array_equal(found["grid.edges"], of_all["grid.edges"])
    assert found["grid.events"].sum() > of_the_rest["grid.events"].sum()
    rounds = [(site, request) for site, request, _ in sites.asked if isinstance(request, RoundRequest)]
    assert {site for site, request in rounds if request.step == "fit"} == set(rest)


def phases_by_name(sites: SimulatedFederation) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for site, request, _ in sites.asked:
        if isinstance(request, RoundRequest | SetupRequest):
            found.setdefault(request.phase, set()).add(site)
    return found


def test_a_dropout_within_a_fit_equals_the_same_dropout_in_clear(tmp_path: Path) -> None:
    launch(masked := tmp_path / "masked", secure_plan(on_dropout="continue"))
    go(masked, secure_federation(offline("caen", step="fit", number=2)))
    launch(plain := tmp_path / "plain", real_plan(on_dropout="continue"))
    go(plain, federation(offline("caen", step="fit", number=2)))
    assert_equal(arrays(masked), arrays(plain))
    assert record(masked).dropped == record(plain).dropped


@pytest.mark.parametrize("kill_at", [6, 7, 8, 9])
def test_killed_around_a_dropout_one_list_is_asked_for(tmp_path: Path, kill_at: int) -> None:
    """Value, consent and shares of the round in which a site is gone: the hub dies after each, and comes back."""
    plan = launch(tmp_path, secure_plan(on_dropout="continue"))
    sites = secure_federation(offline("caen", step="moments"), kill_at=kill_at)
    with pytest.raises(HubKilledError):
        go(tmp_path, sites)
    assert go(tmp_path, sites).status == "done"
    rest = {name: site for name, site in sites.sites.items() if name != "caen"}
    assert_one_list_a_round(sites)
    if record(tmp_path).dropped:
        assert_equal(arrays(tmp_path), pooled_result(plan, rest))


def test_more_than_n_minus_t_missing_pause_even_under_continue(tmp_path: Path) -> None:
    plan = launch(tmp_path, secure_plan(on_dropout="continue"))
    gone = [late(site, step="fit", number=1, times=2) for site in ("caen", "evry")]  # t = 4 of 5
    sites = secure_federation(*gone)
    run = go(tmp_path, sites)
    assert (run.status, run.dropped) == ("done", {})
    assert "caen and evry did not answer" in told(tmp_path)
    assert_equal(arrays(tmp_path), pooled_result(plan, sites.sites))


def test_shares_of_the_threshold_open_the_sum_of_all(tmp_path: Path) -> None:
    """Who sent its vector is in the sum, also when it is gone before the shares; the list is never made shorter."""
    plan = launch(tmp_path, secure_plan())
    sites = secure_federation(in_phase("shares", offline("caen", step="fit", number=1)))
    run = go(tmp_path, sites)
    assert (run.status, run.dropped) == ("done", {})
    assert_equal(arrays(tmp_path), pooled_result(plan, sites.sites))
    assert_one_list_a_round(sites)


def test_too_few_shares_pause_and_the_same_list_is_asked_again(tmp_path: Path) -> None:
    plan = launch(tmp_path, secure_plan(on_dropout="continue"))
    gone = [in_phase("shares", late(site, step="fit", number=1, times=2)) for site in ("caen", "evry")]
    sites = secure_federation(*gone)
    states: list[str] = []
    sites.on_ask = lambda _call: states.append(record(tmp_path).status)
    run = go(tmp_path, sites)
    assert (run.status, run.dropped) == ("done", {})
    assert "paused" in states
    assert_equal(arrays(tmp_path), pooled_result(plan, sites.sites))
    assert_asked_the_same(sites)
    assert_one_list_a_round(sites)


# ---------------------------------------------------------------- who refuses or lies
def test_a_site_that_declines_fails_the_run_and_says_how_to_go_on(tmp_path: Path) -> None:
    launch(tmp_path, secure_plan())
    sites = secure_federation(refuses("brest", Code.TOO_FEW_PATIENTS, step="setup"))
    run = go(tmp_path, sites)
    assert (run.status, run.left_out) == ("failed", {})
    assert run.message.startswith(f"brest refused: {SENTENCES[Code.TOO_FEW_PATIENTS]}")
    assert "--sites amiens,caen,dijon,evry" in run.message
    assert not any(isinstance(request, RoundRequest) for _, request, _ in sites.asked)


def test_a_site_that_declines_among_three_leaves_too_few(tmp_path: Path) -> None:
    launch(tmp_path, secure_plan(), THREE)
    run = go(tmp_path, secure_federation(refuses("brest", Code.TABLES_REFUSED, step="setup"), sites=THREE))
    assert run.status == "failed"
    assert "too few for the secure sum" in run.message


def test_set_up_waits_until_a_site_has_approved_the_roster(tmp_path: Path) -> None:
    launch(tmp_path, secure_plan())
    sites = secure_federation(refuses("caen", Code.ROSTER_NOT_APPROVED, step="setup", times=3))
    assert go(tmp_path, sites).status == "done"
    assert told(tmp_path).count("caen refused: The site has not approved this list of sites") == 1


@pytest.mark.parametrize("phase", ["keys", "shares", "inbox", "value"])
def test_a_site_that_breaks_the_protocol_off_ends_the_run(tmp_path: Path, phase: str) -> None:
    launch(tmp_path, secure_plan())
    run = go(tmp_path, secure_federation(in_phase(phase, refuses("caen", Code.SECURE_SUM_REFUSED))))
    assert run.status == "failed"
    assert run.message.startswith("caen refused: The site broke the secure sum off")


def test_keys_that_their_site_did_not_sign_end_the_run_at_the_hub(tmp_path: Path) -> None:
    launch(tmp_path, secure_plan())

    def swap(reply: Reply) -> Reply:
        keys = bytearray(reply.blobs["keys"])
        keys[40] ^= 1
        return replace(reply, blobs={**reply.blobs, "keys": bytes(keys)})

    sites = secure_federation(in_phase("keys", lies("caen", swap)))
    run = go(tmp_path, sites)
    assert (run.status, run.message) == ("failed", "the keys of caen are not signed by the identity in the roster")
    assert sites.calls == 1, "the hub passes such keys on to nobody"


def test_a_roster_of_other_keys_gets_no_site_to_deal_shares(tmp_path: Path) -> None:
    """A hub that swaps a key has to swap it in the roster too; then that site is not the one that it names."""
    others = roster_of([*SITES[:4], "mallory"])
    swapped = make_roster(
        {**{site.name: site.public_key for site in others.sites if site.name != "mallory"},
         "evry": next(site.public_key for site in others.sites if site.name == "mallory")}
    )  # fmt: skip
    with Store(tmp_path / DATABASE) as store:
        store.create_run(RUN, secure_plan(), SITES, roster=swapped.content.decode())
    run = go(tmp_path, secure_federation())
    assert run.status == "failed"
    assert run.message.startswith("evry refused: The site broke the secure sum off")


def change_shares(reply: Reply) -> Reply:
    shares = bytearray(reply.blobs["shares"])
    shares[-1] ^= 1
    return replace(reply, blobs={"shares": bytes(shares)})


def test_one_site_with_wrong_shares_is_named_and_its_shares_not_used(tmp_path: Path) -> None:
    plan = launch(tmp_path, secure_plan())
    sites = secure_federation(in_phase("shares", lies("caen", change_shares, step="fit", number=1)))
    assert go(tmp_path, sites).status == "done"
    assert "caen sent shares that disagree with those of all others" in told(tmp_path)
    assert_equal(arrays(tmp_path), pooled_result(plan, sites.sites))


def test_wrong_shares_with_none_to_spare_fail_the_run(tmp_path: Path) -> None:
    launch(tmp_path, secure_plan(), THREE)
    wrong = in_phase("shares", lies("caen", change_shares, step="fit", number=1))
    run = go(tmp_path, secure_federation(wrong, sites=THREE))
    assert run.status == "failed"
    assert "disagree with what was published at set-up" in run.message


BAD_ANSWERS: list[tuple[str, str, Callable[[Reply], Reply]]] = [
    ("a summand in clear", "value", lambda reply: replace(reply, arrays={"n_patients": np.array(30.0)})),
    ("a shorter vector", "value", lambda reply: replace(reply, blobs={"masked": reply.blobs["masked"][:-8]})),
    ("no vector", "value", lambda reply: replace(reply, blobs={})),
    ("empty", "value", lambda reply: replace(reply, status="empty", blobs={})),
    ("another blob beside", "shares", lambda reply: replace(reply, blobs={**reply.blobs, "more": b"x"})),
]


@pytest.mark.parametrize(("phase", "change"), [bad[1:] for bad in BAD_ANSWERS], ids=[bad[0] for bad in BAD_ANSWERS])
def test_an_answer_of_another_form_is_not_used_and_asked_again(
    tmp_path: Path, phase: str, change: Callable[[Reply], Reply]
) -> None:
    plan = launch(tmp_path, secure_plan(), THREE)
    sites = secure_federation(in_phase(phase, lies("caen", change, step="fit", number=1, times=2)), sites=THREE)
    assert go(tmp_path, sites).status == "done"
    asked = [request.phase for site, request, _ in sites.asked if site == "caen" and request.phase == phase]
    others = [request.phase for site, request, _ in sites.asked if site == "brest" and request.phase == phase]
    assert len(asked) == len(others) + 2
    assert_equal(arrays(tmp_path), pooled_result(plan, sites.sites))


# ---------------------------------------------------------------- the roster
@pytest.mark.parametrize("roster", ["", roster_of(SITES[:4]).content.decode()], ids=["none", "of other sites"])
def test_a_run_without_its_roster_asks_nobody(tmp_path: Path, roster: str) -> None:
    with Store(tmp_path / DATABASE) as store:
        store.create_run(RUN, secure_plan(), SITES, roster=roster)
    sites = secure_federation()
    run = go(tmp_path, sites)
    assert (run.status, sites.calls) == ("failed", 0)
    assert "roster" in run.message


# ---------------------------------------------------------------- what the hub received
def test_nothing_that_the_hub_received_is_a_single_sites_statistic(tmp_path: Path) -> None:
    plan = launch(tmp_path, secure_plan())
    sites = secure_federation()
    received: list[bytes] = []
    whole = sites.ask

    class Listening:
        def ask(self, bodies: Mapping[str, bytes], deadline_s: float) -> dict[str, bytes | Failure]:
            answers = whole(bodies, deadline_s)
            received.extend(answer for answer in answers.values() if isinstance(answer, bytes))
            return answers

    conduct(RUN, tmp_path, Listening(), pacing=sites.clock.pacing())
    assert record(tmp_path).status == "done"
    everything = b"".join(received)
    for reply in map(decode, received):
        assert isinstance(reply, Reply)
        assert dict(reply.arrays) == {}
    n_looked_for = 0
    for site in sites.sites.values():
        assert isinstance(site, SecureSite)
        for (step, number), summand in site.summands.items():
            part = next(p for p in plan.by_name[step].parts if {s.name for s in p.releases} == set(summand))
            words = encode_arrays(summand, part.releases, len(SITES))
            assert everything.find(words.tobytes()) == -1, (step, number)
            for name, array in summand.items():
                # Eight bytes that are no zero do not occur by chance in a few hundred kilobytes.
                for value in np.ravel(array)[np.ravel(array) != 0.0]:
                    assert everything.find(value.tobytes()) == -1, (step, number, name)
                    n_looked_for += 1
    assert n_looked_for > 500
    # What a plain run receives does contain them: the search can find.
    clear = next(iter(sites.sites.values())).summands["fit", 0]  # type: ignore[attr-defined]
    told_in_clear = encode(Reply(RUN, "fit", "newton", 0, "ok", arrays=clear))
    assert all(told_in_clear.find(np.ravel(array)[0].tobytes()) != -1 for array in clear.values())


def test_the_sum_of_masked_vectors_without_shares_is_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch(tmp_path, secure_plan())
    sites = secure_federation()
    vectors: dict[tuple[str, int], list[np.ndarray]] = {}
    answer = sites._one

    def listening(site: str, body: bytes) -> bytes | Failure:
        sent = answer(site, body)
        assert isinstance(sent, bytes)
        reply = decode(sent)
        assert isinstance(reply, Reply)
        if "masked" in reply.blobs:
            vector = np.frombuffer(reply.blobs["masked"], dtype="<u8")
            vectors.setdefault((reply.step, reply.number), []).append(vector)
        return sent

    monkeypatch.setattr(sites, "_one", listening)
    go(tmp_path, sites)
    sums = np.concatenate([np.sum(found, axis=0, dtype=np.uint64) for found in vectors.values()])
    octets = np.bincount(np.frombuffer(sums.tobytes(), dtype=np.uint8), minlength=256)
    assert octets.sum() > 10_000
    assert stats.chisquare(octets).pvalue > 1e-6
