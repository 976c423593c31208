"""Runs, as the command line and the notebook handle them: launch, look, stop, resume, result.

Everything goes through the hub's folder: its store is the truth about runs, and the launcher starts one Flower run
for each time a run of ours is conducted. A run keeps its id over all of these.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archipel.homes import list_sites
from archipel.report import read_result
from archipel.studies import compile_study, honest_faults, too_few_sites
from schemas.errors import ArchipelError
from schemas.plan import Plan, read_plan
from schemas.result import Result
from schemas.roster import Roster, make_roster, read_roster
from server.conduct import DATABASE
from server.hub_home import load_hub_settings
from server.hub_process import is_up
from server.records import ACTIVE
from server.runs import is_abandoned, list_events, list_rounds, new_run_id
from server.store import Store

__all__ = [
    "LaunchError",
    "active_runs_of",
    "describe_run",
    "find_run",
    "last_heard",
    "load_results",
    "plan_of",
    "launch",
    "launch_plan",
    "model_of",
    "open_store",
    "resume",
    "result_of",
    "roster_of",
    "stop",
    "verify_enough",
]

MIN_SITES = 2
MIN_SITES_MASKED = 3


class LaunchError(ArchipelError):
    """A run that cannot be started, stopped or resumed, with what to do."""


def open_store(hub: Path) -> Store:
    """Open the store of a hub.

    Raises:
        FaultsError: When the folder is no hub's.
    """
    load_hub_settings(hub)
    return Store(hub / DATABASE)


def launch(hub: Path, study: Path, sites: Sequence[str] | None = None) -> str:
    """Compile a study and start a run of it over the named sites (default: all that are enrolled).

    Returns:
        The run's id.

    Raises:
        FaultsError: When the study is wrong, or exists in `simulate` alone.
        LaunchError: When a site is not enrolled, or too few are: three under the secure sum, two without.
        HubUnreachableError: When the hub does not run.
    """
    return launch_plan(hub, compile_study(study), sites)


def launch_plan(hub: Path, plan: Plan, sites: Sequence[str] | None = None) -> str:
    """Start a run of a plan; see `launch`."""
    from server.launcher import submit

    invited = choose_sites([site.name for site in list_sites(hub)], sites)
    verify_enough(plan, invited)
    verify_up(hub)
    roster = roster_of(hub, invited).content.decode() if plan.study.privacy.secure_sum else ""
    run_id = new_run_id(plan.study.name)
    with open_store(hub) as store:
        store.create_run(run_id, plan, invited, roster=roster)
    submit(hub, run_id)
    return run_id


def choose_sites(enrolled: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the sites to invite, in the order of their names.

    Raises:
        LaunchError: When one is not enrolled, or fewer than two remain.
    """
    chosen = sorted(set(enrolled if wanted is None else wanted))
    unknown = [name for name in chosen if name not in enrolled]
    known = f"Enrolled: {', '.join(sorted(enrolled)) or 'none'}."
    if unknown:
        raise LaunchError(
            f"Not enrolled: {', '.join(unknown)}. {known} A site enters with `archipel hub enrol REQUEST.json`."
        )
    if len(chosen) < MIN_SITES:
        raise LaunchError(
            f"A run needs at least {MIN_SITES} enrolled sites, since a sum over one site is that site's own number. "
            f"{known}"
        )
    return tuple(chosen)


def verify_enough(plan: Plan, sites: Sequence[str]) -> None:
    """Raise `LaunchError` for so few sites that a sum, a difference of two or their noise would hide too little."""
    if plan.study.privacy.secure_sum and len(sites) < MIN_SITES_MASKED:
        raise LaunchError(
            f"The study asks for the secure sum, which needs at least {MIN_SITES_MASKED} sites, and there are "
            f"{len(sites)} ({', '.join(sites)}): of a sum of two, each site knows the other's part. Enrol a third, "
            "or write `secure_sum = false` under `[privacy]` in the study; then the hub sees each site's sums, and "
            "every site approves a plan that says so."
        )
    for fault in (*too_few_sites(plan, len(sites)), *honest_faults(plan.study, len(sites))):
        raise LaunchError(str(fault))


def roster_of(hub: Path, sites: Sequence[str]) -> Roster:
    """Return the roster of exactly these enrolled sites: names, keys, and how many open a sum.

    Raises:
        LaunchError: When a site's key was not kept at its enrolment.
    """
    keys = {site.name: site.identity_public_key for site in list_sites(hub) if site.name in sites}
    try:
        return make_roster(keys)
    except ValueError as error:
        raise LaunchError(
            f"The keys of the enrolled sites make no roster ({error}): enrol these sites again."
        ) from None


def verify_up(hub: Path) -> None:
    """Raise `LaunchError` unless the hub answers."""
    settings = load_hub_settings(hub)
    if not is_up(settings):
        raise LaunchError(
            f"The hub in {settings.home} does not answer. Start it with `archipel hub up`; if it should be running, "
            f"the reason is in {settings.home / 'logs'}."
        )


def stop(hub: Path, run_id: str) -> str:
    """Ask a run to stop after the message it is at, and return what will happen, in a sentence.

    Raises:
        UnknownRunError: When there is no such run.
    """
    with open_store(hub) as store:
        if not store.request_stop(run_id):
            return f"The run {run_id} is over already ({store.run(run_id).status})."
        if is_abandoned(store.run(run_id)):
            return (
                f"Nobody conducts the run {run_id} (its process has ended), so it stays where it is. "
                f"`archipel runs resume {run_id}` goes on from its last complete round."
            )
    return f"The run {run_id} stops shortly. `archipel runs resume {run_id}` goes on from its last complete round."


def resume(hub: Path, run_id: str) -> None:
    """Go on with a run from its last complete round: our run id, a new Flower run.

    Raises:
        UnknownRunError: When there is no such run.
        RunExistsError: When the run is done.
        LaunchError: When the hub is down.
    """
    from server.launcher import submit

    verify_up(hub)
    with open_store(hub) as store:
        store.reopen(run_id)
    submit(hub, run_id)


def model_of(hub: Path, result: Result) -> bytes | None:
    """Return the content of ``model.safetensors`` of the finished run that gave `result`; None where it has none.

    Raises:
        UnknownRunError: When there is no such run, or it is not done.
    """
    from archipel.artefact import artefact_bytes, has_artefact

    with open_store(hub) as store:
        plan = plan_of(store, result.run_id)
        arrays = store.final_arrays(result.run_id)
        return artefact_bytes(arrays, result, plan) if has_artefact(plan, arrays) else None


def result_of(hub: Path, run_id: str) -> Result:
    """Return what a finished run found.

    Raises:
        UnknownRunError: When there is no such run, or it is not done.
    """
    from archipel.federation_result import federation_result

    with open_store(hub) as store:
        return federation_result(store, run_id)


def active_runs_of(hub: Path, site: str) -> list[str]:
    """Return the runs that go on and in which a site takes part, the newest first."""
    with open_store(hub) as store:
        return [
            run.run_id
            for run in store.runs()
            if run.status in ACTIVE and site in (run.invited if run.sites is None else run.remaining)
        ]


def last_heard(store: Store) -> dict[str, datetime.datetime]:
    """Return when each site last answered a round, by name."""
    found: dict[str, datetime.datetime] = {}
    for run in store.runs():
        for done in list_rounds(store, run.run_id):
            ended = done.started_at + datetime.timedelta(seconds=done.seconds)
            for site in (*done.heard, *done.silent):
                found[site] = max(found.get(site, ended), ended)
    return found


def find_run(store: Store, beginning: str) -> str:
    """Return the id of the one run that begins so.

    Raises:
        UnknownRunError: When none does.
        LaunchError: When several do.
    """
    if not beginning.strip():
        raise LaunchError("The run's id is empty: `archipel runs list` shows the ids.")
    ids = [run.run_id for run in store.runs()]
    found = [run_id for run_id in ids if run_id.startswith(beginning)]
    if beginning in ids:
        return beginning
    if len(found) > 1:
        raise LaunchError(f"{len(found)} runs begin with {beginning}: {', '.join(found[:5])}. Give more of the id.")
    return found[0] if found else store.run(beginning).run_id


def plan_of(store: Store, run_id: str) -> Plan:
    """Return the plan of a run."""
    return read_plan(store.run(run_id).plan)


def describe_run(store: Store, run_id: str) -> dict[str, Any]:
    """Return what is known about a run, for a program."""
    run = store.run(run_id)
    plain = (
        "run_id", "study", "status", "message", "plan_hash", "code_version", "invited", "left_out", "dropped",
        "created_at", "started_at", "finished_at", "wall_s", "bytes_up", "bytes_down",
    )  # fmt: skip
    return {
        **{name: getattr(run, name) for name in plain},
        "roster_fingerprint": read_roster(run.roster.encode()).fingerprint if run.roster else "",
        "sites": list(run.remaining),
        "rounds": len(list_rounds(store, run_id)),
        "events": [{"at": e.at, "level": e.level, "text": e.text} for e in list_events(store, run_id)],
    }


def load_results(hub: Path, wanted: Sequence[str]) -> list[tuple[str, Result]]:
    """Return results with their names, each from a ``result.json`` or from a run of the hub.

    Raises:
        ArchipelError: When one is neither.
    """
    found = []
    for name in wanted:
        path = Path(name)
        if path.is_dir() and (path / "result.json").is_file():
            path = path / "result.json"
        if path.is_file():
            found.append((path.parent.name or path.stem, read_result(path)))
            continue
        with open_store(hub) as store:
            run_id = find_run(store, name)
        found.append((run_id, result_of(hub, run_id)))
    return found
