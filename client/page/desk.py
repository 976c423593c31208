"""What the pages ask of the site: accounts, patients, models, numbers; `client.page.site_desk` answers from files."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from client.page.opened import OpenPatient, OpenPatients
from client.page.shapes import FormField, Notice, Prognosis, Refused, Row, SiteCalibration
from schemas.artefact import Artefact
from schemas.model_card import ModelCard

__all__ = [
    "Desk", "HeldHere", "NotFoundHereError", "SignInRefusedError", "Signed", "System", "TooManyViewsError",
]  # fmt: skip


class NotFoundHereError(Exception):
    """There is no such page, model or open patient for this visitor; which of these is not told."""


class TooManyViewsError(Exception):
    """One account looks at more patients in a minute than the site's settings allow."""


class SignInRefusedError(Exception):
    """No session for this account and password.

    Args:
        is_locked: Whether the account is locked for a while.
    """

    def __init__(self, *, is_locked: bool) -> None:
        super().__init__("sign-in refused")
        self.is_locked = is_locked


@dataclass(frozen=True)
class Signed:
    """Somebody who has signed in.

    Attributes:
        account: Name, as the access log knows it.
        session: Names the session in this process; not the cookie's secret.
        token: The cookie's secret.
        form_token: That the session's forms carry.
    """

    account: str
    session: str
    token: str
    form_token: str


@dataclass(frozen=True)
class System:
    """One of the hospital's own systems, known by its token."""

    name: str


@dataclass(frozen=True)
class HeldHere:
    """One model of this site.

    Attributes:
        refused: Why it may not be used now; nothing where it may.
    """

    key: str
    title: str
    refused: tuple[Notice, ...]

    @property
    def is_usable(self) -> bool:
        """Whether it may be used now."""
        return not self.refused


class Desk(Protocol):
    """The site behind the pages. Methods that show a patient write the access log first."""

    opened: OpenPatients

    @property
    def site_title(self) -> str:
        """Return the hospital's name."""

    def now(self) -> datetime.datetime:
        """Return the time, with its zone."""

    def sign_in(self, account: str, password: str) -> str:
        """Return the secret of a new session.

        Raises:
            SignInRefusedError: When there is none.
        """

    def session(self, token: str) -> Signed | None:
        """Return whose session a cookie's secret opens."""

    def sign_out(self, signed: Signed) -> None:
        """End a session."""

    def system(self, token: str) -> System | None:
        """Return the system whose token this is."""

    def models(self) -> tuple[HeldHere, ...]:
        """Return the models that this site holds."""

    def held(self, key: str) -> HeldHere:
        """Return one of them.

        Raises:
            NotFoundHereError: When this site does not hold it.
        """

    def title(self, key: str) -> str:
        """Return the title of a model."""

    def model(self, key: str) -> Artefact:
        """Return a model that may be used now.

        Raises:
            NotFoundHereError: When it may not.
        """

    def card(self, key: str) -> ModelCard:
        """Return the card of a model."""

    def calibration(self, key: str, model: Artefact) -> SiteCalibration | None:
        """Return this site's own figures of a model, if they were computed."""

    def find(self, who: Signed | System, key: str, patient_id: str) -> Row | None:
        """Return the patient with exactly this identifier; the try is logged and counted.

        Raises:
            TooManyViewsError: When the account tries too often.
        """

    def fields(self, key: str) -> tuple[FormField, ...]:
        """Return the fields of a model's form."""

    def wide_layers(self, key: str) -> tuple[str, ...]:
        """Return the layers of a model that nobody types in."""

    def typed(self, who: Signed | System, key: str, given: Mapping[str, str]) -> Row | tuple[Notice, ...]:
        """Return a patient who was typed in, or what is wrong with the values."""

    def prognose(
        self, who: Signed | System, patient: OpenPatient, *, since: float | None, horizons: tuple[float, ...] = ()
    ) -> tuple[Prognosis | Refused, Artefact | None]:
        """Return what a model says of a patient; the view is logged. No model where it may not be used now."""
