"""A site's settings: `site.toml` in the site's home folder and the environment over it, read once, passed down.

They belong to the hospital alone: where its tables are, how they are written, and floors that may be stricter
than the federation's. Nothing here is sent to the hub but the name and the title.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from client.dialect import Dialect
from client.view_settings import ViewSettings
from schemas.environment import SITE_PREFIX, SettingsSource
from schemas.errors import Fault, FaultsError
from schemas.operation import Host, Logs, Port
from schemas.study import MIN_EVENTS_FLOOR, MIN_PATIENTS_FLOOR

__all__ = ["SETTINGS_FILE", "DatasetBudget", "Floors", "SiteFloors", "SiteSettings", "load_settings"]

SETTINGS_FILE = "site.toml"
_STRICT = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, strict=True)
_HOST = re.compile(r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)$")


class Floors(BaseModel):
    """The smallest counts that a site computes on.

    Attributes:
        min_patients: Patients of the site in a study; a layer known of fewer counts as missing here.
        min_events_per_interval: Events of the federation in each interval of the common time grid.
        min_events: Observed events of the site in a study; a site without any is left out.
        accept_time_zero: Whether a patient who left observation at time 0 without the event may stay. Such a patient
            adds nothing to any estimate, and published cohorts hold some, so `simulate` keeps them; at a real site
            a time of 0 is more likely a wrong date, which its data manager must see.
    """

    model_config = _STRICT

    min_patients: Annotated[int, Field(ge=1, le=100_000)] = MIN_PATIENTS_FLOOR
    min_events_per_interval: Annotated[int, Field(ge=1, le=100_000)] = MIN_EVENTS_FLOOR
    min_events: Annotated[int, Field(ge=0, le=100_000)] = 1
    accept_time_zero: bool = False


class SiteFloors(Floors):
    """The floors of a real site: they may be raised, never lowered. `Floors` itself may be lower in `simulate`."""

    @field_validator("min_patients")
    @classmethod
    def _patients(cls, value: int) -> int:
        return _not_below(value, MIN_PATIENTS_FLOOR, "patients")

    @field_validator("min_events_per_interval")
    @classmethod
    def _events(cls, value: int) -> int:
        return _not_below(value, MIN_EVENTS_FLOOR, "events")

    @field_validator("accept_time_zero")
    @classmethod
    def _no_time_zero(cls, accept: bool) -> bool:  # noqa: FBT001 - pydantic passes the value by position
        if accept:
            raise ValueError("a time of 0 is accepted in `archipel simulate` alone")
        return accept

    @field_validator("min_events")
    @classmethod
    def _site_events(cls, value: int) -> int:
        return _not_below(value, 1, "event")


class DatasetBudget(BaseModel):
    """How much of its patients' privacy a site spends, over all studies under differential privacy together.

    Attributes:
        dataset: Name of the account: of the patients behind the tables, and not of one state of the tables. Another
            name is another account, with nothing spent; give one only to other patients.
        epsilon: At most, at `delta`; 0 allows nothing.
        delta: At which epsilon is read; well below one over the number of patients.
    """

    model_config = _STRICT

    dataset: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")]
    epsilon: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
    delta: Annotated[float, Field(gt=0, le=1e-3)] = 1e-5


class SiteSettings(BaseModel):
    """Everything in site.toml.

    Attributes:
        name: The site's name in rosters and results; also part of file names.
        title: The hospital's name, for people.
        hub_address: ``host:port`` of the hub, the one outbound connection.
        tables: Absolute folder of `clinical.csv|parquet` and one file per layer.
        runtime_port: Loopback port of the agent's helper; 0 takes a free one.
        dialect: How the CSV files are written (section `[csv]`).
        floors: Smallest counts.
        max_rounds: Rounds that the site answers in one run; without it the plan's own limit holds.
        budget: For studies under differential privacy (section `[budget]`); without it the site refuses them.
        view: The patient page (section `[view]`).
        logs: Where the processes write what happens (`schemas.operation`).
        metrics_port: On which health and figures are served to a monitoring system; 0: not at all.
        metrics_listen: Address that this port binds.
        confinement: Whether the site starts on a kernel that cannot keep a step's process from network and keys
            (`client.confinement`): it does, with a warning, or ``required`` makes it refuse.
    """

    model_config = _STRICT

    kind: Literal["site"]
    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")]
    title: str = Field(default="", max_length=200)
    hub_address: str
    tables: Path
    runtime_port: Port = 0
    dialect: Dialect = Field(default_factory=Dialect, alias="csv")
    floors: SiteFloors = SiteFloors()
    max_rounds: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    budget: DatasetBudget | None = None
    view: ViewSettings = ViewSettings()
    logs: Logs = "files"
    metrics_port: Port = 0
    metrics_listen: Host = "127.0.0.1"
    confinement: Literal["if-possible", "required"] = "if-possible"

    @field_validator("hub_address")
    @classmethod
    def _host_and_port(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if not _HOST.match(host) or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
            raise ValueError(
                'is not "host:port", for example "hub.example.org:9092" (no https://, no path; port 1 to 65535)'
            )
        return address

    @field_validator("title")
    @classmethod
    def _one_line(cls, title: str) -> str:
        if any(ord(character) < 32 for character in title):
            raise ValueError("is one line of text")
        return title


def load_settings(home: Path, environ: Mapping[str, str] | None = None) -> SiteSettings:
    """Read `site.toml` in the site's home folder; a relative `tables` folder starts from there.

    Args:
        home: The site's folder.
        environ: Variables that win over the file (`schemas.environment`); by default this process's.

    Raises:
        FaultsError: Naming every fault at once, each with its line or its variable.
    """
    if not (home / SETTINGS_FILE).exists():
        remedy = "make one with `archipel site init`, or name the site's folder with --home"
        raise FaultsError(
            str(home.absolute()), [Fault(SETTINGS_FILE, "is missing: this folder is no site's", remedy)]
        )
    variables = os.environ if environ is None else environ
    source = SettingsSource(home / SETTINGS_FILE, SiteSettings, SITE_PREFIX, variables)
    settings = source.parse(SiteSettings)
    lines = {key: source.where(("csv", key)) for key in Dialect.model_fields if "csv" in source.data}
    return settings.model_copy(
        update={
            "tables": (home / settings.tables.expanduser()).resolve(),
            "dialect": settings.dialect.found_at(lines),
            "view": settings.view.found_from(home),
        }
    )


def _not_below(value: int, floor: int, what: str) -> int:
    if value < floor:
        raise ValueError(f"is below the floor of {floor} {what}, which a site may raise and not lower")
    return value
