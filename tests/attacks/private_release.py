"""A study's run on one table with the noise of differential privacy: what the hub sees of it.

The noise is the product's own (`privacy.noise`), from a seeded source, of as many sites as suffice: the weakest that
the guarantee allows. The sum over sites of sums over patients is the same sum, so one table stands for all sites.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.compile import build_step
from models.progress import Progress
from models.step import Arrays
from privacy.accountant import release_mu
from privacy.noise import Source, noisy
from schemas.cohort import Cohort
from schemas.plan import Plan
from schemas.study import Differential
from tests.attacks.federation import plan_over

NO_CLIP = 100.0  # beyond any patient's gradient in these tables


def private_plan(
    cohort: Cohort, columns: Sequence[str], epsilon: float, rounds: int, clip: float, penalty: float = 0.0
) -> Plan:
    """Return the plan of a study under differential privacy (delta 1e-5); the dictionary's ranges are the data's."""
    differential = Differential(epsilon=epsilon, rounds=rounds, clip=clip)
    return plan_over([cohort], columns, penalty=penalty, differential=differential)


def run(plan: Plan, cohort: Cohort, seed: int, *, noise: bool) -> tuple[Progress, list[Arrays], list[Arrays]]:
    """Run the plan and return where it ended, and of each round of the fit what was asked and what was released."""
    differential = plan.study.privacy.differential
    assert differential is not None
    source, asked, released = seeded(seed), [], []
    progress = Progress.start(plan)
    while (question := progress.question) is not None:
        part = progress.step.part(question.part)
        total: Arrays = build_step(plan, question.step).local(question.part, question.arrays, cohort)
        if noise:
            assert part.noise is not None
            total = noisy(total, part, release_mu(differential, part.noise), source)
        if question.step == "fit":
            asked.append(question.arrays)
            released.append(total)
        progress = progress.absorb(total)
    return progress, asked, released


def noisy_answer(plan: Plan, sent: Arrays, cohort: Cohort, seed: int, *, noise: bool) -> Arrays:
    """Return what is released for one question of the fit."""
    differential, part = plan.study.privacy.differential, plan.by_name["fit"].parts[0]
    assert differential is not None
    assert part.noise is not None
    total: Arrays = build_step(plan, "fit").local(part.name, sent, cohort)
    return noisy(total, part, release_mu(differential, part.noise), seeded(seed)) if noise else total


def seeded(seed: int) -> Source:
    """Return a source of words that is the same on every machine."""
    rng = np.random.default_rng(seed)
    return lambda n: rng.integers(0, 1 << 64, size=n, dtype=np.uint64)
