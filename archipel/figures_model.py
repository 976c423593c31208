"""The figures of the model and of the run: hazard ratios, concordance on unseen patients, rounds and bytes.

Each function returns one SVG for one width in pixels, as in `archipel.figures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archipel.endpoint_words import SURVIVAL, Words
from archipel.figures import NARROW
from archipel.svg import ACCENT, INK, MUTED, RULE, Canvas, Scale, nice_ticks, ratio_ticks
from archipel.wording import MODELS, NONE, HazardRatio, Interval, duration, size, spread, with_interval
from schemas.result import Result, ScoredModel, Scores

_TINT = "#a9c6de"
_MOST_ROWS = 40
"""Covariates drawn; a model with more shows those farthest from 1 in standard errors, the table has all."""


@dataclass(frozen=True)
class Share:
    """What one layer contributes to a model.

    Attributes:
        layer: Its name.
        share: Of the variance of the log hazard.
        made_of: ``10 components``; empty where the result does not tell.
        penalty: In words; empty without one.
    """

    layer: str
    share: float
    made_of: str
    penalty: str


@dataclass(frozen=True)
class StepCost:
    """What one step of the plan cost, all sites together."""

    step: str
    rounds: int
    seconds: float
    bytes_up: int
    bytes_down: int


def step_costs(result: Result) -> list[StepCost]:
    """Return the cost of each step, in the order in which the steps were first asked."""
    names = list(dict.fromkeys(entry.step for entry in result.round_log))
    by_step = {name: [entry for entry in result.round_log if entry.step == name] for name in names}
    return [
        StepCost(
            step=name,
            rounds=len(entries),
            seconds=sum(entry.seconds for entry in entries),
            bytes_up=sum(entry.bytes_up for entry in entries),
            bytes_down=sum(entry.bytes_down for entry in entries),
        )
        for name, entries in by_step.items()
    ]


def forest(ratios: Sequence[HazardRatio], *, width: int, words: Words = SURVIVAL) -> str:
    """Draw hazard or odds ratios with 95 % intervals: per standard deviation, and per unit."""
    shown = ratios
    if len(ratios) > _MOST_ROWS:
        clearest = sorted(ratios, key=lambda row: -abs(row.z))[:_MOST_ROWS]
        shown = [row for row in ratios if row in clearest]
    panels: list[tuple[str, list[tuple[HazardRatio, str, Interval | None]]]] = [
        ("Per standard deviation", [(row, _second_line(row), row.per_sd) for row in shown]),
        ("Per unit", [(row, row.contrast, row.per_unit) for row in shown]),
    ]
    narrow = width < NARROW
    row_height = 46 if narrow else 34
    panel_height = 34 + row_height * len(shown) + 58
    canvas = Canvas(
        f"forest-{width}",
        width,
        panel_height * (2 if narrow else 1),
        title=f"{words.ratios.capitalize()} with 95 % intervals",
        description="; ".join(f"{row.label} {row.contrast}: {row.per_unit or NONE}" for row in shown),
    )
    label_width = 0.0 if narrow else 190.0
    for index, (title, rows) in enumerate(panels):
        top = panel_height * index if narrow else 0.0
        span = width if narrow else (width - label_width) / 2
        left = 0.0 if narrow else label_width + span * index
        _forest_panel(canvas, title, rows, (left, top), span, row_height, words, with_labels=narrow)
        if not narrow and index == 0:
            _forest_labels(canvas, shown, row_height)
    return canvas.markup()


def _second_line(row: HazardRatio) -> str:
    return row.contrast if " vs " in row.contrast else ""


def _forest_labels(canvas: Canvas, rows: Sequence[HazardRatio], row_height: float) -> None:
    for index, row in enumerate(rows):
        middle = 34 + row_height * (index + 0.5)
        canvas.text((0, middle - 2), _cut(row.label, 28), bold=True)
        canvas.text((0, middle + 12), _cut(row.contrast, 32), fill=MUTED, size=11)


def _forest_panel(
    canvas: Canvas,
    title: str,
    rows: Sequence[tuple[HazardRatio, str, Interval | None]],
    corner: tuple[float, float],
    span: float,
    row_height: float,
    words: Words,
    *,
    with_labels: bool,
) -> None:
    left, top = corner
    ends = [end for _, _, interval in rows if interval for end in (interval.lower, interval.upper)]
    low = max(min([*ends, 0.8]) * 0.93, 1 / 64)
    high = min(max([*ends, 1.25]) * 1.07, 64.0)
    x = Scale((low, high), (left + 8, left + span - 118), logarithmic=True)
    bottom = top + 34 + row_height * len(rows)
    canvas.text((x.pixels[0], top + 16), title, bold=True, size=13)
    middles = [
        top + 34 + row_height * index + (row_height - 12 if with_labels else row_height / 2)
        for index in range(len(rows))
    ]
    # Under a label of its own each row gets its own piece of the lines, so that none runs through letters.
    pieces = [(m - 10, m + 10) for m in middles] if with_labels else [(top + 28, bottom)]
    for tick in ratio_ticks(low, high, 5):
        for piece in pieces:
            canvas.line((x(tick), piece[0]), (x(tick), piece[1]), stroke=INK if tick == 1 else RULE)
        canvas.text((x(tick), bottom + 18), f"{tick:g}", anchor="middle", fill=MUTED)
    canvas.text((x(1) - 8, bottom + 36), f"\N{LEFTWARDS ARROW} {words.lower}", anchor="end", fill=MUTED, size=11)
    canvas.text((x(1) + 8, bottom + 36), f"{words.higher} \N{RIGHTWARDS ARROW}", fill=MUTED, size=11)
    for middle, (row, second, interval) in zip(middles, rows, strict=True):
        if with_labels:
            label = row.label + (f", {second}" if second else "")
            canvas.text((x.pixels[0], middle - 18), _cut(label, 46), bold=True)
        _forest_mark(canvas, interval, x, middle)
        canvas.text((left + span - 106, middle + 4), str(interval) if interval else NONE, size=11.5)


def _forest_mark(canvas: Canvas, interval: Interval | None, x: Scale, middle: float) -> None:
    if interval is None:
        return
    colour = ACCENT if interval.lower > 1 or interval.upper < 1 else MUTED
    canvas.line((x(interval.lower), middle), (x(interval.upper), middle), stroke=colour, width=2)
    for end, inwards in ((interval.lower, 5), (interval.upper, -5)):
        if x.holds(end):
            canvas.line((x(end), middle - 4), (x(end), middle + 4), stroke=colour, width=2)
        else:  # the interval goes on beyond the axis
            canvas.path(
                [(x(end) + inwards, middle - 4), (x(end), middle), (x(end) + inwards, middle + 4)],
                stroke=colour,
                width=2,
            )
    canvas.dot((x(interval.value), middle), 5, fill=colour, stroke="#ffffff")


def importance(shares: Sequence[Share], *, width: int) -> str:
    """Draw what each layer contributes to the differences between patients, in percent."""
    narrow = width < NARROW
    left = 0.0 if narrow else 190.0
    row_height = 52 if narrow else 38
    bottom = 8.0 + row_height * len(shares)
    canvas = Canvas(
        f"importance-{width}",
        width,
        bottom + 4,
        title="What each layer contributes",
        description="; ".join(f"{one.layer}: {_percent(one.share)}" for one in shares),
    )
    low, high = min([0.0, *(one.share for one in shares)]), max([0.05, *(one.share for one in shares)])
    x = Scale((low, high), (left + (40.0 if low < 0 else 2.0), width - 60.0))
    for index, one in enumerate(shares):
        top = 8.0 + row_height * index
        middle = top + (row_height - 14 if narrow else row_height / 2)
        second = ", ".join(word for word in (one.made_of, one.penalty) if word)
        canvas.text((0, top + 14), one.layer, bold=True)
        canvas.text((width, top + 14) if narrow else (0, top + 28), second,
                    anchor="end" if narrow else "start", fill=MUTED, size=11)  # fmt: skip
        ends = sorted((x(0), x(one.share)))
        canvas.rect((ends[0], middle - 7), (max(ends[1] - ends[0], 1.5), 14), fill=ACCENT, radius=1.5)
        canvas.text((ends[1] + 8, middle + 4), _percent(one.share))
        if narrow:  # each bar gets its own piece of the axis, so that none runs through letters
            canvas.line((x(0), middle - 11), (x(0), middle + 11), stroke=INK)
    if not narrow:
        canvas.line((x(0), 8), (x(0), bottom), stroke=INK)
    return canvas.markup()


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %".replace("-", "\N{MINUS SIGN}")


def concordance(
    evaluation: Sequence[tuple[ScoredModel, Scores]],
    *,
    width: int,
    words: Words = SURVIVAL,
    name: str = "concordance",
) -> str:
    """Draw the C-index or AUC of each model: every fold as a small dot, the mean with its interval (else its spread).

    Args:
        evaluation: The models in the order of the rows.
        width: In pixels.
        words: Of the endpoint.
        name: Prefix of the ids; two of these figures in one page need two.
    """
    folds = [c for _, scores in evaluation for c in scores.c_index.per_fold if c is not None]
    intervals = [scores.intervals["c_index"] for _, scores in evaluation if "c_index" in scores.intervals]
    folds += [end for interval in intervals for end in (interval.lower, interval.upper)]
    low, high = min([*folds, 0.5]) - 0.04, max([*folds, 0.75]) + 0.04
    narrow = width < NARROW
    left = 8.0 if narrow else 150.0
    row_height = 52 if narrow else 40
    bottom = 26.0 + row_height * len(evaluation)
    canvas = Canvas(
        f"{name}-{width}",
        width,
        bottom + 44,
        title=f"{words.index} on unseen patients",
        description="; ".join(f"{MODELS[model]}: {_mean_of(scores)}" for model, scores in evaluation),
    )
    x = Scale((low, high), (left + 6, width - 132.0))
    middles = [26 + row_height * k + (row_height - 14 if narrow else row_height / 2) for k in range(len(evaluation))]
    pieces = [(m - 12, m + 12) for m in middles] if narrow else [(18, bottom)]
    for tick in nice_ticks(low, high, 4 if narrow else 6):
        canvas.text((x(tick), bottom + 18), f"{tick:g}", anchor="middle", fill=MUTED)
        for piece in pieces:
            canvas.line((x(tick), piece[0]), (x(tick), piece[1]))
    for piece in pieces:
        canvas.line((x(0.5), piece[0]), (x(0.5), piece[1]), stroke=INK, dash="3 3")
    canvas.text((x(0.5), 12), "chance", anchor="middle", fill=MUTED, size=11)
    canvas.text((x.pixels[1], bottom + 36), f"{words.index} (higher is better)", anchor="end", fill=MUTED)
    for middle, (model, scores) in zip(middles, evaluation, strict=True):
        canvas.text((left if narrow else 0, middle - 18 if narrow else middle + 4), MODELS[model], bold=True)
        _concordance_mark(canvas, scores, x, middle, ACCENT if model == "federated" else MUTED)
        canvas.text((width - 120, middle + 4), _mean_of(scores))
    return canvas.markup()


def _mean_of(scores: Scores) -> str:
    interval = scores.intervals.get("c_index")
    return spread(scores.c_index) if interval is None else with_interval(scores.c_index.mean, interval, 2)


def _concordance_mark(canvas: Canvas, scores: Scores, x: Scale, middle: float, colour: str) -> None:
    mean, sd = scores.c_index.mean, scores.c_index.sd
    for fold in scores.c_index.per_fold:
        if fold is not None and sd is not None:
            canvas.dot((x(fold), middle), 3.2, fill=colour, opacity=0.28)
    if mean is None:
        return
    interval = scores.intervals.get("c_index")
    if interval is not None:
        canvas.line((x(interval.lower), middle), (x(interval.upper), middle), stroke=colour, width=2.2)
    elif sd is not None:
        canvas.line((x(mean - sd), middle), (x(mean + sd), middle), stroke=colour, width=2.2)
    canvas.dot((x(mean), middle), 6, fill=colour, stroke="#ffffff")


def costs(steps: Sequence[StepCost], *, width: int) -> str:
    """Draw what each step cost: bytes to and from the hub, and seconds."""
    narrow = width < NARROW
    left = 0.0 if narrow else 168.0
    row_height = 60 if narrow else 44
    top = 30.0
    room = width - left
    bytes_span, seconds_left = room * 0.44, left + room * 0.66
    most = max([max(step.bytes_up, step.bytes_down) for step in steps] + [1])
    longest = max([step.seconds for step in steps] + [1e-9])
    to_bytes = Scale((0, most), (left, left + bytes_span))
    to_seconds = Scale((0, longest), (seconds_left, width - 56.0))
    canvas = Canvas(
        f"costs-{width}",
        width,
        top + row_height * len(steps) + 4,
        title="Rounds, bytes and seconds of each step",
        description="; ".join(
            f"{step.step}: {_rounds(step.rounds)}, {size(step.bytes_up)} up, {size(step.bytes_down)} down, "
            f"{duration(step.seconds)}"
            for step in steps
        ),
    )
    canvas.text((left, 14), "Data moved", bold=True, size=13)
    canvas.text((seconds_left, 14), "Time", bold=True, size=13)
    for index, step in enumerate(steps):
        row = top + row_height * index
        bars = row + (18 if narrow else 2)
        canvas.text((0, row + (12 if narrow else 14)), _cut(step.step.replace("_", " "), 24), bold=True)
        rounds_at = (width, row + 12) if narrow else (0.0, row + 29)
        canvas.text(rounds_at, _rounds(step.rounds), anchor="end" if narrow else "start", fill=MUTED, size=11)
        for amount, at, colour, word in (
            (step.bytes_up, bars, ACCENT, "up"),
            (step.bytes_down, bars + 16, _TINT, "down"),
        ):
            end = to_bytes(amount)
            canvas.rect((left, at), (max(end - left, 1.5), 11), fill=colour, radius=1.5)
            canvas.text((max(end, left + 1.5) + 6, at + 10), f"{size(amount)} {word}", fill=MUTED, size=11)
        end = to_seconds(step.seconds)
        canvas.rect((seconds_left, bars + 8), (max(end - seconds_left, 1.5), 11), fill="#8b97a5", radius=1.5)
        canvas.text((end + 6, bars + 18), duration(step.seconds), fill=MUTED, size=11)
    return canvas.markup()


def _rounds(n: int) -> str:
    return f"{n} round" + ("" if n == 1 else "s")


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
