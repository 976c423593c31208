"""What the hub answers to a site that asks for models: who asks, whether it may, and bytes that were signed before.

Pure but for the store and the file of enrolled sites; no Flower and no key. `server.superlink` serves it on the
public port, beside the fleet calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

from schemas.model_call import ARTEFACT_PATH, CARD_PATH, LIST_PATH, asked_model
from server.database import DATABASE
from server.hub_home import HubSettings
from server.models import ModelStore
from server.site_caller import CallAnswer, SiteCaller
from server.store import Store

__all__ = ["CallAnswer", "ModelCalls"]


class ModelCalls:
    """Answers the calls of `schemas.model_call`.

    Args:
        settings: Of the hub.
        clock: Seconds since 1970.
    """

    def __init__(self, settings: HubSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._caller = SiteCaller(settings, clock)

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> CallAnswer:
        """Return the answer to one call; nothing about any model is told to who is not enrolled."""
        if path not in (LIST_PATH, ARTEFACT_PATH, CARD_PATH):
            return CallAnswer(HTTPStatus.NOT_FOUND)
        site, reason = self._caller.of(path, headers, body)
        if site is None:
            return CallAnswer(HTTPStatus.UNAUTHORIZED, reason=reason)
        with Store(self._settings.home / DATABASE) as store:
            found = _find(ModelStore(store), path, site, body)
        return CallAnswer(HTTPStatus.NOT_FOUND) if found is None else CallAnswer(HTTPStatus.OK, found)


def _find(models: ModelStore, path: str, site: str, body: bytes) -> bytes | None:
    if path == LIST_PATH:
        return models.send_list(site) if not body else None
    model = asked_model(body)
    if model is None:
        return None
    if path == ARTEFACT_PATH:
        return models.send(model, site)
    return models.card(model)
