"""Laws of what a report says of wide layers: covariates one by one, layers by what each contributes."""

from __future__ import annotations

import pytest

from archipel import figures_model
from archipel.report import render_report
from archipel.report_layers import layer_shares, layers_view
from archipel.terminal import terminal_table
from archipel.wording import answer
from schemas.result import CovariateFacts, Result
from tests.archipel.pages import assert_self_contained
from tests.archipel.results import federation_result

N_COMPONENTS = 100
SHARES = {"clinical": 0.7, "rna": 0.35, "cnv": -0.05}


def _column(name: str, column: str, layer: str) -> CovariateFacts:
    return CovariateFacts(name=name, column=column, layer=layer, type="number", mean=0.0, standard_deviation=1.0)


def _with_layers(columns: list[CovariateFacts], *, se: float | None, reason: str = "") -> Result:
    demo = federation_result()
    names = [column.name for column in columns]
    return demo.model_copy(
        update={
            "covariates": (*demo.covariates, *columns),
            "coefficients": {**demo.coefficients, **{name: 0.01 * k for k, name in enumerate(names)}},
            "standard_errors": {**demo.standard_errors, **dict.fromkeys(names, se)},
            "reasons": {**demo.reasons, **({f"standard_errors.{name}": reason for name in names} if reason else {})},
            "layer_importance": SHARES,
            "penalty": {"clinical": 10.0, "rna": 300.0, "cnv": 1e9},
        }
    )


@pytest.fixture(scope="module")
def components() -> Result:
    return _with_layers([_column(f"rna {k + 1}", "rna", "rna") for k in range(N_COMPONENTS)], se=0.001)


@pytest.fixture(scope="module")
def network() -> Result:
    reason = "a network has weights, which mean nothing one by one"
    empty = {"covariates": (), "coefficients": {}, "standard_errors": {}, "layer_importance": SHARES}
    return federation_result().model_copy(update={**empty, "reasons": {"coefficients": reason}})


def test_components_stand_in_no_forest_and_in_a_table_of_their_own(components):
    view = layers_view(components)
    assert [row.name for row in view["covariate_rows"]] == [row.name for row in federation_result().covariates]
    assert view["n_of_layers"] == N_COMPONENTS
    page = render_report(components)
    assert "rna 100" not in view["forest"].wide
    assert "What each layer contributes" in page
    assert f"the 60 largest of the {N_COMPONENTS} coefficients of wide layers" in page
    shown = {row.name for row in view["of_layers"]}
    assert shown == {f"rna {k}" for k in range(N_COMPONENTS - 60 + 1, N_COMPONENTS + 1)}, "farthest from 1"


def test_a_component_is_never_the_clearest_association(components):
    assert "rna" not in answer(components)
    assert answer(components) == answer(federation_result())


def test_reasons_for_missing_errors_count_the_columns_of_a_layer():
    reason = "standard errors would describe the penalty"
    result = _with_layers([_column(f"rna:G{k}", f"G{k}", "rna") for k in range(1500)], se=None, reason=reason)
    view = layers_view(result)
    assert view["no_errors"] == [f"Every column of rna: {reason}."]
    assert len(view["of_layers"]) == 60
    assert render_report(result).count("rna:G") <= 61


def test_layers_stand_in_the_order_of_their_shares_with_what_they_are_made_of(components):
    shares = layer_shares(components)
    assert [one.layer for one in shares] == ["clinical", "rna", "cnv"]
    assert [one.made_of for one in shares] == ["8 columns", "100 components", ""]
    assert [one.penalty for one in shares] == ["penalty 10", "penalty 300", "left out"]


@pytest.mark.parametrize("width", [344, 760])
def test_a_share_below_zero_is_drawn_to_the_left_of_the_axis(components, width):
    drawn = figures_model.importance(layer_shares(components), width=width)
    for text in ("70 %", "35 %", "\N{MINUS SIGN}5 %"):
        assert text in drawn


def test_a_network_has_no_table_of_ratios_and_says_why(network):
    page = render_report(network)
    assert "No hazard ratios: a network has weights" in page
    assert "Coefficients on the original scale" not in page
    assert "What each layer contributes" in page
    assert "interval that excludes" not in answer(network)
    assert_self_contained(page)


def test_a_terminal_shows_shares_in_the_place_of_components(components, network, capsys):
    from rich.console import Console

    for result in (components, network):
        console = Console(width=200, record=True)
        console.print(terminal_table(result))
        text = console.export_text()
        assert "clinical 70 %, rna 35 %, cnv -5 %" in text
        assert "rna 99" not in text


def test_one_layer_alone_is_given_no_share():
    assert layers_view(federation_result())["importance"] is None
    assert "What each layer contributes" not in render_report(federation_result())
