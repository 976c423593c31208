"""Numbers and names as people read them, the same in the terminal, in the report and beside another result."""

from __future__ import annotations

import math
from dataclasses import dataclass

from archipel.endpoint_words import treatment_sentence, words_of
from schemas.result import CIndex, CovariateFacts, Difference, Result, ScoredModel, Scores
from schemas.result_intervals import Interval as ScoreInterval
from schemas.shown import NOT_SHOWN, SHOWN_FROM

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""
FEWEST_PAIRS = 200
"""C of fewer pairs has a 95 % interval of about 0.1 to either side, or wider: it misleads more than it tells."""

MODELS: dict[ScoredModel, str] = {
    "site_only": "Each site alone",
    "federated": "All sites together",
    "federated_clinical": "Clinical columns alone",
    "pooled": "One pooled table",
    "new_site": "At a site left out",
    "new_site_clinical": "Left out, clinical alone",
}
"""The judged models with the words for them, in the order in which they are shown."""
METHODS = {
    "hazard": "grouped proportional hazards (Prentice and Gloeckler 1978)",
    "cox": "Cox proportional hazards on the common time grid",
    "cox-stratified": "Cox proportional hazards, stratified by site",
    "hazard-network": "a network on the likelihood of grouped proportional hazards",
    "logistic": "logistic regression",
    "multinomial": "multinomial logistic regression",
}
LEFT_OUT = 1e9
"""A penalty from which on a layer takes no part."""
NONE = "\N{EN DASH}"
"""Stands where there is no number."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    lower: float
    upper: float

    def __str__(self) -> str:
        """Return ``0.32 (0.16-0.63)``."""
        return f"{ratio(self.value)} ({ratio(self.lower)}\N{EN DASH}{ratio(self.upper)})"


@dataclass(frozen=True)
class HazardRatio:
    """One covariate's hazard ratio, twice: for comparison with others, and in its own unit.

    Attributes:
        name: As in `coefficients`.
        label: For people: ``age``.
        contrast: What one unit is: ``per year``, ``rIFN-g vs placebo``.
        per_unit: For one unit; None without a standard error.
        per_sd: For one standard deviation over all sites; None without a standard error or without spread.
        coefficient: Log hazard ratio per unit.
        standard_error: Of the coefficient; None where a column does not vary, and under differential privacy.
        unit_text: The ratio for one unit as it is shown: without an interval where noise leaves none.
        sd_text: The same for one standard deviation.
        layer: Of a component or feature of a wide layer, whose ratio says little by itself; None for a covariate.
    """

    name: str
    label: str
    contrast: str
    per_unit: Interval | None
    per_sd: Interval | None
    coefficient: float
    standard_error: float | None
    unit_text: str = NONE
    sd_text: str = NONE
    layer: str | None = None

    @property
    def z(self) -> float:
        """The coefficient in standard errors; 0 without one."""
        return self.coefficient / self.standard_error if self.standard_error else 0.0


def hazard_ratios(result: Result) -> list[HazardRatio]:
    """Return exp(coefficient) with Wald 95 % intervals, in the result's order."""
    rows = []
    for covariate in result.covariates:
        beta = result.coefficients[covariate.name]
        se = result.standard_errors[covariate.name]
        deviation = covariate.standard_deviation
        per_unit = None if se is None else _wald(beta, se)
        per_sd = None if se is None or deviation == 0 else _wald(beta * deviation, se * deviation)
        rows.append(
            HazardRatio(
                name=covariate.name,
                label=covariate_label(covariate),
                contrast=contrast(covariate),
                per_unit=per_unit,
                per_sd=per_sd,
                coefficient=beta,
                standard_error=se,
                unit_text=_shown(per_unit, beta),
                sd_text=_shown(per_sd, beta * deviation),
                layer=covariate.layer if is_of_wide_layer(covariate) else None,
            )
        )
    return rows


def is_of_wide_layer(covariate: CovariateFacts) -> bool:
    """Whether a column of the model is a component (``rna 1``) or a feature (``rna:TP53``) of a wide layer."""
    return covariate.column == covariate.layer or covariate.name == f"{covariate.layer}:{covariate.column}"


def _shown(interval: Interval | None, log_ratio: float) -> str:
    if interval is None and log_ratio != 0:  # noise, or features more than patients, leave no interval
        return ratio(math.exp(min(max(log_ratio, -300), 300)))
    return str(interval or NONE)


def _wald(beta: float, se: float) -> Interval:
    return Interval(*(math.exp(min(max(b, -300), 300)) for b in (beta, beta - Z95 * se, beta + Z95 * se)))


def covariate_label(covariate: CovariateFacts) -> str:
    """Return the column's name without underscores and without a unit at its end.

    A component of a wide layer is called as in `coefficients` (``rna 1``): it is no column of a table.
    """
    if covariate.column == covariate.layer:
        return covariate.name
    name = covariate.column
    if covariate.unit:
        for ending in (f"_{covariate.unit}", f"_{covariate.unit}s"):
            name = name.removesuffix(ending)
    label = name.replace("_", " ").strip() or covariate.column
    if covariate.interaction_with:
        label += f" \N{MULTIPLICATION SIGN} {covariate.interaction_with.partition('[')[0].replace('_', ' ')}"
    return f"{label} ({covariate.outcome})" if covariate.outcome else label


def contrast(covariate: CovariateFacts) -> str:
    """Return what a hazard ratio per unit compares."""
    if covariate.code is not None:
        return f"{covariate.code} vs {covariate.reference}" if covariate.reference else covariate.code
    if covariate.type == "boolean":
        return "yes vs no"
    return f"per {covariate.unit}" if covariate.unit else "per unit"


def ratio(value: float) -> str:
    """Return a ratio with what matters of it: ``0.32``, ``12.1``, ``0.004``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if value >= 1000 or value < 0.001:
        return f"{value:.1e}"
    if value >= 100:
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with fixed digits, or a dash."""
    return NONE if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def spread(c_index: CIndex, digits: int = 3) -> str:
    """Return the mean with its standard deviation over the folds where there is one."""
    if c_index.sd is None:
        return number(c_index.mean, digits)
    return f"{number(c_index.mean, digits)} \N{PLUS-MINUS SIGN} {number(c_index.sd, digits)}"


def with_interval(value: float | None, interval: ScoreInterval | None, digits: int = 3) -> str:
    """Return a number with its 95 % interval where there is one: ``0.720 (0.681-0.757)``."""
    if value is None or interval is None:
        return number(value, digits)
    # A slope may lie below 0, and a dash before a minus reads badly.
    between = "\N{EN DASH}" if interval.lower >= 0 else " to "
    return f"{number(value, digits)} ({number(interval.lower, digits)}{between}{number(interval.upper, digits)})"


def size(n_bytes: float) -> str:
    """Return a number of bytes: ``1.3 MB``."""
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= power:
            return f"{n_bytes / power:.3g} {unit}"
    return f"{n_bytes:.0f} B"


def duration(seconds: float) -> str:
    """Return a time as people say it: ``12 ms``, ``8.4 s``, ``3 min 20 s``."""
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plural(unit: str) -> str:
    """Return the plural of a unit of time."""
    return unit if unit.endswith("s") else unit + "s"


def shape(extents: tuple[int, ...]) -> str:
    """Return the shape of an array in words."""
    return " \N{MULTIPLICATION SIGN} ".join(str(extent) for extent in extents) if extents else "1 number"


def at_time(time: float, unit: str) -> str:
    """Return a horizon: ``180 days``."""
    return f"{time:g} {unit if time == 1 else plural(unit)}"


def penalty(result: Result) -> str:
    """Return the penalty in words."""
    per_layer = result.penalty if isinstance(result.penalty, dict) else {"": result.penalty}
    parts = [f"{layer} {strength(value)}".strip() for layer, value in per_layer.items() if value > 0]
    scale = "standardised" if result.standardise else "original"
    return f"ridge, \N{GREEK SMALL LETTER LAMDA} = {', '.join(parts)} on the {scale} scale" if parts else "none"


def strength(value: float) -> str:
    """Return one layer's penalty in words."""
    return "left out" if value >= LEFT_OUT else f"{value:g}"


def differences(result: Result) -> list[str]:
    """Return the paired comparisons of the judged models, one sentence each."""
    return [_difference(one) for one in result.differences]


def _difference(one: Difference) -> str:
    text = f"{MODELS[one.first]} against {MODELS[one.second].lower()}: C {one.c_index:+.3f}"
    parts = "sites" if one.first == "new_site" else "folds"
    if one.lower is None or one.upper is None:
        return f"{text} on one of the {parts}."
    between = f"{one.lower:+.3f} to {one.upper:+.3f}"
    return f"{text} (95 % interval {between}, paired over {one.folds} {parts})."


def is_penalised(result: Result) -> bool:
    """Return whether any coefficient was drawn towards zero."""
    values = result.penalty.values() if isinstance(result.penalty, dict) else (result.penalty,)
    return any(value > 0 for value in values)


def took_part(result: Result) -> int:
    """Return how many sites are in the sums to the end."""
    return sum(site.status == "took part" for site in result.sites)


def count(n: int | None) -> str:
    """Return a count of people of the result, which is rounded already; `not shown` where it is hidden."""
    return NOT_SHOWN if n is None else f"{n}"


def _of_patients(result: Result) -> str:
    return "Of the patients" if result.n is None else f"Of about {result.n} patients"


def _with_event(result: Result) -> str:
    return f"fewer than {SHOWN_FROM}" if result.events is None else f"about {result.events}"


def answer(result: Result) -> str:
    """Return what the run found, in at most three sentences.

    The words are chosen by the numbers alone; an association is never called an effect.
    """
    words = words_of(result)
    endpoint = f" ({result.study.endpoint})" if result.study.endpoint else ""
    site_count = took_part(result)
    where = f"at {site_count} sites" if site_count != 1 else "at one site"
    parts = [f"{_of_patients(result)} {where}, {_with_event(result)} {words.had}{endpoint}."]
    federated = result.evaluation.get("federated")
    if federated is not None and federated.c_index.mean is not None:
        parts.append(_ranking(result, federated))
    if result.differential is not None:
        return " ".join([*parts, "All of it carries noise that hides each patient; hazard ratios have no intervals."])
    if treatment := treatment_sentence(result):
        return " ".join([*parts, treatment])
    covariates = [row for row in hazard_ratios(result) if row.layer is None and row.per_unit is not None]
    if not covariates:
        return " ".join(parts)
    first = max(covariates, key=lambda row: abs(row.z))
    if first.per_unit is not None and abs(first.z) >= Z95:
        parts.append(
            f"Clearest association: {first.label} ({first.contrast}), {words.ratio} {ratio(first.per_unit.value)} "
            f"(95 % interval {ratio(first.per_unit.lower)}\N{EN DASH}{ratio(first.per_unit.upper)})."
        )
    else:
        article = "an" if words.ratio.startswith("o") else "a"
        parts.append(f"No single covariate has a 95 % interval that excludes {article} {words.ratio} of 1.")
    return " ".join(parts)


def privacy(result: Result) -> str:
    """Return the terms of differential privacy in a few signs, or that there is none."""
    terms = result.differential
    if terms is None:
        return "none"
    return f"ε = {terms.epsilon:g}, δ = {terms.delta:.2g}, {terms.adjacency}"


def promise(result: Result) -> list[str]:
    """Return what differential privacy promises to every patient, for a reader who knows no formula; else nothing."""
    terms = result.differential
    if terms is None:
        return []
    strength = "strong" if terms.epsilon <= 1 else "moderate" if terms.epsilon <= 4 else "weak"
    sites = took_part(result)
    if terms.honest_sites == 1:
        against = "Each site added all of the noise itself, so it holds against the hub and all other sites together."
    else:
        against = (
            f"The sites shared the noise out: it holds as long as {terms.honest_sites} of the {sites} sites do not "
            "help whoever runs the hub."
        )
    return [
        "Whoever sees everything that this run released learns almost the same as if any one patient had not taken "
        f"part ({privacy(result)}).",
        "In odds: whatever somebody holds possible about a patient, and whatever else they know, this run can make "
        f"it more or less likely by a factor of at most {_rounded(math.exp(terms.epsilon))} (a {strength} promise); "
        f"it may fail with a probability of at most 1 in {_rounded(1 / terms.delta)}.",
        against,
        "For that every number carries noise, those of patients and events too. Hazard ratios have no intervals, and "
        "a federation draws no curves of its patients: they would use up the promise, and the model needs none.",
        "It does not hide what is true of patients in general, nor which sites took part.",
    ]


def _rounded(value: float) -> str:
    """Return a number with two digits that matter: ``2.7``, ``3,000``."""
    short = float(f"{value:.2g}")
    return f"{short:g}" if short < 100 else f"{short:,.0f}"


def has_too_few_pairs(scores: Scores) -> bool:
    """Whether C rests on so few pairs that it must not be read as a judgement."""
    return scores.comparable_pairs is not None and scores.comparable_pairs < FEWEST_PAIRS


def concordance(scores: Scores) -> str:
    """Return C with its interval or spread, and with the number of pairs where they are too few to judge by."""
    interval = scores.intervals.get("c_index")
    text = spread(scores.c_index) if interval is None else with_interval(scores.c_index.mean, interval)
    return f"{text} (only {scores.comparable_pairs} pairs)" if has_too_few_pairs(scores) else text


def _ranking(result: Result, federated: Scores) -> str:
    c_index, words = federated.c_index, words_of(result)
    assert c_index.mean is not None  # the caller has looked
    if has_too_few_pairs(federated):
        return (
            f"Its held-out patients form only {federated.comparable_pairs} comparable pairs, too few to say how well "
            "the model orders patients that it has not seen."
        )
    parts = len(c_index.per_fold)
    over = "one held-out part" if parts == 1 else f"{parts} held-out parts"
    text = (
        f"A model trained on all sites together puts {100 * c_index.mean:.0f} of 100 {words.pairs} in the right "
        f"order ({words.index} {_sure(federated)}, {over})"
    )
    alone = result.evaluation.get("site_only")
    if alone is None or alone.c_index.mean is None:
        return text + "."
    inside = federated.c_index_within
    if result.mode == "federation" and inside is not None and inside.mean is not None and inside != c_index:
        return (
            f"{text}. Of pairs inside one site it is {100 * inside.mean:.0f} of 100; models that each site trains "
            f"alone, {100 * alone.c_index.mean:.0f}."
        )
    return f"{text}; models that each site trains alone, {100 * alone.c_index.mean:.0f}."


def _sure(scores: Scores) -> str:
    """Return C as a sentence has it: with its interval, else with its spread over the folds."""
    interval = scores.intervals.get("c_index")
    if interval is None:
        return spread(scores.c_index, 2)
    ends = f"{number(interval.lower, 2)}\N{EN DASH}{number(interval.upper, 2)}"
    return f"{number(scores.c_index.mean, 2)}, 95 % interval {ends}"
