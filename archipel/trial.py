"""`archipel trial`: any study on a federation of real local processes, and the demo's engine.

A hub and one site per folder of tables come up in a temporary home, enrol as in production, have the plan approved
on their behalf (the report says so), conduct one run, and are ended for certain.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from archipel.cli_common import StoppedError
from archipel.local_federation import LocalFederation, find_sites
from archipel.runs import launch_plan, model_of, open_store, result_of, verify_enough
from archipel.site_check import check_folder
from archipel.studies import compile_study
from archipel.watching import RunView, follow
from client.check import CheckReport
from privacy.budget import Limit
from schemas.errors import ArchipelError, FaultsError
from schemas.plan import Plan
from schemas.result import Result

__all__ = ["Timing", "Trial", "TrialError", "check_sites", "ended_on_signals", "run_trial"]

GIVE_UP_S = 600.0
"""A trial that hears nothing new for so long is ended: nobody is there to bring a site back."""

_AGAIN_S = 0.1

OnCheck = Callable[[str, CheckReport], None]
OnView = Callable[[RunView], None]
OnStage = Callable[[str], None]
OnDone = Callable[[LocalFederation, str], None]


class TrialError(ArchipelError):
    """A trial that did not come to a result."""


@dataclass(frozen=True)
class Timing:
    """How long a trial took, in seconds of wall clock from its start.

    Attributes:
        first_round_s: Until the first round was asked: sites set up, started, connected, plan sent and accepted.
        run_s: Until the run was done.
    """

    first_round_s: float
    run_s: float


@dataclass(frozen=True)
class Trial:
    """What came of a trial.

    Attributes:
        model: Content of ``model.safetensors``.
    """

    result: Result
    model: bytes | None
    plan: Plan
    timing: Timing


def run_trial(
    study: Path,
    sites_dir: Path,
    home: Path,
    *,
    on_stage: OnStage | None = None,
    on_check: OnCheck | None = None,
    on_view: OnView | None = None,
    on_done: OnDone | None = None,
    give_up_s: float = GIVE_UP_S,
) -> Trial:
    """Run a study over site folders with real local processes.

    Args:
        study: The study (TOML).
        sites_dir: One folder of tables per site, named after it.
        home: Where hub and sites live; see `temporary_home`.
        on_stage: Told what happens now, in words.
        on_check: Told the check of each site's tables before anything starts.
        on_view: Told where the run stands.
        on_done: Called when the run is done, while hub and sites still run.
        give_up_s: Seconds without news after which the trial ends.

    Raises:
        FaultsError: When the study is wrong.
        LaunchError: When the sites are too few for the study.
        TrialError: When a site's tables cannot take part, or the run does not end well.
    """
    started = time.monotonic()
    tell = on_stage or (lambda words: None)
    plan = compile_study(study)
    sites = find_sites(sites_dir)
    verify_enough(plan, sorted(sites))
    federation = LocalFederation(home, sites, _just_enough(plan))
    with contextlib.ExitStack() as stack:
        stack.enter_context(ended_on_signals())
        tell(f"Setting up a hub and {len(sites)} sites (TLS, node keys, enrolment)")
        federation.set_up()
        # Before any table is read: the processes' imports take longest, and they need nothing from here.
        stack.callback(federation.stop)
        federation.start()
        check_sites(sites, plan, on_check)
        what = f"plan {plan.hash[:12]}" + (" and its list of sites" if plan.study.privacy.secure_sum else "")
        tell(f"Approving {what} on the sites' behalf, which only a trial may do")
        federation.approve(plan)
        federation.wait_until_up()
        began = datetime.datetime.now(datetime.UTC)
        run_id = launch_plan(federation.hub, plan)
        tell(f"Run {run_id} started")
        first = _watch(federation, run_id, on_view, give_up_s)
        run_s = time.monotonic() - started
        result = result_of(federation.hub, run_id)
        model = model_of(federation.hub, result)
        if on_done is not None:
            on_done(federation, run_id)
    launch_s = run_s - (datetime.datetime.now(datetime.UTC) - began).total_seconds()
    return Trial(result, model, plan, Timing(max(0.0, launch_s + (first - began).total_seconds()), run_s))


def _just_enough(plan: Plan) -> Limit | None:
    """Return the privacy budget that one run of the plan uses up: what a trial's sites have to spend."""
    asked = plan.study.privacy.differential
    return Limit(asked.epsilon, asked.delta) if asked is not None else None


def check_sites(sites: Mapping[str, Path], plan: Plan, on_check: OnCheck | None = None) -> None:
    """Hold every site's tables against the study, as each site would.

    Raises:
        TrialError: Naming every site that cannot take part, with all that is wrong.
    """
    refused = []
    for name, tables in sites.items():
        try:
            report = check_folder(tables, plan.study, plan.dictionary)
        except FaultsError as error:
            refused.append(f"{name}:\n{error}")
            continue
        if on_check is not None:
            on_check(name, report)
        if not report.can_take_part:
            refused.append(f"{name}:\n{report.text()}")
    if refused:
        raise TrialError("\n\n".join(["Not every site can take part, so nothing was run.", *refused]))


def _watch(federation: LocalFederation, run_id: str, on_view: OnView | None, give_up_s: float) -> datetime.datetime:
    """Follow the run to its end and return when its first round was asked."""
    last_news = time.monotonic()

    def verify(seconds: float) -> None:
        federation.verify_running()
        if time.monotonic() - last_news > give_up_s:
            raise TrialError(f"The run {run_id} had no news for {give_up_s:.0f} s, so the trial was ended. {message}")
        time.sleep(seconds)

    message = ""
    first: datetime.datetime | None = None
    with open_store(federation.hub) as store:
        for view in follow(store, run_id, sleep=verify):
            last_news, message = time.monotonic(), view.run.message
            if first is None and view.rounds:
                first = view.rounds[0].started_at
            if on_view is not None:
                on_view(view)
            if view.is_over and view.run.status != "done":
                raise TrialError(f"The run {run_id} {view.run.status}. {message}")
    return first or datetime.datetime.now(datetime.UTC)


@contextlib.contextmanager
def temporary_home(*, keep: bool = False) -> Iterator[Path]:
    """Yield a folder that only this user can read, removed at the end unless it is to be kept."""
    if keep:
        yield Path(tempfile.mkdtemp(prefix="archipel-trial-"))
        return
    # Files of a process that is just ending may still appear in it; what is left is ours alone anyway.
    with tempfile.TemporaryDirectory(prefix="archipel-trial-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def ended_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what is inside as Ctrl-C does, so that clean-up runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedError

    def swallowed(what: sys.UnraisableHookArgs) -> None:
        # Where a signal falls into a callback of the garbage collector, Python ignores what its handler raises.
        if issubclass(what.exc_type, (StoppedError, KeyboardInterrupt)):
            number = signal.SIGTERM if what.exc_type is StoppedError else signal.SIGINT
            again.append(threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number)))
            again[-1].start()
        else:
            hook(what)

    again: list[threading.Timer] = []
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    hook, sys.unraisablehook = sys.unraisablehook, swallowed
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for timer in again:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
