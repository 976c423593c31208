"""What moved a network's prediction, against finite differences, completeness, and the linear model."""

from __future__ import annotations

import numpy as np
import pytest

from models.contributions import risk_parts
from models.network_parts import gradient, layer_log_hazards, network_risk_parts
from models.network_shape import Shape
from models.prediction import contributions, cumulative_hazard_between, known_shares, predict
from models.step import Context, Floats
from schemas.artefact import Artefact, ArtefactNetwork, Manifest, read_artefact, write_artefact
from schemas.design import DesignColumn, LayerDesign
from schemas.errors import MessageError
from tests.models.test_prediction import layered

DESIGN = (
    DesignColumn("age", "age", "clinical"),
    DesignColumn("stage", "stage", "clinical"),
    DesignColumn("rna 1", "rna", "rna", component=0),
    DesignColumn("rna 2", "rna", "rna", component=1),
)


def shape_of(fusion: str, hidden: int = 3) -> Shape:
    layers = (LayerDesign("rna", ("A", "B", "C"), n_components=2),)
    return Shape.of(Context(DESIGN, 1, (), {"network": {"hidden": hidden, "fusion": fusion}}, layers))


@pytest.fixture(params=["late", "early"])
def shape(request: pytest.FixtureRequest) -> Shape:
    return shape_of(request.param)


def drawn(shape: Shape, n: int = 6) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(2)
    present = np.ones((n, len(shape.encoders)))
    present[1, -1] = 0.0
    return rng.normal(size=shape.n_weights) / 2, rng.normal(size=(n, len(DESIGN))), present


def test_the_gradient_equals_finite_differences(shape: Shape) -> None:
    weights, x, present = drawn(shape)
    for j in range(x.shape[1]):
        step = np.zeros_like(x)
        step[:, j] = 1e-6
        up, down = (shape.log_hazard(weights, x + sign * step, present) for sign in (1, -1))
        np.testing.assert_allclose(gradient(shape, weights, x, present)[:, j], (up - down) / 2e-6, atol=1e-8)


def test_the_parts_add_up_to_the_risk_against_the_means(shape: Shape) -> None:
    weights, x, present = drawn(shape)
    hazard = np.array([0.05, 0.4, 2.0])
    parts = network_risk_parts(shape, weights, x, present, hazard)
    eta = shape.log_hazard(weights, x, present)
    expected = np.exp(-hazard) - np.exp(-hazard * np.exp(eta)[:, None])
    np.testing.assert_allclose(parts.sum(axis=2), expected, atol=1e-10)


def test_a_network_without_curvature_has_the_parts_of_the_linear_model() -> None:
    shape = shape_of("late")
    weights, x, present = drawn(shape)
    beta = np.zeros(len(DESIGN))
    flat = []
    for encoder, own in zip(shape.encoders, shape.parts(weights), strict=True):
        d = encoder.columns.size
        kept = np.concatenate((own[:d], np.zeros(own.size - d)))
        beta[encoder.columns] = own[:d]
        flat.append(kept)
    hazard = np.array([0.1, 0.7])
    present[:] = 1.0
    found = network_risk_parts(shape, np.concatenate(flat), x, present, hazard)
    np.testing.assert_allclose(found, risk_parts(x * beta, hazard), atol=1e-12)


def test_the_parts_of_the_layers_sum_to_the_log_hazard() -> None:
    shape = shape_of("late")
    weights, x, present = drawn(shape)
    parts = layer_log_hazards(shape, weights, x, present)
    np.testing.assert_allclose(parts.sum(axis=1), shape.log_hazard(weights, x, present), rtol=1e-12)
    assert parts[1, 1] == 0.0  # the layer that this patient lacks


def network_model(fusion: str = "late") -> Artefact:
    model, _ = layered()
    content = {
        **dict(model.manifest),
        "method": "hazard-network",
        "network": ArtefactNetwork(hidden=2, fusion=fusion),
    }
    manifest = Manifest(**content)
    weights = np.random.default_rng(4).normal(size=manifest.n_weights) / 3
    return Artefact(manifest, {**model.arrays, "beta": weights})


@pytest.mark.parametrize("fusion", ["late", "early"])
def test_a_network_is_stored_read_and_predicts_without_an_interval(fusion: str) -> None:
    model = read_artefact(write_artefact(network_model(fusion)))
    _, patients = layered()
    times = np.array([0.5, 2.0])
    curve = predict(model, patients, times)
    assert curve.lower is None
    parts = contributions(model, patients, times)
    at_means = np.exp(-cumulative_hazard_between(model, 0.0, times))
    np.testing.assert_allclose(at_means - parts.sum(axis=2), curve.survival, atol=1e-10)
    assert list(known_shares(model, patients)["rna"]) == [1.0, 0.0, 0.5]


def test_weights_of_another_shape_are_refused() -> None:
    model = network_model()
    for weights in (model.beta[:-1], np.append(model.beta, 0.0)):
        with pytest.raises(MessageError, match="beta"):
            read_artefact(write_artefact(Artefact(model.manifest, {**model.arrays, "beta": weights})))
    with pytest.raises(ValueError, match="network"):
        Manifest(**{**dict(model.manifest), "network": None})


def test_the_file_counts_the_weights_as_the_network_does() -> None:
    for fusion in ("late", "early"):
        manifest = network_model(fusion).manifest
        settings = {"network": {"hidden": 2, "fusion": fusion}}
        shape = Shape.of(Context(manifest.design, 1, (), settings, manifest.layer_designs))
        assert manifest.n_weights == shape.n_weights
