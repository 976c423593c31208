from dataclasses import replace

import numpy as np
import pytest

from archipel.cross_validation import cross_validate
from archipel.fold_fits import clinical_only, fit, fit_alone, with_dealt_inner_folds
from archipel.judging import difference_of
from models.step import DivergedError
from schemas.result import CIndex, Scores
from schemas.study import Evaluation, Model, Privacy
from tests.archipel.worlds import dictionary, sites, study


def scores(*per_fold):
    c_index = CIndex(mean=0.5, sd=None, per_fold=per_fold)
    return Scores(c_index=c_index, ibs=0.1, calibration_slope=1.0)


@pytest.fixture(scope="module")
def validated():
    return cross_validate(study(), dictionary(), sites(), processes=1)


def test_federated_equals_pooled_with_everything_chosen_inside_the_folds(validated):
    federated, pooled = validated.scores["federated"], validated.scores["pooled"]
    np.testing.assert_allclose(federated.c_index.per_fold, pooled.c_index.per_fold, rtol=1e-9)
    assert federated.ibs == pytest.approx(pooled.ibs, rel=1e-6)


def test_clinical_columns_alone_and_sites_left_out_stand_beside_the_model(validated):
    assert set(validated.scores) == {
        "federated", "site_only", "pooled", "federated_clinical", "new_site", "new_site_clinical",
    }  # fmt: skip
    assert len(validated.scores["new_site"].c_index.per_fold) == 3
    assert [(one.first, one.second) for one in validated.differences] == [
        ("federated", "site_only"),
        ("federated", "federated_clinical"),
        ("new_site", "new_site_clinical"),
    ]
    alone = validated.differences[0]
    assert alone.c_index == pytest.approx(
        np.mean(
            np.subtract(
                validated.scores["federated"].c_index.per_fold, validated.scores["site_only"].c_index.per_fold
            )
        )
    )


def test_processes_change_no_figure(validated):
    parallel = cross_validate(study(), dictionary(), sites(), processes=2)
    assert parallel.scores == validated.scores
    assert parallel.differences == validated.differences


def test_exact_times_choose_their_penalties_on_a_merged_grid():
    exact = study(
        model=Model(
            method="cox", layers=("clinical", "rna"), covariates=("age", "stage"), components=3, penalty="cv"
        ),
        privacy=Privacy(min_patients=1, min_events_per_interval=1, time_bins=16),
    )
    model = fit(exact, dictionary(), with_dealt_inner_folds(exact, sites()))
    assert model.exact
    assert model.penalties is not None
    assert model.penalties.shape == model.model["beta"].shape
    on_grid = fit(study(), dictionary(), with_dealt_inner_folds(study(), sites()))
    np.testing.assert_array_equal(model.penalties, on_grid.penalties)
    assert np.corrcoef(model.model["beta"], on_grid.model["beta"])[0, 1] > 0.98


def test_a_site_alone_has_its_own_components_and_penalties():
    own = study()
    cohorts = with_dealt_inner_folds(own, sites())
    alone, together = fit_alone(own, dictionary(), cohorts["site-0"]), fit(own, dictionary(), cohorts)
    assert alone is not None
    assert alone.penalties is not None
    assert not np.allclose(alone.model["rna_loadings"], together.model["rna_loadings"])


def test_a_site_without_events_or_with_few_patients_trains_nothing():
    own = study()
    cohort = with_dealt_inner_folds(own, sites())["site-0"]
    assert fit_alone(own, dictionary(), cohort.take(np.arange(7))) is None
    assert fit_alone(own, dictionary(), replace(cohort, event=np.zeros_like(cohort.event))) is None


def test_a_site_with_three_events_trains_a_model():
    own = study()
    cohort = with_dealt_inner_folds(own, sites())["site-0"]
    few = replace(cohort, event=cohort.event & (np.cumsum(cohort.event) <= 3))
    assert fit_alone(own, dictionary(), few) is not None


def test_the_clinical_part_of_a_study_is_none_where_that_is_all_or_nothing():
    part = clinical_only(study(), dictionary())
    assert part is not None
    assert part.model.layers == ("clinical",)
    assert part.model.covariates == ("age", "stage")
    assert clinical_only(part, dictionary()) is None
    genes_alone = study(model=Model(layers=("rna",), components=3, penalty="cv"))
    assert clinical_only(genes_alone, dictionary()) is None


def test_a_fold_that_cannot_be_fitted_is_named():
    nobody = {site: replace(cohort, event=np.zeros_like(cohort.event)) for site, cohort in sites().items()}
    with pytest.raises(DivergedError, match="repeat 0, fold 0"):
        cross_validate(study(evaluation=Evaluation(folds=2)), dictionary(), nobody, processes=1)


def test_the_interval_of_a_difference_counts_that_folds_share_training_patients():
    known = {"federated": scores(0.8, 0.7, 0.75, None), "site_only": scores(0.7, 0.65, 0.6, 0.5)}
    found = difference_of("federated", "site_only", known, 0.25)
    assert found is not None
    assert found.c_index == pytest.approx(0.1)
    assert found.folds == 3
    # t of 2 degrees of freedom at 97.5 %: 4.303; standard deviation .05; variance factor 1/3 + 1/4
    assert found.upper - found.c_index == pytest.approx(4.302653 * 0.05 * np.sqrt(1 / 3 + 0.25), rel=1e-6)
    one = {"federated": scores(0.8), "site_only": scores(0.7)}
    single = difference_of("federated", "site_only", one, 0.25)
    assert single is not None
    assert (single.lower, single.upper) == (None, None)
    assert (
        difference_of("federated", "site_only", {"federated": scores(None), "site_only": scores(0.6)}, 0.25) is None
    )
