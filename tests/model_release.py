"""A hub and a site in two folders, introduced to each other, and models that the hub releases: for many tests."""

from __future__ import annotations

import datetime
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import numpy as np

from archipel.enrol import public_text
from archipel.homes import enrol_site, init_hub, init_site, join_site, model_key
from client.hub_post import node_key, signed_headers
from client.model_fetch import Call
from client.models import ModelRefusedError
from privacy.model_signature import sign_artefact, sign_list
from schemas.artefact import Artefact, Manifest, write_artefact
from schemas.canonical import sha256_hex
from schemas.model_list import ListedModel, ModelList
from server.database import DATABASE
from server.hub_home import load_hub_settings
from server.model_calls import ModelCalls
from server.models import ModelStore
from server.store import Store
from tests.plans import small_plan
from tests.schemas.test_artefact import artefact

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
CARD = b'{"kind": "model-card"}'


class SmallHub:
    """A hub's folder with one finished run; `release` and `withdraw` do what the command does."""

    def __init__(self, home: Path) -> None:
        self.home = home
        init_hub(home, host="127.0.0.1", public_port=0, internal_port=0)
        self.key = model_key(home)
        self.store = Store(home / DATABASE)
        self.store.create_run("run", small_plan(), ["brest", "nantes", "rennes"])
        self.models = ModelStore(self.store)
        self.calls = ModelCalls(load_hub_settings(home), clock=lambda: NOW.timestamp())

    def site(self, home: Path, name: str = "brest") -> Path:
        """Make and enrol a site."""
        request = init_site(home, name, home / "tables", NOW)
        join_site(home, enrol_site(self.home, request.to_json().encode(), NOW).to_json().encode(), NOW)
        return home

    def signed(self, seed: int = 0, *, expires: datetime.date | None = None, card: bytes = CARD) -> Artefact:
        """Return a small signed model."""
        changes = {"card_hash": sha256_hex(card), "expires": expires, "run_id": "run"}
        model = replace(artefact(), manifest=Manifest(**{**dict(artefact().manifest), **changes}))
        arrays = {**model.arrays, "beta": np.array([0.3, -0.2 + seed / 100])}
        return sign_artefact(replace(model, arrays=arrays), self.key)

    def listed(self, data: bytes, model: Artefact, card: bytes = CARD) -> ListedModel:
        """Return a model's entry in the list."""
        manifest = model.manifest
        return ListedModel(
            hash=sha256_hex(data), card_hash=sha256_hex(card), n_bytes=len(data), study=manifest.study, run_id="run",
            plan_hash=manifest.plan_hash, released_at=NOW, expires=manifest.expires,
        )  # fmt: skip

    def release(self, seed: int = 0, *, expires: datetime.date | None = None) -> str:
        """Release a small model and return its hash."""
        model = self.signed(seed, expires=expires)
        data = write_artefact(model)
        entry = self.listed(data, model)
        self.models.release(
            entry, data, CARD, signed_by=public_text(self.key.public_key()), sign=self.sign, who="A", text="because"
        )
        return entry.hash

    def withdraw(self, model: str, reason: str = "it was wrong") -> None:
        """Withdraw a model."""
        public = public_text(self.key.public_key())
        self.models.withdraw(model, reason, signed_by=public, sign=self.sign, who="B")

    def sign(self, models: ModelList) -> ModelList:
        """Sign a list."""
        return sign_list(models, self.key)

    def call(self, site: Path) -> Call:
        """Return the call of a site, without a wire: signed, answered, refused as over TLS."""
        key = node_key(site)

        def ask(path: str, body: bytes, limit: int) -> bytes | None:
            headers = signed_headers(key, path, body, int(NOW.timestamp()))
            found = self.calls.answer(path, headers, body)
            if found.status == HTTPStatus.NOT_FOUND:
                return None
            if found.status != HTTPStatus.OK:
                raise ModelRefusedError(found.reason)
            return found.body[: limit + 1]

        return ask
