"""The same prognosis as JSON, for the hospital's own systems: one token per system, described by OpenAPI.

The identifier of a patient stands in the body of a POST and never in an address. A model's refusal is an answer
(`status` is ``refused``, with its reasons), so that no system takes it for a failure and tries again.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, model_validator

from client.page.desk import Desk, System
from client.page.opened import OpenPatient
from client.page.reader import Reader, reader_of
from client.page.shapes import Arm, HorizonRisk, Kind, KindRisk, Notice, Prognosis, Row
from client.page.words import notice_text

__all__ = ["router"]

_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
_MAX_VALUES = 60_000
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="The model's hash.")]
Time = Annotated[float, Field(ge=0, le=1e6)]


class Question(BaseModel):
    """One patient, by identifier or by values, and what is asked of them."""

    model_config = _STRICT

    model: Key
    patient_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    values: Annotated[dict[str, str], Field(max_length=_MAX_VALUES)] | None = Field(
        default=None, description="By column of the dictionary, as text; what is absent is not known."
    )
    event_free_until: Time | None = Field(default=None, description="Since the time origin, in the model's unit.")
    horizons: Annotated[tuple[Annotated[float, Field(gt=0, le=1e6)], ...], Field(max_length=10)] = Field(
        default=(), description="From the start of the prediction; none asks for the model's own."
    )
    language: Literal["en", "fr"] = "en"

    @model_validator(mode="after")
    def _one_patient(self) -> Question:
        if (self.patient_id is None) == (self.values is None):
            raise ValueError("name the patient either by patient_id or by values")
        return self


class Said(BaseModel):
    """A reason or a warning: a stable code, its values, and the sentence."""

    model_config = _STRICT

    code: str
    values: dict[str, str | float]
    text: str


class Risk(BaseModel):
    """Survival without the event at one time (where events compete: without any), with its 95 % interval."""

    model_config = _STRICT

    time: float
    survival: float
    low: float | None
    high: float | None


class Happened(BaseModel):
    """How likely one of several kinds of event is the first to happen within a time, with its 95 % interval."""

    model_config = _STRICT

    time: float
    incidence: float
    low: float | None
    high: float | None


class EventKind(BaseModel):
    """One of several competing kinds of event. At any time all kinds and `survival` sum to 1."""

    model_config = _STRICT

    event: str
    of_interest: bool
    horizons: list[Happened]
    curve: list[Happened]


class Part(BaseModel):
    """What one column adds to the risk at each horizon, in percentage points."""

    model_config = _STRICT

    column: str
    label: str
    layer: str
    points: list[float]
    is_missing: bool


class Known(BaseModel):
    """How much of a layer is known of the patient."""

    model_config = _STRICT

    layer: str
    known: int
    of: int


class Treatment(BaseModel):
    """The same patient under one arm."""

    model_config = _STRICT

    name: str
    treated: bool
    is_observed: bool
    horizons: list[Risk]
    difference: list[Risk]
    incidence: list[Happened] = Field(default=[], description="Where events compete: of the event of interest.")
    incidence_difference: list[Happened] = []


class Answer(BaseModel):
    """A prognosis, or why there is none. Research use only."""

    model_config = _STRICT

    status: Literal["prognosis", "refused"]
    notice: str = "Research use only. Not a medical device."
    model: Key
    reasons: list[Said] = []
    warnings: list[Said] = []
    study: str = ""
    endpoint: str = ""
    time_unit: str = ""
    origin: str = ""
    event_free_until: float | None = None
    in_sample: bool | None = None
    recalibrated: bool = False
    level: float | None = None
    horizons: list[Risk] = []
    curve: list[Risk] = []
    kinds: list[EventKind] = Field(
        default=[],
        description="Where events compete: that of interest, then the others. One minus `survival` is then the "
        "probability of any of them; `moved` is about the incidence of the event of interest, `rank` about its "
        "hazard.",
    )
    rank: float | None = None
    moved: list[Part] = []
    layers: list[Known] = []
    arms: list[Treatment] = []


class ModelHere(BaseModel):
    """A model of this site."""

    model_config = _STRICT

    model: Key
    title: str
    usable: bool
    reasons: list[Said]


class Problem(BaseModel):
    """Why a question is not answered."""

    detail: str


_BEARER = HTTPBearer(auto_error=False, description="The token of one system: `archipel site account token`.")
_ERRORS: dict[int | str, dict[str, object]] = {
    401: {"model": Problem, "description": "No token, or none that this site has given."},
    404: {"model": Problem, "description": "No such model or patient here."},
    413: {"model": Problem, "description": "The request is too large."},
    429: {"model": Problem, "description": "Too many patients in a minute."},
}
router = APIRouter(prefix="/api/v1", tags=["prognosis"])


def _system(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
) -> tuple[Desk, System]:
    desk: Desk = request.app.state.desk
    system = desk.system(given.credentials) if given is not None else None
    if system is None:
        raise HTTPException(401, "A token of this site is needed.", headers={"WWW-Authenticate": "Bearer"})
    return desk, system


Asker = Annotated[tuple[Desk, System], Depends(_system)]


@router.get("/models", responses={401: _ERRORS[401]})
def models(asker: Asker) -> list[ModelHere]:
    """List the models of this site, and which may be used now."""
    reader = reader_of("en")
    return [
        ModelHere(
            model=one.key,
            title=one.title,
            usable=one.is_usable,
            reasons=[_said(each, reader) for each in one.refused],
        )
        for one in asker[0].models()
    ]


@router.post("/prognosis", responses=_ERRORS)
def prognosis(question: Question, asker: Asker) -> Answer:
    """Return one patient's prognosis; the view is written to this site's access log."""
    desk, system = asker
    reader = reader_of(question.language)
    desk.held(question.model)  # refuses a model that is not here
    row: Row | tuple[Notice, ...] | None
    if question.patient_id is not None:
        row = desk.find(system, question.model, question.patient_id)
    else:
        row = desk.typed(system, question.model, question.values or {})
    if row is None:
        raise HTTPException(404, "No patient of this site has exactly this identifier.")
    if not isinstance(row, Row):
        return Answer(status="refused", model=question.model, reasons=[_said(one, reader) for one in row])
    found, _ = desk.prognose(
        system, OpenPatient(question.model, row), since=question.event_free_until, horizons=question.horizons
    )
    if isinstance(found, Prognosis):
        return _answer(found, reader)
    return Answer(status="refused", model=question.model, reasons=[_said(one, reader) for one in found.reasons])


def _answer(found: Prognosis, reader: Reader) -> Answer:
    curve = found.curve
    nothing: tuple[None, ...] = (None,) * len(curve.times)
    return Answer(
        status="prognosis",
        model=found.model_hash,
        warnings=[_said(one, reader) for one in found.warnings],
        study=found.study,
        endpoint=found.label,
        time_unit=found.time_unit,
        origin=found.origin,
        event_free_until=found.event_free_until,
        in_sample=found.in_sample,
        recalibrated=found.recalibrated,
        level=found.level,
        horizons=[_risk(one) for one in found.horizons],
        curve=[
            Risk(time=time, survival=survival, low=low, high=high)
            for time, survival, low, high in zip(
                curve.times, curve.survival, curve.low or nothing, curve.high or nothing, strict=True
            )
        ],
        kinds=[_kind(one, of_interest=i == 0) for i, one in enumerate(found.kinds)],
        rank=found.rank,
        moved=[
            Part(
                column=one.name,
                label=one.label,
                layer=one.layer,
                points=list(one.by_horizon),
                is_missing=one.is_missing,
            )
            for one in found.moved
        ],
        layers=[Known(layer=one.name, known=one.known, of=one.of) for one in found.layers],
        arms=[_arm(one) for one in found.arms],
    )


def _arm(arm: Arm) -> Treatment:
    return Treatment(
        name=arm.name,
        treated=arm.treated,
        is_observed=arm.is_observed,
        horizons=[_risk(one) for one in arm.horizons],
        difference=[_risk(one) for one in arm.difference],
        incidence=[_happened(one) for one in arm.incidence],
        incidence_difference=[_happened(one) for one in arm.incidence_difference],
    )


def _kind(kind: Kind, *, of_interest: bool) -> EventKind:
    curve = kind.curve
    nothing: tuple[None, ...] = (None,) * len(curve.times)
    along = zip(curve.times, curve.incidence, curve.low or nothing, curve.high or nothing, strict=True)
    return EventKind(
        event=kind.name,
        of_interest=of_interest,
        horizons=[_happened(one) for one in kind.at],
        curve=[Happened(time=time, incidence=share, low=low, high=high) for time, share, low, high in along],
    )


def _happened(risk: KindRisk) -> Happened:
    return Happened(time=risk.time, incidence=risk.incidence, low=risk.low, high=risk.high)


def _risk(risk: HorizonRisk) -> Risk:
    return Risk(time=risk.time, survival=risk.survival, low=risk.low, high=risk.high)


def _said(notice: Notice, reader: Reader) -> Said:
    return Said(code=notice.code, values=dict(notice.values), text=notice_text(notice, reader))
