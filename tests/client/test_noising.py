"""The guard under differential privacy: paid first and once, then noise, then the ledger; and who is refused."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from client.noising import accounts, budget_verdict, honest_verdict, price_of
from client.settings import DatasetBudget, SiteSettings
from client.state import SitePaths
from privacy.accountant import mu_of, plan_mu_squared, release_mu
from privacy.budget import BudgetBrokenError
from privacy.inbound import Seen
from privacy.noise import grid_of
from privacy.storage import StorageError
from schemas.codes import Code
from schemas.messages import Reply, RoundRequest, SetupRequest, decode_as, encode
from schemas.plan import Plan
from tests.guards import SITES, roster_of
from tests.private_guards import DATASET, GRADIENT, PrivateSite, private_hub, private_plan, private_sites, sent
from tests.secure_hub import SecureHub

PLAN = private_plan()
SHARED = private_plan(honest_sites=2)
IN_CLEAR = private_plan(secure_sum=False)


def ready(folder: Path, plan: Plan, **settings: float | None) -> tuple[dict[str, PrivateSite], SecureHub]:
    sites = private_sites(folder, plan, **settings)  # type: ignore[arg-type]
    hub = private_hub(sites)
    hub.set_up()
    return sites, hub


def ask_gradient(hub: SecureHub, number: int) -> dict[str, Reply]:
    return hub.value(*GRADIENT, number, sent(hub.plan, *GRADIENT))


def cost(plan: Plan, step: str, part: str) -> float:
    differential, noise = plan.study.privacy.differential, plan.by_name[step].part(part).noise
    assert differential is not None
    assert noise is not None
    return release_mu(differential, noise) ** 2


# ---------------------------------------------------------------- the way of an honest run
def test_a_release_is_paid_once_and_its_entry_says_what_was_paid(tmp_path: Path) -> None:
    sites, hub = ready(tmp_path, PLAN)
    replies = hub.value("moments", "sums", 0, {})
    expected = [("run-1", "moments", 0, cost(PLAN, "moments", "sums"))]
    for name, site in sites.items():
        assert [(c.run, c.step, c.number, c.mu_squared) for c in site.charges()] == expected
        event = site.ledger()[-1].event
        assert (event.kind, event.dataset, event.mu_squared) == ("release", DATASET, expected[0][3])
        assert event.rule == "ok: approved plan, at least 10 patients, masked, with noise"
        request = encode(hub.value_request("moments", "sums", 0, {}))
        site.open()
        assert site(request) == encode(replies[name]), "the same bytes, and no other noise"
        assert len(site.charges()) == 1
        assert len([e for e in site.ledger() if e.event.dataset]) == 1


@pytest.mark.parametrize("plan", [PLAN, SHARED], ids=["each-site-adds-all", "two-sites-suffice"])
def test_the_sum_is_off_by_the_noise_that_the_plan_says(tmp_path: Path, plan: Plan) -> None:
    sites, hub = ready(tmp_path, plan)
    part = plan.by_name["fit"].parts[0]
    assert part.noise is not None
    std = grid_of(part.noise, cost(plan, *GRADIENT) ** 0.5, sum(spec.size for spec in part.releases)).std
    assert std * part.noise.honest_sites**0.5 == pytest.approx(2.0 / cost(plan, *GRADIENT) ** 0.5, rel=1e-5)
    ask_gradient(hub, 0)
    found = hub.open(*GRADIENT, 0)
    terms = [site.summand(*GRADIENT) for site in sites.values()]
    off = np.concatenate([np.ravel(found[name] - sum(term[name] for term in terms)) for name in found])
    assert np.all(off != 0)
    assert np.abs(off).max() < 8 * std * len(sites) ** 0.5


def test_without_masks_each_site_adds_all_of_the_noise_and_an_empty_answer_costs_nothing(tmp_path: Path) -> None:
    site = private_sites(tmp_path, IN_CLEAR)["A"]
    assert decode_as(site(encode(setup(IN_CLEAR))), Reply).status == "ok"
    noisy = decode_as(site(encode(question(IN_CLEAR, *GRADIENT, 0))), Reply)
    plain = site.summand(*GRADIENT)
    assert noisy.status == "ok"
    assert all(np.all(noisy.arrays[name] != plain[name]) for name in plain)
    assert len(site.charges()) == 1
    site.n_patients = 0
    empty = decode_as(site(encode(question(IN_CLEAR, *GRADIENT, 1))), Reply)
    assert (empty.status, dict(empty.arrays), len(site.charges())) == ("empty", {}, 1)


def test_under_masks_a_site_with_nothing_to_add_still_adds_its_noise_and_pays(tmp_path: Path) -> None:
    sites, hub = ready(tmp_path, SHARED)
    for site in sites.values():
        site.n_patients = 0
    ask_gradient(hub, 0)
    found = hub.open(*GRADIENT, 0)
    assert all(np.all(array != 0) for array in found.values()), "the others count on it"
    assert [len(site.charges()) for site in sites.values()] == [1, 1, 1]


def test_the_sites_own_sums_are_not_remembered_where_noise_protects_them(tmp_path: Path) -> None:
    sites, hub = ready(tmp_path, PLAN)
    hub.value("moments", "sums", 0, {})
    assert sites["A"].guard._answers.seen_in("run-1", PLAN.hash, hub.roster.hash) == Seen()


def test_a_whole_run_costs_what_the_study_says_and_nothing_is_left(tmp_path: Path) -> None:
    sites, hub = ready(tmp_path, PLAN)
    asked = [("moments", "sums", 0), ("grid", "counts", 0), *((*GRADIENT, n) for n in range(3)),
             ("baseline", "risk_sets", 0)]  # fmt: skip
    for step, part, number in asked:
        hub.value(step, part, number, sent(PLAN, step, part))
    total = sum(charge.mu_squared for charge in sites["A"].charges())
    assert total == pytest.approx(mu_of(8.0, 1e-5) ** 2, rel=1e-12)
    again = private_hub(sites, "run-2")
    reply = again.send("A", again.keys_request())
    assert (reply.status, reply.code) == ("refused", Code.BUDGET_EXCEEDED)


# ---------------------------------------------------------------- refused
def test_a_site_that_spends_nothing_takes_no_part(tmp_path: Path) -> None:
    hub = private_hub(private_sites(tmp_path, PLAN, epsilon=None))
    assert hub.send("A", hub.keys_request()).code == Code.BUDGET_NOT_SET


def test_a_plan_that_costs_more_than_the_limit_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    sites = private_sites(tmp_path, PLAN, epsilon=7.9)
    hub = private_hub(sites)
    assert hub.send("A", hub.keys_request()).code == Code.BUDGET_EXCEEDED
    assert sites["A"].guard._answers.run("run-1") is None
    assert sites["A"].charges() == ()


def test_of_two_runs_side_by_side_the_second_stops_where_the_budget_ends(tmp_path: Path) -> None:
    sites = private_sites(tmp_path, PLAN, epsilon=8.0)
    first, second = private_hub(sites, "run-1"), private_hub(sites, "run-2")
    first.set_up()
    second.set_up()
    for number in range(3):
        ask_gradient(first, number)
    request = second.value_request(*GRADIENT, 0, sent(PLAN, *GRADIENT))
    before = len(sites["A"].charges())
    reply = second.send("A", request)
    assert (reply.status, reply.code, dict(reply.blobs)) == ("refused", Code.BUDGET_EXCEEDED, {})
    assert len(sites["A"].charges()) == before
    assert sites["A"].ledger()[-1].event.rule == Code.BUDGET_EXCEEDED


def test_more_honest_sites_than_the_secure_sum_guarantees_are_refused_at_set_up(tmp_path: Path) -> None:
    hub = private_hub(private_sites(tmp_path, private_plan(honest_sites=3)))
    assert hub.send("A", hub.keys_request()).code == Code.HONEST_SITES_TOO_FEW


SIX = ("A", "B", "C", "D", "E", "F")


def test_a_sum_with_too_few_honest_sites_left_is_opened_by_nobody(tmp_path: Path) -> None:
    """Six sites: at most two help the hub, so of five that are left three are honest."""
    for honest, code in ((3, ""), (4, Code.HONEST_SITES_TOO_FEW)):
        sites = private_sites(tmp_path / str(honest), private_plan(honest_sites=honest, on_dropout="continue"), SIX)
        hub = private_hub(sites)
        hub.set_up()
        hub.value("moments", "sums", 0, {}, alive=SIX[:5])
        asked = hub.list_request("moments", "sums", 0, hub.run.survivors(SIX[:5]), "consent")
        assert {hub.send(name, asked).code for name in SIX[:5]} == {code}
        if not code:
            assert hub.open("moments", "sums", 0, SIX[:5])


def test_honest_sites_of_a_list() -> None:
    plan = private_plan(honest_sites=2)
    assert honest_verdict(plan, roster_of(*SITES)) is None
    assert honest_verdict(plan, roster_of(*SITES), 2) is Code.HONEST_SITES_TOO_FEW
    assert honest_verdict(plan, None) is Code.HONEST_SITES_TOO_FEW
    assert honest_verdict(IN_CLEAR, None) is None


# ---------------------------------------------------------------- budget and ledger
def test_a_budget_put_back_from_an_older_copy_is_charged_again_with_what_the_ledger_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sites, hub = ready(tmp_path, PLAN)
    site = sites["A"]
    older = tmp_path / "older.sqlite"
    ask_gradient(hub, 0)
    site.guard.close()
    shutil.copy(site.paths.budget, older)
    site.open()
    ask_gradient(hub, 1)
    whole = site.charges()
    for lost in (lambda: shutil.copy(older, site.paths.budget), site.paths.budget.unlink):
        site.guard.close()
        lost()
        site.open()
        assert site.charges() == whole
    assert "lacked 1 releases" in caplog.text
    assert "lacked 2 releases" in caplog.text


def test_a_budget_that_disagrees_with_the_ledger_pays_for_nothing_more(tmp_path: Path) -> None:
    sites, hub = ready(tmp_path, PLAN)
    site = sites["A"]
    ask_gradient(hub, 0)
    site.guard.close()
    with sqlite3.connect(site.paths.budget) as db:
        db.execute("UPDATE charge SET mu_squared = mu_squared / 100")
    db.close()
    site.open()
    assert hub.send("A", hub.value_request(*GRADIENT, 1, sent(PLAN, *GRADIENT))).code == Code.BUDGET_BROKEN
    assert site(encode(hub.value_request(*GRADIENT, 0, sent(PLAN, *GRADIENT)))) == hub.heard["A"][-2]


def test_a_damaged_budget_stops_studies_with_noise_alone(tmp_path: Path) -> None:
    sites = private_sites(tmp_path, PLAN)
    site = sites["A"]
    site.guard.close()
    site.paths.budget.write_bytes(b"not a database" * 100)
    site.open()
    hub = private_hub(sites)
    assert hub.send("A", hub.keys_request()).code == Code.BUDGET_BROKEN
    with pytest.raises(BudgetBrokenError, match="is damaged"):
        accounts(site.paths, site_settings(tmp_path))


def test_kept_numbers_that_nothing_was_paid_for_do_not_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers and budget were put back from copies of different days, before the entry was written."""
    sites, hub = ready(tmp_path, PLAN)
    site = sites["A"]

    def is_full(_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(site.guard._ledger, "append", is_full)
    request = hub.value_request(*GRADIENT, 0, sent(PLAN, *GRADIENT))
    assert hub.send("A", request).code == Code.STORAGE_FAILED
    site.guard.close()
    site.paths.budget.unlink()
    site.open()
    assert hub.send("A", request).code == Code.BUDGET_BROKEN


def test_a_round_whose_answer_is_lost_gets_no_second_noise_for_one_price(tmp_path: Path) -> None:
    """Answers were put back from an older copy than ledger and budget."""
    sites, hub = ready(tmp_path, PLAN)
    site = sites["A"]
    site.guard.close()
    older = {path: path.read_bytes() for path in site.paths.state.glob("answers.sqlite*")}
    site.open()
    first = ask_gradient(hub, 0)["A"]
    site.guard.close()
    for path in site.paths.state.glob("answers.sqlite*"):
        path.unlink()
    for path, content in older.items():
        path.write_bytes(content)
    site.open()
    again = hub.send("A", hub.value_request(*GRADIENT, 0, sent(PLAN, *GRADIENT)))
    assert (first.status, again.status, again.code) == ("ok", "refused", Code.BUDGET_BROKEN)


# ---------------------------------------------------------------- for the person who approves
def site_settings(folder: Path, budget: DatasetBudget | None = None) -> SiteSettings:
    return SiteSettings(
        kind="site", version=1, name="A", hub_address="hub:9092", tables=folder, budget=budget
    )  # fmt: skip


def test_what_a_plan_costs_an_account(tmp_path: Path) -> None:
    paths, settings = SitePaths(tmp_path), site_settings(tmp_path, DatasetBudget(dataset=DATASET, epsilon=8.0))
    cheap = private_plan(epsilon=1.0)
    (fresh,) = accounts(paths, settings)
    assert not paths.budget.exists(), "looking makes no account"
    assert (fresh.left.spent_epsilon, fresh.left.left_epsilon) == (0.0, pytest.approx(8.0))
    price = price_of(cheap, fresh)
    assert price.runs_left == int(mu_of(8.0, 1e-5) ** 2 / mu_of(1.0, 1e-5) ** 2)
    assert price.epsilon_after == pytest.approx(1.0)
    assert price_of(PLAN, fresh).runs_left == 1
    assert budget_verdict(paths, settings, PLAN) is None
    assert budget_verdict(paths, site_settings(tmp_path), PLAN) is Code.BUDGET_NOT_SET
    small = site_settings(tmp_path, DatasetBudget(dataset=DATASET, epsilon=2.0))
    assert budget_verdict(paths, small, PLAN) is Code.BUDGET_EXCEEDED


def test_another_name_is_another_account_and_the_old_one_stays_in_sight(tmp_path: Path) -> None:
    sites, hub = ready(tmp_path, PLAN)
    ask_gradient(hub, 0)
    renamed = site_settings(tmp_path, DatasetBudget(dataset="others", epsilon=8.0))
    new, old = accounts(sites["A"].paths, renamed)
    assert (new.dataset, new.left.spent_epsilon, new.is_current) == ("others", 0.0, True)
    assert (old.dataset, old.left.releases, old.is_current) == (DATASET, 1, False)
    assert old.left.spent_epsilon > 0


def test_a_plan_costs_what_its_releases_cost() -> None:
    parts = [(step.name, part) for step in PLAN.steps for part in step.parts]
    assert plan_mu_squared(PLAN) == pytest.approx(sum(p.times * cost(PLAN, s, p.name) for s, p in parts), rel=1e-12)


def setup(plan: Plan) -> SetupRequest:
    return SetupRequest("run-1", plan.hash, SITES, plan.content.decode())


def question(plan: Plan, step: str, part: str, number: int) -> RoundRequest:
    return RoundRequest("run-1", plan.hash, SITES, step, part, number, arrays=sent(plan, step, part))
