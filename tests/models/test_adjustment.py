"""Location and scale of a layer by site: against a slow ComBat, and what it may not change."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.adjustment import MIN_PATIENTS, location_scale
from models.folded import fold_part
from models.moments import Moments
from models.preparation import layer_z
from schemas.cohort import concatenate
from schemas.design import LayerDesign
from tests.layers_kit import wide_cohort
from tests.models.federation import run_step
from tests.models.test_preparation import context_of

M = 30
FEATURES = tuple(f"x{j}" for j in range(M))
ADJUSTED = LayerDesign("rna", FEATURES, adjust="site")
PLAIN = LayerDesign("rna", FEATURES)


def cells(n=40, seed=0, shift=0.0, stretch=1.0):
    rng = np.random.default_rng(seed)
    return stretch * rng.normal(size=(n, M)) * rng.uniform(0.5, 2, M) + shift + rng.normal(size=M)


def federation(missing=0.0):
    """Three sites, of which the second measures shifted and the third stretched."""
    rng = np.random.default_rng(9)
    tables = {"a": cells(40, 0), "b": cells(30, 1, shift=4.0), "c": cells(25, 2, stretch=3.0)}
    return [
        wide_cohort({"rna": np.where(rng.random(values.shape) < missing, np.nan, values)}, site=site)
        for site, values in tables.items()
    ]


def moments(sites):
    return run_step(Moments(context_of(ADJUSTED)), {}, sites)


def slow_combat(z):
    """The published iteration, feature by feature (Johnson, Li & Rabinovic 2007; postmean, postvar)."""
    n = z.shape[0]
    gamma, delta = z.mean(axis=0), z.var(axis=0, ddof=1)
    gamma_bar, t2 = gamma.mean(), gamma.var(ddof=1)
    m, s2 = delta.mean(), delta.var(ddof=1)
    a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    location, scale = [], []
    for j in range(z.shape[1]):
        g_old, d_old = gamma[j], delta[j]
        for _ in range(1000):
            g_new = (t2 * n * gamma[j] + d_old * gamma_bar) / (t2 * n + d_old)
            total = sum((value - g_new) ** 2 for value in z[:, j])
            d_new = (0.5 * total + b) / (n / 2 + a - 1)
            moved = max(abs(g_new - g_old), abs(d_new - d_old))
            g_old, d_old = g_new, d_new
            if moved < 1e-13:
                break
        location.append(g_old)
        scale.append(np.sqrt(d_old))
    return np.array(location), np.array(scale)


@pytest.mark.parametrize("seed", range(3))
def test_location_and_scale_equal_a_slow_combat(seed):
    z = cells(25, seed, shift=0.7, stretch=1.5)
    for found, expected in zip(location_scale(z), slow_combat(z), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_few_patients_are_shrunk_and_many_are_not():
    rng = np.random.default_rng(4)
    truth = rng.normal(size=M)
    few, many = (rng.normal(size=(n, M)) + truth for n in (12, 20_000))
    location, scale = location_scale(few)
    assert np.linalg.norm(location - truth) < np.linalg.norm(few.mean(axis=0) - truth)
    assert np.linalg.norm(scale - 1) < np.linalg.norm(few.std(axis=0, ddof=1) - 1)
    np.testing.assert_allclose(location_scale(many)[0], many.mean(axis=0), atol=1e-3)


@given(order=st.permutations(range(20)))
def test_the_order_of_patients_does_not_matter(order):
    z = cells(20, 3)
    for one, other in zip(location_scale(z), location_scale(z[np.array(order)]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.parametrize("z", [
    np.full((20, 4), np.nan), np.zeros((20, 4)), np.zeros((0, 4)), cells(MIN_PATIENTS - 1), cells(20)[:, :1],
    np.column_stack((np.zeros(20), np.arange(20.0))),
])  # fmt: skip
def test_whatever_a_site_holds_the_correction_is_finite_and_the_scale_above_zero(z):
    location, scale = location_scale(z)
    assert np.isfinite(location).all()
    assert np.isfinite(scale).all()
    assert (scale > 0).all()
    if z.shape[0] < MIN_PATIENTS:
        assert not location.any()
        assert (scale == 1).all()


def test_a_site_that_measures_shifted_and_one_that_stretches_look_like_the_others():
    sites = federation(missing=0.1)
    found = moments(sites)
    plain, adjusted = ([layer_z(site, layer, found) for site in sites] for layer in (PLAIN, ADJUSTED))
    assert plain[1].mean() - plain[0].mean() > 1
    assert abs(adjusted[1].mean() - adjusted[0].mean()) < 0.02
    assert plain[2].std() > 1.5 * plain[0].std()
    assert adjusted[2].std() == pytest.approx(adjusted[0].std(), rel=0.05)


def test_one_pooled_table_is_corrected_site_by_site_as_the_federation_is():
    sites = federation(missing=0.2)
    found = moments(sites)
    pooled = concatenate(sites)
    z = layer_z(pooled, ADJUSTED, found)
    np.testing.assert_allclose(z, np.vstack([layer_z(site, ADJUSTED, found) for site in sites]), atol=1e-12)
    order = np.random.default_rng(1).permutation(pooled.n_patients)
    np.testing.assert_allclose(layer_z(pooled.take(order), ADJUSTED, found), z[order], atol=1e-9)


def test_patients_who_are_judged_are_corrected_by_those_who_trained():
    sites = federation()
    found = moments(sites)
    for site in sites:
        fold_of = np.arange(site.n_patients) % 4
        dealt = dataclasses.replace(site, fold_of=fold_of)
        training, judged = (fold_part(dealt, 0, part) for part in ("training", "held_out"))
        z = layer_z(site.take(fold_of != 0), PLAIN, found)
        location, scale = location_scale(z)  # no cell of this site is clipped
        expected = (layer_z(judged, PLAIN, found) - location) / scale
        if np.abs(layer_z(site, PLAIN, found)).max() < 5:
            np.testing.assert_allclose(layer_z(judged, ADJUSTED, found), expected, atol=1e-9)
        one = layer_z(judged.take(np.arange(1)), ADJUSTED, found)
        np.testing.assert_allclose(one, layer_z(judged, ADJUSTED, found)[:1], atol=1e-12)
        own = layer_z(training, ADJUSTED, found)
        np.testing.assert_allclose(own, layer_z(site.take(fold_of != 0), ADJUSTED, found), atol=1e-12)


def test_simulated_test_patients_of_several_sites_each_learn_from_their_own_and_a_new_site_from_itself():
    sites = federation()
    found = moments(sites[:2])
    masks = [np.arange(site.n_patients) % 5 == 0 for site in sites[:2]]
    test = concatenate([*(s.judged(m) for s, m in zip(sites, masks, strict=False)), sites[2]])
    expected = [layer_z(s.judged(m), ADJUSTED, found) for s, m in zip(sites, masks, strict=False)]
    expected.append(layer_z(sites[2], ADJUSTED, found))
    np.testing.assert_allclose(layer_z(test, ADJUSTED, found), np.vstack(expected), atol=1e-12)
    everybody = np.ones(sites[2].n_patients, dtype=np.bool_)
    assert not sites[2].judged(everybody).origins


def test_a_patient_alone_is_not_corrected():
    sites = federation()
    found = moments(sites)
    alone = sites[1].take(np.arange(1))
    np.testing.assert_array_equal(layer_z(alone, ADJUSTED, found), layer_z(alone, PLAIN, found))


def test_features_that_take_no_part_stay_zero():
    sites = [
        dataclasses.replace(
            site, layers={**site.layers, "rna": dataclasses.replace(site.layers["rna"], values=np.column_stack(
                (np.full(site.n_patients, 7.0), site.layers["rna"].values[:, 1:])))}
        )
        for site in federation()
    ]  # fmt: skip
    found = moments(sites)
    assert found["rna_scale"][0] == 0
    assert not layer_z(sites[0], ADJUSTED, found)[:, 0].any()
