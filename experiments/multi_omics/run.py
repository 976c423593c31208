"""The table of the recipe: site-only, federated, pooled and clinical-only models on the same nested folds.

    ARCHIPEL_COHORTS=../shared/data python experiments/multi_omics/run.py [--only tcga_blca] [--out DIR]

For every row of `config.json` it evaluates the study on the splits of the cohort (`splits_5x5.csv`), all of it fitted
inside the training folds: transforms, components, penalties, grid, coefficients, baseline. `hazard` is the grouped
likelihood on the grid of at least five events, `cox` Cox's model at the exact times. Writes one JSON file a row, and
`table.md`. Nothing is drawn at random: the same tables give the same numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from archipel.cross_validation import CrossValidation, cross_validate
from archipel.judging import Judged, difference_of, scores_of
from experiments.multi_omics.load import Likelihood, Tables
from schemas.result import Difference, ScoredModel, Scores

HERE = Path(__file__).resolve().parent
PAIRS: tuple[tuple[ScoredModel, ScoredModel], ...] = (
    ("federated", "site_only"),
    ("federated", "federated_clinical"),
    ("new_site", "new_site_clinical"),
)
_TEST_SHARE = 0.25


def evaluate(data: Path, row: dict[str, Any], likelihood: Likelihood) -> dict[str, Any]:
    """Return the scores of one row, over the folds of all of its repeats together."""
    tables = Tables(data, row["cohort"], row["layers"])
    study = tables.study(likelihood)
    started = time.perf_counter()
    runs: list[CrossValidation] = []
    for repeat in row["repeats"]:
        cohorts = tables.cohorts(repeat)
        runs.append(cross_validate(study, tables.dictionary, cohorts, new_sites=repeat == 0))
    seconds = time.perf_counter() - started
    judged: dict[ScoredModel, list[list[Judged]]] = {}
    for run in runs:
        for name, folds in run.judged.items():
            judged.setdefault(name, []).extend(list(models) for models in folds)
    scores = {name: scores_of(folds, by_patients=name.startswith("new_site")) for name, folds in judged.items()}
    known = [(one, other) for one, other in PAIRS if one in scores and other in scores]
    differences = [difference_of(one, other, scores, _TEST_SHARE) for one, other in known]
    federated, pooled = (scores[name].c_index.per_fold for name in ("federated", "pooled"))
    return {
        "cohort": row["cohort"],
        "layers": row["layers"],
        "repeats": row["repeats"],
        "likelihood": likelihood,
        "seconds_of_each_repeat": round(seconds / len(runs), 1),
        "scores": {name: summary(one) for name, one in scores.items()},
        "ratio_to_pooled": [min(_ratios(federated, pooled)), float(np.mean(_ratios(federated, pooled)))],
        "differences": [difference_facts(one) for one in differences if one is not None],
    }


def _ratios(federated: tuple[float | None, ...], pooled: tuple[float | None, ...]) -> list[float]:
    return [one / other for one, other in zip(federated, pooled, strict=True) if one and other]


def summary(scores: Scores) -> dict[str, Any]:
    """Return one kind of model's scores."""
    c = scores.c_index
    return {
        "c_index": _rounded(c.mean),
        "sd": _rounded(c.sd),
        "ibs": _rounded(scores.ibs),
        "calibration_slope": _rounded(scores.calibration_slope),
        "c_index_within": _rounded(scores.c_index_within.mean if scores.c_index_within else None),
        "per_fold": [_rounded(value) for value in c.per_fold],
    }


def difference_facts(one: Difference) -> dict[str, Any]:
    """Return a paired difference with its interval."""
    interval = [_rounded(one.lower), _rounded(one.upper)]
    return {"first": one.first, "second": one.second, "c_index": _rounded(one.c_index), "interval": interval}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as a table."""
    heads = ["cohort", "likelihood", "site-only", "federated", "pooled", "clinical", "IBS", "slope"]
    heads += ["- site-only (95 %)", "- clinical (95 %)", "site left out", "ratio to pooled", "s a repeat"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for result in results:
        scores = result["scores"]

        def c(name: str, scores: dict[str, Any] = scores) -> str:
            return f"{scores[name]['c_index']:.4f}" if name in scores else "-"

        gaps = {one["second"]: one for one in result["differences"]}
        name = result["cohort"] + ("" if result["layers"] else ", clinical")
        cells = [name, result["likelihood"], c("site_only"), c("federated"), c("pooled"), c("federated_clinical")]
        cells += [f"{scores['federated']['ibs']:.3f}", f"{scores['federated']['calibration_slope']:.2f}"]
        cells += [_gap(gaps.get("site_only")), _gap(gaps.get("federated_clinical"))]
        cells += [" / ".join(c(one) for one in ("new_site", "new_site_clinical"))]
        cells += [f"{result['ratio_to_pooled'][0]:.4f}", f"{result['seconds_of_each_repeat']:g}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _gap(gap: dict[str, Any] | None) -> str:
    if gap is None:
        return "-"
    low, high = gap["interval"]
    return f"{gap['c_index']:+.3f} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    """Run the rows of the configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one cohort")
    parser.add_argument("--likelihood", choices=("hazard", "cox"))
    parser.add_argument("--out", type=Path, default=HERE / "out")
    arguments = parser.parse_args()
    config = json.loads((HERE / "config.json").read_text())
    data = Path(os.environ["ARCHIPEL_COHORTS"])
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = []
    with threadpool_limits(limits=1, user_api="blas"):
        for row in config["rows"]:
            for likelihood in config["likelihoods"]:
                if arguments.only not in (None, row["cohort"]) or arguments.likelihood not in (None, likelihood):
                    continue
                results.append(evaluate(data, row, likelihood))
                kind = "omics" if row["layers"] else "clinical"
                path = arguments.out / f"{row['cohort']}-{kind}-{likelihood}.json"
                path.write_text(json.dumps(results[-1], indent=1) + "\n")
                print(table(results[-1:]).splitlines()[-1], flush=True)
    (arguments.out / "table.md").write_text(table(results))


if __name__ == "__main__":
    main()
