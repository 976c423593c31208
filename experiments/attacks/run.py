"""Measures every attack and prints the table of docs/attacks.md; writes figures.json beside this file.

    ARCHIPEL_COHORTS=../shared/data .venv/bin/python -m experiments.attacks.run

Without ARCHIPEL_COHORTS the rows on shared cohorts are left out. About a minute and a half on two busy cores.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from models.compile import build_step
from models.progress import Progress
from models.step import combine
from privacy.inbound import Limits, Seen, judge, learned
from tests.attacks import (
    cox_sums,
    differencing,
    gradient_inversion,
    membership,
    question_ladder,
    row_space,
    saturation,
)
from tests.attacks.federation import plan_over, request_of
from tests.attacks.tables import bundled, shared

TABLES = ("gbsg2", "whas500", "veterans")
COHORTS = ("cgd", "rhdnase_cf", "ncctg_lung", "fed_tcga_brca", "tcga_gbmlgg")
HERE = Path(__file__).parent


def honest_reach(name: str, cohorts: Path) -> dict[str, float]:
    """Return how far honest fits go: longest coefficients, step, and most points, over methods and penalties."""
    sites, columns = shared(name, cohorts)
    reach = {"norm": 0.0, "norm in a site's own units": 0.0, "step": 0.0, "points": 0.0}
    for method in ("hazard", "cox", "cox-stratified"):
        for penalty in (0.0, 1.0, 10.0, 100.0)[name == "fed_tcga_brca" :]:
            for key, value in _reach(sites, columns, method, penalty).items():
                reach[key] = max(reach[key], value)
    return reach


def _reach(sites: Any, columns: Any, method: str, penalty: float) -> dict[str, float]:
    plan = plan_over(sites, columns, method, penalty=penalty)
    free = Limits(norm=np.inf, site_norm=np.inf, step=np.inf, points=1000)
    seen, progress, path, widest = [Seen() for _ in sites], Progress.start(plan), [], 0.0
    while (question := progress.question) is not None:
        request = request_of(plan, question.part, question.arrays, question.step, question.number)
        code = build_step(plan, question.step)
        terms = [code.local(question.part, question.arrays, site) for site in sites]
        if question.step == "fit":
            path.append(question.arrays["beta"])
        for index, term in enumerate(terms):
            judged = judge(request, plan, seen[index], free)
            assert isinstance(judged, Seen)
            seen[index] = learned(judged, request, term)
            if question.step == "fit":
                ratio = seen[index].own["moments.spread"] / question.arrays["scale"]
                widest = max(widest, float(np.linalg.norm(path[-1] * ratio)))
        progress = progress.absorb(combine(terms))
    steps = np.linalg.norm(np.diff(np.array(path), axis=0), axis=1)
    return {
        "norm": float(max(np.linalg.norm(beta) for beta in path)),
        "norm in a site's own units": widest,
        "step": float(steps.max()),
        "points": float(max(len(points) for points in seen[0].points.values())),
    }


def measure(cohorts: Path | None) -> dict[str, Any]:
    """Return every figure."""
    found: dict[str, Any] = {}
    for table in TABLES:
        for n_patients, n_questions in ((1, 1), (8, 1), (32, 1), (32, 2)):
            key = f"{min(n_questions, 2)} release(s), {n_patients} patients, {table}"
            found[key] = gradient_inversion.figures(table, n_patients, n_questions, range(20))
        for ties in ("efron", "breslow"):
            for n_patients in (20, 50, 80) if table != "veterans" else (20,):
                key = f"Cox sums, {ties}, site of {n_patients}, {table}"
                found[key] = cox_sums.figures(table, n_patients, range(10), ties)
        found[f"censored alone, {table}"] = cox_sums.censored_alone(table, range(10))
        found[f"chosen S0, {table}"] = cox_sums.chosen_s0(table, 20, range(10))
        for method in ("cox", "hazard"):
            for label, questions, events, limits in (
                ("20 questions, 5 events", 20, 5, None),
                ("checked, 5 events", 40, 5, Limits()),
                ("checked, 12 events", 40, 12, Limits()),
            ):
                key = f"ladder of questions, {method}, {label}, {table}"
                found[key] = question_ladder.figures(table, method, questions, events, range(5), limits)
    for table in ("gbsg2", "whas500"):
        found[f"saturating weights, {table}"] = saturation.figures(table, range(10))
        found[f"saturating weights, epsilon 8, {table}"] = saturation.under_noise(table, 8.0, range(10))
        found[f"differencing, {table}"] = differencing.figures(table, 0, tracked=False)
        found[f"differencing, tracker of four, {table}"] = differencing.figures(table, 0, tracked=True)
    found["row space, breast"] = row_space.figures(3.0, range(6))
    found |= _lira("breast", bundled("breast"), (0.01, 100.0, 300.0))
    if cohorts is not None:
        found |= _lira("tcga_blca", membership.expression("tcga_blca", cohorts, 300), (0.3, 1000.0, 2000.0))
        for name in COHORTS:
            found[f"honest reach, {name}"] = honest_reach(name, cohorts)
    return found


def _lira(name: str, table: Any, penalties: tuple[float, ...]) -> dict[str, Any]:
    trained = {f"penalty {penalty:g}": membership.newton(table, penalty) for penalty in penalties}
    trained |= {f"epsilon {epsilon:g}": membership.private(table, epsilon) for epsilon in (8.0, 3.0)}
    return {
        f"LiRA, {name}, {label}": dataclasses.asdict(membership.attack(table, train, 40, seed=0))
        for label, train in trained.items()
    }


def main() -> None:
    """Print and write the table."""
    named = os.environ.get("ARCHIPEL_COHORTS")
    found = measure(Path(named) if named else None)
    for attack, figures in found.items():
        print(f"{attack:60s} " + "  ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    (HERE / "figures.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
