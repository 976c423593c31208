"""Invented results of the size and shape of the demo study; no number in them belongs to a patient."""

from __future__ import annotations

import datetime
from typing import Literal

from schemas.result import (
    Baseline,
    Calibration,
    CalibrationPoint,
    CIndex,
    CovariateFacts,
    DictionaryFacts,
    KaplanMeier,
    Release,
    ReleasedArray,
    Result,
    RoundFacts,
    Scores,
    SiteFacts,
    StudyFacts,
    SurvivalAt,
    SurvivalCurve,
)
from schemas.shown import shown_at_risk

EDGES = (0.0, 19.0, 67.0, 113.0, 167.0, 211.0, 246.0, 280.0, 388.0)
HORIZONS = (180.0, 365.0)
SITES = ("Amsterdam", "NIH", "Scripps Institute", "Small centres", "Univ. of Zurich")

_COVARIATES = (
    # name, column, code, reference, unit, mean, standard deviation, coefficient, standard error
    ("treatment[rIFN-g]", "treatment", "rIFN-g", "placebo", None, 0.492, 0.502, -1.151, 0.350),
    ("sex[male]", "sex", "male", "female", None, 0.813, 0.392, 0.271, 0.523),
    ("age_years", "age_years", None, None, "year", 14.64, 9.844, -0.0741, 0.0398),
    ("height_cm", "height_cm", None, None, "cm", 140.07, 30.79, -0.0046, 0.0121),
    ("weight_kg", "weight_kg", None, None, "kg", 40.56, 22.25, 0.0238, 0.0196),
    ("inheritance[autosomal]", "inheritance", "autosomal", "X-linked", None, 0.328, 0.471, 0.361, 0.408),
    ("steroids", "steroids", None, None, None, 0.023, 0.152, 1.221, 0.782),
    ("prophylactic_antibiotics", "prophylactic_antibiotics", None, None, None, 0.867, 0.341, -0.366, 0.427),
)

_CURVES = {
    "low risk": (
        (1.0, 1.0, 0.98, 0.95, 0.91, 0.86, 0.84, 0.79, 0.68),
        (43, 43, 43, 42, 40, 36, 32, 26, 4),
    ),
    "middle risk": (
        (1.0, 0.98, 0.95, 0.91, 0.88, 0.85, 0.80, 0.73, 0.60),
        (42, 41, 40, 38, 36, 32, 28, 20, 5),
    ),
    "high risk": (
        (1.0, 0.87, 0.80, 0.72, 0.65, 0.59, 0.53, 0.50, 0.28),
        (43, 37, 35, 31, 27, 23, 19, 15, 2),
    ),
}

_STEPS = (
    # step, part, rounds, purpose, arrays
    ("event_grid", "histogram", 1, "Find the common time grid.", (("events", (64,), "events in each bin of time"),)),
    (
        "moments",
        "sums",
        1,
        "Means and standard deviations over all sites.",
        (
            ("count", (8,), "known cells of each covariate"),
            ("sum", (8,), "sum of each covariate"),
            ("sum_of_squares", (8,), "sum of squares of each covariate"),
        ),
    ),
    (
        "hazard",
        "newton",
        6,
        "Fit the proportional hazards model.",
        (
            ("log_likelihood", (), "log-likelihood at the current estimate"),
            ("gradient", (72,), "its first derivatives"),
            ("hessian", (72, 72), "its second derivatives"),
        ),
    ),
    (
        "kaplan_meier",
        "counts",
        1,
        "Observed survival by risk group.",
        (
            ("at_risk", (3, 64), "patients at risk in each interval and group"),
            ("events", (3, 64), "events in each interval and group"),
        ),
    ),
    ("concordance", "pairs", 1, "Judge the model.", (("pairs", (3,), "concordant, tied and comparable pairs"),)),
)


def _covariates() -> tuple[CovariateFacts, ...]:
    return tuple(
        CovariateFacts(
            name=name,
            column=column,
            code=code,
            reference=reference,
            type="category" if code else "number" if unit else "boolean",
            unit=unit,
            mean=mean,
            standard_deviation=deviation,
        )
        for name, column, code, reference, unit, mean, deviation, _, _ in _COVARIATES
    )


def _kaplan_meier(basis: Literal["in-sample", "held-out"]) -> KaplanMeier:
    curves = [
        SurvivalCurve(
            group=group,
            times=EDGES,
            survival=survival,
            lower=tuple(None if s == 1 else max(0.0, s - 0.02 - 0.14 * i / 8) for i, s in enumerate(survival)),
            upper=tuple(None if s == 1 else min(1.0, s + 0.015 + 0.10 * i / 8) for i, s in enumerate(survival)),
            n_at_risk=tuple(shown_at_risk(n) for n in at_risk),
            censored=(152.0, 199.0, 262.0, 301.0, 330.0) if basis == "held-out" else (),
        )
        for group, (survival, at_risk) in _CURVES.items()
    ]
    return KaplanMeier(basis=basis, grouping="thirds of the predicted log hazard", curves=tuple(curves))


def _calibration(basis: Literal["in-sample", "held-out"]) -> Calibration:
    rows = (
        (180.0, 1, 0.93, 0.90, 0.76, 0.96),
        (180.0, 2, 0.86, 0.88, 0.73, 0.95),
        (180.0, 3, 0.68, 0.64, 0.47, 0.77),
        (365.0, 1, 0.81, 0.68, 0.43, 0.84),
        (365.0, 2, 0.66, 0.60, 0.36, 0.77),
        (365.0, 3, 0.37, None, None, None),
    )
    points = [
        CalibrationPoint(
            horizon=horizon,
            group=group,
            patients="45" if observed is not None else "<10",
            predicted=predicted,
            observed=observed,
            lower=lower,
            upper=upper,
        )
        for horizon, group, predicted, observed, lower, upper in rows
    ]
    return Calibration(basis=basis, points=tuple(points))


def _releases(sites: int) -> tuple[tuple[Release, ...], tuple[RoundFacts, ...]]:
    releases: list[Release] = []
    log: list[RoundFacts] = []
    for step, part, times, purpose, arrays in _STEPS:
        released = tuple(ReleasedArray(name=name, shape=shape, meaning=meaning) for name, shape, meaning in arrays)
        size = 0
        for array in released:
            elements = 1
            for extent in array.shape:
                elements *= extent
            size += 8 * elements
        per_round = size + 900
        releases.append(
            Release(
                step=step,
                part=part,
                purpose=purpose,
                arrays=released,
                times=times,
                times_allowed=30 if step == "hazard" else 1,
                bytes_per_site=per_round * times,
            )
        )
        log += [
            RoundFacts(
                step=step,
                part=part,
                number=number,
                seconds=0.61 + 0.04 * (number % 3),
                bytes_up=per_round * sites,
                bytes_down=1400 * sites,
                sites=sites,
            )
            for number in range(times)
        ]
    return tuple(releases), tuple(log)


def _scores(mean: float, sd: float | None, per_fold: tuple[float, ...], ibs: float, slope: float) -> Scores:
    return Scores(c_index=CIndex(mean=mean, sd=sd, per_fold=per_fold), ibs=ibs, calibration_slope=slope)


def federation_result() -> Result:
    """A run of real processes: five sites, one held-out part, no pooled table."""
    releases, log = _releases(len(SITES))
    baseline = Baseline(
        edges=EDGES,
        cumulative_hazard=(0.030, 0.061, 0.104, 0.148, 0.196, 0.240, 0.316, 0.520),
        survival=tuple(SurvivalAt(time=t, survival=s) for t, s in zip(HORIZONS, (0.85, 0.61), strict=True)),
    )
    site_only = Scores(
        c_index=CIndex(mean=0.541, sd=None, per_fold=(0.541,)),
        ibs=None,
        calibration_slope=None,
        reasons={
            "ibs": "Not computed for models of single sites in a federation.",
            "calibration_slope": "Not computed for models of single sites in a federation.",
        },
    )
    federated = Scores(
        c_index=CIndex(mean=0.652, sd=None, per_fold=(0.652,)),
        c_index_within=CIndex(mean=0.638, sd=None, per_fold=(0.638,)),
        ibs=0.143,
        calibration_slope=0.91,
    )
    return Result(
        mode="federation",
        run_id="cgd-first-infection-7f3a",
        code_version="0.1.0",
        created_at=datetime.datetime(2026, 11, 21, 9, 14, 5, tzinfo=datetime.UTC),
        study=StudyFacts(
            name="cgd-first-infection",
            title="First serious infection in chronic granulomatous disease",
            question="Which patients with chronic granulomatous disease have a serious infection first, "
            "and by how much does interferon gamma lower their hazard?",
            endpoint="first serious infection",
            time_unit="day",
            horizons=HORIZONS,
            purpose="Demonstration on the public table of a randomised trial.",
            contact="studies@example.org",
        ),
        dictionary=DictionaryFacts(name="cgd", version=1, hash="9b" * 32),
        plan_hash="3e7f" * 16,
        seed=20261121,
        method="hazard",
        ties=None,
        penalty=1.0,
        standardise=True,
        exact_times=False,
        grid_intervals=8,
        min_events_per_interval=5,
        on_dropout="pause",
        n=130,
        events=45,
        sites=tuple(
            SiteFacts(name=name, patients=patients, status="took part")
            for name, patients in zip(SITES, ("20", "25", "15", "50", "15"), strict=True)
        ),
        covariates=_covariates(),
        coefficients={row[0]: row[7] for row in _COVARIATES},
        standard_errors={row[0]: row[8] for row in _COVARIATES},
        log_likelihood=-142.3271,
        baseline=baseline,
        kaplan_meier=_kaplan_meier("in-sample"),
        calibration=_calibration("in-sample"),
        evaluation_kind="one held-out part at 5 sites; pairs inside sites (c_index_within)",
        evaluation={"federated": federated, "site_only": site_only},
        rounds=len(log),
        bytes_up=sum(entry.bytes_up for entry in log) + 4200,
        bytes_down=sum(entry.bytes_down for entry in log) + 88_000,
        wall_s=8.41,
        round_log=log,
        releases=releases,
        software={"python": "3.11.2", "numpy": "2.4.6", "flwr": "1.41.0"},
        warnings=("The sums were not masked: the hub's administrator could read each site's term of every sum.",),
    )


def simulated_result() -> Result:
    """The same study in one process: five folds, twice, beside the pooled table."""
    result = federation_result()
    evaluation = {
        "federated": _scores(0.624, 0.093, (0.52, 0.71, 0.63, 0.55, 0.74, 0.60, 0.66, 0.49, 0.72, 0.62), 0.140, 1.24),
        "site_only": _scores(0.554, 0.071, (0.48, 0.60, 0.57, 0.51, 0.66, 0.49, 0.58, 0.46, 0.62, 0.57), 0.171, 0.48),
        "pooled": _scores(0.624, 0.093, (0.52, 0.71, 0.63, 0.55, 0.74, 0.60, 0.66, 0.49, 0.72, 0.62), 0.140, 1.24),
    }
    return Result.model_validate(
        result.model_dump()
        | {
            "mode": "simulate",
            "run_id": "simulate-cgd-first-infection",
            "kaplan_meier": _kaplan_meier("held-out").model_dump(),
            "calibration": _calibration("held-out").model_dump(),
            "evaluation": {name: scores.model_dump() for name, scores in evaluation.items()},
            "evaluation_kind": "5-fold cross-validation, 2 times; all pairs across sites "
            "(possible in simulation only)",
            "wall_s": 0.83,
            "warnings": (),
        }
    )


def changed(result: Result, **values: object) -> Result:
    """The same result with other values, checked again."""
    return Result.model_validate(result.model_dump() | values)
