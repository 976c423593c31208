"""The models that this site holds: fetched, accepted by a person, withdrawn by the hub, removed.

A small state machine (`HeldModels`) and the files that remember it:

    state/models.json                 what was decided about which model; the number of the last list seen
    models/HASH/model.safetensors     as the hub signed it
    models/HASH/card.json

Rules: nothing is kept that the hub's model key, pinned at enrolment, has not signed; a model is used only after a
person of this site has accepted it; what the hub withdraws is refused from the next contact on, and stays refused. A
file is read and verified anew each time it is used (`usable_model`).
"""

from __future__ import annotations

import datetime
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from client.decisions import Person
from client.state import SitePaths
from models.compile import CODE_VERSION
from privacy.ledger import Event, Ledger
from privacy.model_signature import SignatureError, read_signed_artefact
from privacy.storage import StorageError, locked, storage_error, write_durably
from schemas.artefact import MAX_BYTES, Artefact, Hash
from schemas.canonical import canonical_json, sha256_hex
from schemas.errors import ArchipelError, IncompatibleVersionError, MessageError
from schemas.model_list import ListedModel, ModelList

__all__ = [
    "HeldModel", "HeldModels", "ModelRefusedError", "State", "accept_model", "find_model", "load_models",
    "pinned_model_key", "remove_model", "state_of", "store_model", "take_list", "usable_model",
]  # fmt: skip

State = Literal["fetched", "accepted", "withdrawn", "expired"]
Clock = Callable[[], datetime.datetime]
_STRICT = ConfigDict(extra="forbid", frozen=True)
_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")
_MAX_CARD = 8 << 20


class ModelRefusedError(ArchipelError):
    """A model that this site does not take or use, with the reason."""


class HeldModel(BaseModel):
    """One model at this site.

    Attributes:
        listed: What the hub's list said of it last.
        accepted_by: The person, with the time; None before.
        withdrawn_seen_at: When this site learned of the withdrawal.
    """

    model_config = _STRICT

    listed: ListedModel
    fetched_at: AwareDatetime
    accepted_by: Person | None = None
    accepted_at: AwareDatetime | None = None
    withdrawn_seen_at: AwareDatetime | None = None


class HeldModels(BaseModel):
    """All models at this site, by hash.

    Attributes:
        number: Of the last list seen; 0 before the first. No older list is taken.
        heard_at: When the hub was last heard.
    """

    model_config = _STRICT

    kind: Literal["held-models"] = "held-models"
    version: Literal[1] = 1
    number: Annotated[int, Field(ge=0)] = 0
    heard_at: AwareDatetime | None = None
    by_hash: dict[Hash, HeldModel] = Field(default_factory=dict)

    def heard(self, models: ModelList, now: datetime.datetime) -> HeldModels:
        """Return the state after a verified list: whatever it withdraws, or no longer names, is withdrawn here.

        Raises:
            ModelRefusedError: For a list older than the last one.
        """
        if models.number < self.number:
            raise ModelRefusedError(
                f"The hub sent an older list of models (number {models.number}) than this site has seen "
                f"({self.number}), so nothing of it is taken. Tell the hub's administrator: its database was set "
                "back, or somebody sits in between."
            )
        held = {key: _after(one, models.find(key), now) for key, one in self.by_hash.items()}
        return self.model_copy(update={"number": models.number, "heard_at": now, "by_hash": held})

    def with_model(self, key: str, model: HeldModel) -> HeldModels:
        """Return the state with one model in place of what was known of it."""
        return self.model_copy(update={"by_hash": {**self.by_hash, key: model}})

    def without(self, key: str) -> HeldModels:
        """Return the state without one model."""
        return self.model_copy(update={"by_hash": {k: one for k, one in self.by_hash.items() if k != key}})


def _after(held: HeldModel, listed: ListedModel | None, now: datetime.datetime) -> HeldModel:
    if held.withdrawn_seen_at is not None:
        return held  # for good, whatever a later list says
    gone = listed
    if gone is None:
        reason = "the hub no longer lists it"
        gone = ListedModel(**{**dict(held.listed), "withdrawn_at": now, "reason": reason})
    seen = now if gone.withdrawn_at is not None else None
    return held.model_copy(update={"listed": gone, "withdrawn_seen_at": seen})


def state_of(held: HeldModel, today: datetime.date) -> State:
    """Return what a model at this site is today (UTC)."""
    if held.listed.withdrawn_at is not None:
        return "withdrawn"
    if held.listed.expires is not None and today > held.listed.expires:
        return "expired"
    return "fetched" if held.accepted_by is None else "accepted"


# ---------------------------------------------------------------- what a person, a page or the agent does
def take_list(home: Path, models: ModelList, *, now: Clock) -> tuple[HeldModel, ...]:
    """Take in a verified list, and return the models that it has newly withdrawn here.

    Raises:
        ModelRefusedError: For a list older than the last one.
        StorageError: When it cannot be written.
    """
    paths, moment = SitePaths(home), now()
    with locked(_file(paths).with_suffix(".lock"), exclusive=True):
        before = load_models(home)
        after = before.heard(models, moment)
        gone = tuple(
            held
            for key, held in after.by_hash.items()
            if held.withdrawn_seen_at != before.by_hash[key].withdrawn_seen_at
        )
        # The state first: a full disk at the ledger must not keep a withdrawn model in use.
        _write(paths, after)
        for held in gone:
            _ledger(paths, held, f"withdrawn by the hub: {held.listed.reason}", who="")
    return gone


def store_model(home: Path, listed: ListedModel, artefact: bytes, card: bytes, pinned: str, *, now: Clock) -> None:
    """Keep a model that was fetched, if it is what the signed list names and the pinned key has signed it.

    Raises:
        ModelRefusedError: When it is not.
        StorageError: When it cannot be written.
    """
    verify_model(listed, artefact, card, pinned)
    paths, moment = SitePaths(home), now()
    with locked(_file(paths).with_suffix(".lock"), exclusive=True):
        known = load_models(home)
        if listed.hash in known.by_hash:
            return
        write_durably(_model_file(home, listed.hash), artefact)
        write_durably(_card_file(home, listed.hash), card)
        held = HeldModel(listed=listed, fetched_at=moment)
        _ledger(paths, held, "fetched from the hub", who="")
        _write(paths, known.with_model(listed.hash, held))


def verify_model(listed: ListedModel, artefact: bytes, card: bytes, pinned: str) -> Artefact:
    """Hold a model's files to the signed list and to the pinned key, and return the model.

    Raises:
        ModelRefusedError: When anything does not fit.
    """
    if sha256_hex(artefact) != listed.hash or sha256_hex(card) != listed.card_hash:
        raise ModelRefusedError(f"The files of model {listed.hash[:12]} are not those that the hub's list names.")
    try:
        model = read_signed_artefact(artefact, pinned)
    except (MessageError, SignatureError, IncompatibleVersionError) as error:
        raise ModelRefusedError(f"The model {listed.hash[:12]} is refused: {error}.") from None
    if model.manifest.card_hash != listed.card_hash or model.manifest.expires != listed.expires:
        raise ModelRefusedError(f"The model {listed.hash[:12]} and the hub's list contradict each other.")
    return model


def accept_model(home: Path, which: str, *, who: str, now: Clock) -> HeldModel:
    """Accept a model for use at this site.

    Args:
        home: The site's folder.
        which: Its hash, or the first six characters or more.
        who: The person who decides; stands in the ledger.
        now: The clock.

    Raises:
        ModelRefusedError: When it is not held, withdrawn, expired, accepted already, or its files were altered.
        StorageError: When the decision cannot be written; it then does not hold.
    """
    paths, moment = SitePaths(home), now()
    with locked(_file(paths).with_suffix(".lock"), exclusive=True):
        known = load_models(home)
        key, held = find_model(known, which)
        _refuse(held, moment.date())
        if held.accepted_by is not None:
            raise ModelRefusedError(f"The model {key[:12]} was accepted by {held.accepted_by} already.")
        _read(home, held)
        try:
            accepted = HeldModel(**{**dict(held), "accepted_by": who, "accepted_at": moment})
        except ValidationError:
            raise ModelRefusedError("Who accepts must be named, in one line of at most 200 characters.") from None
        _ledger(paths, accepted, "accepted for use at this site", who=who)
        _write(paths, known.with_model(key, accepted))
    return accepted


def remove_model(home: Path, which: str, *, who: str) -> HeldModel:
    """Remove a model and its files from this site; the ledger keeps that it was here.

    Raises:
        ModelRefusedError: When it is not held.
        StorageError: When that cannot be written.
    """
    paths = SitePaths(home)
    with locked(_file(paths).with_suffix(".lock"), exclusive=True):
        known = load_models(home)
        key, held = find_model(known, which)
        _ledger(paths, held, "removed from this site", who=who)
        _write(paths, known.without(key))
        shutil.rmtree(_folder(home, key), ignore_errors=True)
    return held


def usable_model(home: Path, which: str, *, now: Clock) -> Artefact:
    """Return a model for a prediction, or refuse: what every page of this site asks before it shows a number.

    Raises:
        ModelRefusedError: When it is not accepted, withdrawn, expired, altered, or not signed by the pinned key.
        StorageError: When it cannot be read.
    """
    key, held = find_model(load_models(home), which)
    _refuse(held, now().date())
    if held.accepted_by is None:
        raise ModelRefusedError(
            f"Nobody at this site has accepted the model {key[:12]} yet: `archipel site models accept {key[:12]}`."
        )
    return _read(home, held)


def find_model(known: HeldModels, which: str) -> tuple[str, HeldModel]:
    """Return the one model whose hash begins so.

    Raises:
        ModelRefusedError: When none does, or several do, or too little of it was given.
    """
    if len(which) < 6:
        raise ModelRefusedError("Give six characters or more of the model's hash (`archipel site models list`).")
    found = [key for key in known.by_hash if key.startswith(which)]
    if len(found) != 1:
        what = "No model" if not found else "More than one model"
        raise ModelRefusedError(
            f"{what} at this site begins with {which[:64]!a}: `archipel site models list` shows those it holds, "
            "`archipel site models fetch` asks the hub for more."
        )
    return found[0], known.by_hash[found[0]]


def load_models(home: Path) -> HeldModels:
    """Return what this site knows of its models.

    Raises:
        StorageError: When it cannot be read; then no model may be used.
    """
    path = _file(SitePaths(home))
    try:
        return HeldModels.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return HeldModels()
    except OSError as error:
        raise storage_error(path, error) from None
    except ValidationError:
        raise StorageError(
            f"{path.name} is damaged, so no model counts as accepted: move it away, fetch and accept anew"
        ) from None


def pinned_model_key(home: Path) -> str:
    """Return the hub's public model key as the accepted kit named it.

    Raises:
        ModelRefusedError: When the site has not joined, or its kit names no such key.
    """
    path = home / "keys" / "hub.json"
    try:
        found = json.loads(path.read_bytes())["model_public_key"]
    except FileNotFoundError:
        raise ModelRefusedError("The site has not joined a hub yet: `archipel site join KIT.json`.") from None
    except OSError as error:
        raise storage_error(path, error) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, str) or not _KEY.fullmatch(found):
        raise ModelRefusedError(
            "The kit with which this site joined names no model key, so no model can be verified: ask the hub for a "
            "new kit (`archipel hub enrol`), and join again with it."
        )
    return found


def card_of(home: Path, key: str) -> bytes:
    """Return the JSON of a held model's card.

    Raises:
        StorageError: When it cannot be read.
    """
    return _limited(_card_file(home, key), _MAX_CARD)


def _refuse(held: HeldModel, today: datetime.date) -> None:
    state, listed = state_of(held, today), held.listed
    if state == "withdrawn":
        on = f" on {listed.withdrawn_at:%Y-%m-%d}" if listed.withdrawn_at is not None else ""
        raise ModelRefusedError(f"The hub withdrew the model {listed.hash[:12]}{on}: {listed.reason}")
    if state == "expired":
        raise ModelRefusedError(
            f"The model {listed.hash[:12]} expired on {listed.expires}: ask the hub for a newer one."
        )


def _read(home: Path, held: HeldModel) -> Artefact:
    key = held.listed.hash
    artefact = _limited(_model_file(home, key), MAX_BYTES)
    return verify_model(held.listed, artefact, card_of(home, key), pinned_model_key(home))


# ---------------------------------------------------------------- files
def _file(paths: SitePaths) -> Path:
    return paths.state / "models.json"


def _folder(home: Path, key: str) -> Path:
    return home / "models" / key


def _model_file(home: Path, key: str) -> Path:
    return _folder(home, key) / "model.safetensors"


def _card_file(home: Path, key: str) -> Path:
    return _folder(home, key) / "card.json"


def _limited(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise storage_error(path, error) from None


def _write(paths: SitePaths, models: HeldModels) -> None:
    write_durably(_file(paths), canonical_json(models.model_dump(mode="json")))


def _ledger(paths: SitePaths, held: HeldModel, what: str, *, who: str) -> None:
    listed = held.listed
    event = Event(
        "model",
        run=listed.run_id,
        study=listed.study,
        plan_hash=listed.plan_hash,
        digest=listed.hash,
        rule=what[:300],
        who=who,
        code_version=CODE_VERSION,
    )
    Ledger(paths.ledger).append(event)
