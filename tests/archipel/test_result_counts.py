"""The number of patients of a result, beside the sites and groups of which it is the total."""

from __future__ import annotations

import pytest

from archipel import wording
from archipel.compare import compare
from archipel.report import render_report
from archipel.result import _n_shown
from schemas.result import KaplanMeier, SiteFacts
from schemas.shown import NOT_SHOWN, shown_count
from tests.archipel.results import federation_result, simulated_result


def sites(*counts: int, gone: int | None = None) -> tuple[SiteFacts, ...]:
    there = tuple(SiteFacts(name=f"s{i}", patients=shown_count(n), status="took part") for i, n in enumerate(counts))
    if gone is None:
        return there
    return (*there, SiteFacts(name="gone", patients=shown_count(gone), status="left out", reason="too small"))


def groups(*at_zero: int | None) -> KaplanMeier:
    curves = federation_result().kaplan_meier
    assert curves is not None
    first = curves.curves[0]
    made = tuple(first.model_copy(update={"n_at_risk": (n, *first.n_at_risk[1:])}) for n in at_zero)
    return curves.model_copy(update={"curves": made})


@pytest.mark.parametrize(
    ("of_sites", "of_groups", "shown"),
    [
        (sites(40, 44, 43), None, 125),
        (sites(60, 58, 9), None, None),
        (sites(60, 4, 9), None, 75),
        (sites(60, 67, gone=3), None, 125),
        (sites(60, 67), groups(60, 65, None), None),
        (sites(60, 67), groups(125, None, None), 125),
        (sites(60, 67), groups(40, 45, 40), 125),
    ],
)
def test_a_total_is_not_shown_where_one_cell_alone_is_hidden(
    of_sites: tuple[SiteFacts, ...], of_groups: KaplanMeier | None, shown: int | None
) -> None:
    n = {75: 73}.get(shown or 0, 127)
    assert _n_shown(n, of_sites, of_groups) == shown


def test_a_hidden_total_is_hidden_wherever_it_is_shown() -> None:
    result = simulated_result().model_copy(update={"n": None, "events": None})
    answer = wording.answer(result)
    assert answer.startswith("Of the patients at 5 sites, fewer than 10 had the event")
    page = render_report(result)
    assert NOT_SHOWN in page
    assert "None" not in page
    assert NOT_SHOWN in str(compare([("one", result), ("other", simulated_result())]))
