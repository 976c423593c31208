"""What a run looks like in a terminal: a line of progress while it goes, tables when it has ended.

rich drops colour and lines by itself where the output is a file or a pipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from archipel import score_words, wording
from archipel.endpoint_words import words_of
from archipel.report_endpoints import endpoint_view
from archipel.report_layers import layer_shares
from schemas.result import Result

_MOST_ROWS = 30


def terminal_table(result: Result, simulated: Result | None = None) -> RenderableType:
    """Return what a person wants to see at the end of a run: the answer, the models, the hazard ratios, the cost.

    Args:
        result: What the run found.
        simulated: A simulation on the same tables, labelled as such in the table of the models.
    """
    parts: list[RenderableType] = [
        Text(result.study.title or result.study.name, style="bold"),
        Text(wording.answer(result)),
        Text(),
        _evaluation(result, simulated)
        if result.evaluation or simulated is not None
        else Text(f"Not judged on unseen patients: {result.evaluation_kind}"),
        *(Text(sentence) for sentence in wording.differences(result)),
        *_over_sites(result),
        *_hazard_ratios(result),
        *_of_endpoint(result),
        *(Text(sentence) for sentence in wording.promise(result)[:3]),
        Text(_cost(result), style="dim"),
    ]
    parts += [
        Text(f"{site.name}: {site.status}. {site.reason}", style="yellow")
        for site in result.sites
        if site.status != "took part"
    ]
    parts += [Text(f"Note: {warning}", style="yellow") for warning in result.warnings]
    parts.append(Text("Research use only - not a medical device.", style="bold yellow"))
    return Group(*parts)


def _evaluation(result: Result, simulated: Result | None) -> Table:
    table = Table(title="On unseen patients", title_justify="left", caption=result.evaluation_kind)
    table.caption_justify = "left"
    table.add_column("Model")
    is_outcome = result.outcome is not None
    for heading in (words_of(result).index, "Brier" if is_outcome else "Brier (IBS)", "Calibration slope"):
        table.add_column(heading, justify="right")
    for source, mark in ((result, ""), (simulated, " (simulated)")):
        for name in wording.MODELS:
            if source is not None and name in source.evaluation:
                scores = source.evaluation[name]
                table.add_row(
                    wording.MODELS[name] + mark,
                    wording.concordance(scores),
                    wording.number(scores.brier) if is_outcome else score_words.figure(scores, "ibs"),
                    score_words.figure(scores, "calibration_slope", 2),
                )
    return table


def _over_sites(result: Result) -> list[RenderableType]:
    federated = result.evaluation.get("federated")
    sentences = score_words.over_sites(federated) if federated is not None else []
    return [Text("At the single sites: " + "; ".join(sentences) + ".")] if sentences else []


def _hazard_ratios(result: Result) -> list[RenderableType]:
    """Return the table of the covariates' ratios, and what each layer contributes; a network has the latter alone."""
    parts: list[RenderableType] = []
    every = wording.hazard_ratios(result)
    rows = [row for row in every if row.layer is None]
    if rows:
        parts.append(_ratio_table(result, rows))
    if len(every) > len(rows):
        what = "coefficients of wide layers stand in the report."
        parts.append(Text(f"The {len(every) - len(rows):,} {what}"))
    if shares := layer_shares(result):
        listed = ", ".join(f"{one.layer} {100 * one.share:.0f} %" for one in shares)
        parts.append(Text(f"What each layer contributes to the log hazard's variance: {listed}."))
    return parts


def _ratio_table(result: Result, rows: list[wording.HazardRatio]) -> Table:
    interval = "95 % interval" if result.differential is None else "noise leaves no interval"
    title = f"{words_of(result).ratios.capitalize()} ({interval})"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("Covariate")
    table.add_column("Compares")
    table.add_column("Per unit", justify="right")
    table.add_column("Per standard deviation", justify="right")
    if len(rows) > _MOST_ROWS:
        table.caption = f"The {_MOST_ROWS} farthest from 1 of {len(rows)}; the report has all."
        rows = sorted(rows, key=lambda row: -abs(row.z))[:_MOST_ROWS]
    for row in rows:
        clear = abs(row.z) >= wording.Z95
        table.add_row(
            escape(row.label),
            escape(row.contrast),
            row.unit_text,
            row.sd_text,
            style="bold" if clear else None,
        )
    return table


def _of_endpoint(result: Result) -> list[RenderableType]:
    """Return what the odds are of, and the tables of a treatment's arms and of competing events."""
    view = endpoint_view(result)
    parts: list[RenderableType] = [Text(view["outcome_sentence"])] if view["outcome_sentence"] else []
    response = result.treatment_response
    if response is not None:
        headings = ("Until", response.control.arm, response.treated.arm, "Difference (95 % interval)")
        title = "Without the event, all patients as if under each arm"
        parts.append(_rows(title, headings, view["treatment_rows"]))
    if result.competing is not None:
        of_groups = ("Event", "Until", "Risk group", "Patients", "Predicted", "Observed (95 %)")
        parts.append(_rows("Cumulative incidence (in-sample)", of_groups, view["incidence_rows"]))
    return parts


def _rows(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(escape(heading), justify="right" if table.columns else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _cost(result: Result) -> str:
    sums = "" if result.mode == "simulate" else "; sums masked" if result.sums_masked else "; sums not masked"
    return (
        f"{result.rounds} rounds in {wording.duration(result.wall_s)}; {wording.size(result.bytes_up)} to the hub, "
        f"{wording.size(result.bytes_down)} to the sites{sums}; plan {result.plan_hash[:12]}"
    )


@dataclass(frozen=True)
class Standing:
    """Where a run stands, as the progress display shows it.

    Attributes:
        step: Of the plan, being asked now.
        part: Of the step.
        rounds_done: Complete rounds of the run.
        rounds_expected: Rounds that the run will probably have; a fit ends when it has converged.
        heard: Names of the sites that have answered this round.
        sites: Names of all sites of the run.
        deadline_in_s: Seconds until the round's deadline; None where there is none.
        seconds_left: For the rest of the run at its pace so far; None before the first round.
    """

    step: str
    part: str
    rounds_done: int
    rounds_expected: int
    heard: Sequence[str]
    sites: Sequence[str]
    deadline_in_s: float | None = None
    seconds_left: float | None = None


def describe(standing: Standing) -> str:
    """Return one line: round, sites heard, the missing ones by name, time left."""
    missing = [site for site in standing.sites if site not in set(standing.heard)]
    words = [
        f"round {standing.rounds_done + 1} of about {standing.rounds_expected}",
        f"{standing.step.replace('_', ' ')}: {standing.part.replace('_', ' ')}",
        f"heard {len(standing.heard)}/{len(standing.sites)} sites",
    ]
    if standing.heard and missing and len(missing) <= 3:
        words.append(f"waiting for {', '.join(missing)}")
    if standing.seconds_left is not None:
        words.append(f"about {wording.duration(standing.seconds_left)} left")
    if missing and standing.deadline_in_s is not None and standing.deadline_in_s < 30:
        words.append(f"deadline in {max(standing.deadline_in_s, 0):.0f} s")
    return " · ".join(words)


class RunProgress:
    """A progress bar of one run; use as a context manager and call `show` whenever something has changed."""

    def __init__(self, console: Console | None = None) -> None:
        """Make the display.

        Args:
            console: Where to draw; standard error by default, so that `--json` stays clean.
        """
        console = console or Console(stderr=True)
        self._progress = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> RunProgress:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the line away."""
        self._progress.stop()

    def show(self, standing: Standing) -> None:
        """Draw where the run stands."""
        words = escape(describe(standing))
        done = standing.rounds_done + len(standing.heard) / max(len(standing.sites), 1)
        if self._task is None:
            self._task = self._progress.add_task(words)
        self._progress.update(self._task, description=words, total=standing.rounds_expected, completed=done)

    def say(self, sentence: str) -> None:
        """Write a line above the bar that stays: a site is missing, the run pauses."""
        # A terminal wraps by itself; in a file a sentence stays one line, which can be searched for.
        self._progress.console.print(Text(sentence), soft_wrap=True)
