"""Predicted curves and their intervals against R, a slow version, and laws."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.baseline_spread import spread_of_breslow, spread_of_hazard
from models.prediction import known_shares, log_hazards, model_matrix, predict
from models.registry import METHODS
from models.step import Floats
from schemas.artefact import Artefact, ArtefactColumn, ArtefactLayer, Manifest
from schemas.cohort import Cohort, Layer
from tests.models.federation import cohort_of, context, fit, run_step
from tests.reference.cohorts import numbers, read, read_demo

DAY = datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC)


def manifest_of(columns: tuple[str, ...], *, exact: bool, **changes: Any) -> Manifest:
    return Manifest(
        study="small", run_id="small-1", mode="simulate", method="cox", code_version="0.1.0", created_at=DAY,
        plan_hash="a" * 64, dictionary="small", dictionary_hash="b" * 64, time_unit="day", exact_times=exact,
        columns=tuple(ArtefactColumn(name=name, column=name, layer="clinical") for name in columns),
        arrays={}, **changes,
    )  # fmt: skip


def cox_model(cohorts: list[Cohort], columns: tuple[str, ...]) -> Artefact:
    """An unpenalised Cox model with Breslow's ties at exact times."""
    state = fit("cox", cohorts, columns, ties="breslow")
    step = METHODS["baseline"](context(columns, state["edges"].size, exact=True, with_covariates=True))
    baseline = run_step(step, state, cohorts)
    return Artefact(manifest_of(columns, exact=True), cox_arrays(state, baseline))


def cox_arrays(state: dict[str, Floats], baseline: Any) -> dict[str, Floats]:
    n = int(state["n_intervals"])
    spread = spread_of_breslow(*(baseline[name][:n] for name in ("events", "hazard_observed", "mean_covariates")))
    return {
        "mean": state["mean"], "scale": state["scale"], "beta": state["beta"], "covariance": state["covariance"],
        "edges": state["edges"][:n], "cumulative_hazard": baseline["cumulative_hazard"][:n],
        "hazard_variance": spread.variance, "hazard_slope": spread.slope,
    }  # fmt: skip


def hazard_model(cohorts: list[Cohort], columns: tuple[str, ...], edges: Floats, penalty: float = 0.0) -> Artefact:
    """A grouped hazard model on a merged grid."""
    state = fit("hazard", cohorts, columns, edges=edges, penalties=[penalty] * len(columns))
    baseline = run_step(METHODS["baseline"](context(columns, edges.size)), state, cohorts)
    hazard = np.diff(baseline["cumulative_hazard"], prepend=0.0)
    spread = spread_of_hazard(state["covariance_full"], hazard)
    arrays = {
        "mean": state["mean"], "scale": state["scale"], "beta": state["beta"], "covariance": state["covariance"],
        "edges": edges, "cumulative_hazard": baseline["cumulative_hazard"],
        "hazard_variance": spread.variance, "hazard_slope": spread.slope,
    }  # fmt: skip
    return Artefact(manifest_of(columns, exact=False), arrays)


CASES = [case for case in numbers("survfit.json") if case["patient"] == 0]


def assert_curves_equal_r(case: dict[str, Any], folder: Path | None) -> None:
    reference = read_demo() if folder is None else read(case["cohort"], folder)
    model = cox_model(reference.federated(delayed=case["delayed"]), reference.columns)
    rows = [
        one for one in numbers("survfit.json") if (one["cohort"], one["delayed"]) == (case["cohort"], case["delayed"])
    ]
    patients = reference.pooled.take(np.arange(4))
    means = cohort_of(np.full((1, len(reference.columns)), np.nan), np.ones(1), [False], columns=reference.columns)
    curves = [predict(model, patients, np.asarray(case["time"])), predict(model, means, np.asarray(case["time"]))]
    for row in rows:
        curve, i = (curves[1], 0) if row["patient"] == 4 else (curves[0], row["patient"])
        assert curve.lower is not None
        assert curve.upper is not None
        np.testing.assert_allclose(curve.survival[i], row["survival"], atol=1e-9)
        np.testing.assert_allclose(curve.lower[i], row["lower"], atol=1e-7)
        np.testing.assert_allclose(curve.upper[i], row["upper"], atol=1e-7)


def test_cox_curves_and_intervals_equal_those_of_r_on_cgd() -> None:
    for case in (one for one in CASES if one["cohort"] == "cgd" and not one["delayed"]):
        assert_curves_equal_r(case, None)


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case['cohort']}-{'delayed' if case['delayed'] else 'all'}"
)
def test_cox_curves_and_intervals_equal_those_of_r(case: dict[str, Any], cohorts: Path) -> None:
    assert_curves_equal_r(case, cohorts)


def test_grouped_spread_equals_the_slow_delta_method() -> None:
    """Against the full covariance of (alpha, beta), number by number, also between two edges."""
    reference = read_demo()
    k, p = reference.edges.size, len(reference.columns)
    sites = reference.federated(delayed=False)
    state = fit("hazard", sites, reference.columns, edges=reference.edges, penalties=[5.0] * p)
    model = hazard_model(sites, reference.columns, reference.edges, 5.0)
    x = model_matrix(model, reference.pooled.take(np.array([3])))[0]
    hazard = np.diff(model.cumulative_hazard, prepend=0.0)
    for time in (30.0, 50.0, 200.0, 341.0):
        lower = np.concatenate(([0.0], reference.edges[:-1]))
        share = np.clip((time - lower) / (reference.edges - lower), 0, 1)
        total = float(share @ hazard)
        slope = np.concatenate((share * hazard / total, x))
        error = float(np.sqrt(slope @ state["covariance_full"] @ slope))
        curve = predict(model, reference.pooled.take(np.array([3])), np.array([time]))
        cumulative = total * float(np.exp(x @ model.beta))
        assert curve.lower is not None
        assert slope.size == k + p
        np.testing.assert_allclose(curve.survival[0, 0], np.exp(-cumulative), rtol=1e-12)
        np.testing.assert_allclose(
            curve.lower[0, 0], np.exp(-cumulative * np.exp(1.959963984540054 * error)), rtol=1e-9
        )


def test_the_conditional_curve_is_the_ratio_of_two() -> None:
    reference = read_demo()
    model = hazard_model(reference.federated(delayed=False), reference.columns, reference.edges)
    patients = reference.pooled.take(np.arange(6))
    later = predict(model, patients, np.array([40.0, 133.0]), start=77.0)
    both = predict(model, patients, np.array([77.0, 117.0, 210.0]))
    np.testing.assert_allclose(later.survival, both.survival[:, 1:] / both.survival[:, :1], rtol=1e-12)
    assert later.lower is not None
    assert later.upper is not None
    assert (later.lower <= later.survival).all()
    assert (later.survival <= later.upper).all()


def test_a_conditional_curve_does_not_depend_on_what_came_before() -> None:
    reference = read_demo()
    model = cox_model(reference.federated(delayed=False), reference.columns)
    start = float(model.edges[9])
    patients, times = reference.pooled.take(np.arange(3)), np.array([20.0, 60.0])
    cut = model.edges > start
    arrays = dict(model.arrays)
    arrays |= {name: arrays[name][cut] for name in ("edges", "hazard_variance", "hazard_slope")}
    arrays["cumulative_hazard"] = model.cumulative_hazard[cut] - model.cumulative_hazard[9]
    one = predict(model, patients, times, start=start)
    other = predict(Artefact(model.manifest, arrays), patients, times, start=start)
    np.testing.assert_allclose(one.survival, other.survival, rtol=1e-12)
    np.testing.assert_allclose(one.lower, other.lower, rtol=1e-9)


def test_survival_falls_and_the_interval_holds_it() -> None:
    reference = read_demo()
    model = hazard_model(reference.federated(delayed=False), reference.columns, reference.edges, 10.0)
    curve = predict(model, reference.pooled, np.linspace(0, 400, 60))
    assert curve.lower is not None
    assert curve.upper is not None
    assert (np.diff(curve.survival, axis=1) <= 0).all()
    assert (curve.survival[:, 0] == 1).all()
    assert (curve.lower <= curve.survival).all()
    assert (curve.survival <= curve.upper).all()
    wide, narrow = (predict(model, reference.pooled, np.array([200.0]), level=level) for level in (0.99, 0.5))
    assert wide.lower is not None
    assert narrow.lower is not None
    assert (wide.lower < narrow.lower).all()


def test_a_time_in_another_unit_changes_nothing() -> None:
    reference = read_demo()
    model = hazard_model(reference.federated(delayed=False), reference.columns, reference.edges)
    arrays = dict(model.arrays) | {"edges": model.edges / 365.25}
    years = predict(Artefact(model.manifest, arrays), reference.pooled, np.array([100.0, 300.0]) / 365.25)
    days = predict(model, reference.pooled, np.array([100.0, 300.0]))
    np.testing.assert_allclose(years.survival, days.survival, rtol=1e-12)
    np.testing.assert_allclose(years.lower, days.lower, rtol=1e-9)


def test_a_model_that_does_not_tell_how_sure_it_is_gives_no_interval() -> None:
    reference = read_demo()
    model = hazard_model(reference.federated(delayed=False), reference.columns, reference.edges)
    arrays = {name: model.arrays[name] for name in ("mean", "scale", "beta", "edges", "cumulative_hazard")}
    curve = predict(Artefact(model.manifest, arrays), reference.pooled, np.array([100.0]))
    assert curve.lower is None
    assert curve.upper is None


def test_nothing_is_counted_backward() -> None:
    model = cox_model([cohort_of(np.arange(8.0)[:, None] % 3, np.arange(1.0, 9.0), [True] * 8)], ("x0",))
    someone = cohort_of(np.ones((1, 1)), np.ones(1), [False])
    for arguments in ({"times": np.array([-1.0])}, {"times": np.ones(1), "start": -1.0}):
        with pytest.raises(ValueError, match="forward"):
            predict(model, someone, **arguments)


def layered() -> tuple[Artefact, Cohort]:
    """A model with a wide layer of two components; the second patient lacks it, the third has two of four cells."""
    rng = np.random.default_rng(1)
    manifest = manifest_of(("age",), exact=False)
    columns = (
        *manifest.columns,
        *(ArtefactColumn(name=f"rna {k + 1}", column="rna", layer="rna", component=k) for k in range(2)),
    )
    layer = ArtefactLayer(name="rna", features=("A", "B", "C", "D"), transform="sign-log1p", n_components=2)
    arrays = {
        "mean": np.array([50.0, 0.0, 0.0]), "scale": np.array([10.0, 1.0, 1.0]), "beta": np.array([0.2, 0.5, -0.3]),
        "edges": np.array([1.0, 2.0]), "cumulative_hazard": np.array([0.1, 0.3]),
        "rna_mean": np.full(4, 0.1), "rna_scale": np.array([1.0, 2.0, 0.0, 1.0]),
        "rna_loadings": rng.normal(size=(4, 2)),
    }  # fmt: skip
    cells = np.array([[1.0, -2.0, 3.0, 4.0], [np.nan] * 4, [0.5, np.nan, np.nan, 90.0]])
    patients = Cohort(
        patient_ids=("a", "b", "c"), time=np.ones(3), event=np.zeros(3, dtype=bool), entry=np.zeros(3),
        layers={
            "clinical": Layer(("age",), np.array([[60.0], [np.nan], [40.0]])),
            "rna": Layer(("A", "B", "C", "D"), cells),
        },
    )  # fmt: skip
    content = {**dict(manifest), "columns": columns, "layers": (layer,)}
    return Artefact(Manifest(**content), arrays), patients


def test_a_layers_scores_equal_the_slow_way() -> None:
    model, patients = layered()
    found = log_hazards(model, patients)
    for i in range(3):
        age, cells = patients.layers["clinical"].values[i, 0], patients.layers["rna"].values[i]
        eta = 0.0 if np.isnan(age) else 0.2 * (age - 50) / 10
        for j, cell in enumerate(cells):
            if not np.isnan(cell) and model.arrays["rna_scale"][j] > 0:
                z = (np.sign(cell) * np.log1p(abs(cell)) - 0.1) / model.arrays["rna_scale"][j]
                eta += min(max(z, -5.0), 5.0) * float(model.arrays["rna_loadings"][j] @ np.array([0.5, -0.3]))
        np.testing.assert_allclose(found[i], eta, rtol=1e-12, atol=1e-15)


def test_what_is_known_of_a_patient_is_counted_by_layer() -> None:
    model, patients = layered()
    shares = known_shares(model, patients)
    assert {name: list(share) for name, share in shares.items()} == {
        "clinical": [1.0, 0.0, 1.0],
        "rna": [1.0, 0.0, 0.5],
    }
