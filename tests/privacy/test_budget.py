"""The privacy budget: charged once, before the release, over all studies, and never lost to a crash.

A site that is killed between debit and release, with the real guard, is in tests/client/test_noising_crash.py.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.accountant import epsilon_of, mu_of
from privacy.budget import Budget, BudgetBrokenError, Charge, Limit, Verdict, account, affordable, judge
from privacy.storage import StorageError

LIMIT = Limit(epsilon=3.0, delta=1e-5)
CHARGE = Charge("tables", "run-1", "fit", 0, LIMIT.mu_squared / 10, "small-study", "a" * 64)
COSTS = st.floats(1e-6, 1.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "budget.sqlite"


def numbered(number: int, **changed: object) -> Charge:
    return dataclasses.replace(CHARGE, number=number, **changed)  # type: ignore[arg-type]


# ------------------------------------------------------------------ the decision
def test_a_charge_that_fits_is_debited() -> None:
    assert judge(CHARGE, None, 0.0, LIMIT) == Verdict("debit")


def test_a_charge_that_was_debited_is_paid_however_little_is_left() -> None:
    assert judge(CHARGE, CHARGE.mu_squared, LIMIT.mu_squared, LIMIT) == Verdict("paid")


def test_the_same_round_at_another_cost_is_refused() -> None:
    verdict = judge(CHARGE, CHARGE.mu_squared / 2, 0.0, LIMIT)
    assert not verdict.allows
    assert "another cost" in verdict.reason


def test_a_charge_beyond_the_limit_is_refused_with_both_epsilons() -> None:
    verdict = judge(CHARGE, None, LIMIT.mu_squared, LIMIT)
    assert verdict.kind == "refused"
    assert f"{epsilon_of(math.sqrt(LIMIT.mu_squared * 1.1), 1e-5):.3g}" in verdict.reason
    assert "allows 3 (at delta 1e-05)" in verdict.reason


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, math.inf])
def test_a_release_that_costs_nothing_or_no_number_is_refused(cost: float) -> None:
    assert not judge(dataclasses.replace(CHARGE, mu_squared=cost), None, 0.0, LIMIT).allows


def test_a_site_that_allows_nothing_allows_nothing() -> None:
    assert not judge(CHARGE, None, 0.0, Limit(0.0, 1e-5)).allows


@given(costs=st.lists(COSTS, max_size=30), epsilon=st.floats(0.1, 10))
def test_what_is_debited_never_exceeds_the_limit(costs: list[float], epsilon: float) -> None:
    limit, spent = Limit(epsilon, 1e-5), 0.0
    for number, cost in enumerate(costs):
        if judge(numbered(number, mu_squared=cost), None, spent, limit).kind == "debit":
            spent += cost
        else:
            assert not affordable(spent, cost, limit)
    assert account(spent, 0, limit).spent_epsilon <= epsilon * (1 + 1e-6)


@pytest.mark.parametrize("times", [3, 7, 30, 499])
def test_rounding_of_the_shares_does_not_refuse_a_plans_last_release(times: int) -> None:
    spent = 0.0
    for number in range(times):
        cost = mu_of(3.0, 1e-5) ** 2 * (1 / times)
        assert judge(numbered(number, mu_squared=cost), None, spent, LIMIT).kind == "debit"
        spent += cost


# ------------------------------------------------------------------ the store
def test_an_account_composes_over_studies_and_datasets_have_their_own(path: Path) -> None:
    budget = Budget(path)
    for number in range(10):
        run, study = f"run-{number}", f"study-{number}"
        assert budget.debit(numbered(0, run=run, study=study), LIMIT).kind == "debit"
    assert budget.debit(numbered(0, run="run-11"), LIMIT).kind == "refused"
    assert budget.debit(numbered(0, run="run-11", dataset="other tables"), LIMIT).kind == "debit"
    left = budget.left("tables", LIMIT)
    assert left.spent_epsilon == pytest.approx(3.0, rel=1e-6)
    assert left.left_epsilon == pytest.approx(0.0, abs=1e-2)
    assert left.releases == 10


def test_what_is_left_is_what_a_further_study_can_have(path: Path) -> None:
    budget = Budget(path)
    budget.debit(numbered(0, mu_squared=LIMIT.mu_squared / 4), LIMIT)
    left = budget.left("tables", LIMIT)
    assert left.left_epsilon == pytest.approx(epsilon_of(math.sqrt(LIMIT.mu_squared * 0.75), 1e-5))
    further = mu_of(left.left_epsilon, 1e-5) ** 2
    assert budget.debit(numbered(1, mu_squared=further * (1 + 1e-4)), LIMIT).kind == "refused"
    assert budget.debit(numbered(1, mu_squared=further * (1 - 1e-6)), LIMIT).kind == "debit"


def test_a_fresh_account_has_everything_left(path: Path) -> None:
    left = Budget(path).left("tables", LIMIT)
    assert (left.spent_epsilon, left.releases) == (0.0, 0)
    assert left.left_epsilon == pytest.approx(3.0)


def test_a_round_asked_again_is_charged_once_also_after_reopening(path: Path) -> None:
    budget = Budget(path)
    assert budget.debit(CHARGE, LIMIT).kind == "debit"
    assert budget.debit(CHARGE, LIMIT).kind == "paid"
    budget.close()
    assert Budget(path).debit(CHARGE, LIMIT).kind == "paid"
    assert Budget(path).charges("tables") == (CHARGE,)


def test_a_refusal_charges_nothing(path: Path) -> None:
    budget = Budget(path)
    assert budget.debit(dataclasses.replace(CHARGE, mu_squared=2 * LIMIT.mu_squared), LIMIT).kind == "refused"
    assert budget.charges("tables") == ()


def test_raising_the_limit_forgets_nothing(path: Path) -> None:
    budget = Budget(path)
    for number in range(10):
        budget.debit(numbered(number), LIMIT)
    assert budget.debit(numbered(10), Limit(4.0, 1e-5)).kind == "debit"
    assert budget.left("tables", Limit(4.0, 1e-5)).releases == 11


def test_when_a_charge_was_made_is_kept(path: Path) -> None:
    noon = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC)
    Budget(path, lambda: noon).debit(CHARGE, LIMIT)
    (kept,) = sqlite3.connect(path).execute("SELECT time FROM charge").fetchone()
    assert kept == "2026-11-20T12:00:00.000+00:00"


def test_the_file_is_its_owners_and_commits_reach_the_disk(path: Path) -> None:
    budget = Budget(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert budget._db.execute("PRAGMA synchronous").fetchone() == (3,)
    assert budget._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_two_processes_cannot_both_take_the_last_of_it(path: Path) -> None:
    Budget(path).close()
    verdicts: list[str] = []

    def take(number: int) -> None:
        budget = Budget(path)
        charge = numbered(number, mu_squared=LIMIT.mu_squared * 0.6)
        verdicts.append(budget.debit(charge, LIMIT).kind)
        budget.close()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(verdicts) == ["debit", *["refused"] * 5]


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 4000])
def test_a_damaged_file_is_named_and_nothing_is_released(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises((BudgetBrokenError, StorageError), match=r"budget\.sqlite"):
        Budget(path).debit(CHARGE, LIMIT)


@pytest.mark.parametrize("cost", ["'0.01'", "1e300", "1e999"])
def test_a_charge_that_is_no_cost_is_damage_and_nothing_is_released(path: Path, cost: str) -> None:
    budget = Budget(path)
    budget.debit(numbered(0), LIMIT)
    budget.close()
    other = sqlite3.connect(path)
    # As a damaged record would read: a column of numbers keeps bytes that are none.
    other.execute(f"UPDATE charge SET mu_squared = {'CAST(' + cost + ' AS BLOB)' if cost[0] == chr(39) else cost}")
    other.commit()
    other.close()
    with pytest.raises(BudgetBrokenError, match="is damaged"):
        Budget(path).debit(numbered(1), LIMIT)


def test_a_damaged_name_that_is_no_text_is_damage(path: Path) -> None:
    budget = Budget(path)
    budget.debit(numbered(0), LIMIT)
    budget.close()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"mu_squared REAL", b"\xac\xc0\xa0squared REAL"))
    with pytest.raises((BudgetBrokenError, StorageError), match=r"budget\.sqlite"):
        Budget(path).debit(numbered(1), LIMIT)


def test_a_file_of_another_version_is_refused(path: Path) -> None:
    Budget(path).close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 7")
    other.close()
    with pytest.raises(BudgetBrokenError, match="version 1"):
        Budget(path)


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Budget(tmp_path / "file" / "budget.sqlite")


def test_a_full_disk_debits_nothing_and_the_account_goes_on(path: Path) -> None:
    budget = Budget(path)
    size = budget._db.execute("PRAGMA page_count").fetchone()[0]
    budget._db.execute(f"PRAGMA max_page_count = {size}")
    refused = 0
    for number in range(200):
        try:
            budget.debit(numbered(number, mu_squared=1e-6), LIMIT)
        except StorageError:
            refused += 1
    assert refused
    kept = len(budget.charges("tables"))
    assert kept + refused == 200
    budget._db.execute("PRAGMA max_page_count = 100000")
    assert budget.debit(numbered(500, mu_squared=1e-6), LIMIT).kind == "debit"


# ------------------------------------------------------------------ held against the ledger
def test_charges_that_the_file_lacks_are_entered_again_whatever_the_limit(path: Path) -> None:
    budget = Budget(path)
    held = [numbered(number, mu_squared=LIMIT.mu_squared) for number in range(3)]
    budget.debit(held[0], LIMIT)
    assert budget.restore(held) == 2
    assert budget.restore(held) == 0
    assert budget.charges("tables") == tuple(held)
    assert budget.left("tables", LIMIT).left_epsilon == 0.0


def test_a_charge_of_another_cost_than_the_ledgers_is_damage_and_restores_nothing(path: Path) -> None:
    budget = Budget(path)
    budget.debit(numbered(1), LIMIT)
    with pytest.raises(BudgetBrokenError, match="do not agree on what run run-1, fit #1 cost"):
        budget.restore([numbered(0), numbered(1, mu_squared=CHARGE.mu_squared / 2)])
    assert budget.charges("tables") == (numbered(1),)


def test_what_a_round_was_charged_is_found_in_whichever_account(path: Path) -> None:
    budget = Budget(path)
    budget.debit(numbered(4, dataset="others"), LIMIT)
    assert budget.paid("run-1", "fit", 4) == numbered(4, dataset="others")
    assert budget.paid("run-1", "fit", 5) is None
    assert budget.datasets() == ("others",)
