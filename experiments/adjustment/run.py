"""What correcting location and scale by site does, at the sites that train and at one that does not.

    ARCHIPEL_COHORTS=../shared/data python experiments/adjustment/run.py [--cohort tcga_gbmlgg] [--check]

The model of clinical columns and RNA at fixed penalties, with RNA as it is and corrected by site (`[model] adjust =
{ rna = "site" }`), on four versions of the table:

- as it is;
- one platform apart: every second site's RNA is shifted and stretched, feature by feature, by numbers that have
  nothing to do with anybody (normal with standard deviation 1, log-normal with .3, in units of the feature's spread);
- all apart: every site has a shift and a stretch of its own;
- far apart: the same with three times the shift and twice the stretch.

`folds`: Harrell's C over all test patients in five folds (the first repeat of the splits). `new_site`: within the
site that was left out, weighted by its comparable pairs; a shift that all of its patients share moves no rank there,
so `new_site_events` looks at what it does move: |log(events observed / expected)|, over sites with at least five
events, weighted by them; smaller is better. Intervals are of the paired difference over folds, or over sites. Numbers
stand in `expected/`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import t as student
from threadpoolctl import threadpool_limits

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "multi_omics")]

from load import Tables  # noqa: E402

from archipel.fold_fits import Fold, fit, make_folds  # noqa: E402
from archipel.judging import Judge  # noqa: E402
from models.step import DivergedError  # noqa: E402
from schemas.cohort import Cohort, concatenate  # noqa: E402
from schemas.study import Study  # noqa: E402

PENALTY = {"clinical": 10.0, "rna": 30.0}
MIN_EVENTS = 5
World = Literal["as it is", "one platform apart", "all apart", "far apart"]
WORLDS: tuple[World, ...] = ("as it is", "one platform apart", "all apart", "far apart")


def distorted(tables: Tables, world: World) -> Tables:
    """Return the tables as their sites' platforms would have measured them; log-scaled cells are shifted there."""
    if world == "as it is":
        return tables
    rng = np.random.Generator(np.random.PCG64(7))
    rna = tables.omics["rna"].copy()
    logs = np.sign(rna.to_numpy()) * np.log1p(np.abs(rna.to_numpy()))
    spread = np.nanstd(logs, axis=0)
    sites = tables.clinical["site"].astype(str).to_numpy()
    for index, site in enumerate(sorted(set(sites))):
        if world == "one platform apart" and index % 2 == 0:
            continue
        if world != "one platform apart" or index == 1:
            far, wide = (3.0, 0.6) if world == "far apart" else (1.0, 0.3)
            shift, stretch = rng.normal(0, far, spread.size) * spread, np.exp(rng.normal(0, wide, spread.size))
        rows = sites == site
        centre = np.nanmean(logs, axis=0)
        logs[rows] = (logs[rows] - centre) * stretch + centre + shift
    tables.omics["rna"] = rna.mask(rna.notna(), np.sign(logs) * np.expm1(np.abs(logs)))
    return tables


def study_of(tables: Tables, *, adjust: bool) -> Study:
    """The study, with RNA corrected by site or not."""
    study = tables.study("hazard", PENALTY)
    chosen: dict[str, str] = {"rna": "site"} if adjust else {}
    return study.model_copy(update={"model": study.model.model_copy(update={"adjust": chosen})})


@dataclass(frozen=True)
class Part:
    """One model on the patients of one fold, or of the site that was left out.

    Attributes:
        pairs: Comparable ones, behind `c`.
        off: |log(observed / expected events)|.
    """

    c: float
    pairs: float
    events: int
    off: float


def judged(tables: Tables, fold: Fold, cohorts: Mapping[str, Cohort], *, adjust: bool) -> Part | None:
    """Return how a model of everybody but the fold does; None where there is none, or no pair."""
    study = study_of(tables, adjust=adjust)
    train = {site: part for site, c in cohorts.items() if (part := c.take(~fold.test[site])).n_patients}
    test = concatenate([cohorts[site].judged(mask) for site, mask in fold.test.items() if mask.any()])
    try:
        model = fit(study, tables.dictionary, train)
    except DivergedError:
        return None
    found = Judge(study, fold, concatenate(list(train.values())), test)("", model)
    if found.c_index is None:
        return None
    expected = float(-np.log(model.survival_each(found.log_hazard, test.time)).sum())
    return Part(found.c_index, float(found.comparable), test.n_events, abs(float(np.log(test.n_events / expected))))


Pair = tuple[Part, Part]


def compared(pairs: Sequence[Pair], value: Callable[[Part], float], weigh: Callable[[Part], float]) -> dict[str, Any]:
    """Return a figure as it is and corrected, and the paired difference with its 95 % interval."""
    values = np.array([[value(one), value(other)] for one, other in pairs])
    weight = np.array([weigh(one) for one, _ in pairs])
    weight /= weight.sum()
    difference = values[:, 1] - values[:, 0]
    mean = float(weight @ difference)
    # Of a weighted mean, with as many degrees of freedom as there are independent parts.
    error = float(np.sqrt((weight**2 @ (difference - mean) ** 2) * len(pairs) / (len(pairs) - 1)))
    half = float(student.ppf(0.975, len(pairs) - 1)) * error
    return {
        "as_it_is": round(float(weight @ values[:, 0]), 4),
        "corrected": round(float(weight @ values[:, 1]), 4),
        "difference": round(mean, 4),
        "interval": [round(mean - half, 4), round(mean + half, 4)],
        "parts": len(pairs),
    }


def both(tables: Tables, folds: list[Fold], cohorts: Mapping[str, Cohort]) -> list[Pair]:
    """Return each fold without and with the correction, where both have a model."""
    pairs = [(judged(tables, f, cohorts, adjust=False), judged(tables, f, cohorts, adjust=True)) for f in folds]
    return [(one, other) for one, other in pairs if one is not None and other is not None]


def run(data: Path, cohort: str) -> dict[str, Any]:
    """Return the table of one cohort."""
    found: dict[str, Any] = {"cohort": cohort, "penalty": PENALTY}
    for world in WORLDS:
        tables = distorted(Tables(data, cohort, wide=("rna",)), world)
        cohorts = tables.cohorts(0)
        folds = make_folds(study_of(tables, adjust=False), cohorts)
        left_out = [
            Fold(0, index, {other: np.full(c.n_patients, other == site) for other, c in cohorts.items()})
            for index, (site, own) in enumerate(cohorts.items())
            if own.n_patients >= 10 and own.event.any()
        ]
        new = both(tables, left_out, cohorts)
        enough = [pair for pair in new if pair[0].events >= MIN_EVENTS]
        found[world] = {
            "folds": compared(both(tables, folds, cohorts), lambda part: part.c, lambda _: 1.0),
            "new_site": compared(new, lambda part: part.c, lambda part: part.pairs),
            "new_site_events": compared(enough, lambda part: part.off, lambda part: float(part.events)),
        }
        print(cohort, world, json.dumps(found[world]), flush=True)
    return found


def main() -> None:
    """Run one cohort, or compare with what is expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", default="tcga_gbmlgg")
    parser.add_argument("--check", action="store_true", help="fail where a C differs from expected/ by .002 or more")
    arguments = parser.parse_args()
    with threadpool_limits(limits=1, user_api="blas"):
        found = run(Path(os.environ["ARCHIPEL_COHORTS"]), arguments.cohort)
    path = HERE / "expected" / f"{arguments.cohort}.json"
    if not arguments.check:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    expected = json.loads(path.read_text(encoding="utf-8"))
    for world in WORLDS:
        for where in ("folds", "new_site"):
            for model in ("as_it_is", "corrected"):
                if abs(found[world][where][model] - expected[world][where][model]) >= 0.002:
                    sys.exit(f"{world}, {where}, {model}: not the expected figure")


if __name__ == "__main__":
    main()
