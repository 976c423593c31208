"""Can whoever holds the model tell who trained it? A membership attack on a study, to be run before a release.

LiRA (Carlini et al. 2022, "Membership inference attacks from first principles", section 4), light: models of random
halves of the patients are trained as the study says; for every patient the logit of the likelihood under models with
and without them gives two normal distributions, here with one spread for both, since a few dozen models tell no more.
(Tried on invented patients with 32 models, at penalties 0, 10 and 300: AUC .74, .71, .60; with one spread for all
patients .70, .70, .59; with two for each .76, .71, .58.) Eight of the models are attacked in turn, each with the
others as shadows.

The attack needs the rows of all sites in one place, so it runs in a simulation: on the real tables where they may lie
together, else on a public or invented cohort of the same kind, and its outcome says whose rows they were. Left out: a
version inside a real federation. Shadow models of one site's patients say little about a model of all of them, and
losses alone (without shadows) are so weak an attack that a good figure would reassure for nothing.

Halves leak more than the whole, so the figure is not too small for the model that is released.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from archipel.features import complete_dictionary
from archipel.local_run import run_plan
from archipel.site_folders import read_sites
from models.compile import compile_plan, prepared_arrays, step_context
from models.contributions import layers_of
from models.preparation import Preparation
from models.step import Arrays, DivergedError, Floats
from models.time_grid import interval_of
from schemas.cohort import Cohort
from schemas.design import design_columns
from schemas.dictionary import Dictionary
from schemas.errors import ArchipelError
from schemas.model_card import MembershipAttack, study_hash
from schemas.plan import Plan
from schemas.shown import shown_count
from schemas.study import Study, load_study

__all__ = ["N_MODELS", "N_TARGETS", "Leak", "attack_cohorts", "attack_study", "leak_of"]

N_MODELS = 32
N_TARGETS = 8
FEWEST_PATIENTS = 40
_DRAWS = 300
_LOWEST = -30.0
_LARGEST_LOG = 30.0
_LEAST_SPREAD = 1e-3
_METHOD = (
    "LiRA, light: {models} models of random halves of the patients, {targets} of them attacked in turn with the "
    "others as shadows; halves leak more than the whole."
)
Sites = Mapping[str, Cohort]
OnModel = Callable[[int, int], None]


class AttackError(ArchipelError):
    """A study on which no attack can be run, with the reason."""


@dataclass(frozen=True)
class Leak:
    """How well members are told from others.

    Attributes:
        auc: Mean over the attacked models.
        lower, upper: Of the 95 % bootstrap interval over patients, all attacked models together.
        found_at_1_percent: Share of members above the score that one in a hundred others reaches.
    """

    auc: float
    lower: float
    upper: float
    found_at_1_percent: float


def attack_study(
    study_path: Path,
    sites_dir: Path,
    *,
    basis: str = "",
    n_models: int = N_MODELS,
    seed: int = 0,
    on_model: OnModel | None = None,
) -> MembershipAttack:
    """Attack a study over site folders.

    Args:
        study_path: The study (TOML).
        sites_dir: One folder of tables per site.
        basis: Whose rows these are, in a sentence.
        n_models: To be trained.
        seed: Of the halves.
        on_model: Told how many models are trained, of how many.

    Raises:
        FaultsError: Naming every fault of the study, the dictionary or the sites' tables at once.
        AttackError: Where no attack can be run.
    """
    study, dictionary = load_study(study_path)
    dictionary, _ = complete_dictionary(study, dictionary, (study_path.parent / study.dictionary).parent, sites_dir)
    cohorts = read_sites(sites_dir, study, dictionary).cohorts
    leak = attack_cohorts(study, dictionary, cohorts, n_models=n_models, seed=seed, on_model=on_model)
    return MembershipAttack(
        study_hash=study_hash(study),
        method=_METHOD.format(models=n_models, targets=min(N_TARGETS, n_models)),
        auc=leak.auc,
        lower=leak.lower,
        upper=leak.upper,
        found_at_1_percent=leak.found_at_1_percent,
        models=n_models,
        targets=min(N_TARGETS, n_models),
        patients=shown_count(sum(cohort.n_patients for cohort in cohorts.values())),
        basis=basis or "Run in a simulation, on the rows in the folders that were named.",
        made_at=datetime.datetime.now(datetime.UTC),
    )


def attack_cohorts(
    study: Study,
    dictionary: Dictionary,
    cohorts: Sites,
    *,
    n_models: int = N_MODELS,
    seed: int = 0,
    on_model: OnModel | None = None,
) -> Leak:
    """Return how well LiRA tells the members of a study's model; see `attack_study`."""
    n = sum(cohort.n_patients for cohort in cohorts.values())
    if not study.endpoint.has_time or study.endpoint.has_competing:
        raise AttackError("The attack knows the likelihood of a time to one event alone; this study has another end.")
    if study.privacy.exact_times:
        raise AttackError("A model with exact event times is not released, so there is nothing to attack.")
    if n < FEWEST_PATIENTS:
        raise AttackError(f"There are fewer than {FEWEST_PATIENTS} patients: too few to train on halves of them.")
    with threadpool_limits(limits=1, user_api="blas"):
        plan = _plan(_with_fixed_penalties(study, dictionary, cohorts), dictionary)
        values, members = _shadows(plan, cohorts, n_models, np.random.default_rng(seed), on_model)
    return leak_of(values, members, np.random.default_rng(seed + 1))


def leak_of(values: Floats, members: NDArray[np.bool_], rng: np.random.Generator) -> Leak:
    """Return how well members are told, from the values of all models.

    Args:
        values: (m, n) logit of each patient's likelihood under each model.
        members: (m, n) whether the patient trained the model.
        rng: Of the bootstrap.
    """
    targets = range(min(N_TARGETS, len(values)))
    scores = np.array(
        [_ratio(np.delete(values, k, axis=0), np.delete(members, k, axis=0), values[k]) for k in targets]
    )
    truth = members[: len(scores)]
    aucs = []
    for _ in range(_DRAWS):
        drawn = rng.integers(0, values.shape[1], values.shape[1])
        aucs.append(_mean_auc(scores[:, drawn], truth[:, drawn]))
    lower, upper = np.percentile(aucs, [2.5, 97.5])
    threshold = float(np.quantile(scores[~truth], 0.99))
    return Leak(_mean_auc(scores, truth), float(lower), float(upper), float((scores[truth] > threshold).mean()))


def _shadows(
    plan: Plan, cohorts: Sites, n_models: int, rng: np.random.Generator, on_model: OnModel | None
) -> tuple[Floats, NDArray[np.bool_]]:
    n = sum(cohort.n_patients for cohort in cohorts.values())
    values: list[Floats] = []
    members: list[NDArray[np.bool_]] = []
    failed = 0
    while len(values) < n_models:
        member = np.zeros(n, dtype=np.bool_)
        member[rng.permutation(n)[: n // 2]] = True
        try:
            arrays = run_plan(plan, _part(cohorts, member)).progress.arrays
        except DivergedError:  # an attacker, too, gets no model there
            failed += 1
            if failed > n_models:
                raise AttackError("Most halves of the patients give no model, so none can be attacked.") from None
            continue
        values.append(np.concatenate([_logits(plan, arrays, cohorts[site]) for site in sorted(cohorts)]))
        members.append(member)
        if on_model is not None:
            on_model(len(values), n_models)
    return np.array(values), np.array(members)


def _part(cohorts: Sites, member: NDArray[np.bool_]) -> dict[str, Cohort]:
    """Return the members of each site; a site without any is left out. Patients are in the order of the sites."""
    found, first = {}, 0
    for site in sorted(cohorts):
        rows = member[first : first + cohorts[site].n_patients]
        first += cohorts[site].n_patients
        if rows.any():
            found[site] = cohorts[site].take(rows)
    return found


def _logits(plan: Plan, arrays: Arrays, cohort: Cohort) -> Floats:
    """Return the (n,) logits of the patients' likelihood under a model, on its grid."""
    n_intervals = int(arrays["grid.n_intervals"])
    edges = arrays["grid.edges"]
    context = step_context(plan.study, plan.dictionary, plan.by_name["fit"].settings)
    x = Preparation(context).matrix(cohort, prepared_arrays(plan, arrays))
    ratio = np.exp(np.clip((x * arrays["fit.beta"]).sum(axis=1), -_LARGEST_LOG, _LARGEST_LOG))
    spells = interval_of(cohort.time, cohort.event, cohort.entry, edges, n_intervals, exact=False)
    hazard = np.diff(arrays["baseline.cumulative_hazard"], prepend=0.0)
    value = -ratio * spells.survived.over_intervals(hazard)
    u = hazard[spells.event_interval] * ratio[spells.event]
    value[spells.event] += np.log(-np.expm1(-np.maximum(u, 1e-13)))
    value = np.clip(value, _LOWEST, -1e-9)
    return np.asarray(value - np.log(-np.expm1(value)))


def _ratio(values: Floats, members: NDArray[np.bool_], target: Floats) -> Floats:
    """Return the (n,) log ratios of the target's values under the models with and without each patient."""
    means, squares = [], np.zeros(values.shape)
    for chosen in (members, ~members):
        mean = np.where(chosen, values, 0.0).sum(axis=0) / np.maximum(chosen.sum(axis=0), 1)
        squares += np.where(chosen, (values - mean) ** 2, 0.0)
        means.append(mean)
    spread = np.sqrt(squares.mean(axis=0)) + _LEAST_SPREAD
    return np.asarray(((target - means[1]) ** 2 - (target - means[0]) ** 2) / (2 * spread**2))


def _mean_auc(scores: Floats, members: NDArray[np.bool_]) -> float:
    """Return the mean over the rows of the probability that a member scores higher than another, ties one half."""
    return float(np.mean([_auc(row, member) for row, member in zip(scores, members, strict=True)]))


def _auc(scores: Floats, member: NDArray[np.bool_]) -> float:
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n_members, n_others = int(member.sum()), int((~member).sum())
    if not n_members or not n_others:
        return 0.5
    return float((ranks[member].sum() - n_members * (n_members + 1) / 2) / (n_members * n_others))


def _plan(study: Study, dictionary: Dictionary) -> Plan:
    return compile_plan(study, dictionary, evaluation=False, figures=False, adds_noise=True)


def _with_fixed_penalties(study: Study, dictionary: Dictionary, cohorts: Sites) -> Study:
    """Return the study with the penalties that it chooses on all patients: the model under attack has those."""
    if not study.model.tunes_penalty:
        return study
    plan = _plan(study, dictionary)
    arrays = run_plan(plan, cohorts).progress.arrays
    layers = layers_of(design_columns(study, dictionary))
    chosen = dict(zip(layers, arrays["penalties.layer_penalties"].tolist(), strict=True))
    return Study(**{**dict(study), "model": study.model.model_copy(update={"penalty": chosen})})
