"""Federated components against the singular value decomposition of the pooled table, and where they cannot be."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.components import BLOCK_VARIANCE, Components
from models.moments import Moments
from models.preparation import layer_z
from models.step import Context
from schemas.cohort import concatenate
from schemas.design import design_columns, layer_designs
from tests.layers_kit import shared_cohort, wide_cohort
from tests.models.federation import run_step
from tests.models.test_preparation import context_of, layer_of


def components(context, cohorts, rounds=None, leaving=None, **settings):
    """The state of moments and components, over these sites."""
    found = run_step(Moments(context), {}, cohorts)
    step = Components(Context(context.design, 1, (), settings, context.layers))
    return {**found, **run_step(step, found, cohorts, rounds, leaving)}


def smallest_cosine(one, other):
    """Of the angles between two subspaces, given by columns that need not be normalised."""
    q, w = np.linalg.qr(one)[0], np.linalg.qr(other)[0]
    return np.linalg.svd(q.T @ w, compute_uv=False).min()


def factors(n=120, m=25, seed=0, strengths=(6, 4, 3, 2)):
    """Cells of a few strong directions and noise, so that components are well apart."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(m, len(strengths))) * np.array(strengths)
    return rng.normal(size=(n, len(strengths))) @ weights.T + rng.normal(size=(n, m))


LAYER = layer_of(m=25, components=4)
CONTEXT = context_of(LAYER)
POOLED = wide_cohort({"rna": factors()})
SITES = [POOLED.take(np.arange(120) % 3 == site) for site in range(3)]


def test_components_over_sites_are_the_right_singular_vectors_of_the_pooled_table():
    found = components(CONTEXT, SITES)
    z = layer_z(POOLED, LAYER, found)
    _, values, vectors = np.linalg.svd(z, full_matrices=False)
    loadings = found["rna_loadings"]
    scaling = np.sqrt(BLOCK_VARIANCE * 120 / (z**2).sum())
    np.testing.assert_allclose(np.linalg.norm(loadings, axis=0), scaling, rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.diag(vectors[:4] @ loadings)) / scaling, 1.0, atol=1e-9)
    np.testing.assert_allclose(found["rna_variance"], values[:4] ** 2 / (z**2).sum(), rtol=1e-9)
    assert found["rna_n_patients"] == 120


def test_they_equal_a_slow_version_that_forms_the_covariance_of_all_features():
    found = components(CONTEXT, SITES)
    z = np.zeros((0, 25))
    for patient in range(120):
        row = (POOLED.layers["rna"].values[patient] - found["rna_mean"]) / found["rna_scale"]
        z = np.vstack((z, np.clip(row, -5, 5)))
    covariance = sum(np.outer(row, row) for row in z)
    variance, vectors = np.linalg.eigh(covariance)
    for k in range(4):
        score = z @ vectors[:, -1 - k] * np.sqrt(30 * 120 / np.trace(covariance))
        mine = z @ found["rna_loadings"][:, k]
        np.testing.assert_allclose(mine * np.sign(mine @ score), score, atol=1e-7)
    np.testing.assert_allclose(found["rna_variance"], variance[:-5:-1] / variance.sum(), rtol=1e-9)


@given(labels=st.lists(st.integers(0, 4), min_size=120, max_size=120), seed=st.integers(0, 99))
def test_neither_how_patients_fall_on_sites_nor_their_order_matters(labels, seed):
    shuffled = POOLED.take(np.random.default_rng(seed).permutation(120))
    sites = [shuffled.take(np.array(labels) == site) for site in range(5)]
    one, other = components(CONTEXT, [POOLED]), components(CONTEXT, sites)
    for name in ("rna_loadings", "rna_variance", "rna_n_patients"):
        np.testing.assert_allclose(one[name], other[name], atol=1e-10)


def test_the_order_of_sites_does_not_matter():
    one, other = components(CONTEXT, SITES), components(CONTEXT, SITES[::-1])
    np.testing.assert_allclose(one["rna_loadings"], other["rna_loadings"], atol=1e-12)


def test_all_layers_travel_together_in_eight_rounds_and_one_that_turns_them():
    both = context_of(LAYER, layer_of("cnv", components=3))
    sites = [wide_cohort({"rna": factors(seed=s), "cnv": factors(m=6, seed=9 + s)}, site=f"{s}-") for s in range(2)]
    rounds: list[str] = []
    components(both, sites, rounds)
    assert rounds == ["products"] * 8 + ["rotation"]


def test_a_site_that_leaves_between_two_rounds_leaves_components_of_the_others():
    found = components(CONTEXT, SITES, leaving=4, iterations=12)
    alone = components(CONTEXT, SITES[1:])
    assert smallest_cosine(found["rna_loadings"], alone["rna_loadings"]) > 0.9
    assert found["rna_n_patients"] == 80


def test_block_scaling_gives_layers_of_any_width_the_same_total_variance():
    layers = layer_of("rna", m=25, components=25), layer_of("cnv", m=4, components=4)
    cohort = wide_cohort({"rna": factors(), "cnv": factors(m=4, seed=3)})
    found = components(context_of(*layers), [cohort])
    for layer in layers:
        scores = layer_z(cohort, layer, found) @ found[f"{layer.name}_loadings"]
        np.testing.assert_allclose((scores**2).sum() / 120, BLOCK_VARIANCE, rtol=1e-10)
        np.testing.assert_allclose(found[f"{layer.name}_variance"].sum(), 1.0, rtol=1e-10)


# ---------------------------------------------------------------- where there is little or nothing
def assert_clean(found, expected):
    """Finite, and as many components with variance as `expected`."""
    assert all(np.isfinite(array).all() for array in found.values())
    assert np.count_nonzero(found["rna_variance"]) == expected
    assert np.count_nonzero(found["rna_loadings"].any(axis=0)) == expected


def test_a_layer_that_nobody_has_gets_no_components():
    empty = wide_cohort({"rna": np.full((30, 25), np.nan)})
    found = components(CONTEXT, [empty, wide_cohort({"cnv": factors(20)})])
    assert_clean(found, 0)
    assert found["rna_n_patients"] == 0


def test_constant_features_get_no_component_and_no_weight():
    values = factors()
    values[:, :22] = 1.5
    found = components(CONTEXT, [wide_cohort({"rna": values})])
    assert_clean(found, 3)
    np.testing.assert_array_equal(found["rna_loadings"][:22], 0.0)


def test_fewer_patients_than_components_give_as_many_as_their_cells_allow():
    layer = layer_of(m=40, components=20)
    found = components(context_of(layer), [wide_cohort({"rna": factors(12, 40)})])
    assert_clean(found, 11)  # twelve patients, centred


def test_features_that_repeat_others_add_no_component():
    values = factors(m=3)
    found = components(context_of(layer_of(m=9, components=9)), [wide_cohort({"rna": np.tile(values, 3)})])
    assert_clean(found, 3)


@pytest.mark.parametrize("n", [30, 1])
def test_a_layer_of_one_feature_has_one_component(n):
    found = components(context_of(layer_of(m=1, components=1)), [wide_cohort({"rna": factors(n, 1)})])
    assert_clean(found, int(n > 1))


def test_without_masks_a_site_with_too_few_patients_of_a_layer_adds_nothing_to_it():
    few = wide_cohort({"rna": np.vstack((factors(6, seed=4), np.full((20, 25), np.nan)))})
    context = Context(CONTEXT.design, 1, (), {"layer_floor": 10}, CONTEXT.layers)
    for step, inputs in ((Moments(context), {}), (Components(context), components(CONTEXT, SITES))):
        for part in step.parts():
            sent = {spec.name: inputs.get(spec.name, np.zeros(spec.shape)) for spec in part.sends}
            answer = step.local(part.name, sent, few)
            assert not any(array.any() for name, array in answer.items() if name.startswith("rna"))
            assert answer["n_patients"] == 26


# ---------------------------------------------------------------- the shared cohorts
@pytest.mark.parametrize("name", ["tcga_gbmlgg", "tcga_blca", "tcga_luad", "fed_tcga_brca"])
def test_eight_rounds_reach_the_pooled_subspace_of_real_expression(name: str, cohorts: Path) -> None:
    kit = shared_cohort(cohorts, name, ("rna",))
    (layer,) = layer_designs(kit.study, kit.dictionary)
    context = Context(design_columns(kit.study, kit.dictionary), 1, (), {}, (layer,))
    found = components(context, list(kit.cohorts.values()))
    z = layer_z(concatenate(list(kit.cohorts.values())), layer, found)
    vectors = np.linalg.svd(z, full_matrices=False)[2]
    assert smallest_cosine(found["rna_loadings"], vectors[:20].T) > 0.996
