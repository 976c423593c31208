"""Members by LiRA on the released model: many without a penalty, few with the best one, none at epsilon 3.

The penalties are those of the best cross-validated C (docs/attacks.md): they cost nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.membership import attack, expression, newton, private
from tests.attacks.tables import Table, bundled

N_MODELS = 40


@pytest.fixture(scope="module")
def breast() -> Table:
    return bundled("breast")


@pytest.fixture(scope="module")
def bladder(cohorts: Path) -> Table:
    return expression("tcga_blca", cohorts, 300)


def test_without_a_penalty_the_model_of_82_covariates_tells_members(breast: Table) -> None:
    leak = attack(breast, newton(breast, 0.01), N_MODELS, seed=0)
    assert leak.auc >= 0.74
    assert leak.low > 0.6


def test_with_the_best_penalty_the_model_of_82_covariates_tells_few(breast: Table) -> None:
    assert attack(breast, newton(breast, 300.0), N_MODELS, seed=0).auc <= 0.65


def test_at_epsilon_3_the_model_of_82_covariates_tells_nobody(breast: Table) -> None:
    leak = attack(breast, private(breast, 3.0), N_MODELS, seed=0)
    assert leak.auc <= 0.59
    assert leak.low < 0.5 < leak.high


def test_without_a_penalty_the_model_of_300_genes_tells_members(bladder: Table) -> None:
    leak = attack(bladder, newton(bladder, 0.3), N_MODELS, seed=0)
    assert leak.auc >= 0.88
    assert leak.low > 0.8


def test_with_the_best_penalty_the_model_of_300_genes_tells_few(bladder: Table) -> None:
    assert attack(bladder, newton(bladder, 2000.0), N_MODELS, seed=0).auc <= 0.66


def test_at_epsilon_3_the_model_of_300_genes_tells_nobody(bladder: Table) -> None:
    leak = attack(bladder, private(bladder, 3.0), N_MODELS, seed=0)
    assert leak.auc <= 0.59
    assert leak.low < 0.5 < leak.high
