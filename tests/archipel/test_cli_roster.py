"""`archipel site approve` and `peers`: a person sees who takes part and by which keys before saying yes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from archipel.enrol import fingerprint
from archipel.homes import init_site, utc_now
from archipel.site_status import ledger_lines
from client.received import receive_plan, receive_roster
from client.state import SitePaths
from models.compile import compile_plan
from schemas.roster import Roster, make_roster
from schemas.study import load_study
from tests.command_line import Run, runner
from tests.guards import identity_of

STUDY = Path(__file__).parents[2] / "configs" / "cgd" / "study.toml"
PLAN = compile_plan(*load_study(STUDY))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    init_site(tmp_path, "lyon", tmp_path / "tables", utc_now())
    receive_plan(SitePaths(tmp_path), PLAN, ())
    return tmp_path


def key_of(name: str) -> str:
    return base64.b64encode(identity_of(name).public_key().public_bytes_raw()).decode()


def roster_with(site: Path, *peers: str, **others: str) -> Roster:
    """A roster of lyon, `peers` with their own keys and `others` with the keys given."""
    own = init_site(site, "lyon", site, utc_now()).identity_public_key
    return make_roster({"lyon": own, **{peer: key_of(peer) for peer in peers}, **others})


def arrived(site: Path, roster: Roster) -> Roster:
    receive_roster(SitePaths(site), PLAN.hash, roster)
    return roster


def test_card_and_fingerprints_are_shown_before_the_question_and_pinned_after_a_yes(run: Run, site: Path) -> None:
    roster = arrived(site, roster_with(site, "nantes", "paris", "tours"))
    code, out, err = run("site", "approve", PLAN.hash[:12], "--home", site, answer="n")
    assert (code, "Not approved" in err) == (1, True)
    assert "Sums are masked (secure sum)" in " ".join(out.split())
    for one in roster.sites:
        assert fingerprint(one.public_key) in out
    assert out.count("NEW: compare") == 3
    assert run("site", "peers", "list", "--home", site)[1].startswith("No key is pinned yet")
    code, out, _ = run("site", "approve", PLAN.hash[:12], "--home", site, "--by", "Dr Example", answer="y")
    assert code == 0
    assert f"With the sites lyon, nantes, paris, tours (roster {roster.hash[:12]})" in out
    (plan,) = json.loads(run("site", "plans", "--home", site, "--json")[1])
    assert plan["rosters"] == [{"hash": roster.hash, "state": "approved", "sites": list(roster.names)}]
    pinned = json.loads(run("site", "peers", "list", "--home", site, "--json")[1])
    assert pinned == {one.name: one.fingerprint for one in roster.sites if one.name != "lyon"}
    assert "as compared before" in run("site", "approve", PLAN.hash[:12], "--home", site, "--yes")[1]
    assert "Pinned keys of other sites: nantes, paris, tours" in run("site", "status", "--home", site)[1]


def test_a_roster_that_comes_later_is_shown_as_waiting(run: Run, site: Path) -> None:
    code, out, _ = run("site", "approve", PLAN.hash[:12], "--home", site, "--yes")
    assert (code, "No list of sites has come with this plan yet" in out) == (0, True)
    roster = arrived(site, roster_with(site, "nantes", "paris", "tours"))
    out = run("site", "plans", "--home", site)[1]
    assert f"with roster {roster.hash[:12]}  pending    lyon, nantes, paris, tours" in out
    assert "archipel site approve HASH" in out
    assert "Lists of sites that wait for a decision: 1" in run("site", "status", "--home", site)[1]


def test_one_of_several_rosters_is_named(run: Run, site: Path) -> None:
    first = arrived(site, roster_with(site, "nantes", "paris", "tours"))
    second = arrived(site, roster_with(site, "nantes", "paris"))
    code, out, _ = run("site", "approve", PLAN.hash[:12], "--home", site, "--roster", first.hash[:8], "--yes")
    assert (code, first.hash[:12] in out, second.hash[:12] in out) == (0, True, False)
    code, _, err = run("site", "approve", PLAN.hash[:12], "--home", site, "--roster", "0" * 12, "--yes")
    assert (code, "archipel site plans" in err) == (1, True)


def test_a_changed_key_is_refused_until_it_is_forgotten(run: Run, site: Path) -> None:
    arrived(site, roster_with(site, "nantes", "paris", "tours"))
    run("site", "approve", PLAN.hash[:12], "--home", site, "--yes")
    changed = arrived(site, roster_with(site, "nantes", "tours", paris=key_of("new paris")))
    words = ("site", "approve", PLAN.hash[:12], "--home", site, "--roster", changed.hash[:12], "--yes")
    code, out, err = run(*words)
    assert (code, "CHANGED: refused" in out) == (1, True)
    assert "archipel site peers forget NAME" in err
    code, out, _ = run("site", "peers", "forget", "paris", "--home", site, "--by", "Dr Example")
    assert (code, "of paris" in out) == (0, True)
    assert run(*words)[0] == 0
    assert "forgot the key" in run("site", "ledger", "show", "--home", site)[1]
    code, _, err = run("site", "peers", "forget", "lille", "--home", site)
    assert (code, "No key of a site lille is pinned here" in err) == (1, True)


def test_shares_stand_in_the_ledger_in_words() -> None:
    event = {
        "kind": "shares", "run": "run-1", "study": "s", "plan_hash": "", "step": "fit", "part": "newton", "number": 3,
        "digest": "d", "n_bytes": 416, "arrays": (), "n_patients": None, "who": "", "code_version": "",
        "rule": "ok: shares for the sum over 3 of 3 sites",
    }  # fmt: skip
    (line,) = ledger_lines([{"time": "2026-11-20T12:00:00.000+00:00", "event": event}])
    assert "shares" in line
    assert "fit newton #3" in line
    assert line.endswith("ok: shares for the sum over 3 of 3 sites")
