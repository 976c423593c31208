"""Asks the hub for its models: the list, the files of what is new, and from the agent now and then what is withdrawn.

A call is one HTTPS request to the port and authority that the site joined with, signed with its node key
(`schemas.model_call`). What comes back is hostile until `privacy.model_signature` and `client.models` have passed it;
it is read up to a limit and never further. Nothing about a patient is sent: a call says who asks, and for which
model.
"""

from __future__ import annotations

import base64
import datetime
import http.client
import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from client.hub_check import REASONS, clock_offset_s, clock_sentence, split_address
from client.models import HeldModel, ModelRefusedError, load_models, pinned_model_key, store_model, take_list
from client.settings import load_settings
from privacy.model_signature import SignatureError, read_signed_list
from schemas.artefact import MAX_BYTES
from schemas.errors import ArchipelError, MessageError
from schemas.headers import REASON_HEADER, TIME_HEADER
from schemas.model_call import (
    ARTEFACT_PATH,
    CARD_PATH,
    KEY_HEADER,
    LIST_PATH,
    SIGNATURE_HEADER,
    SIGNED_AT_HEADER,
    call_body,
    signed_content,
)
from schemas.model_list import MAX_LIST_BYTES, ModelList

__all__ = ["Call", "Fetched", "fetch_models", "hub_call", "keep_in_touch", "refresh"]

log = logging.getLogger("archipel.site")

Call = Callable[[str, bytes, int], bytes | None]
"""(path, body, most bytes to read) -> the hub's answer, or None where the hub has no such thing."""

EVERY_S = 60.0
"""How often a running site asks what was withdrawn."""

_TIMEOUT_S = 30.0
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
    settings = load_settings(home)
    host, port = split_address(settings.hub_address)
    key = _node_key(home)
    try:
        context = ssl.create_default_context(cafile=str(home / "keys" / "hub-ca.crt"))
    except (OSError, ssl.SSLError):
        raise ModelRefusedError("The site has not joined a hub yet: `archipel site join KIT.json`.") from None

    def call(path: str, body: bytes, limit: int) -> bytes | None:
        connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)
        try:
            connection.request("POST", path, body, signed_headers(key, path, body, int(time.time())))
            response = connection.getresponse()
            content = response.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            raise ModelRefusedError(
                f"The hub does not answer at {settings.hub_address} ({type(error).__name__}): `archipel site status` "
                "says what is in the way."
            ) from None
        finally:
            connection.close()
        return _content(response, content, limit)

    return call


def signed_headers(key: ec.EllipticCurvePrivateKey, path: str, body: bytes, at: int) -> dict[str, str]:
    """Return the headers by which the hub knows who calls."""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = key.sign(signed_content(path, str(at), body), ec.ECDSA(hashes.SHA384()))
    return {
        KEY_HEADER: base64.b64encode(pem).decode("ascii"),
        SIGNED_AT_HEADER: str(at),
        SIGNATURE_HEADER: base64.b64encode(signature).decode("ascii"),
        "content-length": str(len(body)),
    }


def _content(response: http.client.HTTPResponse, content: bytes, limit: int) -> bytes | None:
    if response.status == HTTPStatus.NOT_FOUND:
        return None
    if response.status != HTTPStatus.OK:
        reason = response.getheader(REASON_HEADER) or ""
        sentence = REASONS.get(reason, f"The hub refused the call (HTTP {response.status}).")
        if reason == "clock":
            sentence = clock_sentence(clock_offset_s(response.getheader(TIME_HEADER)))
        raise ModelRefusedError(sentence)
    if len(content) > limit:
        raise ModelRefusedError("The hub sent more than it had announced; nothing of it is used.")
    return content


def _node_key(home: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key((home / "keys" / "node.key").read_bytes(), None)
    except (OSError, ValueError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ModelRefusedError("keys/node.key is missing or damaged: run `archipel site init`, then enrol anew.")
    return key
