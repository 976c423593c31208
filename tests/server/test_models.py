"""The hub's models: release and withdrawal are logged, numbered and signed; calls are answered to enrolled sites."""

from __future__ import annotations

import sqlite3
from http import HTTPStatus
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from client.hub_post import node_key, signed_headers
from privacy.model_signature import public_text, read_signed_list
from schemas.model_call import (
    ARTEFACT_PATH,
    CARD_PATH,
    KEY_HEADER,
    LIST_PATH,
    SIGNATURE_HEADER,
    SIGNED_AT_HEADER,
    asked_model,
    call_body,
)
from server.database import DATABASE
from server.models import ModelStoreError
from tests.model_release import CARD, NOW, SmallHub


@pytest.fixture
def hub(tmp_path: Path) -> SmallHub:
    return SmallHub(tmp_path / "hub")


@pytest.fixture
def site(hub: SmallHub, tmp_path: Path) -> Path:
    return hub.site(tmp_path / "brest")


AT = int(NOW.timestamp())


def test_every_change_makes_the_next_signed_list_and_a_line_of_the_log(hub: SmallHub) -> None:
    one, two = hub.release(0), hub.release(1)
    hub.withdraw(one, "wrong units")
    found = hub.models.newest_list()
    assert found is not None
    assert read_signed_list(found.content, public_text(hub.key)) == found
    assert found.number == 3
    assert [(m.hash, m.withdrawn_at is None, m.reason) for m in found.models] == [
        (two, True, ""),
        (one, False, "wrong units"),
    ]
    log = hub.models.log()
    assert [(e.what, e.model, e.who, e.text) for e in log] == [
        ("release", one, "A", "because"),
        ("release", two, "A", "because"),
        ("withdrawal", one, "B", "wrong units"),
    ]


def test_a_changed_log_is_found(hub: SmallHub) -> None:
    hub.release(0)
    hub.release(1)
    for change in ("UPDATE model_log SET who = 'C' WHERE \"index\" = 1", 'DELETE FROM model_log WHERE "index" = 1'):
        database = sqlite3.connect(hub.home / DATABASE)
        database.execute(change)
        database.commit()
        database.close()
        with pytest.raises(ModelStoreError, match="changed at entry 1"):
            hub.models.log()


def test_a_model_is_released_once_and_withdrawn_once(hub: SmallHub) -> None:
    model = hub.release()
    with pytest.raises(ModelStoreError, match="released before"):
        hub.release()
    hub.withdraw(model)
    with pytest.raises(ModelStoreError, match="was withdrawn on"):
        hub.withdraw(model)
    with pytest.raises(ModelStoreError, match="has released no model"):
        hub.withdraw("0" * 64)
    assert hub.models.artefact(model) is not None
    assert hub.models.artefact("0" * 64) is None


def test_an_enrolled_site_is_answered(hub: SmallHub, site: Path) -> None:
    model = hub.release()
    call = hub.call(site)
    listed = call(LIST_PATH, b"", 1 << 20)
    assert listed is not None
    assert read_signed_list(listed, public_text(hub.key)).models[0].hash == model
    assert call(ARTEFACT_PATH, call_body(model), 1 << 20) == hub.models.artefact(model)
    assert call(CARD_PATH, call_body(model), 1 << 20) == CARD
    hub.withdraw(model)
    assert call(ARTEFACT_PATH, call_body(model), 1 << 20) is None


def answer(hub: SmallHub, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[HTTPStatus, str]:
    found = hub.calls.answer(path, headers, body)
    assert found.status == HTTPStatus.OK or found.body == b""
    return found.status, found.reason


def test_a_call_is_bound_to_its_path_body_and_time(hub: SmallHub, site: Path) -> None:
    model = hub.release()
    key = node_key(site)
    body = call_body(model)
    headers = signed_headers(key, ARTEFACT_PATH, body, AT)
    assert answer(hub, ARTEFACT_PATH, headers, body)[0] == HTTPStatus.OK
    refused = (HTTPStatus.UNAUTHORIZED, "connection-unknown")
    assert answer(hub, CARD_PATH, headers, body) == refused
    assert answer(hub, ARTEFACT_PATH, headers, call_body("0" * 64)) == refused
    assert answer(hub, ARTEFACT_PATH, {**headers, SIGNED_AT_HEADER: str(AT + 1)}, body) == refused


@pytest.mark.parametrize("off_s", [-400, 400])
def test_a_clock_that_is_off_is_named(hub: SmallHub, site: Path, off_s: int) -> None:
    headers = signed_headers(node_key(site), LIST_PATH, b"", AT + off_s)
    assert answer(hub, LIST_PATH, headers) == (HTTPStatus.UNAUTHORIZED, "clock")


def test_who_is_not_enrolled_learns_nothing(hub: SmallHub, site: Path) -> None:
    hub.release()
    stranger = ec.generate_private_key(ec.SECP384R1())
    ours = signed_headers(node_key(site), LIST_PATH, b"", AT)
    theirs = signed_headers(stranger, LIST_PATH, b"", AT)
    assert answer(hub, LIST_PATH, theirs) == (HTTPStatus.UNAUTHORIZED, "not-enrolled")
    # Another's key with one's own signature.
    mixed = {**theirs, KEY_HEADER: ours[KEY_HEADER]}
    assert answer(hub, LIST_PATH, mixed) == (HTTPStatus.UNAUTHORIZED, "connection-unknown")
    for name in (KEY_HEADER, SIGNED_AT_HEADER, SIGNATURE_HEADER):
        for value in ("", "x" * 5000, "é", "!!!!"):
            status, reason = answer(hub, LIST_PATH, {**ours, name: value})
            assert (status, reason) == (HTTPStatus.UNAUTHORIZED, "malformed"), (name, value)
    assert answer(hub, "/v1/models/", ours)[0] == HTTPStatus.NOT_FOUND


def test_a_body_that_names_no_model_finds_none(hub: SmallHub, site: Path) -> None:
    hub.release()
    for body in (
        b"",
        b"{",
        b"[]",
        b'{"hash": 3}',
        b'{"hash": "../../etc"}',
        b'{"hash": "' + b"0" * 64 + b'", "x": 1}',
    ):
        headers = signed_headers(node_key(site), ARTEFACT_PATH, body, AT)
        assert answer(hub, ARTEFACT_PATH, headers, body)[0] == HTTPStatus.NOT_FOUND
    headers = signed_headers(node_key(site), LIST_PATH, b"{}", AT)
    assert answer(hub, LIST_PATH, headers, b"{}")[0] == HTTPStatus.NOT_FOUND


@given(st.binary(max_size=200))
def test_no_body_is_read_as_anything_but_a_hash(body: bytes) -> None:
    found = asked_model(body)
    assert found is None or (len(found) == 64 and set(found) <= set("0123456789abcdef"))
