"""A site's own figures: how a run's models do on this site's unseen patients. They are written here and stay here.

What leaves the site is a masked summand of sums over sites (`models.site_figures`); `archipel site status` shows the
people of the site what its own term was.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.state import SitePaths
from models.site_figures import SiteFigures
from models.step import Arrays, Step
from privacy.storage import StorageError, write_durably
from schemas.cohort import Cohort

__all__ = ["OwnFigures", "figures_of", "keep_own_figures", "own_figures"]

log = logging.getLogger("archipel.site")


class OwnFigures(BaseModel):
    """The figures of one run at this site.

    Attributes:
        run_id: Of the run.
        study: Its name.
        n_patients: Unseen patients that were judged.
        values: Figure -> value; null where it does not exist.
        counted: For each figure whether it entered the mean over the sites.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["own-figures"] = "own-figures"
    version: Literal[1] = 1
    run_id: str
    study: str
    n_patients: Annotated[int, Field(ge=0)]
    values: dict[str, float | None]
    counted: dict[str, bool]


def figures_of(run_id: str, study: str, code: Step, sent: Arrays, cohort: Cohort) -> OwnFigures | None:
    """Return the figures where the step has some, else None.

    Args:
        run_id: Of the run.
        study: Its name.
        code: Of the step that is being answered.
        sent: What the hub sent.
        cohort: That answers.
    """
    if not isinstance(code, SiteFigures):
        return None
    own = code.own(sent, cohort)
    return OwnFigures(
        run_id=run_id,
        study=study,
        n_patients=own.n_patients,
        values=dict(own.values),
        counted={name: bool(count) for name, count in zip(own.values, own.counted, strict=True)},
    )


def keep_own_figures(paths: SitePaths, figures: OwnFigures) -> None:
    """Write the figures down; a full disk costs the file, not the run."""
    try:
        paths.figures.mkdir(parents=True, exist_ok=True)
        write_durably(paths.figures / f"{figures.run_id}.json", (figures.model_dump_json(indent=1) + "\n").encode())
    except (StorageError, OSError):
        log.warning("the site's own figures of run %s could not be written", figures.run_id)


def own_figures(paths: SitePaths) -> list[OwnFigures]:
    """Return what was kept, the latest run first; files that cannot be read are left out."""
    found: list[OwnFigures] = []
    for file in sorted(paths.figures.glob("*.json"), key=_written, reverse=True):
        try:
            found.append(OwnFigures.model_validate_json(file.read_bytes()))
        except (OSError, ValidationError):
            continue
    return found


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
