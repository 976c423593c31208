"""The hub's side of models: made from a finished run, signed with their card, released, withdrawn, listed.

The model key is read here and nowhere else: by the command of a person at the hub, never by a process that answers
sites.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from archipel.artefact import has_artefact, make_artefact, with_validity
from archipel.homes import list_sites, model_key, utc_now
from archipel.model_card import make_card
from archipel.runs import open_store, plan_of, result_of
from privacy.model_signature import public_text, sign_artefact, sign_list
from schemas.artefact import write_artefact
from schemas.canonical import sha256_hex
from schemas.errors import ArchipelError
from schemas.model_card import MembershipAttack, ModelCard, read_attack, read_card, study_hash
from schemas.model_list import ListedModel
from server.models import LogEntry, ModelStore

__all__ = [
    "ListedState", "ReleaseError", "Released", "Terms", "card_of", "list_models", "model_log", "release", "withdraw",
]  # fmt: skip

DAYS = 730
"""How long a model may be used where nobody says otherwise: what was true of patients grows old."""

_LONGEST_NAME = 200


class ReleaseError(ArchipelError):
    """A model that cannot be released or withdrawn, with what to do."""


@dataclass(frozen=True)
class Terms:
    """What a person decides about a model beside its run.

    Attributes:
        who: The person; stands in the log.
        expires: Last day on which a site may use it; None: two years from today.
        intended_use: In a sentence; empty: the study's purpose.
        attack: The file that `archipel models attack` wrote.
        no_attack: Why there is none; stands on the card.
    """

    who: str
    expires: datetime.date | None = None
    intended_use: str = ""
    attack: Path | None = None
    no_attack: str = ""


@dataclass(frozen=True)
class Released:
    """A model as it was released.

    Attributes:
        hash: Its name everywhere.
        artefact: Content of ``model.safetensors``.
    """

    hash: str
    artefact: bytes
    card: ModelCard
    number: int


@dataclass(frozen=True)
class ListedState:
    """One model with what the hub knows of its ways.

    Attributes:
        holders: Sites to which its file was sent.
        not_told: Of a withdrawn model: those of them that have not asked for the list since.
    """

    listed: ListedModel
    holders: tuple[str, ...]
    not_told: tuple[str, ...]


def release(hub: Path, run_id: str, terms: Terms) -> Released:
    """Make, sign and list the model of a finished run.

    Raises:
        UnknownRunError: When there is no such run, or it is not done.
        ReleaseError: When a term is missing, or the attack belongs to another study.
        ModelStoreError: When this model was released before.
        FaultsError: When the hub's model key is missing.
    """
    moment = utc_now()
    key = model_key(hub)
    _verify_person(terms.who)
    expires = terms.expires or moment.date() + datetime.timedelta(days=DAYS)
    if expires < moment.date():
        raise ReleaseError(f"The last day, {expires}, has passed.")
    result = result_of(hub, run_id)
    with open_store(hub) as store:
        plan = plan_of(store, run_id)
        arrays = store.final_arrays(run_id)
        if not has_artefact(plan, arrays):
            raise ReleaseError(
                "This run has no model file: its outcome has no time, or it could not fit every competing event "
                "(docs/endpoints.md)."
            )
        # The time of the run and not of this command: the same run makes the same model.
        finished = store.run(run_id).finished_at or moment
        result = result.model_copy(update={"created_at": finished})
        attack = _attack_of(terms, study_hash(plan.study))
        artefact = make_artefact(arrays, result, plan)
        intended = terms.intended_use or artefact.manifest.intended_use
        artefact = with_validity(artefact, expires=expires, intended_use=intended)
        card = make_card(result, plan, artefact, attack, "" if attack is not None else terms.no_attack)
        signed = sign_artefact(with_validity(artefact, card_hash=card.hash), key)
        data = write_artefact(signed)
        listed = ListedModel(
            hash=sha256_hex(data),
            card_hash=card.hash,
            n_bytes=len(data),
            study=plan.study.name,
            title="".join(letter if letter.isprintable() else " " for letter in plan.study.title),
            run_id=run_id,
            plan_hash=result.plan_hash,
            released_at=moment,
            expires=expires,
        )
        text = f"run {run_id}, until {expires}, {_attack_words(attack, terms)}"
        models = ModelStore(store).release(
            listed, data, card.content,
            signed_by=public_text(key), sign=lambda one: sign_list(one, key), who=terms.who, text=text,
        )  # fmt: skip
    return Released(listed.hash, data, card, models.number)


def withdraw(hub: Path, which: str, reason: str, *, who: str) -> ListedState:
    """Take a model back for good; every site refuses it from its next contact on.

    Raises:
        ReleaseError: When no reason or person is given, or no one model begins so.
        ModelStoreError: When it is withdrawn already.
    """
    _verify_person(who)
    if not reason.strip() or len(reason) > 1000 or not reason.isprintable():
        raise ReleaseError("Say why, in one line of at most 1000 characters: the people at the sites read it.")
    key = model_key(hub)
    found = _find(hub, which)
    with open_store(hub) as store:
        ModelStore(store).withdraw(
            found.listed.hash, reason, signed_by=public_text(key), sign=lambda one: sign_list(one, key), who=who
        )
    return _find(hub, found.listed.hash)


def list_models(hub: Path) -> tuple[ListedState, ...]:
    """Return the hub's models, the newest first.

    Raises:
        FaultsError: When the folder is no hub's.
    """
    enrolled = {site.name for site in list_sites(hub)}
    with open_store(hub) as store:
        models = ModelStore(store)
        newest, contacts = models.newest_list(), models.contacts()
        found = []
        for listed in newest.models if newest is not None else ():
            holders = sorted(models.holders(listed.hash))
            gone = listed.withdrawn_at
            not_told = () if gone is None else tuple(
                name for name in holders
                if name in enrolled and (name not in contacts or contacts[name][1] < gone)
            )  # fmt: skip
            found.append(ListedState(listed, tuple(holders), not_told))
    return tuple(found)


def card_of(hub: Path, which: str) -> ModelCard:
    """Return the card of one of the hub's models.

    Raises:
        ReleaseError: When no one model begins so.
        MessageError: When what is stored is no card.
    """
    found = _find(hub, which)
    with open_store(hub) as store:
        return read_card(ModelStore(store).card(found.listed.hash) or b"")


def model_log(hub: Path) -> list[LogEntry]:
    """Return who released and withdrew what, verified.

    Raises:
        ModelStoreError: When the log is not what this hub wrote.
    """
    with open_store(hub) as store:
        return ModelStore(store).log()


def _find(hub: Path, which: str) -> ListedState:
    found = [one for one in list_models(hub) if one.listed.hash.startswith(which)]
    if len(which) < 6 or len(found) != 1:
        raise ReleaseError(
            "Name one model by six characters or more of its hash: `archipel models list` shows those of this hub."
        )
    return found[0]


def _attack_of(terms: Terms, study: str) -> MembershipAttack | None:
    if (terms.attack is None) == (terms.no_attack.strip() == ""):
        raise ReleaseError(
            "A membership attack belongs to a release: give the file that `archipel models attack STUDY --sites DIR` "
            "wrote (--attack FILE), or say why none was run (--no-attack REASON); the card says either."
        )
    if terms.attack is None:
        return None
    try:
        attack = read_attack(terms.attack.read_bytes())
    except OSError as error:
        raise ReleaseError(f"{terms.attack} cannot be read ({error.strerror}).") from None
    if attack.study_hash != study:
        raise ReleaseError(
            f"{terms.attack} is of another study than this run's: run `archipel models attack` on the same file."
        )
    return attack


def _attack_words(attack: MembershipAttack | None, terms: Terms) -> str:
    if attack is None:
        return f"without a membership attack: {terms.no_attack}"
    return f"membership attack AUC {attack.auc:.2f} ({attack.lower:.2f}-{attack.upper:.2f})"


def _verify_person(who: str) -> None:
    if not who.strip() or len(who) > _LONGEST_NAME or not who.isprintable():
        raise ReleaseError(f"Who decides must be named (--by), in one line of at most {_LONGEST_NAME} characters.")
