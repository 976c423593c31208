"""A ledger under the hub's signature: what is cut off is found, and a hub that cannot sign stops nothing."""

from __future__ import annotations

import json
import shutil
from http import HTTPStatus
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.approvals import is_paused
from client.guard import open_guard
from client.heads import HeadRefusedError, load_countersigned, send_head, verify_held
from client.hub_post import Answered, HubCallError
from client.state import SitePaths
from privacy.budget import Budget, Charge, Limit
from privacy.head_signature import judge_step
from privacy.ledger import LedgerBrokenError, verify_ledger
from schemas.errors import MessageError
from schemas.ledger_head import LedgerHead, read_countersigned, read_head
from tests.ledger_heads import NOW, HeadsHub, append, truncate


@pytest.fixture
def hub(tmp_path: Path) -> HeadsHub:
    return HeadsHub(tmp_path / "hub")


@pytest.fixture
def site(hub: HeadsHub, tmp_path: Path) -> Path:
    home = hub.site(tmp_path / "brest")
    (home / "tables").mkdir()
    append(home, 3)
    return home


def test_the_head_comes_back_under_both_signatures_and_is_kept(hub: HeadsHub, site: Path) -> None:
    signed = hub.countersign(site)
    assert signed is not None
    assert (signed.head.site, signed.head.count) == ("brest", 3)
    assert load_countersigned(SitePaths(site)) == signed
    found = verify_held(site)
    assert (found.count, found.head.count) == (3, 3)
    assert "all of it" in found.sentence
    append(site)
    assert "up to entry 3" in verify_held(site).sentence


@pytest.mark.parametrize("keep", [2, 1, 0])
def test_a_truncated_ledger_with_a_head_that_fits_is_found_by_the_countersigned_one(
    hub: HeadsHub, site: Path, keep: int
) -> None:
    hub.countersign(site)
    truncate(site, keep)
    assert verify_ledger(SitePaths(site).ledger).head.count == keep  # the chain alone shows nothing
    with pytest.raises(LedgerBrokenError, match=f"it holds {keep} entries, and the hub has countersigned 3"):
        verify_held(site)
    with pytest.raises(LedgerBrokenError):
        open_guard(site)


def test_a_ledger_that_was_written_anew_to_the_same_length_is_found(hub: HeadsHub, site: Path) -> None:
    hub.countersign(site)
    truncate(site, 1)
    append(site, 5)
    with pytest.raises(LedgerBrokenError, match="entry 3 is not the one"):
        verify_held(site)


def test_a_folder_put_back_as_a_whole_pauses_and_alarms_the_hub(hub: HeadsHub, site: Path, tmp_path: Path) -> None:
    hub.countersign(site)
    shutil.copytree(site, tmp_path / "copy")
    append(site, 2)
    hub.countersign(site)
    shutil.rmtree(site)
    shutil.copytree(tmp_path / "copy", site)
    verify_held(site)  # nothing in the folder can know better
    with pytest.raises(LedgerBrokenError, match="this site's own signature under entry 5"):
        hub.countersign(site)
    assert is_paused(site)
    assert [(one.site, one.what, one.count, one.known) for one in hub.alarms()] == [("brest", "back", 3, 5)]
    with pytest.raises(LedgerBrokenError, match="countersigned 5"):
        open_guard(site)


def test_a_hub_that_shows_somebody_elses_head_proves_nothing(hub: HeadsHub, site: Path, tmp_path: Path) -> None:
    other = hub.site(tmp_path / "nantes", "nantes")
    append(other, 9)
    theirs = hub.countersign(other)
    assert theirs is not None

    def lying(path: str, body: bytes, limit: int) -> Answered:
        return Answered(HTTPStatus.CONFLICT, theirs.content, "head-back")

    with pytest.raises(HeadRefusedError, match="nothing follows from it"):
        send_head(site, lying, now=lambda: NOW)
    assert not is_paused(site)


@pytest.mark.parametrize(
    "answer",
    [
        Answered(HTTPStatus.OK, b""),
        Answered(HTTPStatus.OK, b"{}"),
        Answered(HTTPStatus.OK, b"x" * 50_000),
        Answered(HTTPStatus.CONFLICT, b"", "no"),
        Answered(HTTPStatus.BAD_REQUEST, b"", "no"),
        Answered(HTTPStatus.INTERNAL_SERVER_ERROR, b"", "no"),
    ],
)
def test_no_answer_that_does_not_hold_is_kept(site: Path, answer: Answered) -> None:
    with pytest.raises(HeadRefusedError):
        send_head(site, lambda *_: answer, now=lambda: NOW)
    assert load_countersigned(SitePaths(site)) is None
    assert not is_paused(site)


def test_an_answer_to_an_earlier_head_is_not_kept(hub: HeadsHub, site: Path) -> None:
    first = hub.countersign(site)
    assert first is not None
    append(site)
    with pytest.raises(HeadRefusedError, match="another head than this site sent"):
        send_head(site, lambda *_: Answered(HTTPStatus.OK, first.content), now=lambda: NOW)


def test_an_older_hub_and_an_older_kit_stop_nothing(hub: HeadsHub, site: Path) -> None:
    assert send_head(site, lambda *_: Answered(HTTPStatus.NOT_FOUND, b""), now=lambda: NOW) is None
    kit = site / "keys" / "hub.json"
    content = json.loads(kit.read_text())
    del content["heads_public_key"]
    kit.write_text(json.dumps(content))

    def never(*_: object) -> Answered:
        raise HubCallError("asked")

    assert send_head(site, never, now=lambda: NOW) is None
    assert "none of it yet" in verify_held(site).sentence
    open_guard(site).close()


def test_the_head_says_what_the_budget_has_paid(hub: HeadsHub, site: Path) -> None:
    budget = Budget(SitePaths(site).budget)
    for number in range(3):
        budget.debit(Charge("registry", "run-1", "fit", number, 0.25, "s", "h"), Limit(8.0, 1e-5))
    budget.debit(Charge("another", "run-1", "fit", 0, 1.5, "s", "h"), Limit(8.0, 1e-5))
    budget.close()
    signed = hub.countersign(site)
    assert signed is not None
    assert [(one.dataset, one.mu_squared, one.releases) for one in signed.head.spent] == [
        ("another", 1.5, 1),
        ("registry", 0.75, 3),
    ]


@given(known=st.integers(1, 5), new=st.integers(1, 5), same=st.booleans())
def test_only_a_ledger_that_goes_on_is_countersigned(known: int, new: int, same: bool) -> None:
    def head(count: int, letter: str) -> LedgerHead:
        return LedgerHead(site="a", count=count, hash=letter * 64, issued=NOW, signed_by="A" * 43 + "=")

    verdict = judge_step(head(known, "a"), head(new, "a" if same else "b"))
    expected = "on" if new > known else "back" if new < known else "on" if same else "fork"
    assert verdict == expected


@given(noise=st.binary(min_size=1, max_size=60), at=st.integers(0, 5_000))
def test_no_damaged_head_is_read_as_another(noise: bytes, at: int) -> None:
    head = LedgerHead(
        site="a", count=3, hash="a" * 64, issued=NOW, signed_by="A" * 43 + "=", signature="A" * 86 + "=="
    )
    content = bytearray(head.content)
    start = at % len(content)
    content[start : start + len(noise)] = noise
    for read in (read_head, read_countersigned):
        try:
            found = read(bytes(content))
        except MessageError:
            continue
        assert found.content == bytes(content)
