"""The discrimination that `statistics.md` of the partnership reports, found again by `archipel simulate`.

Same splits, same definitions: Cox at exact times on standardised covariates, C over all pairs of a test fold. The
published figures chose each fold's penalty by cross-validation; here one penalty is fixed for each cohort.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from archipel.simulate import simulate
from tests.site_folders import fold_column, write_cohort


@pytest.mark.parametrize(
    ("cohort", "repeats", "penalty", "federated", "site_only"),
    [
        ("cgd", 2, 10.0, 0.624, 0.554),
        ("rhdnase_cf", 2, 10.0, 0.649, 0.628),
        ("fed_tcga_brca", 5, 30.0, 0.7525, 0.660),
    ],
)
def test_c_index_is_within_a_hundredth_of_the_reported(
    cohorts: Path, tmp_path: Path, cohort: str, repeats: int, penalty: float, federated: float, site_only: float
) -> None:
    found: dict[str, list[float]] = defaultdict(list)
    for repeat in range(repeats):
        study, sites = write_cohort(
            cohorts / cohort,
            tmp_path / str(repeat),
            model={"method": "cox", "penalty": penalty},
            privacy={"min_events_per_interval": 1},
            evaluation={"folds": {"column": "cv_fold"}},
            extra=fold_column(cohorts / cohort, repeat),
        )
        result = simulate(study, sites, tmp_path / str(repeat) / "out")
        for model, scores in result.evaluation.items():
            found[model] += [c for c in scores.c_index.per_fold if c is not None]
    assert len(found["federated"]) == 5 * repeats
    assert abs(np.mean(found["federated"]) - federated) < 0.01
    assert abs(np.mean(found["site_only"]) - site_only) < 0.01
    assert np.allclose(found["federated"], found["pooled"], atol=1e-12)
