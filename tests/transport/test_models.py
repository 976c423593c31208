"""Models over TLS: the hub's own process hands out what was signed before, to enrolled sites alone."""

from __future__ import annotations

import datetime
import http.client
import json
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.model_fetch import fetch_models, keep_in_touch
from client.models import ModelRefusedError, accept_model, load_models, usable_model
from privacy.model_signature import public_text, sign_artefact, sign_list
from schemas.artefact import Manifest, write_artefact
from schemas.canonical import sha256_hex
from schemas.model_call import LIST_PATH, MAX_CALL_BYTES
from schemas.model_list import ListedModel
from server.database import DATABASE
from server.models import ModelStore
from server.store import Store
from tests.doubles.federation import Federation, until
from tests.plans import small_plan
from tests.schemas.test_artefact import artefact

NOW = datetime.datetime.now(datetime.UTC)
CARD = b'{"kind":"model-card"}'
KEY = Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def model(federation: Federation) -> str:
    """A model that the hub has released."""
    bare = artefact()
    manifest = Manifest(**{**dict(bare.manifest), "card_hash": sha256_hex(CARD), "expires": None})
    data = write_artefact(sign_artefact(type(bare)(manifest, bare.arrays), KEY))
    listed = ListedModel(
        hash=sha256_hex(data), card_hash=sha256_hex(CARD), n_bytes=len(data), study="small", run_id="released",
        plan_hash="a" * 64, released_at=NOW,
    )  # fmt: skip
    with Store(federation.settings.home / DATABASE) as store:
        store.create_run("released", small_plan(), list(federation.sites))
        ModelStore(store).release(
            listed, data, CARD, signed_by=public_text(KEY), sign=lambda one: sign_list(one, KEY), who="A", text="x"
        )
    return listed.hash


def joined(home: Path) -> Path:
    (home / "keys" / "hub.json").write_text(json.dumps({"model_public_key": public_text(KEY)}))
    return home


def test_an_enrolled_site_fetches_over_tls(federation: Federation, model: str) -> None:
    found = fetch_models(joined(federation.sites["paris"].home))
    assert [one.listed.hash for one in found.new] == [model]


def test_a_running_site_hears_of_a_withdrawal_by_itself(federation: Federation, model: str) -> None:
    home = joined(federation.sites["nantes"].home)
    fetch_models(home)
    accept_model(home, model, who="Dr. Weiß", now=lambda: NOW)
    assert usable_model(home, model, now=lambda: NOW).manifest.study == "small"
    with Store(federation.settings.home / DATABASE) as store:
        ModelStore(store).withdraw(
            model, "wrong units", signed_by=public_text(KEY), sign=lambda one: sign_list(one, KEY), who="B"
        )
    ended = keep_in_touch(home, every_s=0.2)
    until(lambda: load_models(home).by_hash[model].withdrawn_seen_at is not None, "the withdrawal to be heard of")
    ended.set()
    with pytest.raises(ModelRefusedError, match="wrong units"):
        usable_model(home, model, now=lambda: NOW)


def test_a_site_with_another_hubs_authority_does_not_even_ask(
    federation: Federation, model: str, tmp_path: Path
) -> None:
    from server.hub_process import hub_init

    home = joined(federation.sites["lyon"].home)
    authority = home / "keys" / "hub-ca.crt"
    ours = authority.read_bytes()
    try:
        authority.write_bytes(hub_init(tmp_path / "other").authority.read_bytes())
        with pytest.raises(ModelRefusedError, match="does not answer"):
            fetch_models(home)
    finally:
        authority.write_bytes(ours)


def test_nobody_without_a_key_is_told_anything(federation: Federation, model: str) -> None:
    context = ssl.create_default_context(cafile=str(federation.settings.authority))
    for path, body, status in (
        (LIST_PATH, b"", 401),
        (LIST_PATH, b"x" * (MAX_CALL_BYTES + 1), 413),
        ("/v1/models/", b"", 404),
        ("/v1/models/../fleet/pull-messages", b"", 404),
    ):
        connection = http.client.HTTPSConnection(
            "127.0.0.1", federation.settings.public_port, context=context, timeout=10
        )
        try:
            connection.request("POST", path, body)
            response = connection.getresponse()
            assert response.status == status, path
            assert response.read() in (b"", b"too-large", b"not found")
        finally:
            connection.close()
    connection = http.client.HTTPSConnection(
        "127.0.0.1", federation.settings.public_port, context=context, timeout=10
    )
    try:
        connection.request("GET", LIST_PATH)
        assert connection.getresponse().status == 404
    finally:
        connection.close()
