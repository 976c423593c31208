"""The card of a model: for whom it is, how well it does, what it must not be used for. JSON, written from the run.

It follows TRIPOD+AI (Collins et al. 2024, BMJ 385:e078378; the item numbers stand beside the fields) and the Model
Facts label (Sendak et al. 2020, npj Digital Medicine 3:41). The artefact's signed manifest names the hash of this
JSON, so the card cannot be changed or swapped after a release.

Rules: every number is what the run found; a number that does not exist is null and its `reason` says why; counts of
people are as they may be shown (`schemas.shown`).
"""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.canonical import canonical_json, read_canonical, sha256_hex
from schemas.errors import MessageError

__all__ = [
    "CalibrationFacts", "CardLayer", "Figure", "MembershipAttack", "ModelCard", "Predictor", "read_attack",
    "read_card", "study_hash",
]  # fmt: skip

_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
MAX_BYTES = 8 << 20
Text = Annotated[str, Field(max_length=4000)]
Line = Annotated[str, Field(max_length=300)]
Share = Annotated[float, Field(ge=0, le=1)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Figure(BaseModel):
    """One measure of performance (TRIPOD+AI 12e, 23a).

    Attributes:
        basis: On whom.
        lower, upper: Of the 95 % interval; None where the run gives none.
        reason: Why `value` is missing.
    """

    model_config = _STRICT

    name: Line
    value: float | None
    lower: float | None = None
    upper: float | None = None
    basis: Line = ""
    reason: Text = ""

    @model_validator(mode="after")
    def _reasoned(self) -> Figure:
        if self.value is None and not self.reason:
            raise ValueError(f"{self.name} is missing without a reason")
        return self


class CalibrationFacts(BaseModel):
    """Predicted and observed survival of one group at one horizon (TRIPOD+AI 23a)."""

    model_config = _STRICT

    horizon: float
    group: Annotated[int, Field(ge=1)]
    patients: Line
    predicted: Share
    observed: Share | None
    lower: Share | None = None
    upper: Share | None = None


class Predictor(BaseModel):
    """One column of the model (TRIPOD+AI 9, 22).

    Attributes:
        contrast: What the ratio compares: ``per year``, ``female vs male``.
        hazard_ratio: With its 95 % interval where the fit gives one.
        low, high: At least ten training patients lie at or beyond each.
    """

    model_config = _STRICT

    name: Line
    contrast: Line
    description: Annotated[str, Field(max_length=1000)] = ""
    hazard_ratio: float
    lower: float | None = None
    upper: float | None = None
    low: float | None = None
    high: float | None = None


class CardLayer(BaseModel):
    """One layer of the model (TRIPOD+AI 9, 12c).

    Attributes:
        made: How its columns are made.
        importance: Share of the variance of the log hazard; None where the run does not tell.
    """

    model_config = _STRICT

    name: Line
    columns: Annotated[int, Field(ge=1)]
    made: Text
    importance: float | None = None


class MembershipAttack(BaseModel):
    """How well whoever holds the model tells the patients who trained it from others (`archipel.membership`).

    Attributes:
        study_hash: Of the study that was attacked, see `study_hash`.
        auc: 0.5 is guessing; mean over the attacked models.
        lower, upper: Of the 95 % bootstrap interval over patients.
        found_at_1_percent: Share of the members found where one in a hundred others is taken for one.
        models: How many were trained, on random halves of the patients.
        targets: How many of them were attacked.
        basis: Whose rows.
    """

    model_config = _STRICT

    kind: Literal["membership-attack"] = "membership-attack"
    version: Literal[1] = 1
    study_hash: Hash
    method: Text
    auc: Share
    lower: Share
    upper: Share
    found_at_1_percent: Share
    models: Annotated[int, Field(ge=2)]
    targets: Annotated[int, Field(ge=1)]
    patients: Line
    basis: Text
    made_at: AwareDatetime


class ModelCard(BaseModel):
    """Everything about a model that a person who may use it has to know.

    Attributes:
        attack: None where no attack was run; then `attack_reason` says why.
        limits: One sentence each (TRIPOD+AI 26).
        tripod: Item of TRIPOD+AI -> where the card, or another document, answers it.
    """

    model_config = _STRICT

    kind: Literal["model-card"] = "model-card"
    version: Literal[1] = 1
    # What it is
    study: Line
    title: Line
    question: Text
    run_id: Line
    mode: Literal["simulate", "federation"]
    plan_hash: Hash
    dictionary: Line
    dictionary_hash: Hash
    code_version: Line
    created_at: AwareDatetime
    contact: Line
    ethics_reference: Line
    # For what
    intended_use: Text
    not_for: tuple[Text, ...]
    expires: datetime.date | None
    # On whom
    endpoint: Line
    time_unit: Line
    horizons: tuple[float, ...]
    eligibility: tuple[Line, ...]
    missing_values: Text
    sites: tuple[Line, ...]
    n_patients: Line
    n_events: Line
    events_by_horizon: tuple[tuple[float, Line], ...]
    # How
    method: Text
    penalty: Text
    predictors: Annotated[tuple[Predictor, ...], Field(max_length=2000)]
    layers: tuple[CardLayer, ...]
    # How well
    evaluation_kind: Text
    performance: tuple[Figure, ...]
    calibration_basis: Line
    calibration: tuple[CalibrationFacts, ...]
    # What protects the patients
    floors: tuple[Line, ...]
    privacy: tuple[Text, ...]
    attack: MembershipAttack | None
    attack_reason: Text
    # What to beware of
    limits: tuple[Text, ...]
    tripod: dict[str, Line]

    @model_validator(mode="after")
    def _reasoned(self) -> ModelCard:
        if (self.attack is None) == (self.attack_reason == ""):
            raise ValueError("either an attack was run, or a reason says why not")
        return self

    @property
    def content(self) -> bytes:
        """The card as canonical bytes: what is stored, sent and hashed."""
        # Without what is left at a default: a field that is added later changes no older card's hash.
        said = {**self.model_dump(mode="json", exclude_unset=True), "kind": self.kind, "version": self.version}
        return canonical_json(said)

    @property
    def hash(self) -> str:
        """SHA-256 of `content`."""
        return sha256_hex(self.content)


def study_hash(study: BaseModel) -> str:
    """Return the SHA-256 of a study's normalised content: an attack belongs to the study that it was run on."""
    return sha256_hex(canonical_json(study.model_dump(mode="json")))


def read_card(content: bytes) -> ModelCard:
    """Parse the bytes of a card.

    Raises:
        MessageError: When they are not a card in canonical form.
    """
    if len(content) > MAX_BYTES + 1:
        raise MessageError("not a model's card of version 1")
    return read_canonical(ModelCard, content, "a model's card", "card")


def read_attack(content: bytes) -> MembershipAttack:
    """Parse what `archipel models attack` wrote.

    Raises:
        MessageError: For anything else.
    """
    try:
        return MembershipAttack.model_validate_json(content[: MAX_BYTES + 1])
    except (ValidationError, RecursionError):
        raise MessageError("not the outcome of a membership attack (`archipel models attack` writes one)") from None
