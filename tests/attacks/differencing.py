"""Attack 8: two sums over cohorts that differ by one patient, and four that share one, give that patient's row.

The difference of two releases of the first step (sums of every covariate) is the row itself, whatever masks hid the
sites behind the sums; so are ages from 18 and then 19, or an opt-out between two runs. Four cohorts that differ by
ten patients and more can do the same by inclusion and exclusion. (Denning, Denning & Schwartz 1979, "The tracker: a
threat to statistical database security", for both.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.compile import build_step
from models.step import Arrays, Floats, combine
from privacy.differencing import Members, differs_too_little, fingerprints, isolates_too_few
from schemas.cohort import Cohort
from schemas.plan import Plan
from tests.attacks.federation import plan_over
from tests.attacks.scoring import share_recovered
from tests.attacks.tables import bundled

_SALT = b"the attacked site's own secret"
_N_PATIENTS = 100


def sums(plan: Plan, sites: Sequence[Cohort]) -> dict[str, Floats]:
    """Return the sums of the covariates over the sites, as an ideal secure sum gives them."""
    return combine([build_step(plan, "moments").local("sums", {}, site) for site in sites])


def combined(releases: Sequence[Arrays], weights: Sequence[float]) -> Floats:
    """Return the weighted sum of the covariates' sums."""
    return np.asarray(sum(weight * release["total"] for weight, release in zip(weights, releases, strict=True)))


def members(site: Cohort, columns: Sequence[str]) -> Members:
    """Return what the attacked site keeps of a cohort."""
    rows = site.matrix(columns)
    return fingerprints({who: row.tobytes() for who, row in zip(site.patient_ids, rows, strict=True)}, _SALT)


def figures(table: str, seed: int, *, tracked: bool) -> dict[str, float]:
    """Return the share of one patient's row recovered (1 or 0), and whether each rule refuses the last cohort.

    Args:
        table: A bundled table.
        seed: Of the deal of patients to six sites.
        tracked: Four cohorts by inclusion and exclusion, instead of two that differ by one patient.
    """
    source = bundled(table)
    size = min(_N_PATIENTS, source.pooled.n_patients // 6)
    victim, *others = source.sites([size] * 6, seed)
    plan = plan_over([victim, *others], source.columns)
    everybody = np.arange(size)
    without: list[set[int]] = (
        [set(), set(range(11)), set(range(10, 21)), set(range(21))] if tracked else [set(), {10}]
    )
    weights = [1.0, -1.0, -1.0, 1.0] if tracked else [1.0, -1.0]
    cohorts = [victim.take(~np.isin(everybody, sorted(left_out))) for left_out in without]
    row = combined([sums(plan, [cohort, *others]) for cohort in cohorts], weights)
    centres = np.asarray(plan.by_name["moments"].settings["centres"])
    unit = source.pooled.matrix(source.columns).std(axis=0)
    kept = [members(cohort, source.columns) for cohort in cohorts]
    truth = (victim.matrix(source.columns)[10] - centres) / unit
    return {
        "row": share_recovered([row / unit], truth[None, :]),
        "refused for a pair": float(differs_too_little(kept[:-1], kept[-1])),
        "refused for a combination": float(isolates_too_few(kept[:-1], kept[-1])),
    }
