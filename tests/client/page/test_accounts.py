"""Accounts, tokens, sessions and the rate limit: who gets in, who does not, and when it ends."""

from __future__ import annotations

import datetime
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st

from client.page.accounts import LOCKED_FOR, MOST_FAILURES, AccountError, Accounts
from client.page.rate_limit import RateLimit
from client.page.sessions import Sessions, is_csrf_token
from privacy.storage import StorageError

NOW = datetime.datetime(2026, 11, 21, 9, tzinfo=datetime.UTC)
FAST = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PASSWORD = "correct horse battery"


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime.datetime:
        return self.now

    def later(self, **by: float) -> None:
        self.now += datetime.timedelta(**by)


def accounts(home: Path, clock: Clock | None = None) -> Accounts:
    return Accounts(home, now=clock or Clock(), hasher=FAST)


def test_the_right_password_gets_in_and_no_other(tmp_path: Path) -> None:
    held = accounts(tmp_path)
    held.add("mh", "clinician", PASSWORD)
    found = held.sign_in("mh", PASSWORD).account
    assert found is not None
    assert (found.name, found.role, found.failures) == ("mh", "clinician", 0)
    for wrong in ("", PASSWORD + " ", PASSWORD.upper(), "x" * 5000):
        verdict = accounts(tmp_path).sign_in("mh", wrong)
        assert (verdict.account, verdict.is_locked) == (None, False)
        held.set_locked("mh", is_locked=False)


def test_five_failures_lock_an_account_for_fifteen_minutes(tmp_path: Path) -> None:
    clock = Clock()
    held = accounts(tmp_path, clock)
    held.add("mh", "clinician", PASSWORD)
    for _ in range(MOST_FAILURES):
        assert not held.sign_in("mh", "wrong wrong wrong").is_locked
    assert held.sign_in("mh", PASSWORD).is_locked, "the right password, too"
    clock.later(minutes=14, seconds=59)
    assert accounts(tmp_path, clock).sign_in("mh", PASSWORD).is_locked, "in another process, too"
    clock.later(seconds=1)
    assert held.sign_in("mh", PASSWORD).account is not None
    for _ in range(MOST_FAILURES - 1):
        assert not held.sign_in("mh", "wrong wrong wrong").is_locked
    assert held.sign_in("mh", PASSWORD).account is not None, "the count began anew"
    assert datetime.timedelta(minutes=15) == LOCKED_FOR


def test_many_tries_at_once_are_counted_before_they_are_compared(tmp_path: Path) -> None:
    held = accounts(tmp_path)
    held.add("mh", "clinician", PASSWORD)
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda i: held.sign_in("mh", f"wrong wrong {i}"), range(20)))
    assert sum(not verdict.is_locked for verdict in verdicts) == MOST_FAILURES


def test_a_name_that_does_not_exist_is_answered_like_one_that_does(tmp_path: Path) -> None:
    clock = Clock()
    held = accounts(tmp_path, clock)
    verdicts = [held.sign_in("nobody", PASSWORD) for _ in range(MOST_FAILURES + 1)]
    assert {verdict.name for verdict in verdicts} == {""}, "what was typed there may be a password"
    assert [verdict.is_locked for verdict in verdicts] == [False] * MOST_FAILURES + [True]
    clock.later(minutes=15)
    assert not held.sign_in("nobody", PASSWORD).is_locked


def test_an_administrators_lock_holds_until_it_is_ended(tmp_path: Path) -> None:
    clock = Clock()
    held = accounts(tmp_path, clock)
    held.add("mh", "administrator", PASSWORD)
    held.set_locked("mh", is_locked=True)
    clock.later(days=400)
    assert held.sign_in("mh", PASSWORD).is_locked
    assert not held.is_open("mh")
    held.set_locked("mh", is_locked=False)
    assert held.is_open("mh")
    assert held.sign_in("mh", PASSWORD).account is not None
    held.remove("mh")
    assert not held.is_open("mh")
    assert held.sign_in("mh", PASSWORD).account is None


def test_passwords_are_kept_as_argon2id_in_a_file_of_the_owner_alone(tmp_path: Path) -> None:
    held = Accounts(tmp_path)
    held.add("mh", "clinician", PASSWORD)
    file = tmp_path / "state" / "accounts.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert "$argon2id$" in text
    assert PASSWORD not in text
    assert PASSWORD not in repr(held.accounts())
    assert held.sign_in("mh", PASSWORD).account is not None


@pytest.mark.parametrize(
    ("name", "password"), [("mh", "short"), ("", PASSWORD), ("M H", PASSWORD), ("<b>", PASSWORD), ("mh", "x" * 1001)]
)
def test_bad_names_and_passwords_are_refused_in_words(tmp_path: Path, name: str, password: str) -> None:
    with pytest.raises(AccountError):
        accounts(tmp_path).add(name, "clinician", password)
    assert accounts(tmp_path).accounts() == ()


def test_what_is_not_there_cannot_be_changed(tmp_path: Path) -> None:
    held = accounts(tmp_path)
    held.add("mh", "clinician", PASSWORD)
    with pytest.raises(AccountError, match="already"):
        held.add("mh", "clinician", PASSWORD)
    for change in (
        lambda: held.remove("no"),
        lambda: held.set_locked("no", is_locked=True),
        lambda: held.remove_token("no"),
    ):
        with pytest.raises(AccountError, match="no"):
            change()


def test_damaged_accounts_let_nobody_in(tmp_path: Path) -> None:
    held = accounts(tmp_path)
    held.add("mh", "clinician", PASSWORD)
    (tmp_path / "state" / "accounts.json").write_text('{"kind": "accounts", "accounts": 3}')
    with pytest.raises(StorageError, match="damaged"):
        held.sign_in("mh", PASSWORD)
    with pytest.raises(StorageError, match="damaged"):
        held.system_of("x")


def test_a_token_opens_for_its_system_until_it_is_renewed_or_removed(tmp_path: Path) -> None:
    held = accounts(tmp_path)
    token = held.add_token("lab")
    assert accounts(tmp_path).system_of(token) == "lab"
    assert (held.system_of(""), held.system_of(token[:-1]), held.system_of(token.lower())) == (None, None, None)
    assert token not in (tmp_path / "state" / "accounts.json").read_text()
    renewed = held.add_token("lab")
    assert (held.system_of(token), held.system_of(renewed)) == (None, "lab")
    held.remove_token("lab")
    assert held.system_of(renewed) is None
    with pytest.raises(AccountError):
        held.add_token("<script>")


# ---------------------------------------------------------------- sessions
def sessions(clock: Clock) -> Sessions:
    return Sessions(idle=datetime.timedelta(minutes=15), longest=datetime.timedelta(hours=10), now=clock)


def test_a_session_ends_after_a_while_without_a_click_and_in_any_case(tmp_path: Path) -> None:
    clock = Clock()
    held = sessions(clock)
    token, session = held.begin("mh", "clinician")
    assert held.find(token) == session
    for _ in range(43):  # ten hours less a quarter, a click every fourteen minutes
        clock.later(minutes=13, seconds=30)
        assert held.find(token) is not None
    clock.later(minutes=20)
    assert held.find(token) is None
    assert held.find(token) is None
    other, _ = held.begin("mh", "clinician")
    for _ in range(60):
        clock.later(minutes=10)
        last = held.find(other)
    assert last is None, "no click keeps a session beyond its last hour"


def test_a_session_ends_with_its_account_and_with_a_sign_out() -> None:
    held = sessions(Clock())
    (first, _), (second, _), (other, _) = (held.begin(name, "clinician") for name in ("mh", "mh", "jd"))
    held.end(first)
    assert (held.find(first), held.find(second) is None) == (None, False)
    held.end_all_of("mh")
    assert held.find(second) is None
    assert held.find(other) is not None
    assert held.find("") is None


def test_a_form_is_taken_with_its_own_sessions_token_alone() -> None:
    held = sessions(Clock())
    _, mine = held.begin("mh", "clinician")
    _, other = held.begin("jd", "clinician")
    assert is_csrf_token(mine, mine.csrf)
    assert not any(is_csrf_token(mine, given) for given in (other.csrf, "", mine.csrf[:-1], "é"))


# ---------------------------------------------------------------- rate limit
def test_a_minute_holds_so_many_tries_and_no_more() -> None:
    at = [0.0]
    limit = RateLimit(30, clock=lambda: at[0])
    assert [limit.take("mh") for _ in range(31)] == [True] * 30 + [False]
    assert limit.take("jd"), "another account has its own"
    at[0] = 2.0
    assert (limit.take("mh"), limit.take("mh")) == (True, False)


@given(st.lists(st.floats(0, 30, allow_nan=False), max_size=200), st.integers(1, 20))
def test_no_way_of_timing_tries_gets_more_than_the_limit(pauses: list[float], per_minute: int) -> None:
    at = [0.0]
    limit = RateLimit(per_minute, clock=lambda: at[0])
    taken = 0
    for pause in pauses:
        at[0] += pause
        taken += limit.take("mh")
    assert taken <= per_minute + at[0] * per_minute / 60 + 1e-6
