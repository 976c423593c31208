from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archipel import report
from archipel.report import PlanDiffersError, read_result, render_report, write_report
from schemas.dictionary import Dictionary
from schemas.errors import IncompatibleVersionError, MessageError
from schemas.plan import ArraySpec, PartSpec, Plan, PlanStep
from schemas.result import Result
from schemas.study import Study
from tests.archipel.pages import assert_self_contained, read
from tests.archipel.results import SITES, changed, federation_result, simulated_result

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>&amp;\'";}</style></svg><b>'


def a_plan() -> Plan:
    """A plan with one part that the result below has asked and one that it never needed."""
    study = Study.model_validate(
        {
            "kind": "study",
            "version": 1,
            "name": "cgd",
            "dictionary": "dictionary.toml",
            "endpoint": {"time": "time_days", "event": "event"},
            "model": {"covariates": ("age_years",)},
        }
    )
    dictionary = Dictionary.model_validate(
        {"kind": "dictionary", "version": 1, "name": "cgd", "columns": ({"name": "age_years", "type": "number"},)}
    )
    array = ArraySpec(name="halving", shape=(3,), meaning="log-likelihood at half a step")
    parts = tuple(PartSpec(name=name, sends=(), releases=(array,), times=4) for name in ("newton", "search"))
    step = PlanStep(name="hazard", method="hazard", parts=parts, min_patients=10, purpose="Fit the model.")
    return Plan(code_version="0.1.0", study=study, dictionary=dictionary, steps=(step,))


def replaced(value: Any, old: str, new: str) -> Any:
    """The value with one text replaced, keys included."""
    if isinstance(value, dict):
        return {replaced(key, old, new): replaced(item, old, new) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(item, old, new) for item in value]
    return new if value == old else value


@pytest.mark.parametrize("result", [federation_result(), simulated_result()], ids=["federation", "simulate"])
def test_the_report_is_one_file_that_fetches_and_runs_nothing(result: Result) -> None:
    assert_self_contained(render_report(result, simulated=simulated_result()))


@pytest.mark.parametrize(
    "section",
    [
        "Research use only – not a medical device",
        "Survival by predicted risk",
        "Calibration at the horizons",
        "Coefficients",
        "On patients the model had not seen",
        "Rounds and bytes",
        "What left each site",
        "What the hub could see",
        "Sites",
        "Reproduce",
    ],
)
def test_the_report_has_every_section(section: str) -> None:
    assert section in read(render_report(federation_result())).text


@pytest.mark.parametrize(
    ("masked", "mode", "says"),
    [
        (False, "federation", "The sums were not masked: the study switches the secure sum off."),
        (False, "simulate", "The sums would not be masked: the study switches the secure sum off."),
        (True, "federation", "The sums were masked. Each site’s term reached the hub under masks"),
        (True, "simulate", "The sums would be masked. In a federation, each site’s term reaches the hub under masks"),
    ],
)
def test_the_report_says_whether_sums_were_masked_and_what_follows(masked: bool, mode: str, says: str) -> None:
    result = changed(federation_result(), sums_masked=masked, mode=mode)
    text = read(render_report(result)).text
    assert says in text
    assert ("switches the secure sum off" in text) != masked
    assert "outside review" in text
    for sentence in report.could_see(result):
        assert sentence in text


def test_masked_the_hub_sees_totals_and_no_site_by_itself() -> None:
    clear = report.could_see(federation_result())
    masked = report.could_see(changed(federation_result(), sums_masked=True))
    assert any(sentence.startswith("The site's own mean") for sentence in clear)
    assert masked[0].startswith("Over all sites together")
    assert not set(masked) & set(clear)


@pytest.mark.parametrize("masked", [True, False])
def test_cox_and_continue_tell_more_of_what_the_hub_could_see(masked: bool) -> None:
    result = changed(federation_result(), sums_masked=masked)
    plain = report.could_see(result)
    cox = report.could_see(changed(result, method="cox", ties="efron"))
    going_on = report.could_see(changed(result, on_dropout="continue"))
    assert any("neighbouring intervals" in sentence for sentence in set(cox) - set(plain))
    assert any("drops out" in sentence for sentence in set(going_on) - set(plain))


def test_in_sample_figures_are_called_apparent() -> None:
    assert "apparent (in-sample)" in read(render_report(federation_result())).text
    held_out = read(render_report(simulated_result())).text
    assert "apparent" not in held_out
    assert "No patient is judged by a model that was trained on that patient" in held_out


def test_the_tile_of_c_sets_each_site_alone_beside_the_same_pairs() -> None:
    result = federation_result()
    kept = dict(result.evaluation)
    federated = kept["federated"]
    inside = federated.c_index.model_copy(update={"mean": 0.92})
    kept["federated"] = federated.model_copy(update={"c_index_within": inside})
    alone = kept["site_only"]
    kept["site_only"] = alone.model_copy(update={"c_index_within": alone.c_index})
    kept = {name: kept[name] for name in ("federated", "site_only")}
    text = read(render_report(changed(result, evaluation=kept))).text
    assert f"inside sites 0.92, each site alone {alone.c_index.mean:.2f}" in text


def test_a_simulation_beside_a_run_is_labelled() -> None:
    alone = read(render_report(federation_result()))
    both = read(render_report(federation_result(), simulated=simulated_result()))
    assert "Simulated on the same tables" not in alone.text
    assert "One pooled table" not in alone.text
    assert "Simulated on the same tables" in both.text
    assert "not part of the federated run" in both.text
    assert "One pooled table" in both.text


def test_the_difference_between_run_and_simulation_is_the_largest_of_a_coefficient() -> None:
    result = federation_result()
    other = changed(result, coefficients=result.coefficients | {"steroids": 1.221 + 3e-9})
    assert report.coefficient_difference(result, other) == pytest.approx(3e-9, rel=1e-6)
    assert "3.0e-09" in read(render_report(result, simulated=other)).text


def test_no_id_stands_twice_and_every_link_has_its_target() -> None:
    page = read(render_report(federation_result(), simulated=simulated_result()))
    assert len(set(page.ids)) == len(page.ids)
    assert {link["href"].removeprefix("#") for link in page.all("a")} <= set(page.ids)
    for figure in page.all("svg"):
        assert set(figure["aria-labelledby"].split()) <= set(page.ids)


def test_the_same_result_gives_the_same_bytes() -> None:
    assert render_report(federation_result()) == render_report(federation_result())


@pytest.mark.parametrize(
    "old",
    [
        "First serious infection in chronic granulomatous disease",
        "first serious infection",
        "day",
        "studies@example.org",
        SITES[0],
        "rIFN-g",
        "treatment",
        "low risk",
        "thirds of the predicted log hazard",
        "hazard",
        "newton",
        "gradient",
        "its first derivatives",
        "year",
        "cgd",
        "1.41.0",
    ],
)
def test_a_hostile_name_is_inert_text(old: str) -> None:
    method = federation_result().method
    data = replaced(federation_result().model_dump(), old, HOSTILE) | {"method": method}
    result = Result.model_validate(data)
    html = render_report(result, simulated=result)
    assert_self_contained(html)
    assert {tag for tag, _ in read(html).elements} == {
        tag for tag, _ in read(render_report(federation_result(), simulated=federation_result())).elements
    }
    assert "alert(" in read(html).text


@settings(max_examples=25)
@given(st.text(max_size=80))
def test_any_title_and_warning_keep_the_page_whole(words: str) -> None:
    study = federation_result().model_dump()["study"] | {"title": words, "question": words, "endpoint": words}
    result = changed(federation_result(), study=study, warnings=(words,))
    assert_self_contained(render_report(result))


def test_what_cannot_be_shown_is_explained() -> None:
    result = changed(
        federation_result(),
        baseline=None,
        kaplan_meier=None,
        calibration=None,
        evaluation={},
        evaluation_kind="The study asks for no evaluation",
        reasons={
            "baseline": "each site has its own",
            "kaplan_meier": "no site had enough patients",
            "calibration": "the study names no horizons",
        },
    )
    text = read(render_report(result)).text
    assert "No curves: no site had enough patients" in text
    assert "No baseline: each site has its own" in text
    assert "No calibration: the study names no horizons" in text
    assert "The study asks for no evaluation." in text


def test_sites_that_left_are_named_with_the_reason() -> None:
    sites = list(federation_result().model_dump()["sites"])
    sites[1] |= {"status": "dropped", "reason": "It did not answer before the deadline of round 5."}
    text = read(render_report(changed(federation_result(), sites=sites))).text
    assert "NIH 25 dropped It did not answer before the deadline of round 5." in text


def test_scores_that_are_missing_are_explained_once() -> None:
    text = read(render_report(federation_result())).text
    assert text.count("Not computed for models of single sites in a federation.") == 1
    assert "Each site alone, integrated Brier score and calibration slope: Not computed" in text


def test_a_simulation_says_that_nothing_left() -> None:
    text = read(render_report(simulated_result())).text
    assert "What would have left each site" in text
    assert "Nothing left anything here" in text


def test_the_plan_adds_what_was_allowed_and_never_asked() -> None:
    plan = a_plan()
    result = changed(federation_result(), plan_hash=plan.hash)
    assert [(release.part, release.times, release.times_allowed) for release in report.never_asked(result, plan)] == [
        ("search", 0, 4)
    ]
    assert "log-likelihood at half a step" in read(render_report(result, plan=plan)).text


def test_a_plan_of_another_run_is_refused() -> None:
    with pytest.raises(PlanDiffersError, match="hashes differ"):
        render_report(federation_result(), plan=a_plan())


def test_the_report_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    write_report(federation_result(), target)
    assert target.read_text(encoding="utf-8") == render_report(federation_result())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_failed_report_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    with pytest.raises(PlanDiffersError):
        write_report(federation_result(), target, plan=a_plan())
    assert target.read_text() == "old"


def test_a_result_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(federation_result().to_json(), encoding="utf-8")
    assert read_result(path) == federation_result()
    path.write_text(federation_result().to_json().replace('"version": 1,\n "mode"', '"version": 7,\n "mode"'))
    with pytest.raises(IncompatibleVersionError):
        read_result(path)
    with pytest.raises(MessageError, match="cannot be read"):
        read_result(tmp_path / "absent.json")
