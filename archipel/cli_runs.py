"""`archipel launch` and `archipel runs`: what a data scientist does with the hub."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from archipel.cli_common import HUB, INTERRUPTED, AsJson, HubFolder, StudyFile, command_group, print_json, say

__all__ = ["app", "launch"]

app = command_group("Runs: list, look at, follow, stop, resume, report, compare.")

RunId = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The run's id, or its beginning where that is unique.", show_default=False),
]


def launch(
    study: StudyFile,
    hub: HubFolder = HUB,
    sites: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="Sites to invite: three or more; two for sums in clear.",
            show_default="all that are enrolled",
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a run of a study. It waits until every site has approved the plan, and the list of sites with it."""
    from archipel.runs import launch as start

    chosen = None if sites is None else [name.strip() for name in sites.split(",") if name.strip()]
    run_id = start(hub, study, chosen)
    if as_json:
        print_json({"run_id": run_id})
    else:
        say(f"Launched: {run_id}")
    if watch:
        _watch(hub, run_id)
    elif not as_json:
        say(f"Next: `archipel runs watch {run_id}`")


@app.command("list")
def list_(hub: HubFolder = HUB, as_json: AsJson = False) -> None:
    """List the runs, the newest first."""
    from archipel.runs import open_store

    with open_store(hub) as store:
        runs = store.runs()
    if as_json:
        fields = ("run_id", "study", "status", "message", "plan_hash", "created_at", "finished_at", "wall_s")
        print_json([{name: getattr(run, name) for name in fields} for run in runs])
        return
    if not runs:
        say("No run yet: `archipel launch STUDY` starts one.")
    for run in runs:
        short = textwrap.shorten(run.message, 80, placeholder=" …")
        say(f"{run.run_id:<44} {run.status:<10} {run.created_at:%Y-%m-%d %H:%M}  {short}")


@app.command()
def show(run_id: RunId, hub: HubFolder = HUB, as_json: AsJson = False) -> None:
    """Show one run: sites, rounds, and what happened."""
    from archipel.runs import describe_run, find_run, open_store

    with open_store(hub) as store:
        found = describe_run(store, find_run(store, run_id))
    if as_json:
        print_json(found)
        return
    for name in ("run_id", "study", "status", "message", "plan_hash", "rounds"):
        say(f"{name.replace('_', ' '):<12} {found[name]}")
    say(f"{'sites':<12} {', '.join(found['sites']) or 'not settled yet'}")
    masked = f"masked, roster {found['roster_fingerprint']}" if found["roster_fingerprint"] else "in clear"
    say(f"{'sums':<12} {masked}")
    for state in ("left_out", "dropped"):
        for site, reason in found[state].items():
            say(f"{state.replace('_', ' '):<12} {site}: {reason}")
    for event in found["events"]:
        say(f"  {event['at']:%H:%M:%S}  {event['text']}")


@app.command()
def watch(run_id: RunId, hub: HubFolder = HUB) -> None:
    """Follow a run: rounds, sites heard and missing, time left, and why it pauses with what to do.

    Exit code 0 when the run is done, 1 when it ended otherwise. Ctrl-C ends the watching, never the run.
    """
    from archipel.runs import find_run, open_store

    with open_store(hub) as store:
        found = find_run(store, run_id)
    _watch(hub, found)


@app.command()
def stop(run_id: RunId, hub: HubFolder = HUB) -> None:
    """Stop a run after the message it is at; `resume` goes on from its last complete round."""
    from archipel.runs import find_run, open_store
    from archipel.runs import stop as ask_to_stop

    with open_store(hub) as store:
        found = find_run(store, run_id)
    say(ask_to_stop(hub, found))


@app.command()
def resume(
    run_id: RunId,
    hub: HubFolder = HUB,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run until it ends.")] = False,
) -> None:
    """Go on with a run from its last complete round, under its own id."""
    from archipel.runs import find_run, open_store
    from archipel.runs import resume as go_on

    with open_store(hub) as store:
        found = find_run(store, run_id)
    go_on(hub, found)
    say(f"Resumed: {found}")
    if watch:
        _watch(hub, found)


@app.command()
def report(
    run_id: RunId,
    hub: HubFolder = HUB,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For the files.", show_default="./results/RUN")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write model.safetensors, result.json and report.html of a finished run, and show its table."""
    from rich.console import Console

    from archipel.outputs import write_outputs
    from archipel.runs import find_run, model_of, open_store, plan_of, result_of
    from archipel.terminal import terminal_table

    with open_store(hub) as store:
        found = find_run(store, run_id)
        plan = plan_of(store, found)
    result = result_of(hub, found)
    json_file, page = write_outputs(out or Path("results") / found, result, model_of(hub, result), plan=plan)
    if as_json:
        say(result.to_json())
        return
    Console().print(terminal_table(result))
    say(f"Written: {json_file}, {page}")


@app.command()
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="Two or more runs, or result.json files.", show_default=False)
    ],
    hub: HubFolder = HUB,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Also write the comparison as a page.", show_default=False),
    ] = None,
) -> None:
    """Show two or more results side by side: coefficients, scores, cost, and what keeps them from comparing."""
    from rich.console import Console

    from archipel.compare import compare as put_side_by_side
    from archipel.compare import comparison_table, write_comparison
    from archipel.folders import make_parent
    from archipel.runs import load_results

    if len(runs) < 2:
        raise typer.BadParameter("a comparison needs two results or more", param_hint="RUN…")
    if out is not None:
        make_parent(out)
    comparison = put_side_by_side(load_results(hub, runs))
    Console().print(comparison_table(comparison))
    if out is not None:
        write_comparison(comparison, out)
        say(f"Written: {out}")


def _watch(hub: Path, run_id: str) -> None:
    from rich.console import Console

    from archipel.runs import open_store
    from archipel.terminal import RunProgress
    from archipel.watching import follow, tell_news

    console = Console(stderr=True)
    last = None
    try:
        with open_store(hub) as store, RunProgress(console) as progress:
            for last in follow(store, run_id):
                tell_news(progress, last, lines=not console.is_terminal)
    except KeyboardInterrupt:
        say(f"No longer watching; the run goes on. `archipel runs watch {run_id}` looks again.", error=True)
        raise typer.Exit(INTERRUPTED) from None
    if last is not None:
        say(f"{run_id}: {last.run.status}. {last.run.message}")
        if last.run.status == "done":
            say(f"Next: `archipel runs report {run_id}`")
            return
    raise typer.Exit(1)
