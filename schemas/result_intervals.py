"""How sure a result is of its scores, and how far they differ from site to site."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.result_part import Count, Part

IntervalOf = Literal["c_index", "c_index_within", "c_index_uno", "ibs", "calibration_slope"]
SiteFigure = Literal["c_index", "ibs", "calibration_slope"]

SITES_FOR_MEAN = 3
"""A mean over fewer sites would tell one of them the other's figure."""
SITES_FOR_SPREAD = 5


class Interval(Part):
    """The 95 % interval of one score: of the same models on other patients of these sites."""

    lower: float
    """Its lower end."""
    upper: float
    """Its upper end."""

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if self.lower > self.upper:
            raise ValueError("an interval ends before it begins")
        return self


class OverSites(Part):
    """One figure of the federated model, as each site reaches it on its own unseen patients, over the sites."""

    figure: SiteFigure
    """What was computed at each site on its own patients alone."""
    sites: Count
    """Sites with patients and events enough to count."""
    mean: float | None
    """Every site counts once, whatever its size; null with fewer than three."""
    sd: Annotated[float, Field(ge=0)] | None
    """Standard deviation over the sites (n - 1); null with fewer than five."""

    @model_validator(mode="after")
    def _withheld(self) -> OverSites:
        if self.mean is not None and self.sites < SITES_FOR_MEAN:
            raise ValueError(f"a mean over {self.sites} sites must not be told")
        if self.sd is not None and self.sites < SITES_FOR_SPREAD:
            raise ValueError(f"a spread over {self.sites} sites must not be told")
        return self
