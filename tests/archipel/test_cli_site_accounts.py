"""`archipel site account`: what a person at the site types, and what stands in the access log afterwards."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from client.page.access_log import AccessLog, read_access_log
from client.page.accounts import Accounts
from tests.client.page.test_patients import site
from tests.command_line import Run, runner

PASSWORD = "correct horse battery"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return site(tmp_path / "brest")


def typing(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def notes(home: Path) -> list[str]:
    return [line.view.note for line in read_access_log(home / "state" / "access.jsonl")]


def test_an_account_is_made_listed_locked_and_removed(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typing(monkeypatch, PASSWORD + "\n")
    code, out, _ = run("site", "account", "add", "mh", "--home", home, "--by", "it")
    assert (code, "Added: mh, clinician" in out) == (0, True)
    assert Accounts(home).sign_in("mh", PASSWORD).account is not None
    code, out, _ = run("site", "account", "list", "--home", home)
    assert "mh" in out
    assert "argon2" not in out
    listed = json.loads(run("site", "account", "list", "--home", home, "--json")[1])
    assert "password" not in listed["accounts"][0]
    assert run("site", "account", "lock", "mh", "--home", home, "--by", "it")[0] == 0
    assert Accounts(home).sign_in("mh", PASSWORD).is_locked
    assert run("site", "account", "lock", "mh", "--unlock", "--home", home, "--by", "it")[0] == 0
    assert run("site", "account", "remove", "mh", "--home", home, "--by", "it", answer="n")[0] == 1
    assert run("site", "account", "remove", "mh", "--home", home, "--by", "it", answer="y")[0] == 0
    assert Accounts(home).accounts() == ()
    assert notes(home) == ["added mh as clinician", "locked mh", "unlocked mh", "removed mh"]


def test_a_bad_password_makes_no_account(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("short\n", "\n", ""):
        typing(monkeypatch, text)
        code, out, err = run("site", "account", "add", "mh", "--home", home)
        assert code == 1
        assert "short" not in out + err
    typing(monkeypatch, PASSWORD + "\n")
    assert run("site", "account", "add", "mh", "--role", "owner", "--home", home)[0] == 1
    assert Accounts(home).accounts() == ()


def test_a_token_is_shown_once_and_ended(run: Run, home: Path) -> None:
    code, out, _ = run("site", "account", "token", "lab", "--home", home, "--by", "it")
    assert code == 0
    token = out.strip()
    assert Accounts(home).system_of(token) == "lab"
    assert token not in run("site", "account", "list", "--home", home)[1]
    assert run("site", "account", "token", "lab", "--end", "--home", home, "--by", "it")[0] == 0
    assert Accounts(home).system_of(token) is None
    assert notes(home) == ["made a token for lab", "ended the token of lab"]


def test_the_access_log_says_who_looked_at_one_patient(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AccessLog(home)
    log.write("view", "mh", patient_id="P-1", shown="prognosis")
    log.write("view", "jd", patient_id="P-2", shown="prognosis")
    code, out, _ = run("site", "account", "log", "--home", home)
    assert (code, "mh" in out, "jd" in out, "P-1" in out) == (0, True, True, False)
    typing(monkeypatch, "P-1\n")
    code, out, _ = run("site", "account", "log", "--patient", "--home", home, "--json")
    assert [line["account"] for line in json.loads(out)] == ["mh"]
    file = home / "state" / "access.jsonl"
    file.write_bytes(file.read_bytes().replace(b"jd", b"jx"))
    code, _, err = run("site", "account", "log", "--home", home)
    assert (code, "changed" in err) == (1, True)


def test_a_folder_that_is_no_sites_has_no_accounts(run: Run, tmp_path: Path) -> None:
    assert run("site", "account", "list", "--home", tmp_path)[0] == 1
    assert not (tmp_path / "state").exists()
