"""Makes the result of a real run from the hub's store: what the sums gave, and what the run cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from archipel.result import RunFacts, make_result
from models.progress import Progress
from models.step import Floats
from schemas.plan import Plan, read_plan
from schemas.result import CIndex, Result, RoundFacts, ScoredModel, Scores, SiteFacts
from schemas.shown import shown_count
from server.records import Round, RunRecord
from server.runs import list_rounds
from server.store import Store

_AT_THE_SITE = "known at the site alone"
_NO_PAIRS = "the unseen patients of no site form a comparable pair"


def federation_result(store: Store, run_id: str) -> Result:
    """Return what a finished run found.

    Raises:
        UnknownRunError: When there is no such run, or it is not done.
        ArchipelError: When what is stored does not belong to the run's plan.
    """
    run = store.run(run_id)
    plan = read_plan(run.plan)
    progress = Progress(
        plan, step_index=len(plan.steps), arrays=store.final_arrays(run_id), skipped=store.skipped_steps(run_id)
    )
    rounds = list_rounds(store, run_id)
    facts = RunFacts(
        run_id=run_id,
        mode="federation",
        plan_hash=run.plan_hash,
        seed=run.seed,
        sites=_sites(run),
        round_log=tuple(_round_facts(r) for r in rounds),
        bytes_up=run.bytes_up,
        bytes_down=run.bytes_down,
        wall_s=run.wall_s,
        evaluation_kind=_evaluation_kind(plan, progress, rounds),
        evaluation=_evaluation(progress, "cv_" if plan.study.privacy.secure_sum else "held_out_"),
        silent=_silent(rounds),
        warnings=_warnings(run),
    )
    return make_result(progress, facts)


def _sites(run: RunRecord) -> tuple[SiteFacts, ...]:
    taking_part = [SiteFacts(name=name, patients=_AT_THE_SITE, status="took part") for name in run.remaining]
    dropped = [
        SiteFacts(name=name, patients=_AT_THE_SITE, status="dropped", reason=reason)
        for name, reason in run.dropped.items()
    ]
    left_out = [
        SiteFacts(name=name, patients=_AT_THE_SITE, status="left out", reason=reason)
        for name, reason in run.left_out.items()
    ]
    return (*taking_part, *dropped, *left_out)


def _round_facts(done: Round) -> RoundFacts:
    return RoundFacts(
        step=done.step,
        part=done.part,
        number=done.number,
        seconds=done.seconds,
        bytes_up=done.bytes_up,
        bytes_down=done.bytes_down,
        sites=len(done.heard),
    )


def _evaluation_kind(plan: Plan, progress: Progress, rounds: Sequence[Round]) -> str:
    folds = plan.study.evaluation.folds
    if not isinstance(folds, int) or not folds:
        return "The study asks for no evaluation (folds = 0)."
    return _of_folds(progress, folds) if plan.study.privacy.secure_sum else _of_held_out_part(progress, rounds)


def _of_folds(progress: Progress, n_folds: int) -> str:
    if "cv_concordance" in progress.skipped or "cv_concordance.comparable" not in progress.arrays:
        why = progress.skipped.get("cv_concordance", "no figures")
        return f"{n_folds}-fold cross-validation came to nothing: {why}."
    pairs = int(progress.arrays["cv_concordance.comparable"].sum())
    return (
        f"{n_folds}-fold cross-validation over all sites, every fold and every figure a masked sum; "
        f"{_index(progress.plan)} over pairs within sites ({pairs} comparable pairs in all)."
    )


def _of_held_out_part(progress: Progress, rounds: Sequence[Round]) -> str:
    judged = next((r for r in rounds if r.step == "held_out_concordance"), None)
    if judged is None or not judged.heard or "held_out_concordance" in progress.skipped:
        return (
            "No site has the 20 patients it needs to hold out ten; without the secure sum, smaller parts do not "
            "leave a site. `archipel simulate` cross-validates where the tables may lie in one place."
        )
    n = shown_count(int(progress.arrays["held_out_concordance.n_patients"]))
    pairs = int(progress.arrays["held_out_concordance.comparable"])
    return (
        f"One held-out part at each of {len(judged.heard)} sites with 20 patients or more (about {n} patients, "
        f"{pairs} comparable pairs); {_index(progress.plan)} over pairs within sites. The other sites are too small "
        "to hold anybody out without the secure sum."
    )


def _index(plan: Plan) -> str:
    return "C" if plan.study.endpoint.has_time else "area under the ROC curve"


def _evaluation(progress: Progress, prefix: str) -> dict[ScoredModel, Scores]:
    arrays = progress.arrays
    found: dict[ScoredModel, Scores] = {}
    if f"{prefix}concordance.c_index" in arrays:
        found["federated"] = _scores(
            arrays,
            f"{prefix}concordance",
            ibs=_mean_of(arrays, f"{prefix}brier.ibs"),
            slope=_mean_of(arrays, f"{prefix}slope.slope"),
            reasons={
                "ibs": progress.skipped.get(f"{prefix}brier", "") or _no_ibs(progress.plan),
                "calibration_slope": progress.skipped.get(f"{prefix}slope", ""),
            },
        )
    if f"{prefix}site_only.c_index" in arrays:
        alone = "a site keeps its own model's survival predictions to itself"
        found["site_only"] = _scores(
            arrays, f"{prefix}site_only", ibs=None, slope=None, reasons={"ibs": alone, "calibration_slope": alone}
        )
    return found


def _no_ibs(plan: Plan) -> str:
    """Return why a study has no integrated Brier score whatever its run; empty where it could."""
    if not plan.study.endpoint.has_time:
        return "the outcome has no time; see `brier`"
    return "events compete, so the survival of one alone is nobody's" if plan.study.endpoint.has_competing else ""


def _mean_of(arrays: Mapping[str, Floats], name: str) -> float | None:
    """Return the mean over the folds (one held-out part is one fold), or None where the step came to nothing."""
    return float(np.mean(arrays[name])) if name in arrays else None


def _scores(
    arrays: Mapping[str, Floats],
    step: str,
    *,
    ibs: float | None,
    slope: float | None,
    reasons: Mapping[str, str],
) -> Scores:
    comparable = np.atleast_1d(arrays[f"{step}.comparable"])
    per_fold = tuple(
        float(c) if n > 0 else None for c, n in zip(np.atleast_1d(arrays[f"{step}.c_index"]), comparable, strict=True)
    )
    known = [c for c in per_fold if c is not None]
    index = CIndex(
        mean=float(np.mean(known)) if known else None,
        sd=float(np.std(known, ddof=1)) if len(known) > 1 else None,
        per_fold=per_fold,
    )
    values = {"c_index": index.mean, "ibs": ibs, "calibration_slope": slope}
    all_reasons = {"c_index": _NO_PAIRS, **reasons}
    return Scores(
        c_index=index,
        c_index_within=index,
        comparable_pairs=int(comparable.sum()),
        ibs=ibs,
        calibration_slope=slope,
        brier=_mean_of(arrays, f"{step}.brier"),
        log_likelihood=_mean_of(arrays, f"{step}.log_likelihood"),
        reasons={name: all_reasons[name] or "not computed" for name, value in values.items() if value is None},
    )


def _silent(rounds: Sequence[Round]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for done in rounds:
        found.setdefault(done.step, set()).update(done.silent)
    return {step: tuple(sorted(sites)) for step, sites in found.items() if sites}


def _warnings(run: RunRecord) -> tuple[str, ...]:
    if not run.dropped:
        return ()
    names = ", ".join(run.dropped)
    return (
        f"{names} left during the run, which went on without (`on_dropout = continue`): from the sums before and "
        "after, the hub could infer what that site had added.",
    )
