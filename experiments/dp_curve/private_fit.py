"""Runs a study under differential privacy on one table, with the noise that a federation's sum would carry.

The steps, the shares of the budget and the accountant are the product's. Two things are cheaper than in a federation
and change no distribution that matters: all sites' patients are one table, because the sum over sites of sums over
patients is the same sum; and the noise is drawn once, Gaussian, with the variance that the sites' noise adds up to.
(`tests/models/test_private_hazard.py` holds the first, `tests/privacy/test_noise.py` the second.)
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from models.compile import build_step, prepared_arrays, step_context
from models.preparation import Preparation
from models.progress import Progress
from models.step import Arrays, Floats
from privacy.accountant import mu_of
from schemas.cohort import Cohort, Layer
from schemas.dictionary import Column, Dictionary
from schemas.plan import PartSpec, Plan
from schemas.study import Differential, Eligibility, Endpoint, Evaluation, Model, Privacy, Study

Mode = Literal["secure sum", "each site"]
N_SITES = 6
# With a third of six sites in the hub's pay, four are left whose noise must do.
HONEST_SITES = {"secure sum": 4, "each site": 1}
NUMBERS = {"age": (18.0, 100.0)}
LONGEST_DAYS = 10_000.0


def study_of(
    indicators: list[str], number: str, epsilon: float, mode: Mode, *, penalty: float, **settings: float
) -> tuple[Study, Dictionary]:
    """A study of one number and many indicators, and its dictionary: ranges that anybody would write."""
    low, high = NUMBERS["age"]
    dictionary = Dictionary(
        kind="dictionary",
        version=1,
        name="dp curve",
        columns=(
            Column(name="patient_id", type="identifier"),
            Column(name="time", type="number", unit="day", min=0.0, max=LONGEST_DAYS),
            Column(name="event", type="boolean"),
            Column(name=number, type="number", unit="year", min=low, max=high),
            *(Column(name=name, type="boolean") for name in indicators),
        ),
    )
    differential = Differential(
        epsilon=min(epsilon, 10.0), honest_sites=HONEST_SITES[mode], **settings
    )  # without noise epsilon is not used
    study = Study(
        kind="study",
        version=1,
        name="dp-curve",
        dictionary="dictionary.toml",
        endpoint=Endpoint(time="time", event="event"),
        eligibility=Eligibility(complete_cases=True),
        model=Model(covariates=(number, *indicators), penalty=penalty),
        evaluation=Evaluation(folds=0),
        privacy=Privacy(differential=differential),
    )
    return study, dictionary


def cohort_of(columns: list[str], x: Floats, time: Floats, event: Floats) -> Cohort:
    """One table of everybody."""
    n = len(time)
    return Cohort(
        patient_ids=tuple(str(i) for i in range(n)),
        time=np.asarray(time, dtype=np.float64),
        event=np.asarray(event, dtype=np.bool_),
        entry=np.zeros(n),
        layers={"clinical": Layer(tuple(columns), np.asarray(x, dtype=np.float64))},
    )


def fit(plan: Plan, cohort: Cohort, epsilon: float, rng: np.random.Generator) -> Progress:
    """All steps of the plan on the cohort; epsilon = infinity adds no noise."""
    differential = plan.study.privacy.differential
    assert differential is not None
    mu = mu_of(epsilon, differential.delta) if math.isfinite(epsilon) else math.inf
    progress = Progress.start(plan)
    while (question := progress.question) is not None:
        step = build_step(plan, question.step)
        total = step.local(question.part, question.arrays, cohort)
        progress = progress.absorb(with_noise(total, progress.step.part(question.part), mu, rng))
    return progress


def with_noise(total: Arrays, part: PartSpec, mu: float, rng: np.random.Generator) -> Arrays:
    """The sum of six sites' summands, each with its noise."""
    noise = part.noise
    assert noise is not None
    if math.isinf(mu):
        return total
    std = noise.sensitivity / (mu * math.sqrt(noise.share)) * math.sqrt(N_SITES / noise.honest_sites)
    return {spec.name: total[spec.name] + std * rng.normal(size=spec.shape) for spec in part.releases}


def scores(plan: Plan, progress: Progress, cohort: Cohort) -> Floats:
    """Log hazards of other patients."""
    arrays = progress.arrays
    preparation = Preparation(step_context(plan.study, plan.dictionary, plan.by_name["fit"].settings))
    return preparation.log_hazard(cohort, {**prepared_arrays(plan, arrays), "beta": arrays["fit.beta"]})
