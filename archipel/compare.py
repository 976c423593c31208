"""Two or more results side by side, in the terminal and as a page: what `archipel runs compare` shows.

A comparison says first what makes the results hard to compare (another plan, other patients, another way of
judging), because two C-indices stand beside each other more easily than they can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from archipel import wording
from archipel.endpoint_words import words_of
from archipel.report import environment, write_whole
from schemas.result import Result, Scores


@dataclass(frozen=True)
class Row:
    """One quantity of every result.

    Attributes:
        name: Of the quantity.
        values: One for each result, in words.
        differs: Whether the results disagree in it.
    """

    name: str
    values: tuple[str, ...]
    differs: bool


@dataclass(frozen=True)
class Comparison:
    """Results side by side.

    Attributes:
        names: One for each result, all different.
        cautions: What makes them hard to compare, one sentence each.
        facts: What was asked and what it cost.
        scores: On unseen patients.
        coefficients: Log ratios with standard errors.
        ratios: What they are logarithms of: ``hazard ratios``.
    """

    names: tuple[str, ...]
    cautions: tuple[str, ...]
    facts: tuple[Row, ...]
    scores: tuple[Row, ...]
    coefficients: tuple[Row, ...]
    ratios: str = "hazard ratios"


def compare(named: Sequence[tuple[str, Result]]) -> Comparison:
    """Return the results side by side.

    Args:
        named: Each result with the name under which it is shown; equal names are numbered.

    Raises:
        ValueError: For fewer than two results.
    """
    if len(named) < 2:
        raise ValueError("a comparison needs two results or more")
    results = [result for _, result in named]
    return Comparison(
        names=_distinct([name for name, _ in named]),
        cautions=tuple(_cautions(results)),
        facts=tuple(_row(results, name, text) for name, text in _FACTS),
        scores=tuple(_score_rows(results)),
        coefficients=tuple(_coefficient_rows(results)),
        ratios=" or ".join(dict.fromkeys(words_of(result).ratios for result in results)),
    )


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Number names that stand there twice."""
    return tuple(
        f"{name} ({names[:index].count(name) + 1})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    )


def _row(results: Sequence[Result], name: str, text: Callable[[Result], str]) -> Row:
    values = tuple(text(result) for result in results)
    return Row(name, values, differs=len(set(values)) > 1)


_FACTS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("Study", lambda r: r.study.name),
    ("Mode", lambda r: r.mode),
    ("Method", lambda r: r.method + (f", {r.ties}" if r.ties else "")),
    ("Penalty", wording.penalty),
    ("Time grid", lambda r: "exact times" if r.exact_times else f"{r.grid_intervals} intervals"),
    ("Patients / events", lambda r: f"{wording.count(r.n)} / {wording.count(r.events)}"),
    ("Sites", lambda r: str(wording.took_part(r))),
    ("Differential privacy", wording.privacy),
    ("Log-likelihood", lambda r: wording.number(r.log_likelihood, 4)),
    ("Rounds", lambda r: str(r.rounds)),
    ("To the hub", lambda r: wording.size(r.bytes_up)),
    ("Seconds", lambda r: f"{r.wall_s:.1f}"),
    ("Archipel", lambda r: r.code_version),
    ("Plan", lambda r: r.plan_hash[:12]),
)


def _cautions(results: Sequence[Result]) -> list[str]:
    """The same patients, columns and way of judging make scores comparable; say which of them differ."""
    noisy = any(result.differential is not None for result in results)  # then counts differ by the noise alone
    checks: tuple[tuple[Callable[[Result], object], str], ...] = (
        (lambda r: r.dictionary.hash, "The dictionaries differ, so equal names may mean different things."),
        (
            lambda r: noisy or (r.n, r.events),
            "The numbers of patients or events differ: these are not the same patients.",
        ),
        (lambda r: r.study.endpoint, "The endpoints differ, so neither scores nor coefficients can be compared."),
        (lambda r: r.evaluation_kind, "The models were judged in different ways: do not compare their scores."),
        (
            lambda r: r.differential,
            "Differential privacy differs: what one result has of noise, another has not, or has more of.",
        ),
        (lambda r: (r.penalty, r.standardise), "The penalties differ, which moves every coefficient."),
        (
            lambda r: (r.exact_times, r.grid_intervals),
            "The time grids differ; small differences of coefficients come from that alone.",
        ),
    )
    return [sentence for key, sentence in checks if any(key(result) != key(results[0]) for result in results)]


def _squared(scores: Scores) -> float | None:
    """Return the squared error of the predictions: integrated over time, or of an outcome without a time."""
    return scores.ibs if scores.brier is None else scores.brier


def _score_rows(results: Sequence[Result]) -> list[Row]:
    rows = []
    indices = dict.fromkeys(words_of(result).index for result in results)
    for name in wording.MODELS:
        found = [result.evaluation.get(name) for result in results]
        if not any(found):
            continue
        label = wording.MODELS[name]
        columns = (
            (
                f"{label}: {' or '.join(indices)}",
                [wording.NONE if s is None else wording.concordance(s) for s in found],
            ),
            (f"{label}: Brier (IBS)", [wording.NONE if s is None else wording.number(_squared(s)) for s in found]),
            (
                f"{label}: calibration slope",
                [wording.NONE if s is None else wording.number(s.calibration_slope, 2) for s in found],
            ),
        )
        rows += [Row(title, tuple(values), differs=len(set(values)) > 1) for title, values in columns]
    return rows


def _coefficient_rows(results: Sequence[Result]) -> list[Row]:
    names = list(dict.fromkeys(name for result in results for name in result.coefficients))
    return [_row(results, name, partial(_coefficient, name)) for name in names]


def _coefficient(name: str, result: Result) -> str:
    if name not in result.coefficients:
        return wording.NONE
    return f"{wording.number(result.coefficients[name], 6)} ({wording.number(result.standard_errors[name], 6)})"


def comparison_table(comparison: Comparison) -> RenderableType:
    """Return the comparison for the terminal; rows in which the results differ are bold."""
    parts: list[RenderableType] = [Text(f"Caution: {caution}", style="yellow") for caution in comparison.cautions]
    for title, rows in sections(comparison):
        table = Table(title=title, title_justify="left")
        table.add_column("")
        for name in comparison.names:
            table.add_column(escape(name), justify="right")
        for row in rows:
            values = [escape(value) for value in row.values]
            table.add_row(escape(row.name), *values, style="bold" if row.differs else None)
        parts.append(table)
    return Group(*parts)


def sections(comparison: Comparison) -> list[tuple[str, tuple[Row, ...]]]:
    """Return the tables of a comparison with their titles, without empty ones."""
    tables = (
        ("Runs", comparison.facts),
        ("On unseen patients", comparison.scores),
        (f"Log {comparison.ratios} (standard error)", comparison.coefficients),
    )
    return [(title, rows) for title, rows in tables if rows]


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the comparison as one HTML file without network or script."""
    text = environment().get_template("compare.html.j2").render(comparison=comparison, sections=sections(comparison))
    write_whole(path, text)
