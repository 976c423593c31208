"""The search for penalties under the inbound check: no honest one is refused, every inner fold is on its own way."""

from dataclasses import replace

import numpy as np
import pytest

from models.compile import build_step, compile_plan
from models.folds import deal, with_inner_folds
from models.progress import Progress
from models.step import combine
from privacy.inbound import Seen, judge, learned
from schemas.codes import Code
from tests.archipel.worlds import dictionary, sites, study
from tests.attacks.federation import request_of


def held(seed=0):
    """The sites' patients with both deals."""
    dealt = {}
    for name, cohort in sites(seed=seed).items():
        folds = deal(cohort.event, None, 2, name.encode(), 0, cohort.patient_ids)
        dealt[name] = replace(with_inner_folds(cohort, name.encode()), fold_of=folds)
    return list(dealt.values())


def questions(plan, cohorts):
    """Yield every question of an honest run with what the first site remembers before it."""
    progress, seen = Progress.start(plan), Seen()
    while (question := progress.question) is not None:
        request = request_of(plan, question.part, question.arrays, question.step, question.number)
        yield question, seen
        terms = [build_step(plan, question.step).local(question.part, question.arrays, site) for site in cohorts]
        judged = judge(request, plan, seen)
        assert isinstance(judged, Seen), f"{judged} in {question.step} {question.number}"
        seen = Seen.decode(learned(judged, request, terms[0]).encode())
        progress = progress.absorb(combine(terms))


@pytest.mark.parametrize("seed", range(3))
def test_an_honest_search_passes_alone_and_folded(seed):
    plan = compile_plan(study(), dictionary(), figures=False)
    asked = [question.step for question, _ in questions(plan, held(seed))]
    assert {"penalties", "cv_penalties", "fit", "cv_fit"} <= set(asked)


@pytest.mark.parametrize("step", ["penalties", "cv_penalties"])
def test_one_inner_fold_far_from_its_last_point_is_refused(step):
    plan = compile_plan(study(), dictionary(), figures=False)
    for question, seen in questions(plan, held()):
        if question.step == step and question.number == 2:
            beta = np.array(question.arrays["beta"])
            beta[..., 3, :] += 5.0
            far = request_of(plan, "expand", {**question.arrays, "beta": beta}, step, 2)
            assert judge(far, plan, seen) is Code.REQUEST_TOO_FAR
            return
    raise AssertionError("the search was never asked a third time")
