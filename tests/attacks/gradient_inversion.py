"""Attacks 1 and 2: patients' rows from one or two releases of the grouped hazard.

A release holds, for every interval k of the grid, the sum of u_ik x_i over those who survive it, plus the curvature
times x_i of those with the event in it. Who stops being counted between two intervals is a group: the events of an
interval, or those censored after it. At beta = 0 all weights are known, so the groups' sums solve linear equations,
and a group of one is a row. (Zhu et al. 2019, "Deep leakage from gradients", showed that gradients of small batches
are data; that sums per interval are too is our own observation.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.grouped_likelihood import event_terms
from models.step import Arrays, Floats
from schemas.cohort import Cohort
from tests.attacks.federation import answer, given, plan_over, rows_of
from tests.attacks.scoring import mean_of, share_recovered
from tests.attacks.tables import bundled

ALPHAS = (-7.0, -1.0)
"""Log baseline hazards of the two questions, both at beta = 0: what an honest search may ask too."""
_NULL = 1e-6
_RANK = 1e-9


@dataclass(frozen=True)
class Group:
    """Patients who leave the sums together.

    Attributes:
        interval: The last in which they are counted.
        has_event: Whether they have the event there; otherwise they are censored after it.
        size: How many they are: the release's counts say so.
    """

    interval: int
    has_event: bool
    size: int


def invert(releases: Sequence[Arrays], alphas: Sequence[float]) -> list[Floats]:
    """Return every row that the releases determine, each made at beta = 0 and one log baseline hazard."""
    groups = _groups(np.rint(releases[0]["events"]), np.rint(releases[0]["n_survived"]))
    equations, sums = _equations(groups, releases, alphas)
    size = np.abs(equations).max(axis=1, keepdims=True)
    size[size == 0] = 1.0
    equations, sums = equations / size, sums / size
    unit = np.abs(equations).max(axis=0)
    unit[unit == 0] = 1.0
    _, singular, basis = np.linalg.svd(equations / unit, full_matrices=True)
    free = basis[int((singular > _RANK * singular[0]).sum()) :]
    determined = (np.abs(free) < _NULL).all(axis=0)
    solved = np.linalg.lstsq(equations / unit, sums, rcond=_RANK)[0] / unit[:, None]
    return [row for row, group, known in zip(solved, groups, determined, strict=True) if known and group.size == 1]


def _groups(events: Floats, survived: Floats) -> list[Group]:
    at_risk_next = np.append(events[1:] + survived[1:], 0.0)
    found = []
    for k in range(events.size):
        for has_event, size in ((True, events[k]), (False, survived[k] - at_risk_next[k])):
            if size > 0:
                found.append(Group(k, has_event, int(size)))
    return found


def _equations(groups: Sequence[Group], releases: Sequence[Arrays], alphas: Sequence[float]) -> tuple[Floats, Floats]:
    """Return coefficients (equations, groups) and right sides (equations, p)."""
    rows, sums = [], []
    for release, alpha in zip(releases, alphas, strict=True):
        n_bins = release["events"].size
        u = float(np.exp(alpha))
        _, slope, curvature = (float(term[0]) for term in event_terms(np.array([u])))
        for k in range(n_bins):
            rows.append(
                [
                    u * (g.interval > k or (g.interval == k and not g.has_event))
                    + curvature * (g.interval == k and g.has_event)
                    for g in groups
                ]
            )
            sums.append(release["hessian_alpha_beta"][k])
        rows.append([slope * g.has_event - u * (g.interval + (not g.has_event)) for g in groups])
        sums.append(release["gradient_beta"])
    return np.array(rows, dtype=np.float64), np.array(sums)


def ask(sites: Sequence[Cohort], victims: Sequence[Cohort], columns: Sequence[str], n_questions: int) -> list[Floats]:
    """Return the candidate rows from so many questions to `victims`, one site or the masked sum of several."""
    plan = plan_over(sites, columns)
    found = given(plan, sites)
    n_bins = found["edges"].size
    beta = np.zeros(len(columns))
    releases = [
        answer(plan, "newton", {**found, "alpha": np.full(n_bins, alpha), "beta": beta}, victims)
        for alpha in ALPHAS[:n_questions]
    ]
    return invert(releases, ALPHAS[:n_questions])


def figures(table: str, n_patients: int, n_questions: int, seeds: Sequence[int]) -> dict[str, float]:
    """Return the share of a site's rows recovered from its own release, and from the sum over six sites.

    Args:
        table: A bundled table.
        n_patients: Of the attacked site; the five others have up to 100 each.
        n_questions: 1 or 2.
        seeds: Of the deals of patients to sites.
    """
    source, results = bundled(table), []
    others = min(100, (source.pooled.n_patients - n_patients) // 5)
    for seed in seeds:
        sites = source.sites([n_patients, *[others] * 5], seed)
        rows = rows_of(sites[0], given(plan_over(sites, source.columns), sites), source.columns)
        results.append(
            {
                "alone": share_recovered(ask(sites, sites[:1], source.columns, n_questions), rows),
                "sum of six sites": share_recovered(ask(sites, sites, source.columns, n_questions), rows),
            }
        )
    return mean_of(results)
