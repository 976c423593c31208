"""The report of a run: one HTML file that opens anywhere, without a network and without a script.

Everything in it comes from the result (and, where given, the plan and a simulation of the same study), so
`archipel runs report` writes the same file again. All names and texts are escaped by the template; the figures
escape their own. The file forbids itself every fetch by its content security policy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from archipel import figures, figures_model, score_words, wording
from archipel.drawing import Drawing, draw
from archipel.endpoint_words import words_of
from archipel.report_endpoints import endpoint_view
from archipel.report_layers import layers_view
from archipel.svg import nice_ticks
from schemas.errors import ArchipelError, MessageError
from schemas.plan import Plan
from schemas.result import KaplanMeier, Release, ReleasedArray, Result, ScoredModel, Scores, parse_result

_HERE = Path(__file__).parent


class PlanDiffersError(ArchipelError):
    """A plan or a simulation that does not belong to the result."""


@dataclass(frozen=True)
class Tile:
    """One key figure."""

    name: str
    value: str
    note: str


def read_result(path: Path) -> Result:
    """Read a ``result.json``.

    Raises:
        IncompatibleVersionError: For a result of another version.
        MessageError: When the file cannot be read or is not a result.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MessageError(f"{path} cannot be read ({error.strerror}): check the path") from None
    try:
        return parse_result(content)
    except MessageError as error:
        raise MessageError(f"{path} is no result.json: {error}") from None


def write_report(result: Result, path: Path, *, simulated: Result | None = None, plan: Plan | None = None) -> None:
    """Write the report of `result` to `path`; a report that is there is replaced only when the new one is whole.

    Args:
        result: What the run found.
        path: Of the HTML file.
        simulated: A simulation of the same study on the same tables, shown in a section of its own.
        plan: What the sites approved; adds the parts that were allowed and never asked.

    Raises:
        PlanDiffersError: When `plan` is not the one of the result.
    """
    write_whole(path, render_report(result, simulated=simulated, plan=plan))


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never half of it."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def render_report(result: Result, *, simulated: Result | None = None, plan: Plan | None = None) -> str:
    """Return the report as HTML; see `write_report`."""
    # A simulation with exact times runs a plan that no site could approve, and names the one that they could.
    if plan is not None and result.mode == "federation" and plan.hash != result.plan_hash:
        raise PlanDiffersError("This plan is not the one that the result was computed with: their hashes differ.")
    return environment().get_template("report.html.j2").render(_view(result, simulated, plan))


@cache
def environment() -> Environment:
    """Return the templates, with everything escaped and no variable silently empty."""
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        number=wording.number,
        size=wording.size,
        duration=wording.duration,
        shape=wording.shape,
        nobreak=lambda text: text.replace("\N{EN DASH}", "\N{EN DASH}\N{WORD JOINER}"),
    )
    made.globals["css"] = Markup((_HERE / "static" / "report.css").read_text(encoding="utf-8"))
    return made


def _view(result: Result, simulated: Result | None, plan: Plan | None) -> dict[str, Any]:
    study = result.study
    costs = figures_model.step_costs(result)
    return {
        "result": result,
        "title": study.title or study.name,
        "answer": wording.answer(result),
        "tiles": _tiles(result),
        "wording": wording,
        "unit": study.time_unit,
        "units": wording.plural(study.time_unit),
        "curves": _draw_curves(result),
        "counts_are_bounds": result.kaplan_meier is not None
        and not all(figures.knows_everyone(curve) for curve in result.kaplan_meier.curves),
        "curve_table": _curve_table(result.kaplan_meier, study.time_unit),
        "calibration": _draw_calibration(result),
        "promise": wording.promise(result),
        "penalised": wording.is_penalised(result),
        "evaluation": ordered(result.evaluation),
        "differences": wording.differences(result),
        "gaps": _gaps(result),
        "concordance": _draw_concordance(result),
        "score_words": score_words,
        "costs": costs,
        "cost_drawing": draw(figures_model.costs, costs) if costs else None,
        "releases": [*result.releases, *(never_asked(result, plan) if plan else [])],
        "could_see": could_see(result),
        "simulated": simulated,
        "simulated_evaluation": ordered(simulated.evaluation) if simulated else [],
        "simulated_gaps": _gaps(simulated) if simulated else [],
        "simulated_concordance": _draw_concordance(simulated, name="simulated") if simulated else None,
        "simulated_difference": coefficient_difference(result, simulated) if simulated else None,
        "facts": _facts(result),
        **endpoint_view(result),
        **layers_view(result),
    }


def _gaps(result: Result) -> list[str]:
    """Why a number of the table is missing, each reason once."""
    names = {"c_index": "C-index", "ibs": "integrated Brier score", "calibration_slope": "calibration slope"}
    if result.outcome is not None:  # its squared error has a column of its own
        names = {"c_index": "AUC", "calibration_slope": "calibration slope"}
    gaps: dict[tuple[str, str], list[str]] = {}
    for model, scores in ordered(result.evaluation):
        for what, why in scores.reasons.items():
            if what not in names:
                continue
            gaps.setdefault((wording.MODELS[model], why), []).append(names[what])
    return [f"{model}, {' and '.join(what)}: {why}" for (model, why), what in gaps.items()]


def _draw_curves(result: Result) -> Drawing | None:
    if result.kaplan_meier is None:
        return None
    study = result.study
    return draw(figures.kaplan_meier, result.kaplan_meier, endpoint=study.endpoint, time_unit=study.time_unit)


def _draw_calibration(result: Result) -> Drawing | None:
    if result.calibration is None or not result.calibration.points:
        return None
    return draw(figures.calibration, result.calibration, time_unit=result.study.time_unit)


def _draw_concordance(result: Result, name: str = "concordance") -> Drawing | None:
    judged = [
        (model, scores) for model, scores in score_words.of_same_pairs(result) if scores.c_index.mean is not None
    ]
    # A dot invites to be compared; over a few dozen pairs there is nothing to compare.
    if not judged or any(wording.has_too_few_pairs(scores) for _, scores in judged):
        return None
    return draw(figures_model.concordance, judged, name=name, words=words_of(result))


def ordered(evaluation: Mapping[ScoredModel, Scores]) -> list[tuple[ScoredModel, Scores]]:
    """Return the judged models, each site alone first."""
    return [(name, evaluation[name]) for name in wording.MODELS if name in evaluation]


def _tiles(result: Result) -> list[Tile]:
    sites = wording.took_part(result)
    missing = len(result.sites) - sites
    words = words_of(result)
    tiles = [
        Tile(
            "Patients",
            wording.count(result.n),
            "eligible, all sites" if result.differential is None else "with noise, all sites",
        ),
        Tile(words.counted, wording.count(result.events), result.study.endpoint or "observed"),
        Tile("Sites", f"{sites}", f"{missing} left out or dropped" if missing else "all to the end"),
    ]
    federated = result.evaluation.get("federated")
    if federated is not None and wording.has_too_few_pairs(federated):
        tiles.append(Tile(words.index, wording.NONE, f"only {federated.comparable_pairs} pairs to judge by"))
    elif federated is not None and federated.c_index.mean is not None:
        tiles.append(Tile(words.index, wording.number(federated.c_index.mean, 2), _beside(result)))
    per_site = sum(release.bytes_per_site for release in result.releases)
    return [
        *tiles,
        Tile("Rounds", f"{result.rounds}", f"in {wording.duration(result.wall_s)}"),
        Tile("From each site", wording.size(per_site), ("masked " if result.sums_masked else "") + "sums, no rows"),
    ]


def _beside(result: Result) -> str:
    """Return what stands under the tile of C: the sites' own models, beside the federated one on the same pairs."""
    rows = dict(score_words.of_same_pairs(result))
    alone = rows["site_only"].c_index.mean if "site_only" in rows else None
    if alone is None:
        return "on unseen patients"
    inside, over = rows["federated"].c_index.mean, result.evaluation["federated"].c_index.mean
    of_pairs = "" if inside is None or inside == over else f"inside sites {wording.number(inside, 2)}, "
    return f"{of_pairs}each site alone {wording.number(alone, 2)}"


def _curve_table(kept: KaplanMeier | None, time_unit: str) -> list[tuple[str, list[str]]]:
    """Rows of (time, one cell for each group): survival with its interval."""
    if kept is None:
        return []
    last = max(curve.times[-1] for curve in kept.curves)
    rows = []
    for time in nice_ticks(0, last, 7)[1:]:
        cells = []
        for curve in kept.curves:
            at = max(i for i, t in enumerate(curve.times) if t <= time)
            lower, upper = curve.lower[at], curve.upper[at]
            cell = f"{100 * curve.survival[at]:.0f} %"
            cells.append(cell if lower is None or upper is None else f"{cell} ({100 * lower:.0f}–{100 * upper:.0f})")
        rows.append((wording.at_time(time, time_unit), cells))
    return rows


def never_asked(result: Result, plan: Plan) -> list[Release]:
    """Return what the plan allowed and the run did not need, as releases asked zero times."""
    asked = {(release.step, release.part) for release in result.releases}
    return [
        Release(
            step=step.name,
            part=part.name,
            purpose=step.purpose,
            arrays=tuple(
                ReleasedArray(name=spec.name, shape=spec.shape, meaning=spec.meaning) for spec in part.releases
            ),
            times=0,
            times_allowed=part.times,
            bytes_per_site=0,
        )
        for step in plan.steps
        for part in step.parts
        if (step.name, part.name) not in asked
    ]


def could_see(result: Result) -> list[str]:
    """Return what whoever reads along at the hub could learn, in plain sentences."""
    if result.differential is not None:
        seen = _seen_through_noise(result)
    else:
        seen = _seen_of_the_totals(result) if result.sums_masked else _seen_of_one_site(result)
    if result.on_dropout == "continue":
        seen.append(
            "This study goes on without a site that drops out; the sums before and after then differ by that site"
            + (", masked or not." if result.sums_masked else ".")
        )
    return seen


def _seen_through_noise(result: Result) -> list[str]:
    whose = "over all sites together" if result.sums_masked else "of each site"
    return [
        f"Sums {whose}, with noise that hides each patient: patients, mean and spread of every covariate, events and "
        "time under observation, the slope of the model in every round.",
        "Nothing more about any one patient than the promise of differential privacy allows, whatever is computed "
        "from these sums and whatever else is known.",
        "Which sites take part, when each answers, and how long it takes; and that a site has at least ten patients.",
    ]


def _seen_of_the_totals(result: Result) -> list[str]:
    seen = [
        "Over all sites together: how many patients and events there are in each interval of time and each risk "
        "group, also where such a count is under 10 and hidden in this report; mean and spread of every covariate, "
        "and which covariates go together; gradient and Hessian of every step.",
        "Which sites take part, when each answers, and how long it takes.",
        "A single site's term only together with other sites: all the others can subtract their own from a total, "
        "and more than two thirds of the sites can open the masks of the rest.",
    ]
    if any(release.step == "population" and release.times for release in result.releases):
        seen.insert(
            1,
            "How many patients of all sites lie in each of 64 parts of the range of every number and of the log "
            "hazard, also where these are few; the model keeps only edges with ten or more on either side.",
        )
    if result.method in ("cox", "cox-stratified"):
        seen.insert(
            1,
            "From the sums over those still at risk, the difference between two neighbouring intervals: it describes "
            f"the patients of all sites ({result.min_events_per_interval} events or more) who left in between.",
        )
    return seen


def _seen_of_one_site(result: Result) -> list[str]:
    seen = [
        "How many patients and events the site has, in each interval of time and each risk group, also where such a "
        "count is under 10 and hidden in this report.",
        "The site's own mean and spread of every covariate, and which covariates go together there.",
        "With gradient and Hessian of every step: the model that this site alone would have found.",
    ]
    if result.method in ("cox", "cox-stratified"):
        seen.append(
            "From the sums over those still at risk, the difference between two neighbouring intervals: it describes "
            "the few patients of the site who had the event or left observation in between."
        )
    seen.append(
        "At a small site, with the summands of many rounds: part of single patients' values. The floor under the "
        "number of patients makes this harder, not impossible."
    )
    return seen


def coefficient_difference(result: Result, other: Result) -> float | None:
    """Return the largest difference of a coefficient, or None where the two name different covariates."""
    if set(result.coefficients) != set(other.coefficients):
        return None
    return max(abs(value - other.coefficients[name]) for name, value in result.coefficients.items())


def _facts(result: Result) -> Sequence[tuple[str, str]]:
    grid = "exact event times (simulation only)"
    if result.differential is not None:
        grid = f"{result.grid_intervals} equal intervals, fixed in the plan"
    elif not result.exact_times:
        grid = f"{result.grid_intervals} intervals with at least {result.min_events_per_interval} events each"
    if result.outcome is not None:
        grid = "none: the outcome has no time"
    facts = [
        ("Run", result.run_id),
        ("Mode", "simulation in one process" if result.mode == "simulate" else "federation of separate processes"),
        ("Finished", result.created_at.isoformat(sep=" ", timespec="seconds")),
        ("Archipel", result.code_version),
        ("Plan hash", result.plan_hash),
        ("Dictionary", f"{result.dictionary.name}, format {result.dictionary.version}"),
        ("Dictionary hash", result.dictionary.hash),
        ("Seed", _seed(result)),
        ("Method", wording.METHODS[result.method]),
        ("Ties", result.ties.capitalize() if result.ties else "not needed: the likelihood has none"),
        ("Penalty", wording.penalty(result)),
        ("Time grid", grid),
        ("Sums", "masked (secure sum)" if result.sums_masked else "not masked: secure_sum = false in the study"),
        ("Differential privacy", wording.privacy(result)),
        ("Log-likelihood", _log_likelihood(result)),
    ]
    facts += [(name, version) for name, version in sorted(result.software.items())]
    study = result.study
    asked = (("Purpose", study.purpose), ("Ethics reference", study.ethics_reference), ("Contact", study.contact))
    return [*facts, *((name, text) for name, text in asked if text)]


def _seed(result: Result) -> str:
    if result.seed is not None:
        return str(result.seed)
    if result.differential is not None:
        return "none: the noise came from the operating system and is not kept"
    return "none: the run drew no random numbers"


def _log_likelihood(result: Result) -> str:
    if result.log_likelihood is None:
        return f"none: {result.reasons['log_likelihood']}"
    return f"{result.log_likelihood:.4f} (without the penalty)"
