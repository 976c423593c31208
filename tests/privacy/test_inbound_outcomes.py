"""What a site may be asked by a study of an outcome without a time, of competing events, or of a treatment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.compile import build_step, compile_plan
from models.progress import Progress
from models.step import combine
from privacy import gate
from privacy.inbound import Limits, Seen, judge, learned
from schemas.codes import Code
from schemas.cohort import Cohort, Layer
from schemas.dictionary import Column, Dictionary
from schemas.plan import Plan
from schemas.study import Study
from tests.attacks.federation import request_of
from tests.models.federation import split
from tests.models.synthetic import COLUMNS
from tests.models.test_multinomial import with_outcome
from tests.privacy.test_inbound import honest_run

CODES = ("none", "mild", "severe")


def plan_of(endpoint: dict[str, object], **model: object) -> Plan:
    """A plan over the invented patients of the tests, their folds included."""
    columns = [
        Column(name="patient_id", type="identifier"),
        Column(name="time", type="number", unit="day", min=0, max=20),
        Column(name="kind", type="category", codes=CODES),
        *(Column(name=name, type="number", min=-20, max=20) for name in COLUMNS[:3]),
        Column(name=COLUMNS[3], type="boolean"),
    ]
    dictionary = Dictionary(kind="dictionary", version=1, name="asked", columns=tuple(columns))
    content = {
        "kind": "study",
        "version": 1,
        "name": "asked",
        "dictionary": "dictionary.toml",
        "endpoint": endpoint,
        "model": {"covariates": COLUMNS, **model},
        "evaluation": {"folds": 3},
    }
    return compile_plan(Study.model_validate(content), dictionary)


CATEGORY = {"type": "category", "outcome": "kind"}
TWO_KINDS = {"time": "time", "event": "kind", "cause": "mild", "competing": ("severe",), "horizons_days": (5.0,)}


def sites() -> list[Cohort]:
    cohort = with_outcome(240)
    observed = replace(cohort, entry=np.zeros(240), fold_of=np.arange(240) % 3)
    return split(observed, np.arange(240) % 4)


def treated(site: Cohort) -> Cohort:
    x = site.matrix(COLUMNS)
    layer = Layer((*COLUMNS, "x3 x x0"), np.column_stack((x, np.where(x[:, 3] == 1, x[:, 0], np.nan))))
    return replace(site, outcome=None, layers={"clinical": layer})


@pytest.mark.parametrize("penalty", [0.0, 3.0])
def test_honest_fits_of_several_outcomes_pass_with_all_their_folds(penalty: float) -> None:
    seen = honest_run(plan_of(CATEGORY, method="multinomial", penalty=penalty), sites())
    assert {"fit/1.beta", "fit/2.beta", "cv_fit/1.beta"} <= set(seen[0].searched)


def test_honest_fits_of_competing_events_pass() -> None:
    of_kind = [replace(site, event=site.outcome == 1) for site in sites()]
    for method in ("hazard", "cox"):
        honest_run(plan_of(TWO_KINDS, method=method, penalty=1.0), of_kind)


def test_an_honest_treatment_response_passes() -> None:
    plan = plan_of({"time": "time", "event": "kind"}, treatment="x3", interactions=("x0",), penalty=1.0)
    honest_run(plan, [treated(site) for site in sites()])


def first_question_of_the_fit(n_answered: int = 0) -> tuple[Plan, Seen, Progress]:
    plan, members = plan_of(CATEGORY, method="multinomial"), sites()
    progress, seen = Progress.start(plan), Seen()
    while (question := progress.question) is not None:
        if question.step == "fit" and question.number >= n_answered:
            return plan, seen, progress
        request = request_of(plan, question.part, question.arrays, question.step, question.number)
        terms = [build_step(plan, question.step).local(question.part, question.arrays, site) for site in members]
        judged = judge(request, plan, seen)
        assert isinstance(judged, Seen)
        seen = learned(judged, request, terms[0])
        progress = progress.absorb(combine(terms))
    raise AssertionError("the run ended before")


@pytest.mark.parametrize(
    ("beta", "n_answered"),
    [
        ([0.0] * 4 + [1.6] * 4, 0),  # one value's coefficients are too long, the other's are not
        ([0.0] * 4 + [-1.0, -1.0, -1.0, 0.0], 3),  # and too far from where that value was last asked
    ],
)
def test_every_value_of_an_outcome_is_held_to_the_limits(beta: list[float], n_answered: int) -> None:
    plan, seen, progress = first_question_of_the_fit(n_answered)
    question = progress.question
    assert question is not None
    honest = request_of(plan, question.part, question.arrays, "fit", question.number)
    assert isinstance(judge(honest, plan, seen), Seen)
    arrays = {**question.arrays, "beta": np.array(beta)}
    asked = request_of(plan, question.part, arrays, "fit", question.number)
    assert gate.admit(asked, plan) is None
    assert judge(asked, plan, seen, Limits(step=1.5)) == Code.REQUEST_TOO_FAR


def test_a_fit_of_an_outcome_is_asked_at_no_more_points_than_allowed() -> None:
    plan, seen, progress = first_question_of_the_fit()
    question = progress.question
    assert question is not None
    rng = np.random.default_rng(0)
    verdicts: list[Seen | Code] = []
    for _ in range(Limits().points + 1):
        arrays = {**question.arrays, "beta": rng.normal(0, 0.2, 8)}
        verdict = judge(request_of(plan, question.part, arrays, "fit", question.number), plan, seen)
        verdicts.append(verdict)
        seen = verdict if isinstance(verdict, Seen) else seen
    assert all(isinstance(verdict, Seen) for verdict in verdicts[:-1])
    assert verdicts[-1] == Code.ROUNDS_EXHAUSTED
