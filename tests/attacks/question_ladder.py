"""Attack 9: an active hub solves for the patients of an interval from ordinary questions, through the secure sum.

Asked at beta = t h v for t = 0, 1, 2, ..., Efron's sums over the deaths of an interval are sums of m exponentials
z_i^t (and z_i^t x_i), z_i = e^(h x_i v). Such a sequence satisfies a linear recurrence whose roots are the z_i (de
Prony 1795), so m + 1 questions or a few more give the z_i and then every x_i, to rounding. No coefficient is large,
no interval has fewer than five events, and the sums are over all sites; what stops it is fewer questions than
patients in an interval. The grouped hazard releases the same sums in another dress: at huge baseline hazards its
information is the sum over those who survive an interval, and its difference to the next one the sum over those who
leave. (That m exponentials follow from 2 m of their sums is de Prony's; we know of no earlier use against sums over
risk sets.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.step import Arrays, Floats
from privacy import gate
from privacy.inbound import Limits, Seen, judge
from schemas.cohort import Cohort
from schemas.plan import Plan
from tests.attacks.federation import answer, given, plan_over, request_of, rows_of
from tests.attacks.scoring import mean_of, share_recovered
from tests.attacks.tables import bundled

_FURTHEST = 2.9  # within the inbound check's norm
_SITES = 6
_HUGE = 8.0  # a log baseline hazard at which the dead add nothing


def ladder(found: Arrays, p: int, n_questions: int, rng: np.random.Generator) -> list[dict[str, Floats]]:
    """Return the questions: evenly spaced points of a line through 0, at a huge baseline hazard if there is one."""
    way = rng.normal(size=p)
    way *= _FURTHEST / np.linalg.norm(way)
    alpha = np.full(found["edges"].size, _HUGE)
    return [{**found, "alpha": alpha, "beta": length * way} for length in np.linspace(0.0, 1.0, n_questions)]


def groups(answers: Sequence[Arrays]) -> list[tuple[Floats, Floats, Floats]]:
    """Return groups of patients: (K,) sizes, (T, K) sums of e^(x beta), (T, K, p) sums of x e^(x beta).

    Whoever leaves the sums over those at risk (Cox) or surviving (hazard) after each interval; of Cox also the dead.
    """
    if "s0" in answers[0]:
        counted = answers[0]["s0"]  # at beta = 0
        at_risk = [np.array([a[name] for a in answers]) for name in ("s0", "s1")]
        dead = [np.array([a[name] for a in answers]) for name in ("d0", "d1")]
        found = [(answers[0]["events"], dead[0], dead[1])]
    else:
        counted = answers[0]["n_survived"]
        scale = np.exp(-_HUGE)
        at_risk = [np.array([a[name] for a in answers]) * scale for name in ("hessian_alpha", "hessian_alpha_beta")]
        found = []
    s0, s1 = (np.concatenate((sums, np.zeros_like(sums[:, :1])), axis=1) for sums in at_risk)
    return [*found, (-np.diff(np.append(counted, 0.0)), -np.diff(s0, axis=1), -np.diff(s1, axis=1))]


def solve(d0: Floats, d1: Floats, n_patients: int) -> Floats:
    """Return the (m, p) rows behind sums over m patients at evenly spaced points.

    Args:
        d0: (T,) sums of z^t, t = 0..T-1.
        d1: (T, p) sums of z^t x.
        n_patients: m < T.
    """
    series = np.column_stack((d0, d1))
    series_unit = np.abs(series).max(axis=0)
    series_unit[series_unit == 0] = 1.0
    scaled, last = series / series_unit, len(d0) - n_patients
    windows = np.concatenate([[column[t : t + n_patients] for t in range(last)] for column in scaled.T])
    following = np.concatenate([column[n_patients:] for column in scaled.T])
    recurrence = np.linalg.lstsq(windows, -following, rcond=None)[0]
    nodes = np.roots(np.append(1.0, recurrence[::-1])).real
    powers = nodes[None, :] ** np.arange(len(d0))[:, None]
    weights = np.linalg.lstsq(powers, series, rcond=None)[0]
    share = np.where(weights[:, :1] == 0, np.nan, weights[:, :1])
    return np.asarray(weights[:, 1:] / share)


def candidates(answers: Sequence[Arrays]) -> list[Floats]:
    """Return the rows solved for in every group of fewer patients than there are answers."""
    rows: list[Floats] = []
    for sizes, sums, weighted in groups(answers):
        for k, n_patients in enumerate(np.rint(sizes).astype(int)):
            if 0 < n_patients < len(answers):
                rows += list(solve(sums[:, k], weighted[:, k], int(n_patients)))
    return rows


def admitted(plan: Plan, wanted: Sequence[Arrays], limits: Limits | None) -> list[Arrays]:
    """Return the questions that the gate and, with limits, the inbound check let in."""
    seen, asked = Seen(), []
    for sent in wanted:
        request = request_of(plan, _part(plan), sent)
        verdict = gate.admit(request, plan) or (judge(request, plan, seen, limits) if limits is not None else seen)
        if isinstance(verdict, Seen):
            seen = verdict
            asked.append(sent)
    return asked


def _part(plan: Plan) -> str:
    return plan.by_name["fit"].parts[0].name


def figures(
    table: str, method: str, n_questions: int, min_events: int, seeds: Sequence[int], limits: Limits | None = None
) -> dict[str, float]:
    """Return the share of the rows of all patients of six sites that are recovered from their sum.

    Args:
        table: A bundled table.
        method: ``cox`` or ``hazard``.
        n_questions: That the hub asks; `answered` are those let in.
        min_events: In each interval of the grid.
        seeds: Of the deals of patients to sites.
        limits: Of the inbound check; None where only the gate judges.
    """
    source, results = bundled(table), []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        sites: list[Cohort] = source.sites([min(100, source.pooled.n_patients // _SITES)] * _SITES, seed)
        plan = plan_over(sites, source.columns, method, min_events=min_events)
        found = given(plan, sites)
        rows = np.vstack([rows_of(site, found, source.columns) for site in sites])
        asked = admitted(plan, ladder(found, len(source.columns), n_questions, rng), limits)
        solved = candidates([answer(plan, _part(plan), sent, sites) for sent in asked])
        results.append({"answered": float(len(asked)), "rows": share_recovered(solved, rows)})
    return mean_of(results)
