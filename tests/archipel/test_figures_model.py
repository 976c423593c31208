from xml.etree import ElementTree

import pytest

from archipel import figures_model, wording
from archipel.report import ordered
from archipel.wording import HazardRatio, Interval
from tests.archipel.results import federation_result, simulated_result

SVG = "{http://www.w3.org/2000/svg}"
WIDTHS = (344, 760)


def words_of(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def ratio(name: str, value: float, lower: float, upper: float) -> HazardRatio:
    interval = Interval(value, lower, upper)
    return HazardRatio(name, name, "per unit", interval, interval, coefficient=0.5, standard_error=0.2)


@pytest.mark.parametrize("width", WIDTHS)
def test_each_covariate_has_its_ratio_twice(width: int) -> None:
    rows = wording.hazard_ratios(federation_result())
    svg = figures_model.forest(rows, width=width)
    words = words_of(svg)
    for row in rows:
        assert str(row.per_unit) in words
        assert str(row.per_sd) in words
    assert len(list(ElementTree.fromstring(svg).iter(f"{SVG}circle"))) == 2 * len(rows)


def test_an_interval_beyond_the_axis_ends_in_an_arrow() -> None:
    def arrows(rows: list[HazardRatio]) -> int:
        return len(list(ElementTree.fromstring(figures_model.forest(rows, width=760)).iter(f"{SVG}polyline")))

    assert arrows([ratio("steroids", 5, 1e-9, 1e9)]) == 4
    assert arrows([ratio("age", 1.1, 0.9, 1.4)]) == 0


def test_a_large_model_shows_its_clearest_rows() -> None:
    rows = [
        HazardRatio(f"gene {k}", f"gene {k}", "per unit", Interval(1, 0.9, 1.1), None, float(k), 1.0)
        for k in range(60)
    ]
    words = words_of(figures_model.forest(rows, width=760))
    shown = [word for word in words if word.startswith("gene ")]
    assert shown == [f"gene {k}" for k in range(20, 60)]


def test_a_covariate_without_interval_has_a_dash() -> None:
    row = HazardRatio("flat", "flat", "yes vs no", None, None, 0.0, None)
    words = words_of(figures_model.forest([row], width=760))
    assert words.count("–") == 2


@pytest.mark.parametrize("width", WIDTHS)
def test_every_fold_is_a_dot(width: int) -> None:
    evaluation = ordered(simulated_result().evaluation)
    svg = figures_model.concordance(evaluation, width=width)
    assert len(list(ElementTree.fromstring(svg).iter(f"{SVG}circle"))) == 3 * (10 + 1)
    assert "0.624 ± 0.093" in words_of(svg)


def test_one_held_out_part_draws_no_spread() -> None:
    svg = figures_model.concordance(ordered(federation_result().evaluation), width=760)
    assert len(list(ElementTree.fromstring(svg).iter(f"{SVG}circle"))) == 2


def test_costs_of_the_steps_add_up_to_the_rounds() -> None:
    result = federation_result()
    steps = figures_model.step_costs(result)
    assert [step.step for step in steps] == ["event_grid", "moments", "hazard", "kaplan_meier", "concordance"]
    assert sum(step.rounds for step in steps) == result.rounds
    assert sum(step.bytes_up for step in steps) == sum(entry.bytes_up for entry in result.round_log)
    words = words_of(figures_model.costs(steps, width=760))
    assert "6 rounds" in words
    assert "1.29 MB up" in words
