"""Study files, as every command and the notebook take them: read, judged, compiled."""

from __future__ import annotations

import datetime
from pathlib import Path

from models.compile import compile_plan
from privacy.differencing import MIN_SITES, plan_fault
from schemas.dictionary import Dictionary
from schemas.errors import Fault, FaultsError
from schemas.plan import Plan
from schemas.roster import most_colluding
from schemas.study import MIN_EVENTS_FLOOR, MIN_PATIENTS_FLOOR, Study, load_study

__all__ = ["compile_study", "honest_faults", "read_study", "too_few_sites", "why_simulate_alone"]


def read_study(path: Path) -> tuple[Study, Dictionary]:
    """Read a study with its dictionary.

    Raises:
        FaultsError: Naming every fault of both at once, each with its line.
    """
    return load_study(path)


def compile_study(path: Path) -> Plan:
    """Return the plan that sites are asked to approve.

    Raises:
        FaultsError: When the study is wrong, or exists in `simulate` alone.
    """
    study, dictionary = load_study(path)
    faults = why_simulate_alone(study, dictionary)
    if faults:
        raise FaultsError(str(path), faults)
    return compile_plan(study, dictionary, adds_noise=True)  # every site's guard does


def why_simulate_alone(study: Study, dictionary: Dictionary) -> tuple[Fault, ...]:
    """Return what keeps a sound study from running in a real federation; empty where nothing does."""
    faults: tuple[Fault, ...] = ()
    plan = None
    try:
        plan = compile_plan(study, dictionary, adds_noise=True)
    except FaultsError as error:
        faults = error.faults
    return (*faults, *_too_few_patients(study, plan), *_refused_by_every_site(study))


def too_few_sites(plan: Plan, n_sites: int) -> list[Fault]:
    """Return why sums of a plan over so many sites would differ by less than three sites; empty where they do not."""
    if plan_fault(plan, n_sites) != "sites":
        return []
    what = (
        f"with {n_sites} sites, the difference between a sum over all patients and one over those that train would "
        f"cover fewer than {MIN_SITES} sites"
    )
    return [Fault("[evaluation] folds", what, f"write 0, or invite {MIN_SITES} sites or more")]


def _too_few_patients(study: Study, plan: Plan | None) -> list[Fault]:
    """Return why two sums of a plan could differ by few patients; a study without a plan is judged by its words."""
    if plan is None:
        is_low = study.privacy.min_patients < MIN_PATIENTS_FLOOR
    else:
        is_low = plan_fault(plan, MIN_SITES) == "patients"
    if not is_low:
        return []
    what = f"two sums could differ by fewer than {MIN_PATIENTS_FLOOR} patients, which every real site refuses"
    return [Fault("[privacy] min_patients", what, f"write {MIN_PATIENTS_FLOOR} or more")]


def honest_faults(study: Study, n_sites: int) -> list[Fault]:
    """Return why the noise of so many sites does not keep what the study promises; empty where it does.

    At most a third of the sites is taken to help the hub, as the secure sum takes it (docs/protocol.md).
    """
    differential = study.privacy.differential
    guaranteed = n_sites - most_colluding(n_sites) if study.privacy.secure_sum else 1
    if differential is None or differential.honest_sites <= guaranteed:
        return []
    what = f"{n_sites} sites guarantee the noise of {guaranteed} honest ones, not of {differential.honest_sites}"
    return [Fault("[privacy.differential] honest_sites", what, f"write {guaranteed} or fewer, or invite more sites")]


def _refused_by_every_site(study: Study) -> list[Fault]:
    """Return the terms that no site's gate accepts, so that they are known before anybody is asked."""
    faults = []
    terms = study.privacy
    # Exact times have a fault of their own.
    if not terms.exact_times and terms.min_events_per_interval < MIN_EVENTS_FLOOR:
        what = f"every real site refuses fewer than {MIN_EVENTS_FLOOR}"
        faults.append(Fault("[privacy] min_events_per_interval", what, f"write {MIN_EVENTS_FLOOR} or more"))
    if study.expires is not None and study.expires < datetime.date.today():
        faults.append(Fault("expires", f"the study's last day, {study.expires}, has passed", "write a later one"))
    return faults
