"""The hub's list of models: which are released, which were withdrawn and why. Signed, numbered, canonical.

Every release and every withdrawal makes the next number, so a site that has seen number 7 takes no 6: whoever sits
between hub and site cannot bring a withdrawn model back by replaying an older list.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from schemas.artefact import Hash
from schemas.canonical import read_canonical
from schemas.errors import MessageError
from schemas.signed import Signed

__all__ = ["MAX_LIST_BYTES", "ListedModel", "ModelList", "read_model_list"]

MAX_LIST_BYTES = 8 << 20
# Shown in terminals and written to ledgers: no control character, which could rewrite what stands around it.
_ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$"
Spoken = Annotated[str, Field(max_length=300, pattern=_ONE_LINE)]
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ListedModel(BaseModel):
    """One model of the hub.

    Attributes:
        hash: SHA-256 of the artefact's file; a model's name everywhere.
        card_hash: SHA-256 of its card's JSON.
        n_bytes: Of the artefact's file.
        expires: Last day on which a site may use it.
        withdrawn_at: When the hub took it back; None while it is released.
        reason: Of the withdrawal, for the people at the sites.
    """

    model_config = _STRICT

    hash: Hash
    card_hash: Hash
    n_bytes: Annotated[int, Field(gt=0)]
    study: Spoken
    title: Spoken = ""
    run_id: Spoken
    plan_hash: Hash
    released_at: AwareDatetime
    expires: datetime.date | None = None
    withdrawn_at: AwareDatetime | None = None
    reason: Annotated[str, Field(max_length=1000, pattern=_ONE_LINE)] = ""

    @model_validator(mode="after")
    def _reasoned(self) -> ListedModel:
        if (self.withdrawn_at is None) != (self.reason == ""):
            raise ValueError("a withdrawal has a reason, and a reason belongs to a withdrawal")
        return self


class ModelList(Signed):
    """All models that the hub has ever released.

    Attributes:
        number: Of this list: one more than the one before.
        issued_at: When.
        models: The newest first.
        signed_by: The hub's public model key.
        signature: Over `signed_bytes`.
    """

    kind: Literal["model-list"] = "model-list"
    version: Literal[1] = 1
    number: Annotated[int, Field(ge=1, strict=True)]
    issued_at: AwareDatetime
    models: Annotated[tuple[ListedModel, ...], Field(max_length=10_000)]

    @model_validator(mode="after")
    def _unique(self) -> ModelList:
        hashes = [model.hash for model in self.models]
        if len(set(hashes)) != len(hashes):
            raise ValueError("a model stands twice in the list")
        return self

    @property
    def said(self) -> dict[str, Any]:
        """What the list says as JSON, without what it leaves at a default: later fields change no older list."""
        return {**self.model_dump(mode="json", exclude_unset=True), "kind": self.kind, "version": self.version}

    def find(self, model_hash: str) -> ListedModel | None:
        """Return the model of this hash, or None."""
        return next((model for model in self.models if model.hash == model_hash), None)


def read_model_list(content: bytes) -> ModelList:
    """Parse the bytes of a list; its signature is not verified here (`privacy.model_signature`).

    Raises:
        MessageError: When they are not a list in canonical form.
    """
    if len(content) > MAX_LIST_BYTES:
        raise MessageError("too long for a list of models")
    return read_canonical(ModelList, content, "a list of models", "list of models")
