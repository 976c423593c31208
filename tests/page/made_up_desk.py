"""A site behind the pages that needs no files: one account, two patients, one made-up model."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from client.page.desk import HeldHere, NotFoundHereError, Signed, SignInRefusedError, System, TooManyViewsError
from client.page.opened import OpenPatient, OpenPatients
from client.page.shapes import (
    Arm,
    Curve,
    FormField,
    HorizonRisk,
    LayerShare,
    Moved,
    Notice,
    Prognosis,
    Refused,
    Row,
    SiteCalibration,
)  # fmt: skip
from privacy.storage import StorageError
from schemas.artefact import Artefact, Manifest
from schemas.model_card import ModelCard
from tests.page.site_kit import CARD
from tests.schemas.test_artefact import artefact

KEY, OLD = "c" * 64, "d" * 64
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def prognosis(*, title: str = "Overall survival in adrenocortical carcinoma", label: str = "death") -> Prognosis:
    times = np.linspace(0, 1825, 61)
    hazard = 0.00045 * times

    def curve(factor: float, *, band: bool = True) -> Curve:
        middle = np.exp(-hazard * factor)
        low, high = np.exp(-hazard * factor * 1.5), np.exp(-hazard * factor / 1.5)
        return Curve(
            tuple(times), tuple(middle), tuple(low) if band else None, tuple(high) if band else None, steps=False
        )

    def risks(factor: float) -> tuple[HorizonRisk, ...]:
        return tuple(
            HorizonRisk(t, *(float(np.exp(-0.00045 * t * factor * s)) for s in (1, 1.5, 1 / 1.5)))
            for t in (365.0, 1095.0, 1825.0)
        )

    moved = (
        Moved("stage", "ENSAT stage", "clinical", "stage 4", "", 18.3, (9.1, 15.2, 18.3), is_missing=False),
        Moved(
            "age",
            title if "script" in title else "At diagnosis",
            "clinical",
            57.0,
            "year",
            4.2,
            (1.0, 2.5, 4.2),
            is_missing=False,
        ),
        Moved("mitotane", "After surgery", "clinical", True, "", -3.3, (-1.2, -2.0, -3.3), is_missing=False),
        Moved("rna", "rna", "rna", None, "", 0.0, (0.0, 0.0, 0.0), is_missing=True),
    )
    arms = (
        Arm(False, "none", False, risks(2.0), curve(2.0)),
        Arm(
            True,
            "mitotane",
            True,
            risks(1.7),
            curve(1.7),
            tuple(
                HorizonRisk(t, *(round(treated.survival - control.survival, 3) + off for off in (0, -0.06, 0.06)))
                for t, control, treated in zip((365, 1095, 1825), risks(2.0), risks(1.7), strict=True)
            ),
        ),
    )
    return Prognosis(
        KEY, "acc-survival", label, title, "day", "From diagnosis to death or last contact", risks(1.7),
        curve(1.7), curve(1.0, band=False), 0.9,
        moved, (LayerShare("clinical", 4, 4), LayerShare("rna", 0, 500), LayerShare("cnv", 420, 500)),
        (Notice("layer-missing", {"layer": "rna"}), Notice("interval-shrunken")), arms, None, False, None,
        False, 0.95,
    )  # fmt: skip


@dataclass
class MadeUpDesk:
    """Answers from memory."""

    title_text: str = "Overall survival in adrenocortical carcinoma"
    opened: OpenPatients = field(default_factory=OpenPatients)
    site_title: str = "Hôpital d’essai"
    signed: dict[str, Signed] = field(default_factory=dict)

    def now(self) -> datetime.datetime:
        return datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC)

    def sign_in(self, account: str, password: str) -> str:
        if (account, password) != ("dr.weiss", "correct horse"):
            raise SignInRefusedError(is_locked=account == "locked")
        token = f"token{len(self.signed)}"
        self.signed[token] = Signed(account, token, token, "f" * 43)
        return token

    def session(self, token: str) -> Signed | None:
        return self.signed.get(token)

    def sign_out(self, signed: Signed) -> None:
        self.signed.pop(signed.token)
        self.opened.forget(signed.session)

    def system(self, token: str) -> System | None:
        return System("records") if token == "good-token" else None

    def models(self) -> tuple[HeldHere, ...]:
        return (HeldHere(KEY, self.title_text, ()), HeldHere(OLD, "An old one", (Notice("not-accepted"),)))

    def held(self, key: str) -> HeldHere:
        found = [one for one in self.models() if one.key == key]
        if not found:
            raise NotFoundHereError
        return found[0]

    def title(self, key: str) -> str:
        return self.held(key).title

    def model(self, key: str) -> Artefact:
        self.held(key)
        return self._artefact()

    def card(self, key: str) -> ModelCard:
        self.held(key)
        return CARD

    def calibration(self, key: str, model: Artefact) -> SiteCalibration | None:
        return SiteCalibration(1825, 0.92, 0.5, 1.3, 0.0, 1.1, 0.7, 1.6, 0.71, 0.63, 0.79, "95", "30")

    def find(self, who: Signed | System, key: str, patient_id: str) -> Row | None:
        self.held(key)
        known = patient_id in {"P0042", "P0077", HOSTILE}
        return Row("table", "b" * 64, {}, in_sample=False, patient_id=patient_id) if known else None

    def fields(self, key: str) -> tuple[FormField, ...]:
        self.held(key)
        return (
            FormField("age", "At diagnosis", "clinical", "number", "year", 18, 80, (), True),
            FormField(
                "sex",
                self.title_text if "script" in self.title_text else "Sex",
                "clinical",
                "category",
                "",
                None,
                None,
                ("female", "male"),
                False,
            ),
        )

    def wide_layers(self, key: str) -> tuple[str, ...]:
        return ("rna", "cnv")

    def typed(self, who: Signed | System, key: str, given: Mapping[str, str]) -> Row | tuple[Notice, ...]:
        self.held(key)
        try:
            age = float(given.get("age", ""))
        except ValueError:
            return (Notice("not-a-number", {"column": "Age at diagnosis"}),)
        return Row("form", "b" * 64, {"age": age}, in_sample=False)

    def prognose(
        self, who: Signed | System, patient: OpenPatient, *, since: float | None, horizons: tuple[float, ...] = ()
    ) -> tuple[Prognosis | Refused, Artefact | None]:
        if patient.row.patient_id == "P0077" or patient.row.cells.get("age", 50) > 80:
            values = {"column": "Age at diagnosis", "low": 18.0, "high": 80.5, "unit": "year"}
            return Refused((Notice("beyond-range", values),)), self._artefact()
        if since is not None and since > 1800:
            gone = Notice("beyond-follow-up", {"time": since, "last": 1825.0, "unit": "day"})
            return Refused((gone,)), self._artefact()
        return replace(prognosis(title=self.title_text), event_free_until=since), self._artefact()

    def _artefact(self) -> Artefact:
        bare = artefact()
        said = {
            "title": self.title_text, "endpoint": "death", "n_patients": "810", "n_events": "230",
            "intended_use": "To show how the page looks, with made-up figures.",
            "not_for": ("Anyone under 18.", "Choosing a treatment.", "Another diagnosis."),
            "study": "acc-survival", "expires": datetime.date(2028, 11, 20),
        }  # fmt: skip
        return replace(bare, manifest=Manifest(**{**dict(bare.manifest), **said}))


FAILURES = {"too-many": 429, "broken": 500, "disk": 503}
"""Patients of `FailingDesk` and what a search for them comes to."""


@dataclass
class FailingDesk(MadeUpDesk):
    """The same site, where some searches fail."""

    def find(self, who: Signed | System, key: str, patient_id: str) -> Row | None:
        if patient_id == "too-many":
            raise TooManyViewsError
        if patient_id == "disk":
            raise StorageError("the access log cannot be written: no space")
        if patient_id == "broken":
            raise RuntimeError("a fault of the page")
        return super().find(who, key, patient_id)
