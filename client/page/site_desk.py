"""The site behind the pages, from its own files: accounts, models, tables, access log.

Rule: what shows a patient writes the access log first; a page that cannot be logged is not shown.
"""

from __future__ import annotations

import datetime
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from client.models import card_of, load_models
from client.page.access_log import AccessLog
from client.page.accounts import Accounts, utc_now
from client.page.background import Background
from client.page.calibration import SiteCalibrations
from client.page.desk import HeldHere, NotFoundHereError, Signed, SignInRefusedError, System, TooManyViewsError
from client.page.open_model import OpenModel, OpenModels, refusal_of
from client.page.opened import OpenPatient, OpenPatients
from client.page.patients import Patients, form_fields, typed
from client.page.prognosis import prognose
from client.page.rate_limit import RateLimit
from client.page.sessions import Sessions
from client.page.shapes import Asked, FormField, Notice, Prognosis, Refused, Row, SiteCalibration
from client.settings import SiteSettings
from schemas.artefact import Artefact
from schemas.model_card import ModelCard, read_card

__all__ = ["SiteDesk"]

_MOST_ANSWERS = 100
"""Prognoses that are kept while a reader goes from horizon to horizon; the model is still judged at each click."""

_AT_ONCE = 2
"""Passwords that are compared at a time: each takes 64 MiB."""


class SiteDesk:
    """Answers `client.page.desk.Desk` from a site's folder; safe for several threads.

    Args:
        home: The site's folder.
        settings: Read from it.
    """

    def __init__(self, home: Path, settings: SiteSettings) -> None:
        view = settings.view
        self.opened = OpenPatients()
        self._home = home
        self._settings = settings
        self._accounts = Accounts(home)
        self._log = AccessLog(home, with_ids=view.log_patient_ids)
        self._sessions = Sessions(
            idle=datetime.timedelta(minutes=view.idle_minutes), longest=datetime.timedelta(hours=view.session_hours)
        )
        self._limit = RateLimit(view.views_per_minute)
        self._models = OpenModels(home)
        self._patients = Patients(home, settings)
        own = SiteCalibrations(home, self._patients, settings)
        self._calibrations = Background(own.of, waits=view.recalibrate)
        self._answers: OrderedDict[int, tuple[OpenPatient, OpenModel, Asked, Prognosis | Refused]] = OrderedDict()
        self._lock = threading.Lock()
        self._passwords = threading.BoundedSemaphore(_AT_ONCE)

    @property
    def site_title(self) -> str:
        """Return the hospital's name."""
        return self._settings.title or self._settings.name

    def now(self) -> datetime.datetime:
        """Return the time."""
        return utc_now()

    # ------------------------------------------------------------ who
    def sign_in(self, account: str, password: str) -> str:
        """Return the secret of a new session; see `Desk`."""
        with self._passwords:
            verdict = self._accounts.sign_in(account, password)
        if verdict.account is None:
            self._log.write("sign-in-refused", verdict.name)  # what was typed for no account may be a password
            raise SignInRefusedError(is_locked=verdict.is_locked)
        self._log.write("sign-in", verdict.account.name)
        token, _ = self._sessions.begin(verdict.account.name, verdict.account.role)
        return token

    def session(self, token: str) -> Signed | None:
        """Return whose session a cookie's secret opens; none of an account that was locked or removed since."""
        found = self._sessions.find(token) if token else None
        if found is None or not self._accounts.is_open(found.account):
            return None
        return Signed(found.account, found.id, token, found.csrf)

    def sign_out(self, signed: Signed) -> None:
        """End a session."""
        self._log.write("sign-out", signed.account)
        self._sessions.end(signed.token)
        self.opened.forget(signed.session)

    def system(self, token: str) -> System | None:
        """Return the system whose token this is."""
        name = self._accounts.system_of(token)
        return None if name is None else System(name)

    # ------------------------------------------------------------ models
    def models(self) -> tuple[HeldHere, ...]:
        """Return the models that this site holds, the newest first."""
        return tuple(self.held(key) for key in reversed(load_models(self._home).by_hash))

    def held(self, key: str) -> HeldHere:
        """Return one of them; see `Desk`."""
        held = load_models(self._home).by_hash.get(key)
        if held is None:
            raise NotFoundHereError
        refused = refusal_of(held, self.now().date())
        if refused is not None:
            return HeldHere(key, held.listed.study, refused.reasons)
        found = self._models.open(key)
        if isinstance(found, Refused):
            return HeldHere(key, held.listed.study, found.reasons)
        manifest = found.artefact.manifest
        return HeldHere(key, manifest.title or manifest.study, ())

    def title(self, key: str) -> str:
        """Return the title of a model."""
        return self.held(key).title

    def model(self, key: str) -> Artefact:
        """Return a model that may be used now; see `Desk`."""
        return self._open(key).artefact

    def card(self, key: str) -> ModelCard:
        """Return the card of a model."""
        self._open(key)
        return read_card(card_of(self._home, key))

    def calibration(self, key: str, model: Artefact) -> SiteCalibration | None:
        """Return this site's own figures of a model, as far as they are computed."""
        return self._calibrations.of(self._open(key))

    def _open(self, key: str) -> OpenModel:
        found = self._models.open(key)
        if isinstance(found, Refused):
            raise NotFoundHereError
        return found

    # ------------------------------------------------------------ patients
    def find(self, who: Signed | System, key: str, patient_id: str) -> Row | None:
        """Return the patient with exactly this identifier; see `Desk`."""
        self._count(who, patient_id, key)
        model = self._models.open(key)
        if isinstance(model, Refused):  # the page of the patient says why
            row: Row | None = Row("table", "", {}, patient_id=patient_id)
        else:
            row = self._patients.find(model, patient_id)
        if row is None:
            self._log.write(_kind(who, "search"), _name(who), patient_id=patient_id, model=key, shown="not-found")
        return row

    def fields(self, key: str) -> tuple[FormField, ...]:
        """Return the fields of a model's form."""
        return form_fields(self._open(key))

    def wide_layers(self, key: str) -> tuple[str, ...]:
        """Return the layers of a model that nobody types in."""
        return tuple(layer.name for layer in self._open(key).artefact.manifest.layers)

    def typed(self, who: Signed | System, key: str, given: Mapping[str, str]) -> Row | tuple[Notice, ...]:
        """Return a patient who was typed in, or what is wrong with the values."""
        self._count(who, "", key)
        return typed(self._open(key), given)

    def prognose(
        self, who: Signed | System, patient: OpenPatient, *, since: float | None, horizons: tuple[float, ...] = ()
    ) -> tuple[Prognosis | Refused, Artefact | None]:
        """Return what a model says of a patient; the view is logged."""
        model = self._models.open(patient.model)
        if isinstance(model, Refused):
            self._log_view(who, patient, "refused")
            return model, None
        found = self._ask(model, patient, since, horizons)
        self._log_view(who, patient, "prognosis" if isinstance(found, Prognosis) else "refused")
        return found, model.artefact

    def _log_view(self, who: Signed | System, patient: OpenPatient, shown: Literal["prognosis", "refused"]) -> None:
        kind = _kind(who, "view" if patient.row.source == "table" else "form")
        self._log.write(kind, _name(who), patient_id=patient.row.patient_id, model=patient.model, shown=shown)

    def _ask(
        self, model: OpenModel, patient: OpenPatient, since: float | None, horizons: tuple[float, ...]
    ) -> Prognosis | Refused:
        asked = Asked(
            today=self.now().date(),
            event_free_until=since,
            horizons=horizons,
            calibration=self._calibrations.of(model),
            recalibrate=self._settings.view.recalibrate,
        )
        with self._lock:
            known = self._answers.get(id(patient))
        # The identity of the patient's row and of the verified model: another file or another row asks anew.
        if known is not None and known[0] is patient and known[1] is model and known[2] == asked:
            return known[3]
        found = prognose(model, patient.row, asked=asked)
        with self._lock:
            self._answers[id(patient)] = (patient, model, asked, found)
            while len(self._answers) > _MOST_ANSWERS:
                self._answers.popitem(last=False)
        return found

    def _count(self, who: Signed | System, patient_id: str, key: str) -> None:
        if not self._limit.take(_name(who)):
            self._log.write(_kind(who, "search"), _name(who), patient_id=patient_id, model=key, shown="too-many")
            raise TooManyViewsError


_Asked = Literal["search", "view", "form"]


def _kind(who: Signed | System, kind: _Asked) -> Literal["search", "view", "form", "api"]:
    return "api" if isinstance(who, System) else kind


def _name(who: Signed | System) -> str:
    return who.name if isinstance(who, System) else who.account
