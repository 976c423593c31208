"""A run conducted over simulated sites whose sums are in clear: its way and its set-up."""

import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codes import SENTENCES, Code
from schemas.messages import RoundRequest, SetupRequest
from server.conduct import DATABASE, conduct
from server.exchange import Failure
from server.records import UnknownRunError
from server.runs import list_released, list_rounds, standing
from server.store import Store
from tests.server.conducting import RUN, assert_asked_the_same, expected, found, go, launch, record, told
from tests.simulated_federation import (
    SITES,
    SimulatedFederation,
    SimulatedSite,
    cohort,
    federation,
    late,
    offline,
    real_plan,
    refuses,
)


# ---------------------------------------------------------------- the way of all runs
def test_a_run_finds_what_the_sum_over_all_sites_gives(tmp_path: Path) -> None:
    plan = launch(tmp_path)
    sites = federation()
    run = go(tmp_path, sites)
    assert (run.status, run.sites, run.left_out, run.dropped) == ("done", SITES, {}, {})
    assert found(tmp_path) == expected(plan, sites.sites)
    assert_asked_the_same(sites)
    with Store(tmp_path / DATABASE) as store:
        rounds = list_rounds(store, RUN)
        released = list_released(store, RUN)
        assert standing(store, RUN).rounds_done == len(rounds) == sites.calls - 1
    assert [done.index for done in rounds] == list(range(1, len(rounds) + 1))
    assert all(done.heard == SITES and not done.silent and not done.missing for done in rounds)
    assert [(part.step, part.part) for part in released] == list(
        dict.fromkeys((done.step, done.part) for done in rounds)
    )
    setup_down = sum(len(body) for _, request, body in sites.asked if isinstance(request, SetupRequest))
    assert run.bytes_down == setup_down + sum(done.bytes_down for done in rounds)
    assert run.bytes_up > sum(done.bytes_up for done in rounds)
    assert sum(sum(part.bytes_by_site.values()) for part in released) == sum(done.bytes_up for done in rounds)
    assert run.wall_s == pytest.approx(0.25 * sites.calls)


def test_a_done_run_is_left_alone(tmp_path: Path) -> None:
    launch(tmp_path)
    sites = federation()
    before = go(tmp_path, sites)
    calls = sites.calls
    assert go(tmp_path, sites) == before
    assert sites.calls == calls


def test_an_unknown_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnknownRunError):
        go(tmp_path, federation())


def test_another_version_of_the_code_does_not_resume(tmp_path: Path) -> None:
    launch(tmp_path, real_plan().model_copy(update={"code_version": "0.0.9"}))
    sites = federation()
    run = go(tmp_path, sites)
    assert run.status == "failed"
    assert "0.0.9" in run.message
    assert sites.calls == 0


@settings(max_examples=15)
@given(data=st.data())
def test_order_and_lateness_never_change_a_bit(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("hub")
    kinds = st.sampled_from([late, offline])
    slow = st.builds(
        lambda kind, site, step, number, times: kind(site, step=step, number=number, times=times),
        kinds, st.sampled_from(SITES), st.sampled_from(["setup", "moments", "grid", "fit"]), st.integers(0, 2),
        st.integers(1, 3),
    )  # fmt: skip
    sites = federation(*data.draw(st.lists(slow, max_size=6)))
    shuffle = random.Random(data.draw(st.integers(0, 2**32)))
    sites.order = lambda names: shuffle.sample(names, len(names))
    plan = launch(home)
    assert go(home, sites).status == "done"
    assert found(home) == expected(plan, sites.sites)
    assert_asked_the_same(sites)


# ---------------------------------------------------------------- set-up
@pytest.mark.parametrize("code", [Code.TOO_FEW_PATIENTS, Code.TABLES_REFUSED])
def test_a_site_that_cannot_take_part_is_left_out_before_any_sum(tmp_path: Path, code: Code) -> None:
    plan = launch(tmp_path)
    sites = federation(refuses("brest", code, step="setup"))
    run = go(tmp_path, sites)
    rest = {name: site for name, site in sites.sites.items() if name != "brest"}
    assert run.status == "done"
    assert run.sites == tuple(rest)
    assert run.left_out == {"brest": f"brest refused: {SENTENCES[code]}"}
    assert found(tmp_path) == expected(plan, rest)
    assert sites.rounds_asked("brest") == []
    assert {r.sites for _, r, _ in sites.asked if isinstance(r, RoundRequest)} == {tuple(rest)}


def test_a_run_with_one_site_left_fails_and_says_why(tmp_path: Path) -> None:
    launch(tmp_path, sites=("amiens", "brest"))
    run = go(tmp_path, federation(refuses("brest", Code.TOO_FEW_PATIENTS), sites=("amiens", "brest")))
    assert run.status == "failed"
    assert run.message.startswith("Only one site can take part. brest refused: ")


def test_set_up_waits_for_an_approval_and_says_what_to_do(tmp_path: Path) -> None:
    plan = launch(tmp_path)
    sites = federation(refuses("caen", Code.PLAN_NOT_APPROVED, step="setup", times=4))
    assert go(tmp_path, sites).status == "done"
    assert found(tmp_path) == expected(plan, sites.sites)
    assert told(tmp_path).count("caen refused: The site has not approved this plan") == 1
    assert sites.clock.now == pytest.approx(1000.0 + 4 * 3.0 + 0.25 * sites.calls)
    setups = [site for site, request, _ in sites.asked if isinstance(request, SetupRequest)]
    assert {site: setups.count(site) for site in SITES} == {**dict.fromkeys(SITES, 1), "caen": 5}


def test_set_up_with_continue_waits_as_well(tmp_path: Path) -> None:
    plan = launch(tmp_path, real_plan(on_dropout="continue"))
    sites = federation(late("caen", step="setup", times=2))
    run = go(tmp_path, sites)
    assert (run.status, run.left_out, run.dropped) == ("done", {}, {})
    assert found(tmp_path) == expected(plan, sites.sites)


# ---------------------------------------------------------------- whatever an exchange does
def test_an_exchange_that_forgets_a_site_has_it_called_late(tmp_path: Path) -> None:
    plan = launch(tmp_path)
    sites = federation()
    whole = sites.ask

    class Forgetful:
        def ask(self, bodies: Mapping[str, bytes], deadline_s: float) -> dict[str, bytes | Failure]:
            answers = whole(bodies, deadline_s)
            if sites.calls == 3:
                del answers["evry"]
            return answers

    conduct(RUN, tmp_path, Forgetful(), pacing=sites.clock.pacing())
    assert record(tmp_path).status == "done"
    assert "evry did not answer before the deadline." in told(tmp_path)
    assert found(tmp_path) == expected(plan, sites.sites)


def test_one_site_alone_can_be_asked(tmp_path: Path) -> None:
    plan = launch(tmp_path, sites=("amiens",))
    sites = SimulatedFederation({"amiens": SimulatedSite(cohort("amiens", 60, seed=1))})
    assert go(tmp_path, sites).status == "done"
    assert found(tmp_path) == expected(plan, sites.sites)


def test_a_run_without_sites_fails(tmp_path: Path) -> None:
    launch(tmp_path, sites=())
    assert go(tmp_path, federation()).message == "No site was invited to this run."
