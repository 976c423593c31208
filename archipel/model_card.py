"""Writes a model's card from its run, as JSON (`schemas.model_card`) and as one HTML page without a script."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from math import exp, sqrt
from pathlib import Path

import numpy as np
from markupsafe import Markup
from scipy.special import stdtrit

from archipel import wording
from archipel.report import environment, write_whole
from schemas.artefact import Artefact, PopulationRange
from schemas.model_card import CalibrationFacts, CardLayer, Figure, MembershipAttack, ModelCard, Predictor
from schemas.plan import Plan
from schemas.result import CovariateFacts, Result, ScoredModel, Scores
from schemas.shown import SHOWN_FROM, shown_count
from schemas.study import FoldColumn, Study

__all__ = ["card_text", "make_card", "render_card", "write_card"]

_STATIC = Path(__file__).parent / "static"
_LONGEST_TABLE = 200
_LONGEST_ENDPOINT = 300
_MISSING = (
    "A missing cell counts as the mean of the training patients. A patient without a layer has no part of the "
    "prediction from it. Of every prediction the page says which inputs were missing."
)
_BY_SITE: frozenset[ScoredModel] = frozenset({"new_site", "new_site_clinical"})
_NO_NOISE = "No noise is added (no differential privacy): what protects is the penalty, the floors and the sums."
_TRIPOD = {
    "1 Title": "title, study, endpoint",
    "3 Background, 4 Objectives": "question; the study's protocol",
    "5 Data": "sites, dates of the run; collection: each site's own records",
    "6 Participants": "eligibility, sites",
    "7 Data preparation": "missing values, layers; the dictionary by its hash",
    "8 Outcome": "endpoint, horizons",
    "9 Predictors": "predictors, layers",
    "10 Sample size": "patients, events, events by horizon",
    "11 Missing data": "missing values",
    "12 Analytical methods": "method, penalty, evaluation",
    "13 Class imbalance": "none done: survival times are modelled as they are",
    "14 Fairness": "not assessed by group: sites see no group of under ten",
    "15 Model output": "survival curve with interval, risk at the horizons",
    "16 Training versus evaluation": "evaluation",
    "17 Ethical approval": "ethics",
    "18 Open science": "contact, code version, plan hash",
    "19 Patient and public involvement": "not recorded by the run",
    "20 Participants": "patients, events, population",
    "21 Model development": "patients, events of the model",
    "22 Model specification": "predictors; the signed model file",
    "23 Model performance": "performance, calibration",
    "24 Model updating": "none: a new run makes a new model",
    "25 Interpretation, 26 Limitations": "limits",
    "27 Usability": "intended use, not for, missing values",
}
"""TRIPOD+AI's items (Collins et al. 2024) and the section of the card that answers each."""
_TRIPOD_COMPETING = {
    "12 Analytical methods": "method (one model for each kind of event), penalty, evaluation",
    "15 Model output": "cumulative incidence of each kind of event with interval, at the horizons",
}


def make_card(
    result: Result, plan: Plan, artefact: Artefact, attack: MembershipAttack | None, attack_reason: str = ""
) -> ModelCard:
    """Return the card of a model.

    Args:
        result: Of the run.
        plan: That ran.
        artefact: The model as it will be released, but for the hash of this card and the signature.
        attack: The membership attack on this study.
        attack_reason: Why there is none, where there is none.
    """
    study, manifest = plan.study, artefact.manifest
    calibration = result.calibration
    return ModelCard(
        study=study.name,
        title=study.title or study.name,
        question=study.question,
        run_id=result.run_id,
        mode=result.mode,
        plan_hash=result.plan_hash,
        dictionary=plan.dictionary.name,
        dictionary_hash=plan.dictionary.hash,
        code_version=result.code_version,
        created_at=result.created_at,
        contact=study.contact,
        ethics_reference=study.ethics_reference,
        intended_use=manifest.intended_use,
        not_for=manifest.not_for,
        expires=manifest.expires,
        endpoint=_endpoint(study, artefact),
        time_unit=result.study.time_unit,
        horizons=study.endpoint.horizons_days,
        eligibility=_eligibility(study),
        missing_values=_MISSING,
        sites=tuple(one.name if one.status == "took part" else f"{one.name} ({one.status})" for one in result.sites),
        n_patients=manifest.n_patients,
        n_events=manifest.n_events,
        events_by_horizon=tuple((one.horizon, one.events) for one in manifest.events_by_horizon),
        method=_method(result, artefact),
        penalty=wording.penalty(result),
        predictors=_predictors(result, artefact),
        layers=_layers(artefact),
        evaluation_kind=result.evaluation_kind,
        performance=_performance(result, study),
        calibration_basis="" if calibration is None else calibration.basis,
        calibration=_calibration(result),
        floors=_floors(study),
        privacy=tuple(wording.promise(result)) or (_NO_NOISE,),
        attack=attack,
        attack_reason=attack_reason,
        limits=_limits(result, artefact, attack),
        tripod=_TRIPOD | (_TRIPOD_COMPETING if manifest.causes else {}),
    )


def render_card(card: ModelCard) -> str:
    """Return the card as one HTML page; every text in it is escaped."""
    css = Markup((_STATIC / "model_card.css").read_text(encoding="utf-8"))
    return environment().get_template("model_card.html.j2").render(card=card, wording=wording, card_css=css)


def write_card(card: ModelCard, folder: Path) -> tuple[Path, Path]:
    """Write ``card.json`` and ``card.html`` into a folder that is there, and return both."""
    (folder / "card.json").write_bytes(card.content)
    write_whole(folder / "card.html", render_card(card))
    return folder / "card.json", folder / "card.html"


def card_text(card: ModelCard) -> str:
    """Return what a person at a site reads before accepting a model, as lines of plain text."""
    pairs = [
        ("Model", f"{card.title} (study {card.study}, run {card.run_id})"),
        ("Use it for", card.intended_use or "(not stated)"),
        *(("Not for", one) for one in card.not_for),
        ("Until", str(card.expires or "no last day")),
        ("Endpoint", card.endpoint or "(not stated)"),
        ("Trained on", f"{card.n_patients} patients, {card.n_events} events, sites {', '.join(card.sites)}"),
        *((one.name, _spoken(one)) for one in card.performance if one.basis == wording.MODELS["federated"]),
        ("Attack", _spoken_attack(card)),
        *(("Beware", one) for one in card.limits),
    ]
    lines: list[str] = []
    for label, value in pairs:
        clean = "".join(character if character.isprintable() else " " for character in value)
        lines += textwrap.wrap(clean, 100, initial_indent=f"{label:<24}", subsequent_indent=" " * 24)
    return "\n".join(lines)


def _spoken(figure: Figure) -> str:
    if figure.value is None:
        return f"not known: {figure.reason}"
    ends = "" if figure.lower is None or figure.upper is None else f" ({figure.lower:.3f}-{figure.upper:.3f})"
    return f"{figure.value:.3f}{ends}"


def _spoken_attack(card: ModelCard) -> str:
    if card.attack is None:
        return f"no membership attack was run: {card.attack_reason}"
    attack = card.attack
    return f"membership AUC {attack.auc:.2f} ({attack.lower:.2f}-{attack.upper:.2f}); 0.50 is guessing"


def _endpoint(study: Study, artefact: Artefact) -> str:
    """Return the event that is predicted; where events compete, with the others and how many had them."""
    causes = artefact.manifest.causes
    if not causes:
        return study.endpoint.label
    others = ", ".join(f"{cause.code} ({cause.n_events} events)" for cause in causes[1:])
    return f"{study.endpoint.label or causes[0].code}, before any of: {others}"[:_LONGEST_ENDPOINT]


def _method(result: Result, artefact: Artefact) -> str:
    method = wording.METHODS.get(result.method, result.method)
    if not artefact.manifest.causes:
        return method
    kinds = ", ".join(cause.code for cause in artefact.manifest.causes)
    return f"{method}; one model for the hazard of each kind of event ({kinds}), the cumulative incidence from all"


def _eligibility(study: Study) -> tuple[str, ...]:
    lines = [f"{one.column} {one.op} {one.value}" for one in study.eligibility.criteria]
    if study.eligibility.complete_cases:
        lines.append("no covariate missing")
    return tuple(lines) or ("every patient of the sites with a known endpoint",)


def _predictors(result: Result, artefact: Artefact) -> tuple[Predictor, ...]:
    """Return the columns that stand for something a person knows; components of a layer do not."""
    ranges = {one.column: one for one in artefact.manifest.population}
    wide = {layer.name for layer in artefact.manifest.layers}
    found: list[Predictor] = []
    for covariate in result.covariates:
        if covariate.layer in wide or len(found) >= _LONGEST_TABLE:
            continue
        found.append(_predictor(covariate, result, ranges.get(covariate.column) if not covariate.code else None))
    return tuple(found)


def _predictor(covariate: CovariateFacts, result: Result, counted: PopulationRange | None) -> Predictor:
    beta, error = result.coefficients[covariate.name], result.standard_errors[covariate.name]
    half = None if error is None else wording.Z95 * error
    return Predictor(
        name=wording.covariate_label(covariate),
        contrast=wording.contrast(covariate),
        description=covariate.description,
        hazard_ratio=_ratio(beta),
        lower=None if half is None else _ratio(beta - half),
        upper=None if half is None else _ratio(beta + half),
        low=None if counted is None else counted.low,
        high=None if counted is None else counted.high,
    )


def _ratio(log_ratio: float) -> float:
    return exp(min(log_ratio, 700.0))


def _layers(artefact: Artefact) -> tuple[CardLayer, ...]:
    manifest = artefact.manifest
    wide = {layer.name: layer for layer in manifest.layers}
    found = []
    for name in dict.fromkeys(column.layer for column in manifest.columns):
        columns = sum(column.layer == name for column in manifest.columns)
        made = "as the dictionary describes them"
        if name in wide:
            layer = wide[name]
            of = f"{len(layer.features)} features"
            made = f"{layer.n_components} principal components of {of}" if layer.n_components else f"all of {of}"
            made += "" if layer.transform == "none" else f", transformed by {layer.transform}"
            made += ", location and scale corrected at each site" if layer.adjust else ""
            made += f", {layer.genome_build}" if layer.genome_build else ""
        found.append(CardLayer(name=name, columns=columns, made=made, importance=manifest.importance.get(name)))
    return tuple(found)


def _performance(result: Result, study: Study) -> tuple[Figure, ...]:
    if not result.evaluation:
        return (Figure(name="C-index", value=None, reason=result.evaluation_kind),)
    found: list[Figure] = []
    for name in ("federated", *(other for other in wording.MODELS if other != "federated")):
        if name in result.evaluation:
            found += _figures(name, result.evaluation[name], study)
    return tuple(found)


def _figures(name: ScoredModel, scores: Scores, study: Study) -> list[Figure]:
    why, basis = scores.reasons, wording.MODELS[name]
    per_fold = [c for c in scores.c_index.per_fold if c is not None]
    # At a site left out the parts are sites, of very different size, and no folds.
    lower, upper = (None, None) if name in _BY_SITE else _fold_interval(per_fold, study)
    return [
        Figure(
            name="C-index", value=scores.c_index.mean, lower=lower, upper=upper, basis=basis,
            reason=why.get("c_index", ""),
        ),
        Figure(name="Integrated Brier score", value=scores.ibs, basis=basis, reason=why.get("ibs", "")),
        Figure(
            name="Calibration slope", value=scores.calibration_slope, basis=basis,
            reason=why.get("calibration_slope", ""),
        ),
    ]  # fmt: skip


def _fold_interval(values: Sequence[float], study: Study) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a mean over folds that share training patients.

    The variance of the mean is s^2 (1/n + test/training), for n folds (Nadeau & Bengio 2003, equation 9).
    """
    folds = study.evaluation.folds
    if len(values) < 2 or isinstance(folds, FoldColumn) or folds < 2:
        return None, None
    spread = float(np.std(values, ddof=1)) * sqrt(1 / len(values) + 1 / (folds - 1))
    half = float(stdtrit(len(values) - 1, 0.975)) * spread
    mean = float(np.mean(values))
    return max(0.0, mean - half), min(1.0, mean + half)


def _calibration(result: Result) -> tuple[CalibrationFacts, ...]:
    if result.calibration is None:
        return ()
    return tuple(
        CalibrationFacts(
            horizon=one.horizon, group=one.group, patients=one.patients, predicted=one.predicted,
            observed=one.observed, lower=one.lower, upper=one.upper,
        )
        for one in result.calibration.points
    )  # fmt: skip


def _floors(study: Study) -> tuple[str, ...]:
    privacy = study.privacy
    return (
        f"{privacy.min_patients} patients behind every sum of a site",
        f"{privacy.min_events_per_interval} events of all sites in every interval of time",
        "no count of under 10 people is shown",
        "sums of the sites under masks (secure sum)" if privacy.secure_sum else "sums of the sites in clear",
    )


def _limits(result: Result, artefact: Artefact, attack: MembershipAttack | None) -> tuple[str, ...]:
    limits = ["The model describes associations in those who trained it, not the effects of changing anything."]
    if result.mode == "simulate":
        limits.append("It was trained in a simulation: one process read all tables.")
    if result.calibration is None or result.calibration.basis == "in-sample":
        limits.append("Calibration on patients who took no part in training is not known.")
    if "new_site" not in result.evaluation:
        limits.append("How it does at a hospital that took no part is not known.")
    if artefact.covariance is None or "hazard_variance" not in artefact.arrays:
        limits.append("It does not tell how sure its curves are: they come without an interval.")
    elif wording.is_penalised(result):
        limits.append(
            "Coefficients are shrunken by a penalty, and intervals are about the shrunken ones: they cover less "
            "often than they say where the penalty is far from what the data say."
        )
    if causes := artefact.manifest.causes:
        limits.append(
            f"C-index, calibration slope and hazard ratios are of the hazard of {causes[0].code} alone, other events "
            "censored; how right the predicted incidence is on unseen patients is not known."
        )
        limits += [
            f"Fewer than ten had {one.code}: what is said of it by itself is hardly known."
            for one in causes[1:]
            if one.n_events == "<10"
        ]
    federated = result.evaluation.get("federated")
    if adjusted := [layer.name for layer in artefact.manifest.layers if layer.adjust]:
        limits.append(
            f"Each site corrects {', '.join(adjusted)} by its own patients, at least ten of them: for somebody "
            "alone, or with fewer, cells count as those of the sites that trained it, and the prediction may be off."
        )
    if federated is not None and wording.has_too_few_pairs(federated):
        limits.append(f"The C-index rests on {federated.comparable_pairs} pairs of patients, too few to judge by.")
    low = [one for one in artefact.manifest.events_by_horizon if one.at_least < SHOWN_FROM]
    if low:
        horizons = ", ".join(wording.at_time(one.horizon, artefact.manifest.time_unit) for one in low)
        few = "Fewer than ten events" if artefact.manifest.epsilon is None else "Not surely ten events"
        limits.append(f"{few} by {horizons}: no risk is shown there.")
    if artefact.manifest.epsilon is not None and artefact.manifest.events_by_horizon:
        limits.append("Events are counted with noise; what stands here they reach with a probability of 95 %.")
    if attack is not None and attack.lower > 0.5:
        limits.append(
            "Whoever holds the model file guesses better than by chance who trained it: keep it as personal data."
        )
    if result.n is not None and shown_count(result.n) == "<10":
        limits.append("Fewer than ten patients: nothing can be said.")
    return (*limits, *result.warnings)
