"""Asks the hub for its models: the list, the files of what is new, and from the agent now and then what is withdrawn.

A call is one signed HTTPS request (`client.hub_post`). What comes back is hostile until `privacy.model_signature` and
`client.models` have passed it; it is read up to a limit and never further. Nothing about a patient is sent: a call
says who asks, and for which model.
"""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from client.hub_post import Answered, HubCallError, hub_post
from client.models import HeldModel, ModelRefusedError, load_models, pinned_model_key, store_model, take_list
from privacy.model_signature import SignatureError, read_signed_list
from schemas.artefact import MAX_BYTES
from schemas.errors import ArchipelError, MessageError
from schemas.model_call import ARTEFACT_PATH, CARD_PATH, LIST_PATH, call_body
from schemas.model_list import MAX_LIST_BYTES, ModelList

__all__ = ["Call", "Fetched", "fetch_models", "hub_call", "keep_in_touch", "refresh"]

log = logging.getLogger("archipel.site")

Call = Callable[[str, bytes, int], bytes | None]
"""(path, body, most bytes to read) -> the hub's answer, or None where the hub has no such thing."""

EVERY_S = 60.0
"""How often a running site asks what was withdrawn."""

_MAX_CARD = 8 << 20


@dataclass(frozen=True)
class Fetched:
    """What one look at the hub brought.

    Attributes:
        new: Models that were not here before.
        withdrawn: That the hub has withdrawn since the last look.
    """

    new: tuple[HeldModel, ...]
    withdrawn: tuple[HeldModel, ...]


def utc_now() -> datetime.datetime:
    """Return the time, with its zone."""
    return datetime.datetime.now(datetime.UTC)


def fetch_models(home: Path, call: Call | None = None, *, now: Callable[[], datetime.datetime] = utc_now) -> Fetched:
    """Ask the hub for its list and for every released model that this site does not hold yet.

    Raises:
        ModelRefusedError: When the hub refuses, or what it sends is not signed by the pinned key.
        StorageError: When something cannot be written.
    """
    ask = call or hub_call(home)
    models, withdrawn = _heard(home, ask, now)
    if models is None:
        return Fetched((), ())
    known, today, pinned = load_models(home), now().date(), pinned_model_key(home)
    for listed in models.models:
        expired = listed.expires is not None and listed.expires < today
        if listed.hash in known.by_hash or listed.withdrawn_at is not None or expired:
            continue
        if listed.n_bytes > MAX_BYTES:
            raise ModelRefusedError(f"The model {listed.hash[:12]} is longer than this site reads.")
        artefact = ask(ARTEFACT_PATH, call_body(listed.hash), listed.n_bytes)
        card = ask(CARD_PATH, call_body(listed.hash), _MAX_CARD)
        if artefact is None or card is None:
            continue  # withdrawn since the list was sent: the next list says so
        store_model(home, listed, artefact, card, pinned, now=now)
    held = load_models(home).by_hash
    return Fetched(tuple(one for key, one in held.items() if key not in known.by_hash), withdrawn)


def refresh(
    home: Path, call: Call | None = None, *, now: Callable[[], datetime.datetime] = utc_now
) -> tuple[HeldModel, ...]:
    """Ask the hub for its list alone, and return what it has withdrawn since the last look.

    Raises:
        ModelRefusedError: When the hub refuses, or the list is not signed by the pinned key.
        StorageError: When it cannot be written.
    """
    return _heard(home, call or hub_call(home), now)[1]


def keep_in_touch(home: Path, *, every_s: float = EVERY_S) -> threading.Event:
    """Ask now, and again every minute, what the hub has withdrawn, in a thread that ends with the process.

    A site that holds no model asks too: it costs nothing, and a model that is fetched later finds the number of the
    last list already known.

    Returns:
        What ends it sooner when it is set.
    """
    ended = threading.Event()
    threading.Thread(target=_stay_in_touch, args=(home, every_s, ended), name="models", daemon=True).start()
    return ended


def _stay_in_touch(home: Path, every_s: float, ended: threading.Event) -> None:
    said = ""
    while not ended.is_set():
        problem = ""
        try:
            for held in refresh(home):
                log.warning("the hub withdrew the model %s; it is refused from now on", held.listed.hash[:12])
        except ArchipelError as error:
            problem = str(error)
        except Exception as error:
            # Whatever it was: the rounds of a run go on, and the next look comes in a minute.
            problem = f"asking for models failed ({type(error).__name__})"
        if problem and problem != said:
            log.warning("%s", problem)
        said = problem
        ended.wait(every_s)


def _heard(
    home: Path, call: Call, now: Callable[[], datetime.datetime]
) -> tuple[ModelList | None, tuple[HeldModel, ...]]:
    pinned = pinned_model_key(home)
    content = call(LIST_PATH, call_body(), MAX_LIST_BYTES)
    if content is None:
        return None, ()  # the hub has never released a model
    try:
        models = read_signed_list(content, pinned)
    except (MessageError, SignatureError) as error:
        raise ModelRefusedError(f"The hub's list of models is refused: {error}.") from None
    return models, take_list(home, models, now=now)


# ---------------------------------------------------------------- the wire
def hub_call(home: Path) -> Call:
    """Return what makes one call to this site's hub.

    Raises:
        ModelRefusedError: When the site has not joined, or a key is missing.
    """
    try:
        post = hub_post(home)
    except HubCallError as error:
        raise ModelRefusedError(str(error)) from None

    def call(path: str, body: bytes, limit: int) -> bytes | None:
        try:
            answer = post(path, body, limit)
        except HubCallError as error:
            raise ModelRefusedError(str(error)) from None
        return _content(answer, limit)

    return call


def _content(answer: Answered, limit: int) -> bytes | None:
    if answer.status == HTTPStatus.NOT_FOUND:
        return None
    if answer.status != HTTPStatus.OK:
        raise ModelRefusedError(answer.sentence)
    if len(answer.content) > limit:
        raise ModelRefusedError("The hub sent more than it had announced; nothing of it is used.")
    return answer.content
