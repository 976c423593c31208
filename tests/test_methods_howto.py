"""docs/methods-howto.md as it stands there: its method is registered, planned, run, masked, folded and explained."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import models.plan_code
from archipel.local_run import run_plan
from models.compile import compile_plan
from models.folds import deal
from models.plan_steps import Compiler
from models.registry import METHODS
from schemas.card import data_use_card
from schemas.cohort import concatenate
from schemas.plan import Plan
from tests.models.test_layers import DICTIONARY, SITES, study_of
from tests.privacy.test_inbound import honest_run

PAGE = Path(__file__).parents[1] / "docs" / "methods-howto.md"
FILE, LINE, STEP = re.findall(
    r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
)
STUDY = study_of(layers=(), covariates=("age",))


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry with the page's line in it."""
    written: dict[str, Any] = {}
    exec(compile(FILE, "models/quartiles.py", "exec"), written)
    entry = eval(f"{{{LINE}}}", written)
    assert not set(entry) & set(METHODS)
    monkeypatch.setattr(models.plan_code, "METHODS", MappingProxyType({**METHODS, **entry}))


def planned() -> Plan:
    """A plan of the study with the page's step behind its own."""
    plan = compile_plan(STUDY, DICTIONARY, evaluation=False, figures=False)
    step = eval(STEP, {"self": Compiler(STUDY, DICTIONARY, None)})
    return plan.model_copy(update={"steps": (*plan.steps, step)})


@pytest.mark.parametrize("masked", [False, True])
def test_it_counts_over_all_sites_what_one_table_holds(masked: bool) -> None:
    share = run_plan(planned(), SITES, masked=masked).progress.arrays["quartiles.share"]
    pooled = concatenate(list(SITES.values()))
    age = pooled.matrix(["age"])[:, 0]
    z = (age - np.nanmean(age)) / np.nanstd(age)
    cuts = np.array([-0.67448975, 0.0, 0.67448975])
    slow = [np.mean([np.sum(cuts < value) == k for value in np.nan_to_num(z)]) for k in range(4)]
    np.testing.assert_allclose(share, [slow], atol=1e-12)
    assert share.sum() == pytest.approx(1)


def test_gate_and_inbound_check_let_it_through_and_the_card_names_it() -> None:
    honest_run(planned(), list(SITES.values()))
    card = re.sub(r"\s+", " ", data_use_card(planned()))
    assert "How many patients lie in each quarter of each covariate." in card
    assert "counts, 1 x 4 numbers: patients in each quarter of each covariate" in card


def test_it_runs_on_every_fold_at_once() -> None:
    plan = compile_plan(study_of(layers=(), folds=3), DICTIONARY, figures=False)
    compiler = Compiler(STUDY, DICTIONARY, None)
    inputs = {name: f"cv_moments.{name}" for name in ("mean", "scale")}
    settings = {"n_folds": 3, "look_at": "training"}
    step = compiler._step("cv_quartiles", "quartiles", "folds", "By fold.", settings, inputs=inputs, optional=True)
    sites = {
        name: dataclasses.replace(c, fold_of=deal(c.event, None, 3, b"key", 0, c.patient_ids))
        for name, c in SITES.items()
    }
    run = run_plan(plan.model_copy(update={"steps": (*plan.steps, step)}), sites)
    share = run.progress.arrays["cv_quartiles.share"]
    assert share.shape == (3, 1, 4)
    np.testing.assert_allclose(share.sum(axis=2), 1)
