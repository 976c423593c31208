"""The hub's side of countersigned heads: from whom it takes them, and that a line never goes back."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from archipel.homes import revoke_site
from archipel.hub_status import hub_status, show_hub_status
from client.heads import stated_head
from client.hub_post import node_key, signed_headers
from privacy.head_signature import public_text, sign_head
from schemas.ledger_head import HEAD_PATH, CountersignedHead, LedgerHead, read_countersigned
from server.database import DATABASE
from server.heads import HeadCalls, HeadStore
from server.hub_home import load_hub_settings
from server.site_caller import CallAnswer
from server.store import Store
from tests.ledger_heads import NOW, HeadsHub, append, truncate


@pytest.fixture
def hub(tmp_path: Path) -> HeadsHub:
    return HeadsHub(tmp_path / "hub")


@pytest.fixture
def site(hub: HeadsHub, tmp_path: Path) -> Path:
    home = hub.site(tmp_path / "brest")
    append(home, 3)
    return home


def _ask(hub: HeadsHub, site: Path, body: bytes, path: str = HEAD_PATH) -> CallAnswer:
    calls = HeadCalls(load_hub_settings(hub.home), clock=lambda: NOW.timestamp())
    return calls.answer(path, signed_headers(node_key(site), path, body, int(NOW.timestamp())), body)


def test_a_repeated_head_is_countersigned_again(hub: HeadsHub, site: Path) -> None:
    head = stated_head(site, NOW)
    assert [_ask(hub, site, head.content).status for _ in range(2)] == [HTTPStatus.OK] * 2
    assert hub.alarms() == []


def test_a_head_that_goes_back_or_aside_is_refused_with_the_one_that_shows_it(
    hub: HeadsHub, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.countersign(site)
    newest = stated_head(site, NOW)
    truncate(site, 2)
    back = _ask(hub, site, stated_head(site, NOW).content)
    append(site)
    aside = _ask(hub, site, stated_head(site, NOW).content)
    assert [(one.status, one.reason) for one in (back, aside)] == [
        (HTTPStatus.CONFLICT, "head-back"),
        (HTTPStatus.CONFLICT, "head-fork"),
    ]
    assert read_countersigned(back.body).head.hash == newest.hash
    assert sorted((one.what, one.count, one.known, one.times) for one in hub.alarms()) == [
        ("back", 2, 3, 1),
        ("fork", 3, 3, 1),
    ]
    show_hub_status(hub_status(hub.home))
    said = capsys.readouterr().out
    assert "ALARM: the ledger of brest ends at entry 2, and 3 were countersigned" in said
    assert "ALARM: the ledger of brest holds another entry 3" in said
    assert "ledger countersigned up to entry 3" in said


def test_a_site_that_goes_on_lying_fills_no_disk(hub: HeadsHub, site: Path) -> None:
    hub.countersign(site)
    append(site, 500)
    hub.countersign(site)
    lines = 200
    identity = _identity(site)
    for count in range(1, lines):
        head = LedgerHead(site="brest", count=count, hash="a" * 64, issued=NOW, signed_by=public_text(identity))
        assert _ask(hub, site, sign_head(head, identity).content).status == HTTPStatus.CONFLICT
    assert len(hub.alarms()) == 100


def _identity(site: Path) -> Ed25519PrivateKey:
    from client.peers import load_identity
    from client.state import SitePaths

    return load_identity(SitePaths(site))


def test_nobody_states_a_head_for_another_site_or_with_another_key(hub: HeadsHub, site: Path, tmp_path: Path) -> None:
    other = hub.site(tmp_path / "nantes", "nantes")
    append(other)
    stranger = Ed25519PrivateKey.generate()
    forged = LedgerHead(site="nantes", count=9, hash="a" * 64, issued=NOW, signed_by=public_text(stranger))
    for body in (
        stated_head(site, NOW).content,  # over the connection of the other
        sign_head(forged, stranger).content,
        forged.model_copy(update={"signed_by": public_text(_identity(other))}).content,
    ):
        assert _ask(hub, other, body).reason == "head-not-signed"
    for body in (b"", b"{}", b"\xff" * 10, b"x" * 60_000):
        assert _ask(hub, other, body).reason == "malformed"
    assert _ask(hub, other, stated_head(other, NOW).content, "/v1/ledger/other").status == HTTPStatus.NOT_FOUND


def test_a_revoked_site_and_a_hub_without_a_key_sign_nothing(hub: HeadsHub, site: Path) -> None:
    head = stated_head(site, NOW).content
    key = hub.home / "keys" / "heads.key"
    content = key.read_bytes()
    key.unlink()
    assert _ask(hub, site, head).status == HTTPStatus.NOT_FOUND
    key.write_bytes(content)
    revoke_site(hub.home, "brest")
    assert (_ask(hub, site, head).status, _ask(hub, site, head).reason) == (HTTPStatus.UNAUTHORIZED, "not-enrolled")


def test_a_line_goes_on_under_a_new_identity_after_a_rotation_alone(hub: HeadsHub, site: Path) -> None:
    hub.countersign(site)
    fresh = Ed25519PrivateKey.generate()
    back = sign_head(
        LedgerHead(site="brest", count=1, hash="a" * 64, issued=NOW, signed_by=public_text(fresh)), fresh
    )
    with Store(hub.home / DATABASE) as store:
        heads = HeadStore(store)
        heads.carry_on("brest", public_text(_identity(site)), public_text(fresh))
        assert not hasattr(heads.take(back, _never), "signature")
        newest = heads.newest("brest")
    assert newest is not None
    assert newest.head.count == 3


def _never(_head: LedgerHead) -> CountersignedHead:
    raise AssertionError("countersigned")
