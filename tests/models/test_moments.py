import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.moments import Moments, original_scale
from models.preparation import Preparation, standardised, transformed
from tests.layers_kit import wide_cohort
from tests.models.federation import cohort_of, context, run_step, split
from tests.models.synthetic import COLUMNS, patients
from tests.models.test_preparation import context_of, layer_of

COHORT = patients()
DESIGN = context(COLUMNS).design


def moments(cohorts, columns=COLUMNS, **settings):
    return run_step(Moments(context(columns, **settings)), {}, cohorts)


@given(labels=st.lists(st.integers(0, 5), min_size=160, max_size=160))
def test_moments_over_sites_equal_those_of_the_pooled_observed_cells(labels):
    state = moments(split(COHORT, labels))
    x = COHORT.matrix(COLUMNS)
    np.testing.assert_allclose(state["mean"], np.nanmean(x, axis=0), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(state["scale"], np.nanstd(x, axis=0), rtol=1e-13)
    np.testing.assert_array_equal(state["n_observed"], (~np.isnan(x)).sum(axis=0))
    assert state["n_patients"] == 160


def test_neither_order_of_sites_nor_of_patients_matters():
    sites = split(COHORT, np.arange(160) % 3)
    shuffled = COHORT.take(np.random.default_rng(1).permutation(160))
    for other in (moments(sites[::-1]), moments([shuffled])):
        for name, array in moments(sites).items():
            np.testing.assert_allclose(other[name], array, rtol=1e-13, atol=1e-14)


def test_a_site_without_patients_adds_nothing():
    nobody = COHORT.take(np.zeros(160, dtype=np.bool_))
    for name, array in moments([COHORT]).items():
        np.testing.assert_array_equal(moments([COHORT, nobody])[name], array)


def test_a_centre_near_the_mean_keeps_the_digits_of_a_column_far_from_zero():
    x = np.random.default_rng(2).normal(size=(100, 1))
    far = cohort_of(1e9 + x, np.ones(100), np.ones(100))
    state = moments([far], ("x0",), centres=[1e9 + 0.5])
    np.testing.assert_allclose(state["scale"], np.std((1e9 + x) - 1e9), rtol=1e-12)
    assert moments([far], ("x0",))["scale"] == 1.0  # without it nothing of the spread is left, and that is seen


def test_a_constant_and_an_unobserved_column_are_exactly_zero_for_the_model():
    x = np.column_stack((np.full(50, 0.1), np.full(50, np.nan), np.full(50, 1e6 + 0.1), np.arange(50)))
    cohort = cohort_of(x, np.ones(50), np.ones(50))
    names = ("x0", "x1", "x2", "x3", "held by no site")
    state = moments([cohort], names, centres=[0.5, 7.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(state["scale"][[0, 1, 2, 4]], 1.0)
    np.testing.assert_array_equal(state["standard_deviation"][[0, 1, 2, 4]], 0.0)
    assert state["mean"][1] == 7.0
    z = standardised(cohort, context(names).design, state["mean"], state["scale"])
    np.testing.assert_array_equal(z[:, [0, 1, 2, 4]], 0.0)


def test_a_missing_cell_counts_as_the_mean():
    state = moments([COHORT])
    z = standardised(COHORT, DESIGN, state["mean"], state["scale"])
    missing = np.isnan(COHORT.matrix(COLUMNS))
    assert missing.any()
    np.testing.assert_array_equal(z[missing], 0.0)
    np.testing.assert_allclose(z.sum(axis=0), 0.0, atol=1e-11)


def test_a_model_on_original_columns_has_scale_one_and_is_centred_all_the_same():
    plain, scaled = moments([COHORT], standardise=False), moments([COHORT])
    np.testing.assert_array_equal(plain["scale"], 1.0)
    np.testing.assert_array_equal(plain["mean"], scaled["mean"])


def test_log_hazards_are_relative_to_the_means_and_on_the_original_scale_the_same():
    state = moments([COHORT])
    beta = np.array([0.5, -0.2, 0.1, 1.0])
    coefficients, errors = original_scale(beta, np.diag([0.04, 0.01, 0.0, 1.0]), state["scale"])
    x = COHORT.matrix(COLUMNS)
    by_hand = np.nan_to_num(x - np.nanmean(x, axis=0)) @ coefficients
    np.testing.assert_allclose(
        Preparation(context(COLUMNS)).log_hazard(COHORT, {**state, "beta": beta}), by_hand, atol=1e-13
    )
    np.testing.assert_allclose(errors, np.array([0.2, 0.1, 0.0, 1.0]) / state["scale"])


def test_one_centre_for_each_column_is_needed():
    with pytest.raises(ValueError, match="1 centres for 4 columns"):
        Moments(context(COLUMNS, centres=[0.0]))


def test_when_a_site_leaves_the_others_are_asked_the_same():
    step = Moments(context(COLUMNS))
    assert step.shrink("sums", {}) == step.begin({})


# ---------------------------------------------------------------- wide layers
RNA, CNV = layer_of("rna", m=6, transform="sign-log1p"), layer_of("cnv", m=4)
WIDE = context_of(RNA, CNV)


def wide_patients(n=60, seed=0):
    rng = np.random.default_rng(seed)
    rna, cnv = rng.normal(0, 1000, (n, 6)), rng.integers(-2, 3, (n, 4)).astype(np.float64)
    rna[rng.random((n, 6)) < 0.1] = np.nan
    cnv[: n // 4] = np.nan
    return wide_cohort({"rna": rna, "cnv": cnv}, seed)


@given(labels=st.lists(st.integers(0, 5), min_size=60, max_size=60))
def test_moments_of_wide_layers_over_sites_equal_those_of_all_transformed_cells(labels):
    cohort = wide_patients()
    state = run_step(Moments(WIDE), {}, split(cohort, labels))
    for layer in (RNA, CNV):
        cells = transformed(cohort.layers[layer.name].values, layer.transform)
        np.testing.assert_allclose(state[f"{layer.name}_mean"], np.nanmean(cells, axis=0), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(state[f"{layer.name}_scale"], np.nanstd(cells, axis=0), rtol=1e-12)
    assert (state["rna_n_patients"], state["cnv_n_patients"]) == (60, 45)
    np.testing.assert_array_equal(state["mean"][1:], 0.0)
    np.testing.assert_array_equal(state["scale"][1:], 1.0)


def test_what_a_site_releases_of_a_layer_is_counted_cell_by_cell():
    cohort = wide_patients()
    answer = Moments(WIDE).local("sums", {}, cohort)
    for j in range(4):
        known = [v for v in cohort.layers["cnv"].values[:, j] if not np.isnan(v)]
        assert answer["cnv_observed"][j] == len(known)
        assert answer["cnv_nonzero"][j] == sum(v != 0 for v in known)
        np.testing.assert_allclose(answer["cnv_total"][j], sum(known))
        np.testing.assert_allclose(answer["cnv_squares"][j], sum(v * v for v in known))


def test_a_site_without_a_layer_adds_nothing_to_it():
    full, bare = wide_patients(), wide_cohort({"cnv": np.ones((20, 4))}, 5)
    alone, both = (run_step(Moments(WIDE), {}, sites) for sites in ([full], [full, bare]))
    for name in ("rna_mean", "rna_scale", "rna_n_patients"):
        np.testing.assert_array_equal(alone[name], both[name])
    assert both["n_patients"] == 80


def test_prevalence_and_patients_are_counted_over_the_federation_and_not_at_a_site():
    rare = np.zeros((100, 2))
    rare[:6, 0] = 1.0
    cohort = wide_cohort({"mut": rare + np.array([0.0, 1.0])})
    context = context_of(layer_of("mut", m=2, min_prevalence=0.05))
    sites = split(cohort, np.arange(100) >= 6)
    assert run_step(Moments(context), {}, sites)["mut_scale"][0] > 0
    assert run_step(Moments(context), {}, sites[1:])["mut_scale"][0] == 0
    assert not run_step(Moments(context), {}, [sites[0]])["mut_scale"].any()  # six patients in all


def test_the_sums_of_all_layers_travel_in_one_message():
    (part,) = Moments(WIDE).parts()
    assert part.times == 1
    assert {spec.name for spec in part.releases} >= {"rna_total", "cnv_total"}
