"""Attack 3: an active hub asks at coefficients so large that one patient outweighs all others in a sum.

At beta = c v the patient furthest along v has e^(c gap) times the weight of the next, so the sum of weighted rows
over the sum of weights, in every interval, is that patient's row; another direction shows another patient, and later
intervals those further inside. A sum over sites hides nobody from it: the heaviest patient of all sites shows.
Chosen means shift all log hazards below 0, where nothing overflows and no site refuses to evaluate.
(Boenisch et al. 2021, "When the curious abandon honesty", for trap weights; Wen et al. 2022, "Fishing for user data
in large-batch federated learning", for magnified single gradients, both through secure aggregation.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.newton import REFUSED
from models.step import Arrays, Floats
from privacy import gate
from privacy.inbound import Limits, Seen, judge
from schemas.cohort import Cohort
from schemas.plan import Plan
from tests.attacks.federation import answer, given, plan_over, request_of, rows_of
from tests.attacks.private_release import noisy_answer, private_plan
from tests.attacks.scoring import mean_of, share_recovered
from tests.attacks.tables import bundled

N_QUESTIONS = 40  # as many as the plan allows
CHOSEN_NORM = 48.0
ROUNDS = 20  # of a study under differential privacy
_SHIFT = 4.0  # in standard deviations along the direction asked: beyond the furthest patient
_ALPHA = -1.0
_LEAST = 1e-280  # smaller sums have lost their digits


def directions(p: int, norm: float, rng: np.random.Generator) -> list[Floats]:
    """Return the points at which a hub that nothing holds back asks."""
    drawn = rng.normal(size=(N_QUESTIONS, p))
    return list(norm * drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def walk(points: Sequence[Floats], limits: Limits) -> list[Floats]:
    """Return the points of a hub that knows the limits: towards each direction as far as they let it."""
    here, path = np.zeros_like(points[0]), []
    for point in points:
        target = point / np.linalg.norm(point) * limits.norm * (1 - 1e-9)
        way = target - here
        here = here + way * min(1.0, limits.step * (1 - 1e-9) / float(np.linalg.norm(way)))
        path.append(here)
    return path


def questions(found: Arrays, points: Sequence[Floats], *, shifted: bool) -> list[dict[str, Floats]]:
    """Return the questions at these points, with the true means or chosen ones."""
    alpha = np.full(found["edges"].size, _ALPHA)
    shift = [_SHIFT * shifted * found["scale"] * beta / np.linalg.norm(beta) for beta in points]
    return [
        {**found, "mean": found["mean"] + by, "alpha": alpha, "beta": beta}
        for beta, by in zip(points, shift, strict=True)
    ]


def accepted(plan: Plan, wanted: Sequence[Arrays], limits: Limits | None) -> list[Arrays]:
    """Return the questions that a site answers: those that the gate, and with limits the inbound check, let in."""
    seen, asked = Seen(), []
    for sent in wanted:
        request = request_of(plan, "newton", sent)
        if gate.admit(request, plan) is not None:
            continue
        if limits is not None:
            verdict = judge(request, plan, seen, limits)
            if not isinstance(verdict, Seen):
                continue
            seen = verdict
        asked.append(sent)
    return asked


def candidates(plan: Plan, found: Arrays, asked: Sequence[Arrays], victims: Sequence[Cohort]) -> list[Floats]:
    """Return the weighted mean row of every interval of every answer, in units from the true means."""
    rows: list[Floats] = []
    for sent in asked:
        total = answer(plan, "newton", sent, victims)
        if float(total["log_likelihood"]) <= REFUSED / 2:
            continue
        weight = total["hessian_alpha"]
        shift = (sent["mean"] - found["mean"]) / found["scale"]
        rows += list(total["hessian_alpha_beta"][weight > _LEAST] / weight[weight > _LEAST, None] + shift)
    return rows


def figures(table: str, seeds: Sequence[int]) -> dict[str, float]:
    """Return the share of a site's 32 rows recovered, alone and in the sum of six such sites, without and with check.

    `by chance` is the share of patients of no site that the candidates from the sum match.
    """
    source, results = bundled(table), []
    for seed in seeds:
        *sites, strangers = source.sites([*[32] * 6, 100], seed)
        plan = plan_over(sites, source.columns)
        found = given(plan, sites)
        rows = rows_of(sites[0], found, source.columns)
        points = directions(len(source.columns), CHOSEN_NORM, np.random.default_rng(seed))
        free = accepted(plan, questions(found, points, shifted=True), None)
        held = accepted(plan, questions(found, walk(points, Limits()), shifted=False), Limits())
        naive = accepted(plan, questions(found, points, shifted=True), Limits())
        from_sum = candidates(plan, found, free, sites)
        results.append(
            {
                "alone": share_recovered(candidates(plan, found, free, sites[:1]), rows),
                "sum of six sites": share_recovered(from_sum, rows),
                "by chance": share_recovered(from_sum, rows_of(strangers, found, source.columns)),
                "alone, checked": share_recovered(candidates(plan, found, held, sites[:1]), rows),
                "sum of six sites, checked": share_recovered(candidates(plan, found, held, sites), rows),
                "same questions answered, checked": len(naive) / len(free),
            }
        )
    return mean_of(results)


def under_noise(table: str, epsilon: float, seeds: Sequence[int]) -> dict[str, float]:
    """Return the share of 32 rows recovered from clipped gradients at chosen weights, before and with their noise.

    A gradient in the coefficients over the one in the baseline hazard is the mean row, weighted by who stands out.
    """
    source, results = bundled(table), []
    for seed in seeds:
        (site,) = source.sites([32], seed)
        plan = private_plan(site, source.columns, epsilon, ROUNDS, clip=2.0)
        found = given(plan_over([site], source.columns), [site])
        points = directions(len(source.columns), CHOSEN_NORM, np.random.default_rng(seed))[:ROUNDS]
        figure = {}
        for label, with_noise in (("clipped alone", False), ("with noise", True)):
            answers = [
                noisy_answer(
                    plan, {**found, "alpha": np.array([0.0]), "beta": beta}, site, seed + n, noise=with_noise
                )
                for n, beta in enumerate(points)
            ]
            rows = [a["gradient_beta"] / a["gradient_alpha"] for a in answers if a["gradient_alpha"][0] != 0]
            figure[label] = share_recovered(rows, rows_of(site, found, source.columns))
        results.append(figure)
    return mean_of(results)
