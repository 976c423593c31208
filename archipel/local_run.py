"""Runs a plan over cohorts in this process: the simulator's federation, with the steps and the gate of the real one.

There is no hub and no wire here, so nothing is protected; what is the same as in a real federation is every
`local`, every sum and every decision, which is why a simulation predicts what a federation will find. Sums are formed
in clear, or as a real federation forms them, under masks (`archipel.masked_run`). Where the plan says so each site's
summand gets its noise before it is added, as at a real site; nothing is debited, since nothing leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from archipel.masked_run import MaskedSum
from models.compile import build_step
from models.progress import Progress, Question
from models.step import Arrays, combine
from privacy.accountant import release_mu
from privacy.noise import Source, noisy, system_words
from schemas.cohort import Cohort
from schemas.plan import Plan

OnRound = Callable[[Progress], None]


@dataclass(frozen=True)
class LocalRound:
    """One round of a simulated run.

    Attributes:
        bytes_up: Of all summands, as raw numbers (a real message adds a header of some hundred bytes).
        bytes_down: Of what was sent to all sites, counted likewise.
        sites: That had a summand to add.
    """

    step: str
    part: str
    number: int
    seconds: float
    bytes_up: int
    bytes_down: int
    sites: tuple[str, ...]


@dataclass(frozen=True)
class LocalRun:
    """A finished simulated run."""

    progress: Progress
    rounds: tuple[LocalRound, ...]


def run_plan(
    plan: Plan,
    cohorts: Mapping[str, Cohort],
    *,
    masked: bool = False,
    on_round: OnRound | None = None,
    randomness: Source = system_words,
) -> LocalRun:
    """Run `plan` over the cohorts of the named sites until it is done.

    Args:
        plan: To be run.
        cohorts: Site -> its patients.
        masked: Whether the sums are formed under masks.
        on_round: Told the state after every round.
        randomness: Of the noise, where the plan adds some.

    Raises:
        DivergedError: When a step finds no estimate.
        TooFewSitesError: For masks over fewer than three sites.
        EncodingRefusedError: For a value under masks that the plan's bounds do not allow.
    """
    secure = MaskedSum(plan, tuple(sorted(cohorts))) if masked else None
    progress = Progress.start(plan)
    rounds: list[LocalRound] = []
    while (question := progress.question) is not None:
        started = time.perf_counter()
        terms = _terms(progress, question, cohorts, randomness)
        step = progress.step
        if terms:
            total = (
                combine([terms[site] for site in sorted(terms)]) if secure is None else secure.total(question, terms)
            )
            progress = progress.absorb(total)
        else:
            progress = progress.skip("no site has patients for this step")
        sent = sum(array.nbytes for array in question.arrays.values())
        rounds.append(
            LocalRound(
                step=step.name,
                part=question.part,
                number=question.number,
                seconds=time.perf_counter() - started,
                bytes_up=sum(array.nbytes for term in terms.values() for array in term.values()),
                bytes_down=sent * len(cohorts),
                sites=tuple(terms),
            )
        )
        if on_round is not None:
            on_round(progress)
    return LocalRun(progress, tuple(rounds))


def _terms(
    progress: Progress, question: Question, cohorts: Mapping[str, Cohort], randomness: Source
) -> dict[str, Arrays]:
    """Return the summand of every site that has patients for this step, with its noise where the plan adds some."""
    code = build_step(progress.plan, question.step)
    part = progress.step.part(question.part)
    differential = progress.plan.study.privacy.differential
    terms: dict[str, Arrays] = {}
    for site, cohort in cohorts.items():
        patients = cohort.part(progress.step.cohort)
        if patients.n_patients:
            found = code.local(question.part, question.arrays, patients)
            summand = {name: np.asarray(array, dtype=np.float64) for name, array in found.items()}
            if differential is not None and part.noise is not None:
                summand = noisy(summand, part, release_mu(differential, part.noise), randomness)
            terms[site] = summand
    return terms
