"""A small plan for tests that need one: two steps, made by hand, so that no method has to be installed."""

from __future__ import annotations

import datetime
from typing import Any

from schemas.dictionary import Column, Dictionary
from schemas.plan import ArraySpec, PartSpec, Plan, PlanStep
from schemas.study import Endpoint, Evaluation, Model, Privacy, Study

N_COVARIATES = 2


def small_dictionary() -> Dictionary:
    return Dictionary(
        kind="dictionary",
        version=1,
        name="small",
        columns=(
            Column(name="patient_id", type="identifier", layer="clinical"),
            Column(name="time_days", type="number", layer="clinical", unit="day", min=0, max=1000),
            Column(name="relapse", type="boolean", layer="clinical"),
            Column(name="age_years", type="number", layer="clinical", unit="year", min=0, max=120),
            Column(name="sex", type="category", layer="clinical", codes=("female", "male")),
        ),
    )


def small_study(**changed: Any) -> Study:
    content: dict[str, Any] = {
        "kind": "study",
        "version": 1,
        "name": "small-study",
        "title": "Relapse after treatment",
        "question": "Do age and sex foretell relapse?",
        "dictionary": "dictionary.toml",
        "purpose": "Method development",
        "ethics_reference": "CER-2026-17",
        "contact": "study@hospital.example",
        "endpoint": Endpoint(time="time_days", event="relapse", horizons_days=(365.0,)),
        "model": Model(covariates=("age_years", "sex")),
        "evaluation": Evaluation(folds=0),
        "privacy": Privacy(),
    }
    return Study.model_validate({**content, **changed})


def small_plan(
    *, min_patients: int = 10, expires: datetime.date | None = None, secure_sum: bool = False, **changed: Any
) -> Plan:
    """Moments (asked once), then a fit that may be asked three times for its gradient; its sums are in clear."""
    beta = ArraySpec(name="beta", shape=(N_COVARIATES,), meaning="coefficients", bound=50.0)
    moments = PlanStep(
        name="moments",
        method="moments",
        parts=(
            PartSpec(
                name="sums",
                sends=(),
                releases=(
                    ArraySpec(name="n_patients", shape=(), meaning="patients", bound=1e6),
                    ArraySpec(name="total", shape=(N_COVARIATES,), meaning="sums of the covariates", bound=1e6),
                ),
                times=1,
            ),
        ),
        min_patients=min_patients,
        purpose="Means of the covariates.",
    )
    fit = PlanStep(
        name="fit",
        method="hazard",
        inputs={"mean": "moments.mean"},
        parts=(
            PartSpec(
                name="gradient",
                sends=(beta,),
                releases=(
                    ArraySpec(name="gradient", shape=(N_COVARIATES,), meaning="slope of the likelihood", bound=1e6),
                    ArraySpec(name="hessian", shape=(N_COVARIATES, N_COVARIATES), meaning="its curvature", bound=1e6),
                ),
                times=3,
            ),
            PartSpec(
                name="objective",
                sends=(beta,),
                releases=(ArraySpec(name="log_likelihood", shape=(), meaning="log-likelihood", bound=1e6),),
                times=2,
            ),
        ),
        min_patients=min_patients,
        purpose="The coefficients.",
    )
    study = small_study(expires=expires, privacy=Privacy(min_patients=min_patients, secure_sum=secure_sum), **changed)
    return Plan(code_version="0.1.0", study=study, dictionary=small_dictionary(), steps=(moments, fit))
