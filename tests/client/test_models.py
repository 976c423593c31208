"""Models at a site: fetched, accepted, refused, withdrawn, removed; and everything a hostile hub could send."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from archipel.homes import revoke_site
from client.model_fetch import fetch_models, refresh
from client.models import (
    HeldModels,
    ModelRefusedError,
    accept_model,
    load_models,
    pinned_model_key,
    remove_model,
    state_of,
    usable_model,
)
from client.state import ledger_path
from privacy.ledger import entries
from privacy.model_signature import public_text, sign_list
from privacy.storage import StorageError
from schemas.artefact import write_artefact
from schemas.model_call import ARTEFACT_PATH, CARD_PATH, LIST_PATH
from tests.model_release import NOW, SmallHub


def now() -> datetime.datetime:
    return NOW


@pytest.fixture
def hub(tmp_path: Path) -> SmallHub:
    return SmallHub(tmp_path / "hub")


@pytest.fixture
def site(hub: SmallHub, tmp_path: Path) -> Path:
    return hub.site(tmp_path / "brest")


def fetched(hub: SmallHub, site: Path) -> str:
    model = hub.release()
    fetch_models(site, hub.call(site), now=now)
    return model


def accepted(hub: SmallHub, site: Path) -> str:
    model = fetched(hub, site)
    accept_model(site, model, who="Dr. Weiß", now=now)
    return model


def ledger(site: Path) -> list[tuple[str, str, str]]:
    return [
        (e.event.digest, e.event.who, e.event.rule) for e in entries(ledger_path(site)) if e.event.kind == "model"
    ]


def test_a_released_model_reaches_a_site_and_is_used_once_a_person_has_accepted_it(hub: SmallHub, site: Path) -> None:
    model = hub.release()
    found = fetch_models(site, hub.call(site), now=now)
    assert [one.listed.hash for one in found.new] == [model]
    with pytest.raises(ModelRefusedError, match="Nobody at this site has accepted"):
        usable_model(site, model, now=now)
    held = accept_model(site, model[:8], who="Dr. Weiß", now=now)
    assert (held.accepted_by, held.accepted_at) == ("Dr. Weiß", NOW)
    assert usable_model(site, model, now=now).manifest.study == "small"
    assert ledger(site) == [
        (model, "", "fetched from the hub"),
        (model, "Dr. Weiß", "accepted for use at this site"),
    ]


def test_fetching_again_changes_nothing(hub: SmallHub, site: Path) -> None:
    model = accepted(hub, site)
    assert fetch_models(site, hub.call(site), now=now).new == ()
    assert load_models(site).by_hash[model].accepted_by == "Dr. Weiß"


def test_before_the_first_release_there_is_nothing(hub: SmallHub, site: Path) -> None:
    assert fetch_models(site, hub.call(site), now=now).new == ()
    assert load_models(site) == HeldModels()


def test_a_withdrawal_holds_from_the_next_contact_on(hub: SmallHub, site: Path) -> None:
    model = accepted(hub, site)
    hub.withdraw(model, "a covariate was coded the wrong way round")
    assert [one.listed.hash for one in refresh(site, hub.call(site), now=now)] == [model]
    with pytest.raises(ModelRefusedError, match="a covariate was coded the wrong way round"):
        usable_model(site, model, now=now)
    with pytest.raises(ModelRefusedError, match="withdrew"):
        accept_model(site, model, who="B", now=now)
    assert refresh(site, hub.call(site), now=now) == ()
    assert ledger(site)[-1][2].startswith("withdrawn by the hub: a covariate")


def test_the_hub_knows_who_holds_a_model_and_who_has_heard_of_its_withdrawal(
    hub: SmallHub, site: Path, tmp_path: Path
) -> None:
    other = hub.site(tmp_path / "nantes", "nantes")
    model = accepted(hub, site)
    fetch_models(other, hub.call(other), now=now)
    hub.withdraw(model)
    refresh(site, hub.call(site), now=now)
    assert set(hub.models.holders(model)) == {"brest", "nantes"}
    assert {name: number for name, (number, _) in hub.models.contacts().items()} == {"brest": 2, "nantes": 1}


def test_a_withdrawn_model_is_not_fetched(hub: SmallHub, site: Path) -> None:
    model = hub.release()
    hub.withdraw(model)
    other = hub.release(1)
    assert [one.listed.hash for one in fetch_models(site, hub.call(site), now=now).new] == [other]


def test_an_older_list_cannot_bring_a_withdrawn_model_back(hub: SmallHub, site: Path) -> None:
    model = accepted(hub, site)
    older = hub.models.newest_list()
    assert older is not None
    hub.withdraw(model)
    refresh(site, hub.call(site), now=now)
    with pytest.raises(ModelRefusedError, match="older list"):
        refresh(site, lambda path, body, limit: older.content, now=now)
    with pytest.raises(ModelRefusedError, match="withdrew"):
        usable_model(site, model, now=now)


def test_even_a_newer_list_cannot(hub: SmallHub, site: Path) -> None:
    """A hub whose key signs that it never happened: the site remembers."""
    model = accepted(hub, site)
    first = hub.models.newest_list()
    assert first is not None
    hub.withdraw(model)
    refresh(site, hub.call(site), now=now)
    lie = sign_list(first.model_copy(update={"number": 3, "signature": ""}), hub.key)
    refresh(site, lambda path, body, limit: lie.content, now=now)
    with pytest.raises(ModelRefusedError, match="withdrew"):
        usable_model(site, model, now=now)


def test_a_list_that_no_longer_names_a_model_withdraws_it(hub: SmallHub, site: Path) -> None:
    model = accepted(hub, site)
    first = hub.models.newest_list()
    assert first is not None
    empty = sign_list(first.model_copy(update={"number": 2, "models": (), "signature": ""}), hub.key)
    refresh(site, lambda path, body, limit: empty.content, now=now)
    with pytest.raises(ModelRefusedError, match="no longer lists"):
        usable_model(site, model, now=now)


def test_a_list_signed_by_another_key_is_refused(hub: SmallHub, site: Path) -> None:
    fetched(hub, site)
    first = hub.models.newest_list()
    assert first is not None
    stranger = Ed25519PrivateKey.generate()
    for forged in (
        sign_list(first.model_copy(update={"number": 9}), stranger),
        sign_list(first.model_copy(update={"number": 9, "signed_by": public_text(stranger)}), stranger),
        first.model_copy(update={"number": 9}),
        first.model_copy(update={"signature": ""}),
    ):
        with pytest.raises(ModelRefusedError, match="is refused"):
            refresh(site, lambda path, body, limit, forged=forged: forged.content, now=now)  # type: ignore[misc]
    assert load_models(site).number == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff" * 100, b"[" * 100_000, b'{"kind":"model-list"}'])
def test_what_is_no_list_is_refused(hub: SmallHub, site: Path, content: bytes) -> None:
    with pytest.raises(ModelRefusedError, match="is refused"):
        refresh(site, lambda path, body, limit: content, now=now)


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "a\rb", "\x9b31m", "\u202ereversed"])
def test_a_list_that_would_rewrite_a_terminal_is_refused(hub: SmallHub, site: Path, text: str) -> None:
    fetched(hub, site)
    first = hub.models.newest_list()
    assert first is not None
    gone = first.models[0].model_copy(update={"withdrawn_at": NOW, "reason": text})
    nasty = sign_list(first.model_copy(update={"number": 2, "models": (gone,), "signature": ""}), hub.key)
    with pytest.raises(ModelRefusedError, match="is refused"):
        refresh(site, lambda path, body, limit: nasty.content, now=now)


def test_files_that_the_list_does_not_name_are_refused(hub: SmallHub, site: Path) -> None:
    hub.release()
    honest = hub.call(site)
    other = write_artefact(hub.signed(7))

    def swapped(path: str, body: bytes, limit: int) -> bytes | None:
        return other if path == ARTEFACT_PATH else honest(path, body, limit)

    def other_card(path: str, body: bytes, limit: int) -> bytes | None:
        return b'{"kind":"another"}' if path == CARD_PATH else honest(path, body, limit)

    for call in (swapped, other_card):
        with pytest.raises(ModelRefusedError, match="not those that the hub's list names"):
            fetch_models(site, call, now=now)
    assert load_models(site).by_hash == {}
    assert not (site / "models").exists()


def test_a_listed_model_that_the_key_has_not_signed_is_refused(hub: SmallHub, site: Path) -> None:
    stranger = SmallHub(site.parent / "stranger")
    model = stranger.signed()
    data = write_artefact(model)
    entry = hub.listed(data, model)
    hub.models.release(
        entry, data, b'{"kind": "model-card"}', signed_by=public_text(hub.key), sign=hub.sign, who="A", text="x"
    )
    with pytest.raises(ModelRefusedError, match="another key"):
        fetch_models(site, hub.call(site), now=now)


def test_a_model_that_is_longer_than_announced_is_refused(hub: SmallHub, site: Path) -> None:
    hub.release()
    honest = hub.call(site)

    def padded(path: str, body: bytes, limit: int) -> bytes | None:
        found = honest(path, body, limit)
        return found if path == LIST_PATH or found is None else found + b"\0"

    with pytest.raises(ModelRefusedError, match="not those"):
        fetch_models(site, padded, now=now)


def test_a_file_altered_on_the_disk_is_refused_when_it_is_used(hub: SmallHub, site: Path) -> None:
    model = accepted(hub, site)
    path = site / "models" / model / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelRefusedError, match="not those"):
        usable_model(site, model, now=now)
    path.unlink()
    with pytest.raises(StorageError):
        usable_model(site, model, now=now)


def test_an_expired_model_is_refused(hub: SmallHub, site: Path) -> None:
    model = hub.release(expires=NOW.date())
    fetch_models(site, hub.call(site), now=now)
    accept_model(site, model, who="A", now=now)
    assert usable_model(site, model, now=now).manifest.expires == NOW.date()
    with pytest.raises(ModelRefusedError, match="expired on"):
        usable_model(site, model, now=lambda: NOW + datetime.timedelta(days=1))
    assert state_of(load_models(site).by_hash[model], NOW.date() + datetime.timedelta(days=1)) == "expired"


def test_a_removed_model_is_gone_but_for_the_ledger(hub: SmallHub, site: Path) -> None:
    model = accepted(hub, site)
    remove_model(site, model, who="A")
    assert not (site / "models" / model).exists()
    with pytest.raises(ModelRefusedError, match="No model"):
        usable_model(site, model, now=now)
    assert ledger(site)[-1] == (model, "A", "removed from this site")


def test_a_model_is_accepted_once_and_by_a_named_person(hub: SmallHub, site: Path) -> None:
    model = fetched(hub, site)
    for nobody in ("", "a\nb"):
        with pytest.raises(ModelRefusedError, match="must be named"):
            accept_model(site, model, who=nobody, now=now)
    accept_model(site, model, who="A", now=now)
    with pytest.raises(ModelRefusedError, match="already"):
        accept_model(site, model, who="B", now=now)


@pytest.mark.parametrize("which", ["", "abc", "../../keys", "zzzzzz"])
def test_a_model_is_named_by_six_characters_of_its_hash(hub: SmallHub, site: Path, which: str) -> None:
    accepted(hub, site)
    with pytest.raises(ModelRefusedError):
        usable_model(site, which, now=now)


def test_damaged_decisions_are_no_acceptance(hub: SmallHub, site: Path) -> None:
    model = accepted(hub, site)
    (site / "state" / "models.json").write_text("{")
    with pytest.raises(StorageError, match="no model counts as accepted"):
        usable_model(site, model, now=now)


def test_when_the_ledger_cannot_be_written_nothing_is_accepted(hub: SmallHub, site: Path) -> None:
    model = fetched(hub, site)
    path = ledger_path(site)
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    with pytest.raises(Exception, match="ledger"):
        accept_model(site, model, who="A", now=now)
    path.rmdir()
    path.write_bytes(content)
    with pytest.raises(ModelRefusedError, match="Nobody"):
        usable_model(site, model, now=now)


def test_a_kit_from_before_there_was_a_model_key_says_what_to_do(hub: SmallHub, site: Path) -> None:
    path = site / "keys" / "hub.json"
    kit = json.loads(path.read_text())
    del kit["model_public_key"]
    path.write_text(json.dumps(kit))
    with pytest.raises(ModelRefusedError, match="ask the hub for a new kit"):
        refresh(site, hub.call(site), now=now)
    for damaged in ("[]", "{", '{"model_public_key": 3}', "[" * 100_000):
        path.write_text(damaged)
        with pytest.raises(ModelRefusedError, match="new kit"):
            pinned_model_key(site)


def test_a_revoked_site_gets_nothing(hub: SmallHub, site: Path) -> None:
    hub.release()
    revoke_site(hub.home, "brest")
    with pytest.raises(ModelRefusedError, match="not-enrolled"):
        fetch_models(site, hub.call(site), now=now)


def test_what_is_kept_is_closed_to_others(hub: SmallHub, site: Path) -> None:
    model = accepted(hub, site)
    for path in (site / "state" / "models.json", *(site / "models" / model).iterdir()):
        assert os.stat(path).st_mode & 0o077 == 0
