"""Whole plans with wide layers: federated equals pooled, masks change nothing, and every fault is a sentence."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from archipel.local_run import run_plan
from models.compile import build_step, compile_plan, prepared_arrays
from models.folded import fold_part
from models.plan_limits import LARGEST_MESSAGE
from schemas.card import data_use_card
from schemas.cohort import Cohort, Layer, concatenate
from schemas.design import design_columns
from schemas.dictionary import Column, Dictionary, WideLayer
from schemas.errors import FaultsError
from schemas.study import Differential, Endpoint, Evaluation, Model, Privacy, Study
from tests.layers_kit import Kit, shared_cohort
from tests.models.federation import run_step

METHODS = ("hazard", "cox", "cox-stratified")
N_FOLDS = 3


def dictionary_of(features=(("rna", 40), ("cnv", 6))):
    return Dictionary(
        kind="dictionary",
        version=1,
        name="invented",
        columns=(
            Column(name="patient_id", type="identifier"),
            Column(name="time", type="number", unit="day", min=0.0, max=100.0),
            Column(name="event", type="boolean"),
            Column(name="age", type="number", min=0.0, max=120.0),
        ),
        layers=tuple(
            WideLayer(name=name, features=f"{name}.features", identifiers=tuple(f"x{j}" for j in range(m)))
            for name, m in features
        ),
    )


def study_of(layers=("rna", "cnv"), *, secure_sum=True, folds=0, differential=None, **model):
    penalty = {"clinical": 1.0, **dict.fromkeys(layers, 5.0)}
    return Study(
        kind="study",
        version=1,
        name="invented",
        dictionary="dictionary.toml",
        endpoint=Endpoint(time="time", event="event", horizons_days=(50.0,)),
        model=Model(
            **{
                "layers": ("clinical", *layers),
                "covariates": ("age",),
                "components": 5,
                "penalty": penalty,
                **model,
            }
        ),
        evaluation=Evaluation(folds=folds),
        privacy=Privacy(secure_sum=secure_sum, differential=differential),
    )


def patients(n=240, seed=0, n_sites=4):
    """Patients whose hazard follows age and the first direction of rna; some have no cnv, one site none at all."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=n)
    rna = factor[:, None] * rng.normal(size=40) + rng.normal(size=(n, 40))
    cnv = rng.integers(-2, 3, (n, 6)).astype(float)
    cnv[rng.random(n) < 0.2] = np.nan
    age = rng.normal(60, 10, n)
    time = np.minimum(rng.exponential(40 * np.exp(-0.6 * factor - 0.02 * (age - 60))), 99.0)
    cohort = Cohort(
        tuple(f"p{i}" for i in range(n)), time, rng.random(n) < 0.7, np.zeros(n),
        {"clinical": Layer(("age",), age[:, None]), "rna": Layer(tuple(f"x{j}" for j in range(40)), rna),
         "cnv": Layer(tuple(f"x{j}" for j in range(6)), cnv)},
    )  # fmt: skip
    sites = {f"S{k}": replace(cohort.take(np.arange(n) % n_sites == k), site=f"S{k}") for k in range(n_sites)}
    last = sites[f"S{n_sites - 1}"]
    bare = {name: layer for name, layer in last.layers.items() if name != "cnv"}
    return {**sites, last.site: replace(last, layers=bare)}


SITES = patients()
DICTIONARY = dictionary_of()


def pooled(sites):
    return {"all": concatenate(list(sites.values()))}


def arrays_of(plan, sites, **how):
    return run_plan(plan, sites, **how).progress.arrays


def assert_same(one, other, tolerance=1e-10, names=None):
    for name in names or one:
        np.testing.assert_allclose(one[name], other[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("method", ["hazard", "cox"])
def test_the_federated_fit_with_layers_equals_the_pooled_one(method):
    plan = compile_plan(study_of(method=method), DICTIONARY, evaluation=False)
    one, other = arrays_of(plan, SITES), arrays_of(plan, pooled(SITES))
    assert_same(
        one, other, names=("fit.beta", "fit.covariance", "components.rna_loadings", "components.cnv_loadings")
    )
    assert np.abs(one["fit.beta"][1]) > 0.1  # the first component carries the hazard


@pytest.mark.parametrize("method", METHODS)
def test_neither_order_of_sites_nor_of_patients_matters(method):
    plan = compile_plan(study_of(method=method), DICTIONARY, evaluation=False, figures=False)
    order = np.random.default_rng(3)
    shuffled = {site: SITES[site].take(order.permutation(SITES[site].n_patients)) for site in reversed(SITES)}
    assert_same(arrays_of(plan, SITES), arrays_of(plan, shuffled), 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_masks_change_no_coefficient(method):
    plan = compile_plan(study_of(method=method), DICTIONARY, evaluation=False, figures=False)
    assert_same(arrays_of(plan, SITES), arrays_of(plan, SITES, masked=True), 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_is_switched_off_changes_nothing_but_its_own_coefficients(method):
    off = study_of(method=method, penalty={"clinical": 1.0, "rna": 5.0, "cnv": 1e9})
    without = study_of(("rna",), method=method, penalty={"clinical": 1.0, "rna": 5.0})
    one = arrays_of(compile_plan(off, DICTIONARY, evaluation=False, figures=False), SITES)
    other = arrays_of(compile_plan(without, DICTIONARY, evaluation=False, figures=False), SITES)
    np.testing.assert_array_equal(one["fit.beta"][6:], 0.0)
    np.testing.assert_array_equal(one["fit.covariance"][6:], 0.0)
    np.testing.assert_allclose(one["fit.beta"][:6], other["fit.beta"], atol=1e-12)
    np.testing.assert_allclose(one["fit.covariance"][:6, :6], other["fit.covariance"], atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_penalties_that_are_an_input_do_what_the_settings_would(method):
    plan = compile_plan(study_of(method=method), DICTIONARY, evaluation=False, figures=False)
    found = arrays_of(plan, SITES)
    fit = plan.by_name["fit"]
    settings = {name: value for name, value in fit.settings.items() if name != "penalties"}
    bare = plan.model_copy(update={"steps": (fit.model_copy(update={"settings": settings}),)})
    inputs = {name: found[source] for name, source in fit.inputs.items()}
    inputs["penalties"] = np.array(fit.settings["penalties"])
    assert_same(
        run_step(build_step(bare, "fit"), inputs, list(SITES.values())),
        {k[4:]: v for k, v in found.items() if k[:4] == "fit."},
    )


def test_folds_in_one_message_are_the_fits_of_each_fold():
    plan = compile_plan(study_of(folds=N_FOLDS), DICTIONARY)
    folds = {site: np.arange(cohort.n_patients) % N_FOLDS for site, cohort in SITES.items()}
    sites = {site: replace(cohort, fold_of=folds[site]) for site, cohort in SITES.items()}
    run = run_plan(plan, sites)
    assert not run.progress.skipped
    alone = compile_plan(study_of(), DICTIONARY, evaluation=False, figures=False)
    for fold in range(N_FOLDS):
        training = {site: fold_part(cohort, fold, "training") for site, cohort in sites.items()}
        found = arrays_of(alone, training)
        for name in ("moments.rna_mean", "components.rna_loadings", "components.cnv_loadings", "fit.beta"):
            np.testing.assert_allclose(run.progress.arrays[f"cv_{name}"][fold], found[name], atol=1e-9, err_msg=name)
    assert 0.5 < run.progress.arrays["cv_concordance.c_index"].mean() < 1.0
    assert np.isfinite(run.progress.arrays["cv_site_only.c_index"]).all()


def test_penalties_that_cross_validation_chooses_reach_the_fits_of_the_folds_and_of_the_sites_alone():
    plan = compile_plan(study_of(folds=N_FOLDS, penalty="cv"), DICTIONARY)
    assert plan.by_name["cv_site_only"].inputs == {"penalties": "cv_penalties.penalties"}
    folds = {site: np.arange(cohort.n_patients) % N_FOLDS for site, cohort in SITES.items()}
    dealt = {site: {"fold_of": of, "inner_fold_of": np.arange(of.size) // N_FOLDS % 5} for site, of in folds.items()}
    run = run_plan(plan, {site: replace(cohort, **dealt[site]) for site, cohort in SITES.items()})
    assert not run.progress.skipped
    assert run.progress.arrays["cv_penalties.penalties"].shape == (N_FOLDS, 11)
    assert (run.progress.arrays["cv_site_only.c_index"] > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_nobody_has_and_one_of_constants_leave_the_clinical_fit(method):
    empty = {}
    for site, cohort in SITES.items():
        constant = Layer(cohort.layers["rna"].columns, np.full_like(cohort.layers["rna"].values, 3.0))
        empty[site] = replace(cohort, layers={"clinical": cohort.layers["clinical"], "rna": constant})
    study = study_of(method=method)
    found = arrays_of(compile_plan(study, DICTIONARY, evaluation=False), empty)
    clinical = study_of((), method=method)
    alone = arrays_of(compile_plan(clinical, DICTIONARY, evaluation=False), SITES)
    assert all(np.isfinite(array).all() for array in found.values())
    np.testing.assert_array_equal(found["fit.beta"][1:], 0.0)
    np.testing.assert_allclose(found["fit.beta"][0], alone["fit.beta"][0], atol=1e-12)


def test_a_model_of_one_feature_and_nothing_else_has_an_estimate():
    study = study_of(("rna",), covariates=(), components=1)
    dictionary = dictionary_of((("rna", 1),))
    found = arrays_of(compile_plan(study, dictionary, evaluation=False), SITES)
    assert found["fit.beta"].shape == (1,)
    assert found["fit.beta"].any()


def test_fewer_patients_than_components_still_have_an_estimate():
    few = {site: cohort.take(np.arange(6)) for site, cohort in SITES.items()}
    study = study_of(("rna",), components=30)
    found = arrays_of(compile_plan(study, DICTIONARY, evaluation=False, figures=False), few)
    assert all(np.isfinite(array).all() for array in found.values())


def test_a_perfectly_separating_feature_has_an_estimate_under_a_penalty():
    def separated(cohort):
        values = cohort.layers["rna"].values.copy()
        values[:, 0] = 100.0 * cohort.event
        return replace(cohort, layers={**cohort.layers, "rna": Layer(cohort.layers["rna"].columns, values)})

    sites = {site: separated(cohort) for site, cohort in SITES.items()}
    for method in ("hazard", "cox"):
        found = arrays_of(compile_plan(study_of(method=method), DICTIONARY, evaluation=False), sites)
        assert np.isfinite(found["fit.beta"]).all()


def test_a_site_without_events_takes_part():
    sites = {**SITES, "S1": replace(SITES["S1"], event=np.zeros(SITES["S1"].n_patients, dtype=np.bool_))}
    plan = compile_plan(study_of(), DICTIONARY, evaluation=False)
    assert_same(arrays_of(plan, sites), arrays_of(plan, pooled(sites)), 1e-9, ("fit.beta",))


def test_what_makes_the_matrix_is_found_by_the_names_that_a_score_needs():
    plan = compile_plan(study_of(), DICTIONARY, evaluation=False, figures=False)
    arrays = arrays_of(plan, SITES)
    prepared = prepared_arrays(plan, arrays)
    assert set(prepared) == {
        "mean", "scale", "rna_mean", "rna_scale", "rna_loadings", "cnv_mean", "cnv_scale", "cnv_loadings",
    }  # fmt: skip
    np.testing.assert_array_equal(prepared["rna_loadings"], arrays["components.rna_loadings"])


def test_an_indicator_of_missing_layers_is_one_covariate_a_layer():
    study = study_of(missing_indicator=True)
    plan = compile_plan(study, DICTIONARY, evaluation=False)
    design = design_columns(study, DICTIONARY)
    assert [column.name for column in design[:4]] == ["age", "rna missing", "cnv missing", "rna 1"]
    assert [column.missing_layer for column in design[:4]] == [None, "rna", "cnv", None]
    found = arrays_of(plan, SITES)
    share = np.mean(np.concatenate([~cohort.has_layer("cnv") for cohort in SITES.values()]))
    np.testing.assert_allclose(found["moments.mean"][:3], [found["moments.mean"][0], 0.0, share])
    assert found["fit.beta"][1] == 0.0  # nobody lacks rna: a constant
    assert found["fit.beta"][2] != 0.0
    assert_same(found, arrays_of(plan, pooled(SITES)), 1e-9, ("fit.beta",))
    assert "of whom each layer is missing" in " ".join(data_use_card(plan).split())


# ---------------------------------------------------------------- the plan
def test_the_same_study_compiles_to_the_same_bytes_and_the_plan_binds_the_features():
    one, other = (compile_plan(study_of(), dictionary_of()) for _ in range(2))
    assert one.content == other.content
    assert compile_plan(study_of(), dictionary_of((("rna", 40), ("cnv", 7)))).hash != one.hash


def test_a_study_without_wide_layers_has_no_step_for_them():
    plan = compile_plan(study_of((), penalty=1.0), dictionary_of())
    assert "components" not in plan.by_name
    assert not any("rna" in spec.name for step in plan.steps for part in step.parts for spec in part.releases)


def test_all_features_need_no_components():
    plan = compile_plan(study_of(components=0), DICTIONARY, evaluation=False)
    assert "components" not in plan.by_name
    assert plan.by_name["fit"].inputs["rna_scale"] == "moments.rna_scale"


def test_without_masks_the_floor_holds_for_every_layer():
    clear = compile_plan(study_of(secure_sum=False), DICTIONARY, evaluation=False)
    for name in ("moments", "components"):
        assert clear.by_name[name].settings["layer_floor"] == 10
        assert "layer_floor" not in compile_plan(study_of(), DICTIONARY, evaluation=False).by_name[name].settings


def test_the_card_says_how_many_components_of_how_many_features():
    card = data_use_card(compile_plan(study_of(), DICTIONARY, evaluation=False))
    assert "5 components of 40 rna features, 5 components of 6 cnv features" in " ".join(card.split())
    assert "- layer rna: 40 features, from x0 to x39" in card
    all_features = data_use_card(compile_plan(study_of(components=0), DICTIONARY, evaluation=False))
    assert "all 40 rna features" in " ".join(all_features.split())


@pytest.mark.parametrize(
    ("study", "dictionary", "where", "what"),
    [
        (study_of(), dictionary_of((("rna", 0), ("cnv", 6))), "layer rna", "not listed"),
        (study_of(("total",)), dictionary_of((("total", 4),)), "layers", "cannot be called"),
        (study_of(("rna",), folds=20), dictionary_of((("rna", 20_000),)), "layers", "a message has at most 32"),
        (study_of(differential=Differential(epsilon=3.0)), DICTIONARY, "layers", "noise"),
    ],
    ids=["no features", "a name that is taken", "too large", "under differential privacy"],
)  # fmt: skip
def test_what_no_plan_can_hold_is_refused_in_a_sentence(study, dictionary, where, what):
    with pytest.raises(FaultsError) as refused:
        compile_plan(study, dictionary, adds_noise=True)
    fault = next(fault for fault in refused.value.faults if what in fault.what)
    assert where in fault.where
    assert fault.remedy


def test_twenty_thousand_features_in_five_folds_fit_in_a_message():
    study = study_of(("rna",), folds=5, components=20)
    plan = compile_plan(study, dictionary_of((("rna", 20_000),)))
    sizes = [
        8 * sum(s.size for s in specs) for step in plan.steps for p in step.parts for specs in (p.sends, p.releases)
    ]
    assert 20e6 < max(sizes) <= LARGEST_MESSAGE


# ---------------------------------------------------------------- the shared cohorts
@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in `simulate`: these matrices are small, and threads would wait for each other longer than they compute."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield


@pytest.fixture(scope="module")
def gbmlgg(cohorts: Path) -> Kit:
    return shared_cohort(cohorts, "tcga_gbmlgg")


@pytest.mark.parametrize("method", ["hazard", "cox"])
def test_twelve_sites_with_four_layers_find_what_one_table_would_in_at_most_24_rounds(gbmlgg: Kit, method) -> None:
    study = gbmlgg.study.model_copy(update={"model": gbmlgg.study.model.model_copy(update={"method": method})})
    plan = compile_plan(study, gbmlgg.dictionary, evaluation=False, figures=False)
    run = run_plan(plan, gbmlgg.cohorts)
    one, other = run.progress.arrays, arrays_of(plan, pooled(gbmlgg.cohorts))
    assert np.abs(one["fit.beta"] - other["fit.beta"]).max() <= 1e-10
    assert np.abs(one["components.rna_loadings"] - other["components.rna_loadings"]).max() <= 1e-10
    if method == "hazard":
        assert len(run.rounds) <= 24


def test_masks_change_nothing_on_twelve_real_sites(gbmlgg: Kit) -> None:
    plan = compile_plan(gbmlgg.study, gbmlgg.dictionary, evaluation=False, figures=False)
    one, other = arrays_of(plan, gbmlgg.cohorts), arrays_of(plan, gbmlgg.cohorts, masked=True)
    assert_same(one, other, 1e-6, ("fit.beta", "fit.covariance", "baseline.cumulative_hazard"))
