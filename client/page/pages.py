"""The pages that a clinician sees: they ask `client.page.desk` and show what it answers.

An address names a patient by a random handle of the session alone (`client.page.opened`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from client.page.desk import HeldHere, NotFoundHereError, SignInRefusedError
from client.page.facts import Facts, model_facts
from client.page.opened import OpenPatient
from client.page.reader import N_, Reader
from client.page.shapes import FormField, Notice, Row
from client.page.view import Seen, patient_view
from client.page.visiting import Visit, posted
from client.page.visiting import asking as who_asks
from client.page.words import notice_text, plain_name

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

Asking = Annotated[Visit, Depends(who_asks)]
Posted = Annotated[Mapping[str, str], Depends(posted)]

_NO_SUCH_PATIENT = N_("No patient of this site has exactly this identifier.")


# ---------------------------------------------------------------- signing in and out
@router.get("/sign-in")
def sign_in_page(asking: Asking) -> Response:
    """Show the sign-in form."""
    return asking.go("/") if asking.signed is not None else asking.page("sign_in", problem="")


@router.post("/sign-in")
def sign_in(asking: Asking, fields: Posted) -> Response:
    """Sign somebody in; what was wrong is not told apart, but for a lock."""
    try:
        token = asking.desk.sign_in(fields.get("account", "")[:200], fields.get("password", "")[:1000])
    except SignInRefusedError as refused:
        words = (
            N_("The account is locked for a while: too many wrong passwords. Ask this site's administrator.")
            if refused.is_locked
            else N_("Account and password do not belong together.")
        )
        return asking.page("sign_in", status=429 if refused.is_locked else 403, problem=asking.reader.text(words))
    return asking.with_session(token)


@router.post("/sign-out")
def sign_out(asking: Asking, fields: Posted) -> Response:
    """End the session and forget what it had open."""
    if asking.signed is not None:
        asking.desk.sign_out(asking.signed)
    return asking.without_session()


@router.post("/language")
def language(asking: Asking, fields: Posted) -> Response:
    """Change the language and come back to the same page."""
    back = fields.get("back", "/")
    # An address of this page alone: "//host" and "/\host" would lead elsewhere.
    is_ours = back.startswith("/") and not back.startswith(("//", "/\\")) and len(back) < 300 and back.isprintable()
    return asking.with_language(fields.get("to", ""), back if is_ours else "/")


# ---------------------------------------------------------------- finding a patient
@router.get("/")
def search_page(asking: Asking) -> Response:
    """Show the search; who has not signed in is led to where one does."""
    return _search(asking, problem="")


@router.post("/patient")
def search(asking: Asking, fields: Posted) -> Response:
    """Find one patient by the exact identifier and lead to the page; every try is in the access log."""
    person = asking.person()
    key, name = fields.get("model", ""), fields.get("patient", "").strip()
    row = asking.desk.find(person, key, name) if 0 < len(name) <= 200 else None
    if row is None:
        return _search(asking, problem=asking.reader.text(_NO_SUCH_PATIENT), status=404)
    return asking.go(f"/patient/{asking.desk.opened.open(person.session, OpenPatient(key, row))}")


def _search(asking: Visit, *, problem: str, status: int = 200) -> Response:
    asking.person()
    held = asking.desk.models()
    usable = [one for one in held if one.is_usable]
    unusable = [f"{one.title}: {_reasons(one, asking.reader)}" for one in held if not one.is_usable]
    return asking.page("search", status=status, models=usable, unusable=unusable, problem=problem)


# ---------------------------------------------------------------- one patient
@router.get("/patient/{handle}")
def patient(asking: Asking, handle: str, horizon: str = "") -> Response:
    """Show one patient's prognosis, or why there is none."""
    person, desk = asking.person(), asking.desk
    held = desk.opened.find(person.session, handle)
    if held is None:
        raise NotFoundHereError
    found, model = desk.prognose(person, held, since=held.since)
    if model is None:
        facts = Facts(held.model, desk.title(held.model), "", (), ())
    else:
        facts = model_facts(held.model, model.manifest, desk.calibration(held.model, model), asking.reader)
    seen = Seen(
        held.row.patient_id,
        f"/patient/{handle}",
        _number(horizon),
        desk.now().date(),
        is_later=held.since is not None,
    )
    view = patient_view(found, facts, seen, asking.reader)
    return asking.page("result" if asking.is_partial else "patient", view=view)


@router.post("/patient/{handle}/since")
def since(asking: Asking, handle: str, fields: Posted) -> Response:
    """Take until when a patient is free of the event, keep it in memory for this session, and lead to the page."""
    person, opened = asking.person(), asking.desk.opened
    held = opened.find(person.session, handle)
    if held is None:
        raise NotFoundHereError
    until = _number(_plain(fields.get("since", ""), asking.reader)) or None
    opened.change(person.session, handle, replace(held, since=until))
    horizon = _number(fields.get("horizon", ""))
    return asking.go(f"/patient/{handle}" + ("" if horizon is None else f"?horizon={horizon:g}"))


def _number(text: str) -> float | None:
    """Return a number of an address or a field; what is none counts as not said."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= 1e6 else None


# ---------------------------------------------------------------- typing a patient in
@router.get("/form/{key}")
def form_page(asking: Asking, key: str) -> Response:
    """Show the form for one model."""
    return _form(asking, key, {}, ())


@router.post("/form/{key}")
def form(asking: Asking, key: str, fields: Posted) -> Response:
    """Take one patient's values, keep them in memory for this session, and lead to the page."""
    person = asking.person()
    given = {name[2:]: value.strip()[:200] for name, value in fields.items() if name.startswith("v.")}
    numbers = {field.name for field in asking.desk.fields(key) if field.type in {"number", "integer"}}
    plain = {name: _plain(value, asking.reader) if name in numbers else value for name, value in given.items()}
    row = asking.desk.typed(person, key, plain)
    if not isinstance(row, Row):
        return _form(asking, key, given, row)
    return asking.go(f"/patient/{asking.desk.opened.open(person.session, OpenPatient(key, row))}")


def _plain(value: str, reader: Reader) -> str:
    """Return a number with a decimal point, as this reader may have typed it with a comma."""
    return value.replace(",", ".") if reader.language == "fr" and value.count(",") == 1 else value


def _form(asking: Visit, key: str, given: Mapping[str, str], problems: tuple[Notice, ...]) -> Response:
    asking.person()
    fields = [
        {
            "name": field.name,
            "label": plain_name(field.name, field.unit),
            "codes": _codes(field, asking.reader),
            "given": given.get(field.name, ""),
            "required": field.required,
            "note": _note(field, asking.reader),
        }
        for field in asking.desk.fields(key)
    ]
    layers = asking.desk.wide_layers(key)
    absent = (
        asking.reader.text(
            N_("What cannot be typed in counts as missing: %(layers)s. The average is used there."),
            layers=", ".join(layers),
        )
        if layers
        else ""
    )
    return asking.page(
        "form",
        status=422 if problems else 200,
        key=key,
        title=asking.desk.title(key),
        fields=fields,
        absent=absent,
        problems=[notice_text(one, asking.reader) for one in problems],
    )


def _note(field: FormField, reader: Reader) -> str:
    """Return what the dictionary says of a field, and its range."""
    about = field.label.rstrip(".") if field.label != field.name else ""
    return ". ".join(filter(None, (about, _range(field, reader))))


def _codes(field: FormField, reader: Reader) -> tuple[tuple[str, str], ...]:
    """Return what may be chosen, each with its words."""
    if field.type == "boolean":
        return (("1", reader.text(N_("yes"))), ("0", reader.text(N_("no"))))
    return tuple((code, code) for code in field.codes)


def _range(field: FormField, reader: Reader) -> str:
    unit = f" {reader.unit(field.unit)}" if field.unit else ""
    if field.low is None or field.high is None:
        return unit.strip()
    return reader.text(N_("%(low)s to %(high)s"), low=reader.number(field.low), high=reader.number(field.high)) + unit


# ---------------------------------------------------------------- models and help
@router.get("/models")
def models(asking: Asking) -> Response:
    """List the models that this site holds."""
    asking.person()
    in_use = asking.reader.text(N_("In use at this site."))
    held = [
        {"key": one.key, "title": one.title, "state": _reasons(one, asking.reader) or in_use}
        for one in asking.desk.models()
    ]
    return asking.page("models", models=held)


@router.get("/model/{key}")
def model_page(asking: Asking, key: str) -> Response:
    """Show the facts of one model, or why it is not in use."""
    asking.person()
    one = asking.desk.held(key)
    if not one.is_usable:
        return asking.page("model", title=one.title, refused=_reasons(one, asking.reader), facts=None)
    model = asking.desk.model(key)
    facts = model_facts(key, model.manifest, asking.desk.calibration(key, model), asking.reader)
    return asking.page("model", title=facts.title, refused="", facts=facts)


def _reasons(one: HeldHere, reader: Reader) -> str:
    return " ".join(notice_text(reason, reader) for reason in one.refused)


@router.get("/model/{key}/card")
def card_page(asking: Asking, key: str) -> Response:
    """Show the whole card of one model."""
    asking.person()
    return asking.page("card", key=key, card=asking.desk.card(key))


@router.get("/help")
def help_page(asking: Asking) -> Response:
    """Say how to read the page."""
    return asking.page("help")
