"""The data-use card: what a plan does with a site's data, in plain words, for the person who approves it.

Written from the plan alone, so that it cannot promise less than the gate lets out; who else takes part comes beside
it (`roster_card`). Text that came with the plan (titles, purposes) is shown without control characters: the card is
read in a terminal.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping

from schemas.design import LayerDesign, layer_designs
from schemas.dictionary import Column
from schemas.plan import ArraySpec, PartSpec, Plan, PlanStep
from schemas.roster import Roster, RosterSite, fingerprint
from schemas.study import Criterion, FoldColumn, Study

__all__ = ["data_use_card", "roster_card"]

_WIDTH = 100
_METHODS = {
    "hazard": "grouped proportional hazards",
    "cox": "proportional hazards (Cox) on a common time grid",
    "cox-stratified": "proportional hazards (Cox) on a common time grid, stratified by site",
    "hazard-network": "a network on grouped proportional hazards, one encoder for each layer",
    "logistic": "logistic regression",
    "multinomial": "multinomial regression",
}
_WHO = {
    "all": "all patients of the study",
    "training": "the patients that the site does not hold out",
    "held_out": "the patients that the site holds out to judge the model on",
    "split": "all patients, those held out kept apart; the minimum counts the held-out ones",
    "folds": "all patients of the study, in the folds that the site deals them into; nobody else learns which",
}
_NOT_MASKED = (
    "The study has switched the secure sum off, so sums are NOT MASKED: the hub sees this site's own numbers, as "
    "listed above, and not only their total over all sites. A person with access to the hub could read from them how "
    "many patients and events this site has, the means and spreads of the columns at this site, and in which bins of "
    "time its events fall; where a category or an event in a bin belongs to one patient of this site alone, sums of "
    "products of columns can also tell that patient's other values. No row as such, no identifier and no error text "
    "leaves; every release stands in the site's ledger (`archipel site ledger show`)."
)
_NOT_MASKED_NOISY = (
    "The study has switched the secure sum off, so sums are NOT MASKED: the hub sees this site's own numbers, as "
    "listed above, each with the noise that hides every patient. It could tell about how many patients and events "
    "this site has and what they are like as a group, and nothing more about one of them than is promised above. No "
    "row as such, no identifier and no error text leaves; every release stands in the site's ledger "
    "(`archipel site ledger show`)."
)
_MASKED = (
    "Sums are masked (secure sum): what leaves this site looks like noise to the hub, and only the total over the "
    "sites of one list can be opened, with the shares of more than two thirds of them. Keys are fresh in every round "
    "and signed with the keys below; the hub cannot put others in their place as long as the fingerprints were "
    "compared. The hub sees the totals over all sites, as listed above. It could read this site's own numbers only "
    "together with all other sites, who would know their own, or with so many that their shares open its masks. No "
    "row, no identifier and no error text leaves; every release stands in the site's ledger "
    "(`archipel site ledger show`)."
)
_AGAIN = (
    "An approved plan may be run again, as often as the hub asks, until its last day or until the approval is "
    "withdrawn. The difference of two sums over nearly the same patients would be these patients. So this site "
    "compares each run with all earlier ones in which its sums have left, of whatever study, and refuses one whose "
    "patients (or, in the same columns, their values) differ from those of another by one to nine, or by nobody and "
    "one or two sites under masks. An opt-out counts from the next run on and can be the reason for such a refusal. "
    "The site also refuses coefficients that no honest fit would ask at: too large, too far from the last ones, or "
    "too many different ones."
)
_AGAIN_WITH_NOISE = (
    "An approved plan may be run again, as often as the hub asks, until its last day, until the approval is "
    "withdrawn, or until this site's privacy budget is used up: every run costs the same again. Patients may differ "
    "between runs as they like, also by one, and an opt-out counts from the next run on."
)
_NOISE = (
    "Every number above leaves with noise that is drawn at this site, so that whoever sees all that the study "
    "releases learns almost the same as if any one patient had not been there: epsilon {epsilon:g}, delta {delta:g}; "
    "the cohorts that nobody can tell apart differ by one patient more or less. In odds: whatever somebody holds "
    "possible about a patient, a run makes it more or less likely by a factor of at most {factor:,}."
)
_NOISE_ALONE = "This site adds all of the noise itself, so it need not trust the hub or any other site for that."
_NOISE_SHARED = (
    "The sites share the noise out: it suffices as long as {honest} sites of a sum do not help the hub; this site "
    "opens no sum in which fewer are guaranteed, so a run that loses too many sites ends."
)
_NOISE_COSTS = (
    "A run is charged to this site's privacy budget (`archipel site status`), round by round and before anything "
    "leaves; what a crash cuts off stays charged. Not hidden: what is true of patients in general, that this site "
    "takes part, and that it has at least ten patients."
)
_ON_DROPOUT = {
    "pause": "When a site is missing at the deadline, the run waits for it. No sum is formed over other sites.",
    "continue": "When a site is missing at the deadline, the run goes on without it (at most once, and not below "
    "three sites). The hub could then infer the leaving site's sums, as the difference of two totals.",
}


def data_use_card(plan: Plan) -> str:
    """Return the card of a plan, as lines of text."""
    study = plan.study
    sections = [
        ("Data-use card", _identity(plan)),
        ("Who is looked at", _cohort(study)),
        ("Columns read at this site; cells stay there", _columns(plan)),
        ("What leaves this site, and nothing else", _releases(plan)),
        ("Smallest numbers", _floors(plan)),
        *_promise(study),
        ("What the hub could see", _wrapped(_MASKED if study.privacy.secure_sum else _not_masked(study))),
        ("When the plan is run again", _wrapped(_AGAIN if study.privacy.differential is None else _AGAIN_WITH_NOISE)),
        ("When a site drops out", _wrapped(_ON_DROPOUT[study.on_dropout])),
    ]
    return "\n".join(f"{title}\n{'-' * len(title)}\n" + "\n".join(lines) + "\n" for title, lines in sections)


def _promise(study: Study) -> list[tuple[str, list[str]]]:
    """Return the section on differential privacy, where the study asks for it."""
    asked = study.privacy.differential
    if asked is None:
        return []
    noise = _NOISE.format(epsilon=asked.epsilon, delta=asked.delta, factor=float(f"{math.exp(asked.epsilon):.2g}"))
    whose = _NOISE_ALONE if asked.honest_sites == 1 else _NOISE_SHARED.format(honest=asked.honest_sites)
    lines = [line for text in (noise, whose, _NOISE_COSTS) for line in _wrapped(text)]
    return [("What every patient is promised (differential privacy)", lines)]


def _not_masked(study: Study) -> str:
    return _NOT_MASKED if study.privacy.differential is None else _NOT_MASKED_NOISY


def roster_card(roster: Roster, own_name: str, pins: Mapping[str, str]) -> str:
    """Return who takes part, with the fingerprints to be compared, as lines of text.

    Args:
        roster: To be approved with a plan.
        own_name: This site's name.
        pins: Name -> public key that this site's people compared before.
    """
    width = max(len(site.name) for site in roster.sites)
    lines = _wrapped(
        f"{len(roster.sites)} sites; {roster.threshold} of them must answer before a sum can be opened. Compare the "
        "fingerprints with the other sites themselves, on the phone and not through the hub: a hub that puts keys of "
        "its own in the place of theirs can take the masks off."
    )
    lines += [
        f"{_clean(site.name):<{width}}  {site.fingerprint}  {_known_as(site, own_name, pins)}"
        for site in roster.sites
    ]
    lines += [f"{'all':<{width}}  {roster.fingerprint}  if this is the same everywhere, so are all above"]
    title = f"With which sites (roster {roster.hash[:12]})"
    return f"{title}\n{'-' * len(title)}\n" + "\n".join(lines) + "\n"


def _known_as(site: RosterSite, own_name: str, pins: Mapping[str, str]) -> str:
    if site.name == own_name:
        return "this site"
    if site.name not in pins:
        return "NEW: compare"
    return "as compared before" if fingerprint(pins[site.name]) == site.fingerprint else "CHANGED: refused"


def _identity(plan: Plan) -> list[str]:
    study = plan.study
    pairs = [
        ("Study", f"{study.name}: {study.title}" if study.title else study.name),
        ("Question", study.question or "(not stated)"),
        ("Purpose", study.purpose or "(not stated)"),
        ("Ethics", study.ethics_reference or "(no reference stated)"),
        ("Contact", study.contact or "(not stated)"),
        ("Last day", str(study.expires) if study.expires else "none: until the approval is withdrawn"),
        ("Model", _model(plan)),
        ("Evaluation", _evaluation(study)),
        ("Rounds", f"at most {plan.max_rounds} in a run"),
        ("Plan", f"{plan.hash}, made by Archipel {plan.code_version}"),
    ]
    return [line for label, value in pairs for line in _labelled(label, value)]


def _model(plan: Plan) -> str:
    study = plan.study
    penalty = study.model.penalty
    values = list(penalty.values()) if isinstance(penalty, dict) else [penalty]
    how = "no penalty" if not any(values) else "penalised"
    if isinstance(penalty, dict):
        how += " (" + ", ".join(f"{layer} {value:g}" for layer, value in sorted(penalty.items())) + ")"
    elif penalty == "cv":
        how += ", how strongly each layer is chosen by cross-validation"
    elif penalty:
        how += f" ({penalty:g})"
    parts = [_METHODS[study.model.method], how, f"{len(study.model.covariates)} covariates"]
    parts += [_wide(layer) for layer in layer_designs(study, plan.dictionary)]
    return ", ".join(parts + ["and of whom each layer is missing"] * study.model.missing_indicator)


def _wide(layer: LayerDesign) -> str:
    what = f"{layer.n_features:,} {layer.name} features"
    how = ", corrected by each site for its own location and scale" if layer.adjust else ""
    return (f"{layer.n_components} components of {what}" if layer.n_components else f"all {what}") + how


def _evaluation(study: Study) -> str:
    folds = study.evaluation.folds
    if isinstance(folds, FoldColumn):
        return f"on the folds of column {folds.column}"
    if folds == 0:
        return "none"
    if study.privacy.secure_sum:
        return (
            f"cross-validation in {folds} folds, into which each site deals its own patients; nobody else learns how"
        )
    return (
        f"on about one in {folds} patients of each site, held out from training; a site too small for that holds "
        "out nobody"
    )


def _cohort(study: Study) -> list[str]:
    lines = [f"- {_criterion(criterion)}" for criterion in study.eligibility.criteria]
    lines.append("- endpoint known" + (" and no covariate empty" if study.eligibility.complete_cases else ""))
    lines.append("- not in optout.txt when the run starts")
    return lines


def _criterion(criterion: Criterion) -> str:
    value = criterion.value
    shown = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
    return _clean(f"{criterion.column} {criterion.op} {shown}")


def _columns(plan: Plan) -> list[str]:
    study, endpoint = plan.study, plan.study.endpoint
    what = f": {endpoint.label}" if endpoint.label else ""
    kinds = f" (of several: {', '.join(map(str, endpoint.causes))})" if endpoint.has_competing else ""
    parts = (
        (endpoint.time or None, "time"),
        (endpoint.event or None, f"event{kinds}{what}"),
        (endpoint.entry, "entry"),
        (endpoint.outcome, f"outcome{what}"),
        (study.model.treatment, "treatment"),
        (study.evaluation.group, "group of relatives"),
    )
    roles = {name: role for name, role in parts if name is not None}
    for name in study.model.covariates:
        roles.setdefault(name, "covariate")
    for criterion in study.eligibility.criteria:
        roles.setdefault(criterion.column, "eligibility")
    lines = [line for name, role in roles.items() for line in _column(plan.dictionary.column(name), name, role)]
    return lines + [line for layer in layer_designs(study, plan.dictionary) for line in _layer(layer, plan)]


def _layer(layer: LayerDesign, plan: Plan) -> list[str]:
    described = plan.dictionary.wide_layer(layer.name)
    unit = described.unit if described is not None and described.unit else "numbers"
    first, last = layer.features[0], layer.features[-1]
    named = f"from {first} to {last}" if layer.n_features > 1 else first
    return _item(f"layer {layer.name}: {layer.n_features:,} features, {named}; {unit}")


def _column(column: Column | None, name: str, role: str) -> list[str]:
    if column is None:
        return _item(f"{name} ({role})")
    kind = column.unit or ("categories " + ", ".join(column.codes) if column.codes else column.type)
    return _item(f"{name} ({role}): {kind}; layer {column.layer}")


def _releases(plan: Plan) -> list[str]:
    return [line for number, step in enumerate(plan.steps, start=1) for line in _step(number, step, plan)]


def _step(number: int, step: PlanStep, plan: Plan) -> Iterator[str]:
    is_masked = plan.study.privacy.secure_sum
    optional = " Optional: without it the model still stands." if step.optional else ""
    yield from _wrapped(f"{number}. {step.name}: {step.purpose}{optional}", hang=3)
    yield from _wrapped(f"over {_WHO[step.cohort]}; only with at least {step.min_patients} of them", 3)
    for part in step.parts:
        yield from _part(part, is_verified=part.verified and is_masked)


def _part(part: PartSpec, *, is_verified: bool) -> Iterator[str]:
    yield from _wrapped(f"{part.name}, asked at most {_times(part.times)}:", 3)
    if part.noise is not None:
        cost = f"each time costs {100 * part.noise.share:.3g} % of the study's privacy"
        yield from _wrapped(
            f"with noise; one patient moves all numbers by {part.noise.sensitivity:.3g} at most; {cost}", 5
        )
    for spec in part.releases:
        yield from _wrapped(f"- {spec.name}, {_size(spec)}: {spec.meaning}", 5, hang=2)
    if part.norm is not None:
        yield from _wrapped(
            f"shortened at this site, before it leaves, to a length of at most {part.norm:g} (all of these numbers "
            "together, the count of patients left aside)",
            5,
            hang=2,
        )
    if is_verified:
        yield from _wrapped(
            "every site opens this total itself, from the masked numbers of all, and goes on only with what follows "
            "from it",
            5,
            hang=2,
        )
    if part.sends:
        received = ", ".join(f"{spec.name} ({_size(spec)})" for spec in part.sends)
        yield from _wrapped(f"for this the hub sends {received}", 5, hang=2)


def _floors(plan: Plan) -> list[str]:
    terms = plan.study.privacy
    patients = _item(
        f"patients of a site behind every number: {terms.min_patients}, or the site's own floor if higher"
    )
    if terms.differential is not None:
        return [*patients, *_item(f"equal intervals of time, fixed in the plan: {terms.time_bins}")]
    censored = _item(
        "patients who leave without an event, in each interval and over all sites: none, or "
        f"{terms.min_events_per_interval} and more"
    )
    return [
        *patients,
        *_item(f"events in each interval of the common time grid, over all sites: {terms.min_events_per_interval}"),
        *(censored if terms.count_censored else []),
        *_item(f"bins of time in which events are counted: {terms.time_bins}"),
    ]


def _times(times: int) -> str:
    return "once" if times == 1 else f"{times} times"


def _size(spec: ArraySpec) -> str:
    if spec.shape == ():
        return "one number"
    return " x ".join(f"{length:,}" for length in spec.shape) + (" numbers" if spec.size != 1 else " number")


def _labelled(label: str, value: str) -> list[str]:
    lines = textwrap.wrap(_clean(value), _WIDTH - 12) or [""]
    return [f"{label:<11} {lines[0]}", *(" " * 12 + line for line in lines[1:])]


def _item(text: str) -> list[str]:
    return _wrapped(f"- {text}", hang=2)


def _wrapped(text: str, indent: int = 0, *, hang: int = 0) -> list[str]:
    first, others = " " * indent, " " * (indent + hang)
    return textwrap.wrap(_clean(text), _WIDTH, initial_indent=first, subsequent_indent=others)


def _clean(text: str) -> str:
    """Return text on one line, without what a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)
