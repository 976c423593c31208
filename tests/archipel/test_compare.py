import io
from pathlib import Path

import pytest
from rich.console import Console

from archipel.compare import compare, comparison_table, write_comparison
from tests.archipel.pages import assert_self_contained, read
from tests.archipel.results import changed, federation_result, simulated_result


def shown(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_equal_results_differ_in_nothing_and_need_no_caution() -> None:
    found = compare([("first", federation_result()), ("second", federation_result())])
    assert not found.cautions
    assert not [row for row in (*found.facts, *found.scores, *found.coefficients) if row.differs]


def test_a_difference_is_marked_where_it_is() -> None:
    other = changed(federation_result(), coefficients=federation_result().coefficients | {"steroids": 1.3})
    found = compare([("first", federation_result()), ("second", other)])
    assert [row.name for row in found.coefficients if row.differs] == ["steroids"]
    assert found.coefficients[6].values == ("1.221000 (0.782000)", "1.300000 (0.782000)")


@pytest.mark.parametrize(
    ("values", "caution"),
    [
        ({"n": 127}, "not the same patients"),
        ({"evaluation_kind": "another way"}, "do not compare their scores"),
        ({"penalty": 3.0}, "penalties differ"),
        ({"grid_intervals": 9}, "time grids differ"),
        ({"dictionary": {"name": "cgd", "version": 1, "hash": "00"}}, "dictionaries differ"),
        ({"study": {"name": "x", "time_unit": "day", "endpoint": "death"}}, "endpoints differ"),
    ],
)
def test_what_hinders_a_comparison_is_said(values: dict[str, object], caution: str) -> None:
    found = compare([("first", federation_result()), ("second", changed(federation_result(), **values))])
    assert [sentence for sentence in found.cautions if caution in sentence] == list(found.cautions)
    assert len(found.cautions) == 1


def test_c_index_over_a_few_pairs_is_not_shown_bare() -> None:
    result = federation_result()
    scores = result.evaluation["federated"]
    few = changed(result, evaluation={"federated": scores.model_copy(update={"comparable_pairs": 52}).model_dump()})
    found = compare([("first", few), ("second", few)])
    assert "(only 52 pairs)" in found.scores[0].values[0]


def test_models_and_columns_that_one_result_lacks_are_dashes() -> None:
    result = federation_result()
    fewer = changed(
        result,
        covariates=[covariate.model_dump() for covariate in result.covariates[1:]],
        coefficients={name: b for name, b in result.coefficients.items() if name != "treatment[rIFN-g]"},
        standard_errors={name: se for name, se in result.standard_errors.items() if name != "treatment[rIFN-g]"},
    )
    found = compare([("federation", fewer), ("simulated", simulated_result())])
    pooled = next(row for row in found.scores if row.name == "One pooled table: C-index")
    assert pooled.values == ("–", "0.624 ± 0.093")
    assert next(row for row in found.coefficients if row.name == "treatment[rIFN-g]").values[0] == "–"


def test_equal_names_are_numbered_and_one_result_is_no_comparison() -> None:
    results = [("run", federation_result())] * 3
    assert compare(results).names == ("run (1)", "run (2)", "run (3)")
    with pytest.raises(ValueError, match="two results or more"):
        compare(results[:1])


def test_the_terminal_shows_names_as_they_are() -> None:
    text = shown(comparison_table(compare([("[bold]a", federation_result()), ("b", simulated_result())])))
    assert "[bold]a" in text
    assert "treatment[rIFN-g]" in text
    assert "Caution: The models were judged in different ways" in text


def test_the_page_is_self_contained_and_hostile_names_are_inert(tmp_path: Path) -> None:
    path = tmp_path / "compare.html"
    write_comparison(compare([("<script>x</script>", federation_result()), ("b", simulated_result())]), path)
    html = path.read_text(encoding="utf-8")
    assert_self_contained(html)
    assert "<script>x</script>" in read(html).text
    assert "Log hazard ratios (standard error)" in read(html).text


def test_runs_of_an_outcome_without_a_time_are_compared_in_its_own_words() -> None:
    result = federation_result()
    outcome = {"type": "binary", "codes": ["no", "yes"], "patients": ["80", "40"], "log_odds_at_means": {"yes": -0.7}}
    federated = result.evaluation["federated"].model_dump() | {"brier": 0.123, "ibs": None}
    federated["reasons"] = {"ibs": "the outcome has no time; see `brier`"}
    other = changed(result, outcome=outcome, method="logistic", evaluation={"federated": federated})
    comparison = compare([("one", other), ("two", other)])
    assert comparison.ratios == "odds ratios"
    rows = {row.name: row.values for row in comparison.scores}
    assert "All sites together: AUC" in rows
    assert rows["All sites together: Brier (IBS)"] == ("0.123", "0.123")
