"""What a real run's result says of other endpoints, from the sums that its plan asks for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from archipel.federation_scores import federated_scores
from archipel.local_run import run_plan
from archipel.result import RunFacts, make_result
from models.progress import Progress
from schemas.cohort import Cohort
from schemas.result import Result
from tests.privacy.test_inbound_outcomes import CATEGORY, TWO_KINDS, plan_of, sites


def run_of(endpoint: dict[str, object], cohorts: list[Cohort], **model: object) -> Progress:
    named = {f"site-{place}": replace(cohort, site=f"site-{place}") for place, cohort in enumerate(cohorts)}
    return run_plan(plan_of(endpoint, **model), named).progress


def result_of(progress: Progress) -> Result:
    facts = RunFacts(
        run_id="run-1",
        mode="federation",
        plan_hash=progress.plan.hash,
        seed=None,
        sites=(),
        round_log=(),
        bytes_up=0,
        bytes_down=0,
        wall_s=1.0,
        evaluation_kind="3-fold cross-validation.",
        evaluation=federated_scores(progress, "cv_"),
    )
    return make_result(progress, facts)


def test_an_outcome_of_several_values_is_judged_by_auc_brier_and_slope() -> None:
    result = result_of(run_of(CATEGORY, sites(), method="multinomial", penalty=1.0))
    federated, alone = result.evaluation["federated"], result.evaluation["site_only"]
    assert federated.c_index.mean is not None
    assert 0.5 < federated.c_index.mean < 1
    assert len(federated.c_index.per_fold) == 3
    assert federated.brier is not None
    assert federated.brier < 1 / 3  # what equal chances would have
    assert federated.log_likelihood is not None
    assert federated.log_likelihood > np.log(1 / 3)
    assert federated.calibration_slope is not None
    assert federated.reasons["ibs"] == "the outcome has no time; see `brier`"
    assert alone.brier is None
    assert alone.c_index.mean is not None


def test_competing_events_have_their_incidence_and_no_survival() -> None:
    cohorts = [replace(site, event=site.outcome == 1) for site in sites()]
    result = result_of(run_of(TWO_KINDS, cohorts, method="hazard", penalty=1.0))
    assert result.competing is not None
    assert result.competing.causes == ("mild", "severe")
    assert len(result.competing.points) == 2 * 3
    assert result.evaluation["federated"].ibs is None
    assert "compete" in result.evaluation["federated"].reasons["ibs"]
    predicted = [point.predicted for point in result.competing.points if point.cause == "mild"]
    assert predicted == sorted(predicted)


@pytest.mark.parametrize("method", ["hazard", "cox"])
def test_coefficients_of_every_cause_are_on_the_original_scale(method: str) -> None:
    cohorts = [replace(site, event=site.outcome == 1) for site in sites()]
    progress = run_of(TWO_KINDS, cohorts, method=method)
    result = result_of(progress)
    assert result.competing is not None
    arrays = progress.arrays
    for name, beta, scale in zip(
        result.coefficients, arrays["cause_2_fit.beta"], arrays["moments.scale"], strict=True
    ):
        assert result.competing.hazard_ratios["severe"][name] == pytest.approx(beta / scale)
