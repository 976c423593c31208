"""What a model under differential privacy says of the events behind it: so many at least, the noise considered.

The noise of a release is drawn at each site with a spread that plan and study fix (`privacy.noise.grid_of`), so the
spread of the sum is known: that of one site times the root of the sites in it. Sites that left the run are counted
too, which only makes less be said. No privacy is spent: what has left already is read again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from models.private_events import events_at_least
from models.step import Floats
from privacy.accountant import release_mu
from privacy.noise import grid_of
from schemas.artefact import HorizonEvents
from schemas.plan import PartSpec, Plan

__all__ = ["noise_of_sum", "private_horizon_events"]


def private_horizon_events(arrays: Mapping[str, Floats], plan: Plan, n_sites: int) -> tuple[HorizonEvents, ...]:
    """Return for each horizon how many events there were by then, at least; none of a run before this was released.

    Args:
        arrays: ``step.array`` of the run.
        plan: That ran, under differential privacy.
        n_sites: Whose noise may be in a sum.
    """
    if "grid.released_events" not in arrays or "baseline.released_events" not in arrays:
        return ()
    grid, baseline = plan.by_name["grid"], plan.by_name["baseline"]
    horizons = plan.study.endpoint.horizons_days
    counts = events_at_least(
        float(arrays["grid.released_events"].sum()),
        noise_of_sum(plan, grid.parts[0], n_sites) * math.sqrt(arrays["grid.released_events"].size),
        arrays["baseline.released_events"],
        noise_of_sum(plan, baseline.parts[0], n_sites),
        arrays["grid.edges"],
        np.asarray(baseline.settings["pieces"], dtype=np.intp),
        horizons,
    )
    return tuple(
        HorizonEvents(horizon=horizon, events=f"\N{GREATER-THAN OR EQUAL TO}{count}", at_least=count)
        for horizon, count in zip(horizons, counts, strict=True)
    )


def noise_of_sum(plan: Plan, part: PartSpec, n_sites: int) -> float:
    """Return the standard deviation of the noise in each number of a sum over so many sites.

    Raises:
        ValueError: For a part without noise.
    """
    differential = plan.study.privacy.differential
    if differential is None or part.noise is None:
        raise ValueError("the plan adds no noise")
    n_numbers = sum(spec.size for spec in part.releases)
    return grid_of(part.noise, release_mu(differential, part.noise), n_numbers).std * math.sqrt(n_sites)
