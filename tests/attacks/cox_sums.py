"""Attack 4: patients' rows from Cox's sums over risk sets, and the sums that a hub may return.

S1 sums x e^(x beta) over those at risk. Between two event times the sum loses those who left, so at exact times the
difference of neighbouring S1, over that of S0, is often one patient's row; Efron's sums over the deaths (D0, D1) take
the dead out, and leave those censored in between. On a grid with five events an interval a difference holds five and
more - but the censored of an interval, without its dead, may still be one patient. (Andreux et al. 2020, "Federated
survival analysis with discrete-time Cox models", section 2, names the risk sets as what Cox's model gives away.)

A hub may also choose the S0 that sites form their weights from: with a death in one interval alone the answer is the
sum of x x' over those at risk there, and the difference of two such answers, where one patient left, has rank one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.newton import unpacked
from models.step import Arrays, Floats
from privacy.inbound import Seen, judge, learned
from schemas.cohort import Cohort
from schemas.plan import Plan
from tests.attacks.federation import MIN_EVENTS, answer, given, plan_over, request_of, rows_of
from tests.attacks.scoring import mean_of, share_recovered
from tests.attacks.tables import bundled

_LEAST = 1e-9


def candidates(sums: Arrays, *, deaths: bool) -> list[Floats]:
    """Return the mean row of those who leave after each interval: with the dead and, given `deaths`, apart."""
    s0, s1 = np.append(sums["s0"], 0.0), np.vstack((sums["s1"], np.zeros(sums["s1"].shape[1])))
    left0, left1 = -np.diff(s0), -np.diff(s1, axis=0)
    groups = [(left0, left1)]
    if deaths:
        groups += [(sums["d0"], sums["d1"]), (left0 - sums["d0"], left1 - sums["d1"])]
    rows: list[Floats] = []
    for weight, total in groups:
        rows += list(total[weight > _LEAST] / weight[weight > _LEAST, None])
    return rows


def first_sums(plan: Plan, sites: Sequence[Cohort], victims: Sequence[Cohort]) -> dict[str, Floats]:
    """Return the answer to the first question of a fit (beta = 0)."""
    return answer(plan, "risk_sets", first_question(plan, sites), victims)


def first_question(plan: Plan, sites: Sequence[Cohort]) -> dict[str, Floats]:
    return {**given(plan, sites), "beta": np.zeros(len(plan.study.model.covariates))}


def figures(table: str, n_patients: int, seeds: Sequence[int], ties: str = "efron") -> dict[str, float]:
    """Return the share of a site's rows recovered at exact times and on the grid, alone and in the sum of six."""
    source, results = bundled(table), []
    for seed in seeds:
        sites = _sites(table, n_patients, seed)
        figure = {}
        for grid, min_events in (("exact times", 1), ("grid", MIN_EVENTS)):
            plan = plan_over(sites, source.columns, "cox", min_events=min_events, ties=ties)
            rows = rows_of(sites[0], given(plan, sites), source.columns)
            for whose, victims in (("alone", sites[:1]), ("sum of six sites", sites)):
                found = candidates(first_sums(plan, sites, victims), deaths=ties == "efron")
                figure[f"{grid}, {whose}"] = share_recovered(found, rows)
        results.append(figure)
    return mean_of(results)


def censored_alone(table: str, seeds: Sequence[int]) -> dict[str, float]:
    """Return the share of all six sites' rows recovered from Efron's sums, on today's grid and on a coarser one."""
    source, results = bundled(table), []
    for seed in seeds:
        sites = _sites(table, 10**6, seed)
        plan = plan_over(sites, source.columns, "cox")
        sent = first_question(plan, sites)
        rows = np.vstack([rows_of(site, sent, source.columns) for site in sites])
        total = answer(plan, "risk_sets", sent, sites)
        counting = plan_over(sites, source.columns, "cox", count_censored=True)
        coarse = answer(counting, "risk_sets", first_question(counting, sites), sites)
        results.append(
            {
                "events counted": share_recovered(candidates(total, deaths=True), rows),
                "events and censored counted": share_recovered(candidates(coarse, deaths=True), rows),
            }
        )
    return mean_of(results)


def chosen_s0(table: str, n_patients: int, seeds: Sequence[int]) -> dict[str, float]:
    """Return the share of rows, up to sign, from weights of chosen sums, and how many of those a site answers."""
    source, results = bundled(table), []
    for seed in seeds:
        sites = _sites(table, n_patients, seed)
        plan = plan_over(sites, source.columns, "cox")
        start = first_question(plan, sites)
        rows = rows_of(sites[0], start, source.columns)
        asked = [{**start, **_one_interval(k, start)} for k in range(int(start["n_intervals"]))]
        figure = {"answered, checked": _share_admitted(plan, start, asked, sites[0])}
        for whose, victims in (("alone", sites[:1]), ("sum of six sites", sites)):
            products = [
                unpacked(answer(plan, "weights", sent, victims)["hessian_weighted"], len(source.columns))
                for sent in asked
            ]
            found = [
                row
                for row in map(_rank_one, products, [*products[1:], np.zeros_like(products[0])])
                if row is not None
            ]
            figure[whose] = share_recovered([*found, *(-row for row in found)], rows)
        results.append(figure)
    return mean_of(results)


def _one_interval(k: int, start: Arrays) -> dict[str, Floats]:
    """Return sums with one death, in interval k."""
    there = (np.arange(start["edges"].size) == k).astype(np.float64)
    return {"events": there, "s0": np.ones_like(there), "d0": np.zeros_like(there)}


def _rank_one(before: Floats, after: Floats) -> Floats | None:
    """Return the row whose product with itself two sums of products differ by, if it is one row."""
    values, vectors = np.linalg.eigh(before - after)
    if values[-1] < _LEAST or np.abs(values[:-1]).max() > 1e-6 * values[-1]:
        return None
    return np.asarray(np.sqrt(values[-1]) * vectors[:, -1])


def _share_admitted(plan: Plan, start: Arrays, asked: Sequence[Arrays], site: Cohort) -> float:
    """Return the share of the questions that the inbound check of a site lets in after its first answer."""
    first = request_of(plan, "risk_sets", start)
    seen = judge(first, plan, Seen())
    assert isinstance(seen, Seen)
    seen = learned(seen, first, answer(plan, "risk_sets", start, [site]))
    return float(np.mean([isinstance(judge(request_of(plan, "weights", sent), plan, seen), Seen) for sent in asked]))


def _sites(table: str, n_patients: int, seed: int) -> list[Cohort]:
    """Return a site of `n_patients`, at most a sixth, and five others of up to 100."""
    source = bundled(table)
    n_patients = min(n_patients, source.pooled.n_patients // 6)
    others = min(100, (source.pooled.n_patients - n_patients) // 5)
    return source.sites([n_patients, *[others] * 5], seed)
