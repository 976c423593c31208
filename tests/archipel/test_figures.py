from itertools import pairwise
from xml.etree import ElementTree

import pytest

from archipel import figures
from schemas.result import Calibration, KaplanMeier, SurvivalCurve
from tests.archipel.results import federation_result, simulated_result

SVG = "{http://www.w3.org/2000/svg}"
WIDTHS = (344, 760)


def curves_of(svg: str) -> list[list[tuple[float, float]]]:
    """The survival curves as drawn points."""
    lines = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    return [[tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()] for line in lines]


def draw(kept: KaplanMeier | None, width: int = 760) -> str:
    assert kept is not None
    return figures.kaplan_meier(kept, endpoint="first serious infection", time_unit="day", width=width)


def words_of(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("width", WIDTHS)
def test_survival_steps_after_each_time(width: int) -> None:
    for points in curves_of(draw(federation_result().kaplan_meier, width)):
        for (x0, y0), (x1, y1) in pairwise(points):
            assert x0 == x1 or y0 == y1, "a survival curve has no slopes"
            assert x1 >= x0
            assert y1 >= y0, "downwards on the page is upwards in y"


def test_numbers_at_risk_under_ten_are_hidden() -> None:
    words = words_of(draw(federation_result().kaplan_meier))
    assert words.count("<10") == 3
    assert not {"4", "5", "2"} & set(words)
    assert words.count("45") == 3
    assert "Number at risk" in words


def test_groups_are_labelled_directly() -> None:
    words = words_of(draw(federation_result().kaplan_meier))
    assert all(words.count(group) == 2 for group in ("low risk", "middle risk", "high risk"))


def test_censored_times_are_marked() -> None:
    def upright(svg: str) -> int:
        lines = ElementTree.fromstring(svg).iter(f"{SVG}line")
        return sum(line.attrib["stroke-width"] == "1.4" for line in lines)

    assert upright(draw(simulated_result().kaplan_meier)) == 15
    assert upright(draw(federation_result().kaplan_meier)) == 0


def exact_curve(group: str, times: tuple[float, ...], at_risk: tuple[int | None, ...]) -> SurvivalCurve:
    survival = tuple(1 - 0.1 * i for i in range(len(times)))
    known = tuple(survival[i] if i else None for i in range(len(times)))
    return SurvivalCurve(
        group=group, times=times, survival=survival, lower=known, upper=known, n_at_risk=at_risk, censored=()
    )


def test_groups_with_own_times_share_round_times_in_the_table() -> None:
    kept = KaplanMeier(
        basis="held-out",
        grouping="halves",
        curves=(
            exact_curve("low", (0.0, 31.0, 160.0, 390.0), (60, 60, 41, 12)),
            exact_curve("high", (0.0, 17.0, 75.0, 110.0), (58, 58, 33, None)),
        ),
    )
    words = words_of(draw(kept))
    assert not figures.have_shared_times(kept.curves)
    low = words[words.index("on day") + 1 :]
    # At 100 the low group's next step is at 160, the high group's at 110 with fewer than ten.
    assert low[: low.index("low")] == ["60", "41", "12", "12"]
    assert low[low.index("low") + 1 : low.index("high")] == ["58", "<10", "<10", "<10"]


def test_counts_between_times_are_bounds_where_somebody_left_unlisted() -> None:
    listed = exact_curve("low", (0.0, 31.0, 160.0, 390.0), (60, 60, 41, None))
    unlisted = listed.model_copy(update={"censored": (45.0, 402.0)})
    other = exact_curve("high", (0.0, 17.0, 75.0, 110.0), (58, 58, 33, None))
    kept = KaplanMeier(basis="held-out", grouping="halves", curves=(unlisted, other))
    words = words_of(draw(kept))
    row = words[words.index("on day") + 1 :]
    assert row[: row.index("low")] == ["60", "≥41", "–", "–", "<10"]


def test_a_curve_goes_on_until_its_last_patient_left() -> None:
    curve = exact_curve("low", (0.0, 31.0, 160.0), (60, 60, 41)).model_copy(update={"censored": (45.0, 400.0)})
    points = curves_of(draw(KaplanMeier(basis="held-out", grouping="all", curves=(curve,))))[0]
    assert points[-1][0] == 760 - 84
    assert points[-1][1] == points[-2][1]


def test_survival_at_a_time_is_the_last_step_before_it() -> None:
    curve = exact_curve("low", (0.0, 31.0, 160.0), (60, 60, 41))
    assert [figures.survival_at(curve, time) for time in (0, 30.9, 31, 200)] == [1, 1, 0.9, 0.8]


@pytest.mark.parametrize("width", WIDTHS)
def test_calibration_has_one_panel_for_each_horizon(width: int) -> None:
    calibration = federation_result().calibration
    assert calibration is not None
    svg = figures.calibration(calibration, time_unit="day", width=width)
    words = words_of(svg)
    assert [word for word in words if word.endswith("days")] == ["180 days", "365 days"]
    assert words.count("too few") == 1
    points = list(ElementTree.fromstring(svg).iter(f"{SVG}circle"))
    assert len(points) == 5


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_no_panel_leaves_the_figure(n: int) -> None:
    known = federation_result().calibration
    assert known is not None
    point = known.points[0].model_dump()
    many = Calibration.model_validate(
        {"basis": "held-out", "points": [point | {"horizon": 30.0 * (k + 1)} for k in range(n)]}
    )
    for width in WIDTHS:
        root = ElementTree.fromstring(figures.calibration(many, time_unit="day", width=width))
        right, bottom = float(root.attrib["width"]), float(root.attrib["height"])
        for dot in root.iter(f"{SVG}circle"):
            assert 0 < float(dot.attrib["cx"]) < right
            assert 0 < float(dot.attrib["cy"]) < bottom


def test_a_perfect_prediction_lies_on_the_diagonal() -> None:
    point = {
        "horizon": 90.0,
        "group": 1,
        "patients": "45",
        "predicted": 0.6,
        "observed": 0.6,
        "lower": 0.5,
        "upper": 0.7,
    }
    svg = figures.calibration(
        Calibration.model_validate({"basis": "held-out", "points": [point]}), time_unit="day", width=760
    )
    root = ElementTree.fromstring(svg)
    diagonal = next(line for line in root.iter(f"{SVG}line") if line.attrib.get("stroke-dasharray") == "4 4")
    x1, y1, x2, y2 = (float(diagonal.attrib[key]) for key in ("x1", "y1", "x2", "y2"))
    dot = next(root.iter(f"{SVG}circle"))
    x, y = float(dot.attrib["cx"]), float(dot.attrib["cy"])
    assert (y - y1) / (y2 - y1) == pytest.approx((x - x1) / (x2 - x1), abs=1e-3)
    assert (x - x1) / (x2 - x1) == pytest.approx(0.6, abs=1e-3)
