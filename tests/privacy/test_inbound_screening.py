"""A screening at the inbound check: no honest run is refused, and the site still measures what is kept."""

from dataclasses import replace

import pytest

from models.compile import compile_plan
from models.folds import deal
from privacy.inbound import Limits
from tests.models.test_layers import DICTIONARY, SITES, study_of
from tests.privacy.test_inbound import honest_run

COHORTS = list(SITES.values())


@pytest.mark.parametrize("method", ["hazard", "cox"])
def test_honest_runs_with_components_of_what_is_kept_pass(method: str) -> None:
    honest_run(compile_plan(study_of(method=method, screening=8), DICTIONARY, evaluation=False), COHORTS)


def test_honest_folds_that_screen_pass() -> None:
    sites = [replace(site, fold_of=deal(site.event, None, 3, b"key", 0, site.patient_ids)) for site in SITES.values()]
    honest_run(compile_plan(study_of(folds=3, screening=8), DICTIONARY), sites)


def test_an_honest_descent_on_the_features_that_are_kept_passes() -> None:
    honest_run(compile_plan(study_of(components=0, screening=8), DICTIONARY), COHORTS, Limits(points=100))


def test_coefficients_of_features_are_held_to_the_site_s_own_spread_after_a_screening_too() -> None:
    plan = compile_plan(study_of(components=0, screening=8), DICTIONARY, evaluation=False)
    for seen in honest_run(plan, COHORTS, Limits(points=100)):
        if seen.own["moments.rna_sums"].any():
            assert seen.own["screening.rna_scale"].any()
