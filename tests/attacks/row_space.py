"""Attack 5: who is a member, from gradients of a model with more covariates than patients.

Every gradient is a combination of the members' rows, so with p > n the gradients of a run span (nearly) the members'
row space, and no other patient lies in it: the share of a row's length inside the span tells members apart. (Melis et
al. 2019, "Exploiting unintended feature leakage in collaborative learning", for membership from gradients; that a
linear model's gradients stay in the row space is elementary.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from models.newton import unpacked
from models.step import Arrays, Floats
from schemas.cohort import Cohort
from tests.attacks.federation import answer, given, plan_over, rows_of
from tests.attacks.private_release import NO_CLIP, private_plan, run
from tests.attacks.scoring import auc, mean_of
from tests.attacks.tables import bundled

N_MEMBERS = 40
N_ROUNDS = 60
_RANK = 1e-11


def inside(gradients: Floats, rows: Floats, rank: int | None = None) -> Floats:
    """Return the share of each row's length inside the span of the gradients, or of its `rank` main directions."""
    _, singular, basis = np.linalg.svd(gradients, full_matrices=False)
    kept = basis[: int((singular > _RANK * singular[0]).sum()) if rank is None else rank]
    return np.asarray(np.linalg.norm(rows @ kept.T, axis=1) / np.linalg.norm(rows, axis=1))


def strongest(gradients: Floats, rows: Floats, member: Floats) -> float:
    """Return the best AUC of several ways to score: an attacker who could choose the best in hindsight."""
    along = gradients.sum(axis=0)
    scores = [inside(gradients, rows, rank) for rank in (None, 1, 5, 20, 40)]
    scores += [np.abs(rows @ along), rows @ along, np.linalg.norm(rows @ gradients.T, axis=1)]
    values = [auc(score, member > 0) for score in scores if np.ptp(score) > _RANK]
    return max(max(value, 1 - value) for value in values)


def figures(epsilon: float, seeds: Sequence[int]) -> dict[str, float]:
    """Return the AUC for 40 of the 198 patients of `breast` (82 covariates), without and with noise.

    `one Newton release` is the span of the information that the fit without differential privacy releases once.
    `with noise, hindsight` takes the best of eight scores for each deal, which chance alone lifts above .5.
    """
    source, results = bundled("breast"), []
    with threadpool_limits(limits=1, user_api="blas"):
        for seed in seeds:
            rng = np.random.default_rng(seed)
            member = np.zeros(source.pooled.n_patients)
            member[rng.permutation(member.size)[:N_MEMBERS]] = 1.0
            cohort = source.pooled.take(member > 0)
            plain, rows = _gradients(cohort, source.pooled, source.columns, epsilon, NO_CLIP, seed, noise=False)
            hidden, noisy_rows = _gradients(cohort, source.pooled, source.columns, epsilon, 2.0, seed, noise=True)
            results.append(
                {
                    "one Newton release": _from_information(cohort, source.pooled, source.columns, member),
                    "without noise": auc(inside(plain, rows, N_MEMBERS), member > 0),
                    "with noise": auc(inside(hidden, noisy_rows, 20), member > 0),
                    "with noise, hindsight": strongest(hidden, noisy_rows, member),
                }
            )
    return mean_of(results)


def _from_information(cohort: Cohort, everybody: Cohort, columns: Sequence[str], member: Floats) -> float:
    plan = plan_over([cohort], columns, penalty=1.0)
    found = given(plan, [cohort])
    point = {"alpha": np.full(found["edges"].size, -1.0), "beta": np.zeros(len(columns))}
    information = unpacked(answer(plan, "newton", {**found, **point}, [cohort])["hessian_beta"], len(columns))
    # the release counts the patients, and so gives the rank of the span
    return auc(inside(information, rows_of(everybody, found, columns), cohort.n_patients), member > 0)


def _gradients(
    cohort: Cohort, everybody: Cohort, columns: Sequence[str], epsilon: float, clip: float, seed: int, *, noise: bool
) -> tuple[Floats, Floats]:
    """Return the (T, p) released gradients and everybody's (n, p) rows in the units that were asked."""
    plan = private_plan(cohort, columns, epsilon, N_ROUNDS, clip)
    _, asked, released = run(plan, cohort, seed, noise=noise)
    units: Arrays = asked[0]
    return np.array([release["gradient_beta"] for release in released]), rows_of(everybody, units, columns)
