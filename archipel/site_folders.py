"""Reads site folders (one per site, named after it) as a simulation sees them: all in one process.

A folder holds `clinical.csv|parquet`, one file per layer, and, where its CSV files are not written the plain way, the
`site.toml` that the real site would have, of which only `[csv]` is read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from client.cohort_of import cohort_and_counts
from client.dialect import Dialect
from client.errors import TooFewPatientsError
from client.optout import OPTOUT_FILE, load_optout
from client.settings import SETTINGS_FILE, Floors
from schemas.cohort import Cohort
from schemas.dictionary import Dictionary
from schemas.errors import ArchipelError, Fault, FaultsError
from schemas.result import SiteFacts
from schemas.shown import shown_count
from schemas.study import Study
from schemas.toml_source import TomlSource


@dataclass(frozen=True)
class Sites:
    """The sites of a simulation.

    Attributes:
        cohorts: Of the sites that take part, by name.
        left_out: Why the others do not, by name.
    """

    cohorts: Mapping[str, Cohort]
    left_out: Mapping[str, str]

    @property
    def facts(self) -> tuple[SiteFacts, ...]:
        """What a result says about them; sizes of sites left out are below the floor, hence not shown."""
        took_part = [
            SiteFacts(name=name, patients=shown_count(cohort.n_patients), status="took part")
            for name, cohort in self.cohorts.items()
        ]
        others = [
            SiteFacts(name=name, patients=shown_count(0), status="left out", reason=reason)
            for name, reason in self.left_out.items()
        ]
        return (*took_part, *others)


def find_site_folders(folder: Path) -> dict[str, Path]:
    """Return the site folders in `folder` by name, in the order of their names.

    Raises:
        ArchipelError: When there is none.
    """
    if not folder.is_dir():
        raise ArchipelError(f"{folder} is not a folder: give the folder that holds one folder per site.")
    found = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_dir() and any((path / f"clinical.{kind}").is_file() for kind in ("csv", "parquet"))
    }
    if not found:
        raise ArchipelError(f"{folder} holds no site: each site is a folder with clinical.csv or clinical.parquet.")
    return found


def read_sites(folder: Path, study: Study, dictionary: Dictionary) -> Sites:
    """Return the cohorts of all site folders; a site below the study's floor is left out with its reason.

    Raises:
        FaultsError: Naming every problem of every site's tables at once.
        ArchipelError: When no site is left.
    """
    floors = Floors(
        min_patients=study.privacy.min_patients,
        min_events_per_interval=study.privacy.min_events_per_interval,
        min_events=0,
        accept_time_zero=True,
    )
    cohorts: dict[str, Cohort] = {}
    left_out: dict[str, str] = {}
    faults: list[Fault] = []
    for name, home in find_site_folders(folder).items():
        try:
            cohorts[name], _ = cohort_and_counts(
                home, dictionary, study, read_dialect(home), floors, load_optout(home / OPTOUT_FILE), site=name
            )
        except TooFewPatientsError as error:
            left_out[name] = "; ".join(fault.what for fault in error.faults)
        except FaultsError as error:
            faults += [Fault(f"{name}/{fault.where}", fault.what, fault.remedy) for fault in error.faults]
    if faults:
        raise FaultsError(f"the tables in {folder}", faults)
    if not cohorts:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ArchipelError(f"no site in {folder} can take part ({reasons})")
    return Sites(cohorts, left_out)


def read_dialect(tables: Path) -> Dialect:
    """Return how the CSV files of a folder of tables are written, as its own ``site.toml`` says, else plain.

    Raises:
        FaultsError: When that file is wrong.
    """
    if not (tables / SETTINGS_FILE).is_file():
        return Dialect()
    source = TomlSource(tables / SETTINGS_FILE)
    try:
        return Dialect.model_validate(source.data.get("csv", {}))
    except ValidationError as error:
        raise FaultsError(str(tables / SETTINGS_FILE), source.faults_of(error, ("csv",))) from None
