"""`archipel simulate`: a study over site folders in one process, with the evaluation that only a simulation can do.

It reads the same tables with the same checks, compiles the same plan and runs the same steps as a real federation;
beside the federated model it judges what each site could do alone and what one pooled table would give.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from threadpoolctl import threadpool_limits

from archipel.artefact import artefact_bytes, has_artefact
from archipel.cross_validation import CrossValidation, cross_validate
from archipel.curves import held_out_figures
from archipel.features import complete_dictionary
from archipel.fold_fits import event_times, with_dealt_inner_folds
from archipel.folders import make_folder, verify_folder
from archipel.judging import Judged
from archipel.local_run import LocalRun, run_plan
from archipel.outcome_validation import OutcomeValidation, cross_validate_outcome, outcome_predictions
from archipel.report import write_report
from archipel.result import RunFacts, make_result
from archipel.site_folders import Sites, read_sites
from archipel.studies import honest_faults
from models.compile import compile_plan
from models.progress import Progress
from schemas.cohort import Cohort
from schemas.dictionary import Dictionary
from schemas.errors import ArchipelError, Fault, FaultsError
from schemas.plan import Plan
from schemas.result import Calibration, KaplanMeier, Result, RoundFacts
from schemas.study import FoldColumn, Study, load_study

_SIMULATION = "This is a simulation: all tables were read by one process, and nothing was protected."
_SIMULATION_MASKED = (
    "This is a simulation: all tables were read by one process, and nothing was protected. The sums of the federated "
    "models went through the secure sum between simulated sites, as they would between real ones."
)


@dataclass(frozen=True)
class Stage:
    """How far a simulation is: what it does, and how much of that is done.

    Attributes:
        done: Rounds of the plan, or folds of the evaluation.
        of: None where the number is not known beforehand.
    """

    name: str
    done: int
    of: int | None


OnStage = Callable[[Stage], None]


def simulate(
    study_path: Path,
    sites_dir: Path,
    out: Path,
    *,
    secure_sum: bool = False,
    on_stage: OnStage | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """Run a study over the site folders in `sites_dir` and write result, model, report and predictions to `out`.

    Args:
        study_path: The study (TOML).
        sites_dir: One folder of tables per site.
        out: For the files.
        secure_sum: Whether the sums of the federated models are formed under masks, as between real sites.
        on_stage: Told how far it is.
        notes: Sentences for the result's warnings.

    Raises:
        FaultsError: Naming every fault of the study, the dictionary or the sites' tables at once.
        DivergedError: When a fit finds no estimate.
        TooFewSitesError: For masks over fewer than three sites.
    """
    verify_folder(out)
    study, dictionary = load_study(study_path)
    folder = (study_path.parent / study.dictionary).parent
    dictionary, listed = complete_dictionary(study, dictionary, folder, sites_dir)
    sites = read_sites(sites_dir, study, dictionary)
    # Matrices here are small: a second thread of the linear algebra costs more in waiting than it computes.
    with threadpool_limits(limits=1, user_api="blas"):
        return _simulate(study, dictionary, sites, out, on_stage, notes=(*listed, *notes), masked=secure_sum)


def _simulate(
    study: Study,
    dictionary: Dictionary,
    sites: Sites,
    out: Path,
    on_stage: OnStage | None,
    *,
    notes: tuple[str, ...],
    masked: bool,
) -> Result:
    if faults := honest_faults(study, len(sites.cohorts)):
        raise FaultsError(study.name, faults)
    dictionary, range_warnings = _with_range(study, dictionary, sites.cohorts)
    started = time.perf_counter()
    plan = _plan(study, dictionary, sites.cohorts)
    run = run_plan(plan, with_dealt_inner_folds(study, sites.cohorts), masked=masked, on_round=_rounds_to(on_stage))
    wall_s = time.perf_counter() - started
    validation = _evaluate(study, dictionary, sites.cohorts, on_stage, masked=masked)
    facts = RunFacts(
        run_id=f"{study.name}-simulated-{secrets.token_hex(3)}",
        mode="simulate",
        plan_hash=_approvable_hash(study, dictionary, plan),
        seed=None,
        sites=sites.facts,
        round_log=_round_log(run),
        bytes_up=sum(r.bytes_up for r in run.rounds),
        bytes_down=sum(r.bytes_down for r in run.rounds),
        wall_s=wall_s,
        evaluation_kind=_evaluation_kind(study, validation),
        evaluation=validation.scores if validation is not None else {},
        differences=validation.differences if isinstance(validation, CrossValidation) else (),
        out_of_fold=_held_out(validation, study),
        warnings=(
            _SIMULATION_MASKED if masked else _SIMULATION,
            *range_warnings,
            *notes,
        ),
    )
    result = make_result(run.progress, facts)
    _write(result, run, validation, out)
    return result


def _held_out(
    validation: CrossValidation | OutcomeValidation | None, study: Study
) -> tuple[KaplanMeier, Calibration | None] | None:
    """Return the figures of out-of-fold predictions; None where Kaplan-Meier curves would tell nothing."""
    if not isinstance(validation, CrossValidation) or study.endpoint.has_competing:
        return None
    return held_out_figures(validation.federated, study)


def predictions_table(validation: CrossValidation) -> pd.DataFrame:
    """Return the federated model's out-of-fold predictions, one row for each repeat and patient."""
    return pd.concat([_predictions(judged) for judged in validation.federated], ignore_index=True)


def _predictions(judged: Judged) -> pd.DataFrame:
    patients = judged.patients
    return pd.DataFrame(
        {
            "patient_id": patients.patient_ids,
            # two sites may use one identifier, so the site comes from the order in which the fold took them
            "site": [site for site, test in judged.fold.test.items() for _ in range(int(test.sum()))],
            "repeat": judged.fold.repeat,
            "fold": judged.fold.fold,
            "time": patients.time,
            "event": patients.event,
            "log_hazard": judged.log_hazard,
        }
    )


def _with_range(
    study: Study, dictionary: Dictionary, cohorts: Mapping[str, Cohort]
) -> tuple[Dictionary, tuple[str, ...]]:
    """Return the dictionary with a largest time, taken from the tables where it gives none.

    Only a simulation may look at the tables before the plan is made; a real federation refuses such a dictionary.
    """
    column = dictionary.column(study.endpoint.time)
    needs_no_bins = study.privacy.exact_times and not study.model.tunes_penalty
    if needs_no_bins or column is None or column.max is not None:
        return dictionary, ()
    longest = max(float(cohort.time.max()) for cohort in cohorts.values())
    ranged = column.model_copy(update={"max": longest})
    columns = tuple(ranged if known == column else known for known in dictionary.columns)
    warning = (
        f"The dictionary gives `{column.name}` no `max`, so the simulation took the longest time of the tables for "
        "its time grid; a real federation needs `max` before it starts."
    )
    return Dictionary(**{**dict(dictionary), "columns": columns}), (warning,)


def _plan(study: Study, dictionary: Dictionary, cohorts: Mapping[str, Cohort]) -> Plan:
    times = event_times(cohorts) if study.privacy.exact_times else None
    if times is not None and not times:
        raise ArchipelError("no patient of any site had the event: there is nothing to fit")
    return compile_plan(study, dictionary, exact_times=times, evaluation=False, adds_noise=True)


def _approvable_hash(study: Study, dictionary: Dictionary, plan: Plan) -> str:
    """Return the hash that real sites would approve, or the simulated plan's where no real site would."""
    try:
        return compile_plan(study, dictionary, adds_noise=True).hash
    except FaultsError:
        return plan.hash


def _evaluate(
    study: Study,
    dictionary: Dictionary,
    cohorts: Mapping[str, Cohort],
    on_stage: OnStage | None,
    *,
    masked: bool,
) -> CrossValidation | OutcomeValidation | None:
    if study.evaluation.folds == 0:
        return None
    _verify_folds(study, cohorts)

    def on_fold(done: int, of: int) -> None:
        if on_stage is not None:
            on_stage(Stage("evaluation", done, of))

    if not study.endpoint.has_time:
        return cross_validate_outcome(study, dictionary, cohorts, masked=masked, on_fold=on_fold)
    return cross_validate(study, dictionary, cohorts, masked=masked, on_fold=on_fold)


def _verify_folds(study: Study, cohorts: Mapping[str, Cohort]) -> None:
    n = sum(cohort.n_patients for cohort in cohorts.values())
    folds = study.evaluation.folds
    if isinstance(folds, int) and n < 2 * folds:
        fault = Fault("[evaluation] folds", f"{folds} folds are too many for {n} patients", "use fewer, or 0")
        raise FaultsError(study.name, [fault])


def _evaluation_kind(study: Study, validation: CrossValidation | OutcomeValidation | None) -> str:
    if validation is None:
        return "The study asks for no evaluation (folds = 0)."
    index = "C" if study.endpoint.has_time else "area under the ROC curve"
    pairs = f"{index} over all pairs of a fold, pairs across sites included, which only a simulation can count"
    if isinstance(study.evaluation.folds, FoldColumn):
        return f"Folds dealt by the column {study.evaluation.folds.column}; {pairs}."
    repeats = f", repeated {study.evaluation.repeats} times" if study.evaluation.repeats > 1 else ""
    text = f"{study.evaluation.folds}-fold cross-validation{repeats}, simulated; {pairs}."
    return f"{text} Every site is also judged by a model of all others." if "new_site" in validation.scores else text


def _rounds_to(on_stage: OnStage | None) -> Callable[[Progress], None] | None:
    if on_stage is None:
        return None
    done = 0

    def on_round(_: Progress) -> None:
        nonlocal done
        done += 1
        on_stage(Stage("rounds", done, None))

    return on_round


def _round_log(run: LocalRun) -> tuple[RoundFacts, ...]:
    return tuple(
        RoundFacts(
            step=r.step,
            part=r.part,
            number=r.number,
            seconds=r.seconds,
            bytes_up=r.bytes_up,
            bytes_down=r.bytes_down,
            sites=len(r.sites),
        )
        for r in run.rounds
    )


def _write(
    result: Result,
    run: LocalRun,
    validation: CrossValidation | OutcomeValidation | None,
    out: Path,
) -> None:
    make_folder(out)
    (out / "result.json").write_text(result.to_json(), encoding="utf-8")
    if isinstance(validation, OutcomeValidation) and result.outcome is not None:
        table = outcome_predictions(validation, result.outcome.codes)
        table.to_parquet(out / "predictions.parquet", index=False)
    elif isinstance(validation, CrossValidation):
        predictions_table(validation).to_parquet(out / "predictions.parquet", index=False)
    if has_artefact(run.progress.plan, run.progress.arrays):
        (out / "model.safetensors").write_bytes(artefact_bytes(run.progress.arrays, result, run.progress.plan))
    write_report(result, out / "report.html", plan=run.progress.plan)
