import io

import pytest
from rich.console import Console

from archipel.terminal import RunProgress, Standing, describe, terminal_table
from schemas.result import Result
from tests.archipel.results import changed, federation_result, simulated_result


def shown(result: Result, simulated: Result | None = None) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(terminal_table(result, simulated))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_end_of_a_run_shows_models_ratios_cost_and_warning() -> None:
    text = shown(federation_result(), simulated_result())
    for words in (
        "All sites together",
        "0.652",
        "All sites together (simulated)",
        "One pooled table (simulated)",
        "0.624 ± 0.093",
        "0.32 (0.16–0.63)",
        "10 rounds in 8.4 s",
        "The sums were not masked",
        "Research use only",
    ):
        assert words in text


def test_no_simulation_is_shown_where_none_ran() -> None:
    text = shown(federation_result())
    assert "simulated" not in text
    assert "pooled" not in text


def test_dropped_sites_are_named() -> None:
    sites = list(federation_result().model_dump()["sites"])
    sites[2] |= {"status": "dropped", "reason": "No answer before the deadline."}
    assert "Scripps Institute: dropped. No answer before the deadline." in shown(
        changed(federation_result(), sites=sites)
    )


def test_a_name_that_looks_like_markup_is_shown_as_it_is() -> None:
    result = federation_result()
    covariates = [covariate.model_dump() for covariate in result.covariates]
    covariates[1] |= {"column": "[red]gene[/red]"}  # not the first: the answer above the table names that one
    study = result.model_dump()["study"] | {"title": "[bold]title"}
    text = shown(changed(result, covariates=covariates, study=study))
    assert "[red]gene[/red]" in text
    assert "[bold]title" in text


def test_a_large_model_shows_its_clearest_rows() -> None:
    result = federation_result()
    one = result.covariates[2].model_dump()
    names = [f"gene{k:02}" for k in range(50)]
    large = changed(
        result,
        covariates=[one | {"name": name, "column": name} for name in names],
        coefficients={name: 0.01 * k for k, name in enumerate(names)},
        standard_errors=dict.fromkeys(names, 0.1),
    )
    text = shown(large)
    assert "gene49" in text
    assert "gene19" not in text
    assert "30 farthest from 1 of 50" in text


def test_a_run_without_evaluation_shows_no_empty_table() -> None:
    text = shown(changed(federation_result(), evaluation={}, evaluation_kind="The study asks for none (folds = 0)."))
    assert "Calibration slope" not in text
    assert "Not judged on unseen patients: The study asks for none (folds = 0)." in text


STANDING = Standing(
    step="hazard",
    part="newton_step",
    rounds_done=3,
    rounds_expected=12,
    heard=("Amsterdam", "NIH"),
    sites=("Amsterdam", "NIH", "Zurich"),
    deadline_in_s=21.4,
    seconds_left=5.6,
)


def test_progress_says_round_sites_heard_and_time_left() -> None:
    assert describe(STANDING) == (
        "round 4 of about 12 · hazard: newton step · heard 2/3 sites · waiting for Zurich · about 5.6 s left · "
        "deadline in 21 s"
    )


def test_before_the_first_answer_nobody_is_waited_for_by_name() -> None:
    fresh = Standing("moments", "sums", 0, 12, (), ("Amsterdam", "NIH"))
    assert describe(fresh) == "round 1 of about 12 · moments: sums · heard 0/2 sites"


@pytest.mark.parametrize("site", ["[red]", "a[/]b"])
def test_the_progress_display_draws_any_name(site: str) -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    with RunProgress(console) as progress:
        progress.say(f"{site} is missing; the run pauses.")
        progress.show(STANDING)
        progress.show(Standing("hazard", "newton", 3, 12, ("NIH",), ("NIH", site)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{site} is missing; the run pauses." in text
    assert f"waiting for {site}" in text
