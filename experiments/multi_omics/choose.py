"""How many inner folds, and how much to prefer shrinkage: chosen on invented patients, not on the cohorts.

    python experiments/multi_omics/choose.py [--worlds 20] [--out DIR]

In each world a model is fitted to few patients by the whole recipe (components, penalties, grid, coefficients), and C
is counted on 2,500 others. Worlds differ in how much the layers tell beyond clinical columns. A rule is the number
of inner folds and `STANDARD_ERRORS` of `models.penalty_model`. Writes choose.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import models.folds
import models.penalty_model
import models.penalty_search
from archipel.fold_fits import clinical_only, fit, with_dealt_inner_folds
from models.concordance import c_index, harrell
from schemas.cohort import Cohort, Layer
from schemas.dictionary import Column, Dictionary, WideLayer
from schemas.study import Endpoint, Evaluation, Model, Privacy, Study

FEATURES = {"rna": 200, "cnv": 100}
# Name -> patients, share censored, strength of the clinical columns, strength of the layers.
KINDS = {
    "layers tell nothing": (500, 0.85, 0.5, 0.0),
    "layers tell little": (500, 0.85, 0.5, 0.25),
    "layers tell much": (350, 0.6, 0.5, 0.6),
    "clinical columns tell little": (300, 0.65, 0.1, 0.5),
}
RULES = {"5 folds": (5, 0.0), "10 folds": (10, 0.0), "10 folds, 1/2 error": (10, 0.5), "10 folds, 1 error": (10, 1.0)}
_N_OTHERS = 2500


def world(kind: str, seed: int) -> tuple[Cohort, Cohort]:
    """Return the patients to fit and those to judge by."""
    n_fit, censored, clinical_strength, strength = KINDS[kind]
    rng = np.random.Generator(np.random.PCG64([seed, list(KINDS).index(kind)]))
    n = n_fit + _N_OTHERS
    clinical = np.column_stack([rng.normal(size=(n, 2)), rng.random((n, 6)) < 0.3]).astype(np.float64)
    factors = rng.normal(size=(n, 12))
    hazard = clinical[:, :3] @ [clinical_strength, -clinical_strength, clinical_strength]
    hazard += strength * (factors[:, 0] - 0.6 * factors[:, 3])
    failure = rng.exponential(np.exp(-hazard))
    censoring = rng.exponential(size=n) * np.quantile(failure, 1 - censored) * 1.3
    layers = {"clinical": Layer(tuple(f"x{j}" for j in range(8)), clinical)}
    for (name, m), own in zip(FEATURES.items(), (slice(0, 8), slice(5, 12)), strict=True):
        loadings = rng.normal(size=(factors[:, own].shape[1], m))
        values = factors[:, own] @ loadings + 2 * rng.normal(size=(n, m))
        layers[name] = Layer(tuple(f"{name}{j}" for j in range(m)), values)
    everybody = Cohort(
        patient_ids=tuple(f"p{i}" for i in range(n)),
        time=np.minimum(np.minimum(failure, censoring), 19.99) + 0.001,
        event=failure <= censoring,
        entry=np.zeros(n),
        layers=layers,
        site="invented",
    )
    return everybody.take(np.arange(n_fit)), everybody.take(np.arange(n_fit, n))


def study() -> tuple[Study, Dictionary]:
    """Return the study of these worlds."""
    columns = [
        Column(name="patient_id", type="identifier"),
        Column(name="time", type="number", unit="year", min=0, max=20),
        Column(name="event", type="boolean"),
        *(Column(name=f"x{j}", type="number", unit="1") for j in range(8)),
    ]
    layers = [
        WideLayer(
            name=name,
            type="number",
            columns="*",
            features=f"{name}.features",
            identifiers=tuple(f"{name}{j}" for j in range(m)),
        )
        for name, m in FEATURES.items()
    ]
    model = Model(layers=("clinical", *FEATURES), covariates=tuple(f"x{j}" for j in range(8)), penalty="cv")
    return (
        Study(
            kind="study",
            version=1,
            name="invented-worlds",
            dictionary="dictionary.toml",
            endpoint=Endpoint(time="time", event="event"),
            model=model,
            evaluation=Evaluation(folds=0),
            privacy=Privacy(min_patients=1),
        ),
        Dictionary(kind="dictionary", version=1, name="worlds", columns=tuple(columns), layers=tuple(layers)),
    )


def c_of(rule: tuple[int, float], own: Study, dictionary: Dictionary, cohorts: tuple[Cohort, Cohort]) -> float:
    """Return C on the others, of the model that a rule leads to."""
    for module in (models.folds, models.penalty_search):
        vars(module)["N_INNER_FOLDS"] = rule[0]
    vars(models.penalty_model)["STANDARD_ERRORS"] = rule[1]
    train, others = cohorts
    model = fit(own, dictionary, with_dealt_inner_folds(own, {train.site: train}))
    return c_index(*harrell(others.time, others.event, model.log_hazard(others), others.entry))


def main() -> None:
    """Compare the rules over all worlds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    arguments = parser.parse_args()
    own, dictionary = study()
    clinical = clinical_only(own, dictionary)
    assert clinical is not None
    found: dict[str, Any] = {"worlds": arguments.worlds, "mean_c": {}}
    with threadpool_limits(limits=1, user_api="blas"):
        for kind in KINDS:
            cohorts = [world(kind, seed) for seed in range(arguments.worlds)]
            means = {
                name: float(np.mean([c_of(rule, own, dictionary, pair) for pair in cohorts]))
                for name, rule in RULES.items()
            }
            alone = [c_of(RULES["10 folds, 1/2 error"], clinical, dictionary, pair) for pair in cohorts]
            means["clinical columns alone"] = float(np.mean(alone))
            found["mean_c"][kind] = {name: round(value, 4) for name, value in means.items()}
            print(kind, found["mean_c"][kind], flush=True)
    (arguments.out / "choose.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
