"""Screening as a study asks for it: its place in the plan, and that nothing leaks from a fold's test patients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from archipel.fold_fits import fit, make_folds
from archipel.judging import Judge, scores_of
from archipel.local_run import run_plan
from models.compile import compile_plan, step_context
from models.folded import fold_part
from models.folds import deal
from models.moments import Moments
from models.screening import Screening
from schemas.cohort import Cohort, Layer, concatenate
from schemas.dictionary import Column, Dictionary, WideLayer
from schemas.errors import FaultsError
from schemas.study import Endpoint, Evaluation, Model, Privacy, Study, load_study
from tests.models.federation import run_step

M, N = 400, 40
FEATURES = tuple(f"g{j}" for j in range(M))
DICTIONARY = Dictionary(
    kind="dictionary",
    version=1,
    name="screened",
    columns=(
        Column(name="patient_id", type="identifier"),
        Column(name="time", type="number", unit="day", min=0.0, max=100.0),
        Column(name="event", type="boolean"),
    ),
    layers=(WideLayer(name="rna", features="rna.features", identifiers=FEATURES),),
)


def study(folds: int = 5, **model: object) -> Study:
    return Study(
        kind="study",
        version=1,
        name="screened",
        dictionary="dictionary.toml",
        endpoint=Endpoint(time="time", event="event"),
        model=Model(
            **{"method": "hazard", "layers": ("rna",), "components": 4, "penalty": 1.0, "screening": 12, **model}
        ),
        evaluation=Evaluation(folds=folds),
        privacy=Privacy(min_patients=1),
    )


def federation(seed: int) -> dict[str, Cohort]:
    """Three sites whose outcomes have nothing to do with any feature."""
    rng = np.random.default_rng(seed)
    return {
        site: Cohort(
            patient_ids=tuple(f"{site}{i}" for i in range(N)),
            time=rng.uniform(1, 99, N),
            event=rng.random(N) < 0.7,
            entry=np.zeros(N),
            layers={"rna": Layer(FEATURES, rng.normal(size=(N, M)))},
            site=site,
        )
        for site in ("a", "b", "c")
    }


def nested_c(cohorts: Mapping[str, Cohort], asked: Study) -> float:
    judged = []
    for fold in make_folds(asked, cohorts):
        train = {site: c.take(~fold.test[site]) for site, c in cohorts.items()}
        test = concatenate([c.take(fold.test[site]) for site, c in cohorts.items()])
        judge = Judge(asked, fold, concatenate(list(train.values())), test)
        judged.append([judge("", fit(asked, DICTIONARY, train))])
    return scores_of(judged).c_index.mean


def screened_before_the_folds(cohorts: Mapping[str, Cohort]) -> dict[str, Cohort]:
    """The mistake: features that were chosen with everybody's outcomes."""
    plan = compile_plan(study(folds=0), DICTIONARY, evaluation=False, figures=False)
    kept = np.flatnonzero(run_plan(plan, cohorts).progress.arrays["screening.rna_scale"])
    return {
        site: dataclasses.replace(
            c, layers={"rna": Layer(tuple(FEATURES[j] for j in kept), c.layers["rna"].values[:, kept])}
        )
        for site, c in cohorts.items()
    }


def test_outcomes_that_have_nothing_to_do_with_the_features_are_not_predicted() -> None:
    worlds = [federation(seed) for seed in range(10)]
    inside = np.mean([nested_c(world, study()) for world in worlds])
    outside = np.mean([nested_c(screened_before_the_folds(world), study(screening=0)) for world in worlds[:4]])
    assert 0.45 <= inside <= 0.55
    assert outside > 0.65  # what this test would see if a screen had looked at the test patients


def test_every_fold_of_a_real_federation_screens_on_its_training_patients_alone() -> None:
    asked = study()
    plan = compile_plan(asked, DICTIONARY, figures=False)
    cohorts = {
        site: dataclasses.replace(c, fold_of=deal(c.event, None, 5, b"key", 0, c.patient_ids))
        for site, c in federation(3).items()
    }
    arrays = run_plan(plan, cohorts).progress.arrays
    for fold in range(5):
        own = [fold_part(c, fold, "training") for c in cohorts.values()]
        settings = dict(plan.by_name["screening"].settings)
        context = step_context(asked, DICTIONARY, settings)
        moments = run_step(Moments(context), {}, own)
        grid = {name: arrays[f"cv_grid.{name}"][fold] for name in ("edges", "n_intervals")}
        alone = run_step(Screening(context), {**moments, **grid}, own)
        np.testing.assert_allclose(arrays["cv_screening.rna_scale"][fold], alone["rna_scale"], rtol=1e-12)
    kept = {tuple(np.flatnonzero(scale)) for scale in arrays["cv_screening.rna_scale"]}
    assert len(kept) > 1
    assert all(len(one) == 12 for one in kept)
    # What is left out weighs nothing in any component, in the folds and in the model itself.
    assert not arrays["components.rna_loadings"][arrays["screening.rna_scale"] == 0].any()
    assert not arrays["cv_components.rna_loadings"][arrays["cv_screening.rna_scale"] == 0].any()


@pytest.mark.parametrize("components", [0, 4])
def test_a_plan_screens_after_the_grid_and_before_whatever_takes_a_feature_s_scale(components: int) -> None:
    plan = compile_plan(study(components=components), DICTIONARY)
    names = [step.name for step in plan.steps]
    assert names.index("grid") < names.index("screening") < names.index("fit")
    taking = [step for step in plan.steps if "rna_scale" in step.inputs and step.method != "screening"]
    assert taking
    assert all(step.inputs["rna_scale"].endswith("screening.rna_scale") for step in taking)
    assert "screening" not in [step.method for step in compile_plan(study(screening=0), DICTIONARY).steps]


def test_with_all_features_those_left_out_have_no_coefficient() -> None:
    plan = compile_plan(study(folds=0, components=0, penalty=30.0), DICTIONARY, figures=False)
    arrays = run_plan(plan, federation(1), masked=True).progress.arrays
    assert np.count_nonzero(arrays["fit.beta"]) == 12


def test_fewer_features_than_components_give_one_component_each() -> None:
    assert compile_plan(study(screening=3), DICTIONARY).by_name["components"].part("rotation").releases[-1].size > 0
    assert step_context(study(screening=3), DICTIONARY, {"n_bins": 1}).layers[0].n_components == 3


def test_an_outcome_without_a_time_cannot_be_screened(tmp_path: Path) -> None:
    (tmp_path / "dictionary.toml").write_text(
        'kind = "dictionary"\nversion = 1\nname = "d"\n[[columns]]\nname = "patient_id"\ntype = "identifier"\n'
        '[[columns]]\nname = "ill"\ntype = "boolean"\n[[columns]]\nname = "age"\ntype = "number"\n'
    )
    (tmp_path / "study.toml").write_text(
        'kind = "study"\nversion = 1\nname = "ill"\ndictionary = "dictionary.toml"\n[endpoint]\ntype = "binary"\n'
        'outcome = "ill"\n[model]\nmethod = "logistic"\ncovariates = ["age"]\nscreening = 10\n'
    )
    with pytest.raises(FaultsError, match="time to an event alone"):
        load_study(tmp_path / "study.toml")
