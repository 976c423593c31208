"""The `[view]` section of site.toml: what the patient page reads, where it listens, and how long a session lasts."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["ViewSettings", "is_loopback"]


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class ViewSettings(BaseModel):
    """How the patient page is served.

    Attributes:
        tables: Folder of the current patients' tables, relative to the site's folder; without it the site's tables.
        dictionary: File of the dictionary by which these tables are written; a model of another dictionary then shows
            no number. Without it the tables are read as the model's own dictionary says.
        host: Address to listen on; anything but this machine's own needs a certificate.
        port: To listen on.
        tls_certificate, tls_key: PEM files, relative to the site's folder; both or none.
        recalibrate: Whether this site's own calibration is applied to the numbers that are shown.
        log_patient_ids: Whether the access log holds the identifier beside its keyed hash.
        idle_minutes: After so long without a click a session ends.
        session_hours: After so long it ends in any case.
        views_per_minute: Views of patients, found or not, that one account may make in a minute.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tables: Path | None = None
    dictionary: Path | None = None
    host: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9.:\[\]-]+$")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8417
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    recalibrate: bool = False
    log_patient_ids: bool = False
    idle_minutes: Annotated[int, Field(ge=1, le=480)] = 15
    session_hours: Annotated[int, Field(ge=1, le=24)] = 10
    views_per_minute: Annotated[int, Field(ge=1, le=1000)] = 30

    @model_validator(mode="after")
    def _safe(self) -> ViewSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("`tls_certificate` and `tls_key` belong together: name both or none")
        if self.tls_certificate is None and not is_loopback(self.host):
            raise ValueError(
                f"`host` {self.host} is reached from other machines: name `tls_certificate` and `tls_key`, or listen "
                "on 127.0.0.1"
            )
        return self

    def found_from(self, home: Path) -> ViewSettings:
        """Return the settings with every path absolute, relative ones starting at the site's folder."""
        paths = {
            name: (home / path.expanduser()).resolve()
            for name in ("tables", "dictionary", "tls_certificate", "tls_key")
            if (path := getattr(self, name)) is not None
        }
        return self.model_copy(update=paths)
