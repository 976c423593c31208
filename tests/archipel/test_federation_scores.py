"""What a federation says of its models, against the same predictions judged with all tables in one place."""

from __future__ import annotations

from math import log, sqrt
from pathlib import Path

import numpy as np
import pytest

from archipel.curves import held_out_calibration
from archipel.demo import CONFIGS, make_sites
from archipel.federation_scores import federated_scores, mean_interval
from archipel.local_run import run_plan
from archipel.site_folders import read_sites
from models.compile import compile_plan, step_context
from models.concordance import c_index, concordance_state, harrell, pair_counts
from models.predictor import Predictor
from models.preparation import Preparation
from models.progress import Progress
from schemas.cohort import Cohort, concatenate
from schemas.study import load_study
from tests.archipel.test_masked_run import dealt


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Progress, dict[str, Cohort]]:
    folder: Path = tmp_path_factory.mktemp("cgd")
    make_sites("cgd", folder)
    study, dictionary = load_study(CONFIGS / "cgd" / "study.toml")
    plan = compile_plan(study, dictionary)
    cohorts = dealt(read_sites(folder, study, dictionary).cohorts, plan)
    return run_plan(plan, cohorts).progress, cohorts


def out_of_fold(progress: Progress, cohorts: dict[str, Cohort], fold: int) -> list[tuple[Cohort, np.ndarray]]:
    """Each site's held-out patients with the log hazards that the fold's model gives them."""
    step = progress.plan.by_name["cv_fit"]
    context = step_context(progress.plan.study, progress.plan.dictionary, step.settings)
    arrays = progress.arrays
    model = {name: arrays[step.inputs[name]][fold] for name in Preparation(context).names}
    model["beta"] = arrays["cv_fit.beta"][fold]
    held_out = [cohort.take(cohort.fold_of == fold) for cohort in cohorts.values()]
    return [(one, Predictor(context).log_hazard(one, model)) for one in held_out if one.n_patients]


def test_c_over_all_pairs_is_that_of_one_table(run: tuple[Progress, dict[str, Cohort]]) -> None:
    progress, cohorts = run
    exact = []
    for fold in range(5):
        parts = out_of_fold(progress, cohorts, fold)
        patients, score = concatenate([one for one, _ in parts]), np.concatenate([scores for _, scores in parts])
        exact.append(c_index(*harrell(patients.time, patients.event, score, patients.entry)))
    scores = federated_scores(progress, "cv_")["federated"]
    # 25 patients and some 150 pairs a fold: one pair whose order the bins hide is worth .007.
    assert scores.c_index.per_fold == pytest.approx(exact, abs=0.015)
    assert scores.c_index.mean == pytest.approx(np.mean(exact), abs=0.004)


def test_c_inside_sites_and_its_interval_are_those_of_the_sites_pairs(
    run: tuple[Progress, dict[str, Cohort]],
) -> None:
    progress, cohorts = run
    states = []
    for fold in range(5):
        counts = [pair_counts(one, score, one.n_patients) for one, score in out_of_fold(progress, cohorts, fold)]
        states.append(concordance_state({name: np.sum([one[name] for one in counts], axis=0) for name in counts[0]}))
    scores = federated_scores(progress, "cv_")["federated"]
    within = scores.c_index_within
    assert within is not None
    assert within.per_fold == pytest.approx([float(state["c_index"]) for state in states])
    half = 1.959963984540054 * sqrt(sum(float(state["variance"]) for state in states)) / 5
    mean, interval = np.mean([float(state["c_index"]) for state in states]), scores.intervals["c_index_within"]
    at, width = log(mean / (1 - mean)), half / (mean * (1 - mean))
    assert interval.lower == pytest.approx(1 / (1 + np.exp(-at + width)))
    assert interval.upper == pytest.approx(1 / (1 + np.exp(-at - width)))


def test_every_score_of_the_federated_model_has_an_interval_that_holds_it(
    run: tuple[Progress, dict[str, Cohort]],
) -> None:
    scores = federated_scores(run[0], "cv_")["federated"]
    assert scores.c_index_uno is not None
    values = {
        "c_index": scores.c_index.mean,
        "c_index_within": scores.c_index_within.mean if scores.c_index_within else None,
        "c_index_uno": scores.c_index_uno.mean,
        "ibs": scores.ibs,
        "calibration_slope": scores.calibration_slope,
    }
    assert scores.intervals.keys() == values.keys()
    for name, value in values.items():
        interval = scores.intervals[name]
        assert value is not None
        assert interval.lower < value < interval.upper, name
    assert scores.interval_method


def test_over_too_few_sites_neither_mean_nor_spread_is_told(run: tuple[Progress, dict[str, Cohort]]) -> None:
    for one in federated_scores(run[0], "cv_")["federated"].over_sites:
        assert one.sites < 3
        assert one.mean is None
        assert one.sd is None


def test_the_calibration_of_unseen_patients_has_five_groups_under_500_patients(
    run: tuple[Progress, dict[str, Cohort]],
) -> None:
    arrays = run[0].arrays
    found = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith("cv_calibration.")}
    edges = arrays["grid.edges"][: int(arrays["grid.n_intervals"])]
    horizons = run[0].plan.study.endpoint.horizons_days
    points = held_out_calibration(found, edges, horizons)
    assert len(points) == 5 * len(horizons)
    assert found["n_patients"] == 128
    ten = held_out_calibration({**found, "n_patients": np.array(500.0)}, edges, horizons)
    assert len(ten) == 10 * len(horizons)
    total = sum(found["n_group"])
    for h in range(len(horizons)):
        mean = sum(found["n_group"] * found["predicted"][:, h]) / total
        joined = found["n_group"].reshape(5, 2).sum(axis=1)
        assert sum(joined[p.group - 1] * p.predicted for p in points[5 * h : 5 * h + 5]) / total == pytest.approx(
            mean
        )


@pytest.mark.parametrize(
    ("values", "variances", "scale"),
    [([0.9, 1.0], [0.01, 0.0], "logit"), ([0.02, 0.01], [0.001, 0.001], "log")],
)
def test_an_interval_stays_where_the_figure_can_be(values: list[float], variances: list[float], scale: str) -> None:
    interval = mean_interval(values, variances, scale=scale)
    assert interval is not None
    assert 0 < interval.lower < np.mean(values) < interval.upper
    assert scale != "logit" or interval.upper < 1


def test_without_a_variance_there_is_no_interval() -> None:
    assert mean_interval([], [], scale="logit") is None
    assert mean_interval([1.0, 1.0], [0.0, 0.0], scale="logit") is None
