"""Makes the result of a real run from the hub's store: what the sums gave, and what the run cost."""

from __future__ import annotations

from collections.abc import Sequence

from archipel.curves import held_out_calibration
from archipel.federation_scores import federated_scores
from archipel.result import RunFacts, make_result
from models.progress import Progress
from schemas.plan import Plan, read_plan
from schemas.result import Calibration, Result, RoundFacts, SiteFacts
from schemas.shown import shown_count
from server.records import Round, RunRecord
from server.runs import list_rounds
from server.store import Store

_AT_THE_SITE = "known at the site alone"


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
        evaluation=federated_scores(progress, "cv_" if plan.study.privacy.secure_sum else "held_out_"),
        held_out_calibration=_calibration(progress),
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
    within = int(progress.arrays["cv_concordance.comparable"].sum())
    how = f"{n_folds}-fold cross-validation over all sites, every fold and every figure a masked sum; "
    if "cv_ranking.comparable" in progress.arrays:
        pairs = round(float(progress.arrays["cv_ranking.comparable"].sum()))
        return how + (
            f"C over all pairs of a fold, pairs across sites included, from a summed histogram ({pairs} comparable "
            f"pairs, {within} of them inside sites); of each site alone, over pairs inside sites."
        )
    return how + f"{_index(progress.plan)} over pairs within sites ({within} comparable pairs in all)."


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


def _calibration(progress: Progress) -> Calibration | None:
    """Return the calibration of unseen patients, where the run came to it."""
    prefix = "cv_calibration."
    found = {name.removeprefix(prefix): a for name, a in progress.arrays.items() if name.startswith(prefix)}
    if not found:
        return None
    edges = progress.arrays["grid.edges"][: int(progress.arrays["grid.n_intervals"])]
    points = held_out_calibration(found, edges, progress.plan.study.endpoint.horizons_days)
    return Calibration(basis="held-out", points=points) if points else None


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
