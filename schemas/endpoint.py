"""The endpoint of a study: the time to an event, one of several competing events, or an outcome without a time.

What each needs of the dictionary is decided here; `schemas.study` holds the rest of a study to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.dictionary import Column, Dictionary, Name
from schemas.errors import Fault

EndpointType = Literal["time-to-event", "binary", "category"]
Code = Annotated[int, Field(ge=1, le=1000)] | Annotated[str, Field(min_length=1, max_length=200)]
_NUMERIC = ("number", "integer")


class Endpoint(BaseModel):
    """What is predicted, with the columns that hold it.

    Attributes:
        type: ``time-to-event``, ``binary`` (an outcome that is there or not) or ``category`` (one of several).
        time: Column of the time from origin to event or censoring; empty for an outcome without a time.
        event: Column that is 1 (true) where the event was observed; with competing events, the column of what
            happened, where 0 (or a category's first code) is censoring.
        entry: Column of the time from which a patient was under observation (delayed entry).
        outcome: Column of a binary or category outcome; of a category the first code is the reference.
        cause: With competing events: the code of the event of interest.
        competing: With competing events: the codes of the others.
        horizons_days: Times at which predictions are judged, in the unit of `time`.
        label: What the event is, for people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    type: EndpointType = "time-to-event"
    time: Name | Literal[""] = ""
    event: Name | Literal[""] = ""
    entry: Name | None = None
    outcome: Name | None = None
    cause: Code | None = None
    competing: Annotated[tuple[Code, ...], Field(max_length=5)] = ()
    horizons_days: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(max_length=10)] = ()
    label: str = Field(default="", max_length=300)

    @model_validator(mode="after")
    def _of_one_type(self) -> Endpoint:
        if self.type == "time-to-event":
            if not self.time or not self.event:
                raise ValueError("name the columns of `time` and `event`")
            if self.outcome is not None:
                raise ValueError("`outcome` belongs to an endpoint of type binary or category")
            if (self.cause is None) != (not self.competing):
                raise ValueError("competing events need both `cause` and `competing`")
            if len(set(self.causes)) != len(self.causes):
                raise ValueError("a code stands twice under `cause` and `competing`")
            return self
        if self.outcome is None:
            raise ValueError(f"an endpoint of type {self.type} needs `outcome`, the column that holds it")
        if self.time or self.event or self.entry or self.cause is not None or self.competing or self.horizons_days:
            raise ValueError(
                "`time`, `event`, `entry`, `cause`, `competing` and `horizons_days` belong to a time to an event"
            )
        return self

    @property
    def has_time(self) -> bool:
        """Whether it is the time to an event."""
        return self.type == "time-to-event"

    @property
    def has_competing(self) -> bool:
        """Whether an event of another kind can keep the event of interest from ever happening."""
        return bool(self.competing)

    @property
    def causes(self) -> tuple[int | str, ...]:
        """The codes of all kinds of event, that of interest first; empty without competing events."""
        return () if self.cause is None else (self.cause, *self.competing)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold it."""
        return tuple(name for name in (self.time, self.event, self.entry, self.outcome) if name)


def outcome_codes(endpoint: Endpoint, dictionary: Dictionary) -> tuple[str, ...]:
    """Return the values of an outcome without a time, the reference first; empty for a time to an event."""
    column = None if endpoint.outcome is None else dictionary.column(endpoint.outcome)
    if column is None:
        return ()
    return column.codes or ("no", "yes")


def endpoint_faults(endpoint: Endpoint, dictionary: Dictionary, where: Callable[..., str]) -> list[Fault]:
    """Return what of an endpoint the dictionary contradicts."""
    faults: list[Fault] = []

    def need(name: str | None, types: tuple[str, ...], field: str) -> Column | None:
        column = dictionary.column(name) if name else None
        if name and column is None:
            faults.append(Fault(where("endpoint", field), f"the dictionary {dictionary.name} has no column `{name}`"))
        elif column is not None and column.type not in types:
            what = f"column `{name}` is of type {column.type}"
            faults.append(Fault(where("endpoint", field), what, f"needed: {' or '.join(types)}"))
            return None
        return column

    need(endpoint.time, _NUMERIC, "time")
    need(endpoint.entry, _NUMERIC, "entry")
    kinds = ("integer", "category") if endpoint.has_competing else ("boolean", "integer")
    event = need(endpoint.event, kinds, "event")
    if event is not None and endpoint.has_competing:
        faults += _cause_faults(endpoint, event, where)
    if endpoint.type == "binary":
        column = need(endpoint.outcome, ("boolean", "integer", "category"), "outcome")
        if column is not None and column.type == "category" and len(column.codes or ()) != 2:
            what = f"`{column.name}` has {len(column.codes or ())} codes, and a binary outcome has two"
            faults.append(Fault(where("endpoint", "outcome"), what, 'write type = "category"'))
    elif endpoint.type == "category":
        need(endpoint.outcome, ("category",), "outcome")
    return faults


def _cause_faults(endpoint: Endpoint, event: Column, where: Callable[..., str]) -> list[Fault]:
    """Return the codes of events that the column cannot hold."""
    faults = []
    for code in endpoint.causes:
        field = where("endpoint", "cause" if code == endpoint.cause else "competing")
        if event.type == "integer" and isinstance(code, str):
            faults.append(Fault(field, f"`{event.name}` is an integer, never `{code}`", "write a number"))
        elif event.type == "category" and code not in (event.codes or ())[1:]:
            faults.append(
                Fault(field, f"`{code}` is no event in `{event.name}`", "its first code is censoring; name another")
            )
    return faults
