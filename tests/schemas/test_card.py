"""The data-use card: it names everything that the gate lets out, and says what that means."""

from __future__ import annotations

import base64
import datetime
import re

import pytest

from schemas.card import data_use_card, roster_card
from schemas.roster import make_roster
from schemas.study import Criterion, Eligibility, Evaluation, Model
from tests.plans import small_plan


def flat(card: str) -> str:
    return re.sub(r"\s+", " ", card)


def test_every_array_that_leaves_is_named_with_size_times_and_meaning() -> None:
    plan = small_plan()
    card = flat(data_use_card(plan))
    for step in plan.steps:
        assert f"{step.name}: {step.purpose}" in card
        for part in step.parts:
            times = "once" if part.times == 1 else f"{part.times} times"
            assert f"{part.name}, asked at most {times}:" in card
            for spec in part.releases:
                size = {(): "one number", (2,): "2 numbers", (2, 2): "2 x 2 numbers"}[spec.shape]
                assert f"- {spec.name}, {size}: {spec.meaning}" in card


def test_the_terms_of_the_study_are_named() -> None:
    plan = small_plan(expires=datetime.date(2027, 6, 30))
    card = flat(data_use_card(plan))
    for words in (
        "small-study: Relapse after treatment", "Do age and sex foretell relapse?", "Method development",
        "CER-2026-17", "study@hospital.example", "2027-06-30", plan.hash, "at most 6 in a run",
    ):  # fmt: skip
        assert words in card


def test_columns_are_named_with_unit_and_role() -> None:
    card = data_use_card(small_plan())
    assert "time_days (time): day; layer clinical" in card
    assert "age_years (covariate): year; layer clinical" in card
    assert "sex (covariate): categories female, male; layer clinical" in card
    assert "patient_id" not in card


def test_the_floors_are_named() -> None:
    card = flat(data_use_card(small_plan(min_patients=25)))
    assert "only with at least 25 of them" in card
    assert "patients of a site behind every number: 25" in card
    assert "events in each interval of the common time grid, over all sites: 5" in card


def test_it_says_what_a_second_run_would_show() -> None:
    card = flat(data_use_card(small_plan()))
    assert "as often as the hub asks" in card
    assert "The difference of two sums over nearly the same patients would be these patients" in card
    assert "differ from those of another by one to nine" in card
    assert "refuses coefficients that no honest fit would ask at" in card


@pytest.mark.parametrize("secure_sum", [True, False])
def test_it_says_in_words_whether_sums_are_masked(secure_sum: bool) -> None:
    words = {
        True: "Sums are masked (secure sum): what leaves this site looks like noise to the hub",
        False: "The study has switched the secure sum off, so sums are NOT MASKED: the hub sees this site's own",
    }
    card = flat(data_use_card(small_plan(secure_sum=secure_sum)))
    assert words[secure_sum] in card
    assert words[not secure_sum] not in card
    products = "one patient of this site alone, sums of products of columns can also tell that patient's other"
    assert (products in card) != secure_sum


def test_a_roster_shows_every_fingerprint_and_what_is_known_of_it() -> None:
    keys = {name: base64.b64encode(name.encode() * 32).decode() for name in "ABCD"}
    roster = make_roster(keys)
    card = roster_card(roster, "A", {"B": keys["B"], "C": keys["D"]})
    lines = {line.split()[0]: line for line in card.splitlines()[2:]}
    for site in roster.sites:
        assert site.fingerprint in lines[site.name]
    assert lines["A"].endswith("this site")
    assert lines["B"].endswith("as compared before")
    assert lines["C"].endswith("CHANGED: refused")
    assert lines["D"].endswith("NEW: compare")
    assert roster.fingerprint in lines["all"]
    assert "4 sites; 3 of them must answer" in flat(card)


@pytest.mark.parametrize(
    ("on_dropout", "words"),
    [("pause", "the run waits for it"), ("continue", "The hub could then infer the leaving site's sums")],
)
def test_it_says_what_a_dropout_means(on_dropout: str, words: str) -> None:
    others = {"pause": "could then infer", "continue": "the run waits for it"}
    card = flat(data_use_card(small_plan(on_dropout=on_dropout)))
    assert words in card
    assert others[on_dropout] not in card


def test_it_says_which_numbers_are_shortened_and_which_total_the_site_checks() -> None:
    plan = small_plan(secure_sum=True)
    moments = plan.steps[0]
    part = moments.parts[0].model_copy(update={"norm": 2.5, "verified": True})
    marked = plan.model_copy(update={"steps": (moments.model_copy(update={"parts": (part,)}), plan.steps[1])})
    card = flat(data_use_card(marked))
    assert "to a length of at most 2.5" in card
    assert "every site opens this total itself" in card
    plain = flat(data_use_card(plan))
    assert "to a length of" not in plain
    assert "opens this total itself" not in plain
    in_clear = marked.model_copy(update={"study": small_plan(secure_sum=False).study})
    assert "opens this total itself" not in flat(data_use_card(in_clear))


def test_masked_evaluation_is_a_cross_validation() -> None:
    card = flat(data_use_card(small_plan(evaluation=Evaluation(folds=5), secure_sum=True)))
    assert "cross-validation in 5 folds, into which each site deals its own patients" in card


def test_eligibility_and_evaluation_are_named() -> None:
    eligibility = Eligibility(
        criteria=(
            Criterion(column="age_years", op=">=", value=18.0), Criterion(column="sex", op="==", value="female"),
            Criterion(column="relapse", op="!=", value=True),
        ),
        complete_cases=True,
    )  # fmt: skip
    plan = small_plan(eligibility=eligibility, evaluation=Evaluation(folds=5))
    card = flat(data_use_card(plan))
    for words in ("age_years >= 18", "sex == female", "relapse != true", "no covariate empty", "one in 5 patients"):
        assert words in card


@pytest.mark.parametrize(
    ("penalty", "words"),
    [(0.0, "no penalty"), (0.5, "penalised (0.5)"), ({"clinical": 2.0}, "penalised (clinical 2)")],
)
def test_the_penalty_is_named(penalty: float | dict[str, float], words: str) -> None:
    plan = small_plan(model=Model(covariates=("age_years", "sex"), penalty=penalty))
    assert words in flat(data_use_card(plan))


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\r\nPlan  0000", "\x9b31m", "\u202e", "\x00"])
def test_text_of_the_plan_commands_no_terminal(hostile: str) -> None:
    plan = small_plan(title=f"Nothing{hostile}leaves", purpose=f"p{hostile}q", contact=hostile)
    card = data_use_card(plan)
    assert all(character == "\n" or character.isprintable() for character in card)
    assert len([line for line in card.splitlines() if line.startswith("Plan ")]) == 1


@pytest.mark.parametrize("secure_sum", [True, False])
def test_lines_fit_a_terminal(secure_sum: bool) -> None:
    plan = small_plan(purpose="word " * 300, secure_sum=secure_sum)
    assert max(len(line) for line in data_use_card(plan).splitlines()) <= 100
