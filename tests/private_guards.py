"""Real guards with a study under differential privacy: its plan as it is compiled, drafts made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from client.settings import DatasetBudget
from models.compile import compile_plan
from privacy.budget import Budget, Charge
from schemas.plan import Plan
from schemas.study import Differential, Privacy
from tests.guards import roster_of
from tests.plans import small_dictionary, small_study
from tests.secure_guards import MaskedSite, hub_of
from tests.secure_hub import SecureHub

DATASET = "registry"
GRADIENT = ("fit", "gradient")
STEPS = (("moments", "sums"), ("grid", "counts"), GRADIENT, ("baseline", "risk_sets"))


def private_plan(
    *, epsilon: float = 8.0, rounds: int = 3, honest_sites: int = 1, secure_sum: bool = True, **changed: Any
) -> Plan:
    differential = Differential(epsilon=epsilon, rounds=rounds, honest_sites=honest_sites)
    study = small_study(privacy=Privacy(secure_sum=secure_sum, differential=differential), **changed)
    return compile_plan(study, small_dictionary(), adds_noise=True)


def sent(plan: Plan, step: str, part: str) -> dict[str, np.ndarray]:
    """Arrays that the gate admits: the plan's bins as they are, everything else zeros."""
    specs = plan.by_name[step].part(part).sends
    arrays = {spec.name: np.zeros(spec.shape) for spec in specs}
    edges = plan.by_name["grid"].settings["bin_edges"]
    fixed = {"edges": np.array(edges), "n_intervals": np.array(float(len(edges))), "scale": None}
    return {name: fixed[name] if fixed.get(name) is not None else array for name, array in arrays.items()}


class PrivateSite(MaskedSite):
    """A guarded site with a privacy budget."""

    def charges(self) -> tuple[Charge, ...]:
        found = Budget(self.paths.budget)
        try:
            return found.charges(DATASET)
        finally:
            found.close()


def private_sites(
    folder: Path, plan: Plan, names: tuple[str, ...] = ("A", "B", "C"), *, epsilon: float | None = 8.0
) -> dict[str, PrivateSite]:
    """Return sites that have approved the plan with the roster of all of them; without epsilon, without a budget."""
    budget = None if epsilon is None else DatasetBudget(dataset=DATASET, epsilon=epsilon)
    sites = {name: PrivateSite(folder / name, plan, name, budget=budget) for name in names}
    for site in sites.values():
        site.decide(roster_of(*names) if plan.study.privacy.secure_sum else None)
    return sites


def private_hub(sites: dict[str, PrivateSite], run_id: str = "run-1") -> SecureHub:
    hub = hub_of(sites)
    hub.run_id = run_id
    return hub
