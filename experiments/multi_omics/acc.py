"""Adrenocortical carcinoma, whose tables this repository ships: the demo's simulated sites, five folds, five times.

    python experiments/multi_omics/acc.py [--out DIR]

The study is `configs/acc/study-tuned.toml` (clinical columns and five layers, penalties chosen inside the training
folds) on the sites of `make demo`, one of which has no protein; folds are dealt at each site by simulate's rule.
Writes acc-omics-hazard.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from archipel.cross_validation import cross_validate
from archipel.demo import make_sites
from archipel.site_folders import read_sites
from experiments.multi_omics.run import difference_facts, summary
from schemas.study import Evaluation, load_study

HERE = Path(__file__).resolve().parent
STUDY = HERE.parents[1] / "configs" / "acc" / "study-tuned.toml"


def evaluate(repeats: int) -> dict[str, Any]:
    """Return the scores over all folds of all repeats."""
    study, dictionary = load_study(STUDY)
    study = study.model_copy(update={"evaluation": Evaluation(folds=5, repeats=repeats)})
    with tempfile.TemporaryDirectory() as folder:
        make_sites("acc", Path(folder))
        cohorts = read_sites(Path(folder), study, dictionary).cohorts
    started = time.perf_counter()
    run = cross_validate(study, dictionary, cohorts)
    return {
        "cohort": "acc",
        "layers": list(study.model.wide_layers),
        "repeats": list(range(repeats)),
        "likelihood": "hazard",
        "seconds_of_each_repeat": round((time.perf_counter() - started) / repeats, 1),
        "scores": {name: summary(one) for name, one in run.scores.items()},
        "differences": [difference_facts(one) for one in run.differences],
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "out")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(limits=1, user_api="blas"):
        found = evaluate(arguments.repeats)
    (arguments.out / "acc-omics-hazard.json").write_text(json.dumps(found, indent=1) + "\n")
    print({name: one["c_index"] for name, one in found["scores"].items()})


if __name__ == "__main__":
    main()
