"""How x is made of cells: laws of the covariates, of the wide layers, and of the memory between rounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.components import Components
from models.moments import Moments
from models.preparation import CLIP, Preparation, layer_patients, layer_z, standardised, transformed
from models.step import Context
from schemas.cohort import Cohort, Layer
from schemas.design import DesignColumn, LayerDesign
from tests.layers_kit import wide_cohort
from tests.models.federation import run_step

M = 6


def layer_of(name="rna", m=M, components=0, transform="none", min_prevalence=0.0):
    return LayerDesign(name, tuple(f"x{j}" for j in range(m)), transform, min_prevalence, components)


def context_of(*layers, **settings):
    columns = [DesignColumn("age", "age", "clinical")]
    for layer in layers:
        columns += [
            DesignColumn(f"{layer.name} {k}", layer.name, layer.name, component=k if layer.n_components else None)
            for k in range(layer.n_columns)
        ]
    return Context(tuple(columns), 1, (), settings, tuple(layers))


def prepared(context, cohorts):
    """The arrays of a federation, and its Preparation."""
    found = run_step(Moments(context), {}, cohorts)
    if any(layer.n_components for layer in context.layers):
        found = {**found, **run_step(Components(context), found, cohorts)}
    return Preparation(context), found


def cells(n=40, m=M, seed=1):
    return np.random.default_rng(seed).normal(3.0, 2.0, (n, m))


def test_what_is_sent_is_what_scores_a_patient_and_covers_every_layer():
    context = context_of(layer_of("rna", components=2), layer_of("cnv"))
    preparation = Preparation(context)
    shapes = {spec.name: spec.shape for spec in preparation.specs()}
    assert shapes == {
        "mean": (9,),
        "scale": (9,),
        "rna_mean": (M,),
        "rna_scale": (M,),
        "rna_loadings": (M, 2),
        "cnv_mean": (M,),
        "cnv_scale": (M,),
    }
    assert preparation.names == tuple(shapes)


def test_without_wide_layers_the_matrix_is_that_of_the_covariates_to_the_last_bit():
    cohort = wide_cohort({"rna": cells()})
    context = context_of()
    preparation, found = prepared(context, [cohort])
    x = preparation.matrix(cohort, found)
    np.testing.assert_array_equal(x, standardised(cohort, context.design, found["mean"], found["scale"]))
    beta = np.array([0.7])
    np.testing.assert_array_equal(preparation.log_hazard(cohort, {**found, "beta": beta}), (x * beta).sum(axis=1))


@pytest.mark.parametrize("transform", ["none", "sign-log1p", "log1p"])
def test_all_features_are_standardised_transformed_cells(transform):
    values = cells()
    cohort = wide_cohort({"rna": values})
    preparation, found = prepared(context_of(layer_of(transform=transform)), [cohort])
    x = preparation.matrix(cohort, found)[:, 1:]
    expected = values if transform == "none" else np.sign(values) * np.log(1 + np.abs(values))
    np.testing.assert_allclose(x, (expected - expected.mean(0)) / expected.std(0), atol=1e-12)
    np.testing.assert_array_equal(found["mean"][1:], 0.0)
    np.testing.assert_array_equal(found["scale"][1:], 1.0)


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=20))
def test_a_logarithm_keeps_sign_and_order_and_stays_finite(drawn):
    values = np.sort(np.array(drawn))
    for transform in ("sign-log1p", "log1p"):
        logs = transformed(values, transform)
        assert np.isfinite(logs).all()
        assert (np.diff(logs) >= 0).all()
        assert (np.sign(logs) == np.sign(values)).all()


def test_cells_far_out_count_as_five_standard_deviations():
    values = cells(100)
    values[3, 2] = 1e6
    cohort = wide_cohort({"rna": values})
    preparation, found = prepared(context_of(layer_of()), [cohort])
    x = preparation.matrix(cohort, found)
    assert x[3, 3] == CLIP
    assert np.abs(x[:, 1:]).max() == CLIP


def test_a_patient_without_the_layer_and_a_site_without_it_have_scores_of_zero():
    values = cells()
    values[:5] = np.nan
    held, bare = wide_cohort({"rna": values}), wide_cohort({"cnv": cells()}, seed=2)
    preparation, found = prepared(context_of(layer_of(components=3)), [held, bare])
    np.testing.assert_array_equal(preparation.matrix(held, found)[:5, 1:], 0.0)
    assert preparation.matrix(held, found)[5:, 1:].any(axis=1).all()
    np.testing.assert_array_equal(preparation.matrix(bare, found)[:, 1:], 0.0)
    assert layer_patients(held, layer_of()) == 35
    assert layer_patients(bare, layer_of()) == 0


def test_a_missing_cell_counts_as_the_mean_and_a_feature_that_one_site_lacks_is_missing_there():
    values = cells()
    values[7, 4] = np.nan
    full = wide_cohort({"rna": values})
    without = wide_cohort({"rna": cells(m=M - 1, seed=5)})  # has no x5
    preparation, found = prepared(context_of(layer_of()), [full, without])
    assert preparation.matrix(full, found)[7, 5] == 0.0
    np.testing.assert_array_equal(preparation.matrix(without, found)[:, M], 0.0)
    np.testing.assert_allclose(found["rna_mean"][5], values[:, 5].mean())


def test_constant_rare_and_hardly_known_features_have_weight_zero():
    values = cells(60)
    values[:, 0] = 0.1  # constant, and not so in binary
    values[:, 1] = np.nan
    values[9:, 2] = np.nan  # known in nine patients
    values[:, 3] = np.arange(60) < 2  # nonzero in 2 of 60
    cohort = wide_cohort({"rna": values})
    preparation, found = prepared(context_of(layer_of(min_prevalence=0.05)), [cohort])
    np.testing.assert_array_equal(found["rna_scale"] > 0, [False, False, False, False, True, True])
    np.testing.assert_array_equal(preparation.matrix(cohort, found)[:, 1:5], 0.0)
    _, kept = prepared(context_of(layer_of(min_prevalence=2 / 60)), [cohort])
    assert kept["rna_scale"][3] > 0


def test_the_order_of_a_sites_columns_does_not_matter():
    values = cells()
    order = np.array([3, 1, 5, 0, 4, 2])
    one = wide_cohort({"rna": values})
    other = Cohort(
        one.patient_ids, one.time, one.event, one.entry,
        {**one.layers, "rna": Layer(tuple(f"x{j}" for j in order), values[:, order])},
    )  # fmt: skip
    context = context_of(layer_of(components=2))
    (preparation, found), (_, found_other) = prepared(context, [one]), prepared(context, [other])
    np.testing.assert_array_equal(preparation.matrix(one, found), preparation.matrix(other, found_other))


def test_what_is_kept_between_rounds_changes_no_number_and_goes_when_anything_changes():
    cohort = wide_cohort({"rna": cells()})
    layer = layer_of(components=2)
    preparation, found = prepared(context_of(layer), [cohort])
    first = preparation.matrix(cohort, found)
    assert preparation.matrix(cohort, {name: array.copy() for name, array in found.items()}) is first
    assert layer_z(cohort, layer, found) is layer_z(cohort, layer, found)
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1.0
    turned = {**found, "rna_loadings": -found["rna_loadings"]}
    np.testing.assert_array_equal(preparation.matrix(cohort, turned)[:, 1:], -first[:, 1:])
    moved = {**found, "rna_mean": found["rna_mean"] + 1.0}
    assert np.abs(preparation.matrix(cohort, moved) - first).max() > 0.01
    np.testing.assert_array_equal(preparation.matrix(cohort, found), first)
    assert preparation.matrix(cohort.take(np.arange(3)), found).shape == (3, 3)


def test_an_array_that_is_changed_in_place_is_noticed():
    cohort = wide_cohort({"rna": cells()})
    preparation, found = prepared(context_of(layer_of(components=2)), [cohort])
    mine = {name: array.copy() for name, array in found.items()}
    first = preparation.matrix(cohort, mine).copy()
    mine["rna_loadings"] *= 2
    np.testing.assert_allclose(preparation.matrix(cohort, mine)[:, 1:], 2 * first[:, 1:])
