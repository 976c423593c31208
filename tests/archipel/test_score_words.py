"""Scores with intervals in words, table, figure and terminal; results without them look as before."""

from __future__ import annotations

import io

from rich.console import Console

from archipel import figures_model, score_words, wording
from archipel.report import render_report
from archipel.terminal import terminal_table
from schemas.result import CIndex, Result, Scores
from schemas.result_intervals import Interval, OverSites
from tests.archipel.results import changed, federation_result, simulated_result

OVER = (
    OverSites(figure="c_index", sites=6, mean=0.611, sd=0.052),
    OverSites(figure="ibs", sites=4, mean=0.151, sd=None),
    OverSites(figure="calibration_slope", sites=2, mean=None, sd=None),
)


def with_intervals() -> Result:
    """The federation's result as a run under the secure sum gives it."""
    federated = Scores(
        c_index=CIndex(mean=0.652, sd=0.04, per_fold=(0.61, 0.69)),
        c_index_within=CIndex(mean=0.638, sd=0.05, per_fold=(0.60, 0.68)),
        c_index_uno=CIndex(mean=0.661, sd=0.04, per_fold=(0.62, 0.70)),
        comparable_pairs=2400,
        ibs=0.143,
        calibration_slope=0.91,
        intervals={
            "c_index": Interval(lower=0.584, upper=0.713),
            "c_index_within": Interval(lower=0.531, upper=0.733),
            "c_index_uno": Interval(lower=0.581, upper=0.733),
            "ibs": Interval(lower=0.121, upper=0.169),
            "calibration_slope": Interval(lower=-0.12, upper=1.94),
        },
        interval_method="Infinitesimal jackknife.",
        over_sites=OVER,
    )
    alone = federation_result().evaluation["site_only"]
    index = CIndex(mean=0.541, sd=0.03, per_fold=(0.52, 0.56))
    site_only = alone.model_copy(update={"c_index": index, "c_index_within": index})
    evaluation = {"federated": federated.model_dump(), "site_only": site_only.model_dump()}
    return changed(federation_result(), evaluation=evaluation, sums_masked=True)


def test_a_score_is_told_with_its_interval() -> None:
    scores = with_intervals().evaluation["federated"]
    assert wording.concordance(scores) == "0.652 (0.584–0.713)"
    assert score_words.figure(scores, "ibs") == "0.143 (0.121–0.169)"
    assert score_words.figure(scores, "calibration_slope", 2) == "0.91 (−0.12 to 1.94)"
    assert score_words.figure(scores, "c_index_uno") == "0.661 (0.581–0.733)"


def test_a_score_without_an_interval_is_told_as_before() -> None:
    scores = simulated_result().evaluation["federated"]
    assert wording.concordance(scores) == "0.624 ± 0.093"
    assert score_words.figure(scores, "ibs") == "0.140"
    assert score_words.figure(scores, "c_index_uno") == "–"
    assert score_words.interval_note([("federated", scores)]) == ""


def test_a_federation_compares_models_over_the_same_pairs() -> None:
    rows = dict(score_words.of_same_pairs(with_intervals()))
    assert rows["federated"].c_index.mean == 0.638
    assert rows["federated"].intervals["c_index"] == Interval(lower=0.531, upper=0.733)
    assert rows["site_only"].c_index.mean == 0.541
    simulated = dict(score_words.of_same_pairs(simulated_result()))
    assert simulated["federated"] == simulated_result().evaluation["federated"]


def test_the_answer_compares_sites_alone_over_pairs_inside_sites() -> None:
    answer = wording.answer(with_intervals())
    assert "65 of 100 comparable pairs" in answer
    assert "95 % interval 0.58–0.71" in answer
    assert "inside one site it is 64 of 100; models that each site trains alone, 54" in answer


def test_a_spread_over_few_sites_is_not_told() -> None:
    lines = score_words.over_sites(with_intervals().evaluation["federated"])
    assert lines[0] == "C: mean 0.611 over 6 sites, standard deviation 0.052"
    assert "told from five sites on" in lines[1]
    assert "told from three on" in lines[2]


def test_the_report_shows_intervals_unos_c_and_the_sites() -> None:
    page = render_report(with_intervals()).replace("\N{WORD JOINER}", "")
    for words in (
        "0.638 (0.531–0.733)",
        "Uno’s C",
        "0.661 (0.581–0.733)",
        "In brackets 95 % intervals",
        "over 6 sites",
    ):
        assert words in page
    before = render_report(federation_result())
    assert "In brackets 95 % intervals" not in before
    assert "Uno’s C" not in before


def test_the_figure_draws_the_interval() -> None:
    svg = figures_model.concordance(score_words.of_same_pairs(with_intervals()), width=760)
    assert "0.64 (0.53–0.73)" in svg
    assert "0.541 ± 0.030" in svg


def test_the_terminal_shows_intervals_and_the_sites() -> None:
    file = io.StringIO()
    Console(width=150, file=file).print(terminal_table(with_intervals()))
    text = file.getvalue()
    assert "0.143 (0.121–0.169)" in text
    assert "At the single sites: C: mean 0.611 over 6 sites" in text
