"""C-index against epsilon on the clinical columns of Fed-TCGA-BRCA: the figure of docs/differential-privacy.md.

    ARCHIPEL_COHORTS=../shared/data python experiments/dp_curve/run.py [--seeds 20] [--out experiments/dp_curve]

Writes curve.json, curve.csv and curve.svg. Five times five folds (splits_5x5.csv), and the published split beside
them; six sites, of which four are counted on under the secure sum. C is Harrell's over all pairs of a test fold. One
value is the mean over the 25 folds for one seed of the noise, `low` to `high` hold 95 % of these values over the
seeds. Averaging over folds averages noise away: `sd_noise` is the spread that the noise gives a single fit, and
`sd_folds` that of the folds with the noise averaged away. The same seeds give the same numbers. Nothing was tuned
here (choose.py says where).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from choose import PENALTY
from private_fit import HONEST_SITES, N_SITES, Mode, cohort_of, fit, scores, study_of
from threadpoolctl import threadpool_limits

from archipel.fold_fits import fit as ordinary_fit
from models.compile import compile_plan
from models.concordance import c_index, harrell
from models.step import Floats
from schemas.cohort import Cohort
from schemas.study import Privacy

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "dp_curve"  # the same picture gives the same bytes
from matplotlib import pyplot as plt  # noqa: E402 - the backend comes first

COHORT = "fed_tcga_brca"
NUMBER = "age_at_index"
EPSILONS = (math.inf, 8.0, 3.0, 1.0)
MODES: tuple[Mode, ...] = ("secure sum", "each site")
# Of the reference of the partnership, on the published split alone.
REFERENCE = {"secure sum": (0.822, 0.813, 0.795, 0.738), "each site": (0.822, 0.792, 0.743, 0.645)}
Split = tuple[Floats, Floats]


def read(folder: Path) -> tuple[list[str], Cohort, list[Split], list[Split]]:
    """Columns, everybody, and (training rows, test rows) of the 25 folds and of the published split."""
    table = pd.read_parquet(folder / "clinical.parquet")
    columns = json.loads((folder / "meta.json").read_text())["covariates"]
    everybody = cohort_of(columns, table[columns].to_numpy(), table["time"].to_numpy(), table["event"].to_numpy())
    splits = pd.read_csv(folder / "splits_5x5.csv", dtype={"patient_id": str})
    place = {patient: row for row, patient in enumerate(table["patient_id"])}
    folds = []
    for _, own in splits.groupby(["repeat", "fold"]):
        test = np.zeros(len(table), dtype=np.bool_)
        test[[place[patient] for patient in own["patient_id"]]] = True
        folds.append((~test, test))
    test = (table["fold"] == "test").to_numpy()
    return columns, everybody, folds, [(~test, test)]


def c_of(
    columns: list[str], everybody: Cohort, split: Split, epsilon: float, mode: Mode, seed: Sequence[int]
) -> float:
    """C of one fit on the split's test patients."""
    study, dictionary = study_of([c for c in columns if c != NUMBER], NUMBER, epsilon, mode, penalty=PENALTY)
    plan = compile_plan(study, dictionary, adds_noise=True)
    train, test = (everybody.take(rows) for rows in split)
    done = fit(plan, train, epsilon, np.random.default_rng(list(seed)))
    return c_index(*harrell(test.time, test.event, scores(plan, done, test)))


def ordinary(columns: list[str], everybody: Cohort, splits: Sequence[Split]) -> float:
    """Mean C of the hazard model as it is fitted without differential privacy, with its ridge of 30."""
    study, dictionary = study_of([c for c in columns if c != NUMBER], NUMBER, 1.0, "each site", penalty=30.0)
    study = study.model_copy(update={"privacy": Privacy()})
    found = []
    for train, test in splits:
        model = ordinary_fit(study, dictionary, {"pooled": everybody.take(train)})
        others = everybody.take(test)
        log_hazard = model.log_hazard(others)
        found.append(c_index(*harrell(others.time, others.event, log_hazard)))
    return round(float(np.mean(found)), 4)


def curve(judge: Callable[[Split, float, Mode, Sequence[int]], float], splits: Sequence[Split], seeds: int) -> Any:
    """Mean, interval and spread at each epsilon in each mode, and what is lost against no noise."""
    without = np.array([judge(split, math.inf, "secure sum", ()) for split in splits])
    points = []
    for m, mode in enumerate(MODES):
        for epsilon in EPSILONS:
            if math.isinf(epsilon):
                found = without[None, :]
            else:
                found = np.array(
                    [
                        [judge(split, epsilon, mode, (m, int(epsilon), seed, i)) for i, split in enumerate(splits)]
                        for seed in range(seeds)
                    ]
                )
            by_seed = found.mean(axis=1)
            low, high = np.quantile(by_seed, [0.025, 0.975])
            points.append(
                {
                    "noise": mode,
                    "epsilon": "inf" if math.isinf(epsilon) else epsilon,
                    "c_index": round(float(by_seed.mean()), 4),
                    "low": round(float(low), 4),
                    "high": round(float(high), 4),
                    "loss": round(float(without.mean() - by_seed.mean()), 4),
                    "sd_noise": round(float(np.sqrt(found.var(axis=0, ddof=1).mean())), 4) if len(found) > 1 else 0.0,
                    "sd_folds": round(float(found.mean(axis=0).std(ddof=1)), 4) if len(splits) > 1 else None,
                }
            )
            print(points[-1], flush=True)
    return points


def draw(points: Sequence[dict[str, Any]], path: Path) -> None:
    """C against epsilon, evenly spaced, the interval over seeds as bars."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0))
    places = np.arange(len(EPSILONS))
    looks = {"secure sum": ("#1b6ca8", "o", -0.04), "each site": ("#b5541c", "s", 0.04)}
    names = {"secure sum": "noise under the secure sum", "each site": "each site adds its own"}
    for mode, (colour, marker, shift) in looks.items():
        own = [point for point in points if point["noise"] == mode]
        c = np.array([point["c_index"] for point in own])
        spread = np.array([[point["c_index"] - point["low"], point["high"] - point["c_index"]] for point in own]).T
        axes.errorbar(places + shift, c, yerr=np.maximum(spread, 0), color=colour, marker=marker, capsize=3,
                      label=names[mode])  # fmt: skip
    axes.axhline(points[0]["c_index"] - 0.02, color="#888888", linestyle=":", linewidth=1)
    axes.annotate(".02 below no noise", (0, points[0]["c_index"] - 0.02), textcoords="offset points", xytext=(0, -12),
                  color="#666666", fontsize=8)  # fmt: skip
    axes.set_xticks(places, ["∞" if math.isinf(e) else f"{e:g}" for e in EPSILONS])
    axes.set_xlabel("ε (δ = 10⁻⁵, patients), smaller is more private")
    axes.set_ylabel("C-index, 5 × 5 folds")
    axes.set_title("Fed-TCGA-BRCA, 39 clinical covariates, six sites", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    wanted = parser.parse_args()
    columns, everybody, folds, published = read(Path(os.environ["ARCHIPEL_COHORTS"]) / COHORT)

    def judge(split: Split, epsilon: float, mode: Mode, seed: Sequence[int]) -> float:
        return c_of(columns, everybody, split, epsilon, mode, seed)

    with threadpool_limits(1):
        points = curve(judge, folds, wanted.seeds)
        once = curve(judge, published, wanted.seeds)
    content = {
        "cohort": COHORT,
        "seeds": wanted.seeds,
        "delta": 1e-5,
        "sites": N_SITES,
        "honest_sites": HONEST_SITES,
        "without_differential_privacy": {
            "cross_validation": ordinary(columns, everybody, folds),
            "published_split": ordinary(columns, everybody, published),
        },
        "cross_validation": points,
        "published_split": once,
        "published_split_reference": {mode: list(values) for mode, values in REFERENCE.items()},
    }
    wanted.out.mkdir(parents=True, exist_ok=True)
    (wanted.out / "curve.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with (wanted.out / "curve.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["evaluation", *points[0]], lineterminator="\n")
        writer.writeheader()
        for name, rows in (("5x5 folds", points), ("published split", once)):
            writer.writerows({"evaluation": name, **row} for row in rows)
    draw(points, wanted.out / "curve.svg")


if __name__ == "__main__":
    main()
