"""What moved a prediction, against numerical integration, against Shapley values, and by laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.contributions import by_column, by_layer, layer_importance, layers_of, risk_parts
from schemas.design import DesignColumn

DESIGN = (
    DesignColumn("age", "age", "clinical"),
    DesignColumn("stage[2]", "stage", "clinical", "2"),
    DesignColumn("stage[3]", "stage", "clinical", "3"),
    DesignColumn("rna 1", "rna", "rna", component=0),
)
terms = st.lists(st.floats(-3, 3), min_size=4, max_size=4)
hazards = st.floats(1e-6, 5)


def risk(eta: float, hazard: float) -> float:
    return 1 - math.exp(-hazard * math.exp(eta))


@given(terms, hazards)
def test_the_parts_add_up_to_the_risk_against_the_means(values: list[float], hazard: float) -> None:
    parts = risk_parts(np.array([values]), np.array([hazard]))
    assert math.isclose(parts.sum(), risk(sum(values), hazard) - risk(0.0, hazard), rel_tol=1e-9, abs_tol=1e-12)


@given(terms, hazards)
def test_the_parts_equal_the_integral_of_the_gradient(values: list[float], hazard: float) -> None:
    """The slow way: 4,000 midpoints between the means and the patient."""
    eta = sum(values)
    along = (np.arange(4000) + 0.5) / 4000 * eta
    slope = float(np.mean(hazard * np.exp(along) * np.exp(-hazard * np.exp(along))))
    parts = risk_parts(np.array([values]), np.array([hazard]))[0, 0]
    np.testing.assert_allclose(parts, slope * np.array(values), rtol=1e-4, atol=1e-7)


def test_a_column_at_its_mean_has_no_part_and_equal_columns_have_equal_parts() -> None:
    parts = risk_parts(np.array([[0.0, 0.7, 0.7, -0.2]]), np.array([0.3]))[0, 0]
    assert parts[0] == 0
    assert parts[1] == parts[2]


def test_balanced_terms_do_not_blow_up() -> None:
    """eta = 0 though nothing is: the limit of the slope."""
    parts = risk_parts(np.array([[1.5, -1.5, 0.0, 0.0]]), np.array([0.4]))[0, 0]
    np.testing.assert_allclose(parts[:2], np.array([1.5, -1.5]) * 0.4 * math.exp(-0.4), rtol=1e-12)


def test_parts_are_near_the_shapley_values_of_the_risk() -> None:
    """Another fair division of the same sum: all orders in which columns move from the mean to the patient."""
    values, hazard = [0.4, -0.3, 0.5, 0.2], 0.3
    shapley = np.zeros(4)
    orders = list(itertools.permutations(range(4)))
    for order in orders:
        eta = 0.0
        for j in order:
            shapley[j] += (risk(eta + values[j], hazard) - risk(eta, hazard)) / len(orders)
            eta += values[j]
    parts = risk_parts(np.array([values]), np.array([hazard]))[0, 0]
    np.testing.assert_allclose(parts, shapley, atol=0.005)
    np.testing.assert_allclose(parts.sum(), shapley.sum(), rtol=1e-12)


def test_indicators_and_components_are_summed_to_what_a_person_knows() -> None:
    parts = np.array([[[1.0, 2.0, 4.0, 8.0]]])
    assert {name: float(part[0, 0]) for name, part in by_column(parts, DESIGN).items()} == {
        "age": 1.0,
        "stage": 6.0,
        "rna": 8.0,
    }
    assert {name: float(part[0, 0]) for name, part in by_layer(parts, DESIGN).items()} == {
        "clinical": 7.0,
        "rna": 8.0,
    }
    assert layers_of(DESIGN) == ("clinical", "rna")


def test_importance_is_the_shapley_value_of_the_variance() -> None:
    rng = np.random.default_rng(3)
    layers = rng.normal(size=(200, 3)) @ np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.2], [0.0, 0.0, 0.4]])
    covariance = np.cov(layers.T, bias=True)
    shapley = np.zeros(3)
    for order in itertools.permutations(range(3)):
        for i, j in enumerate(order):
            before, after = layers[:, order[:i]].sum(axis=1), layers[:, order[: i + 1]].sum(axis=1)
            shapley[j] += (after.var() - before.var()) / 6
    np.testing.assert_allclose(layer_importance(covariance), shapley / layers.sum(axis=1).var(), rtol=1e-10)
    assert (layer_importance(np.zeros((2, 2))) == 0).all()
