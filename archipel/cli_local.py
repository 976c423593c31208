"""`archipel demo`, `simulate` and `trial`: what one person can run on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from archipel.cli_common import AsJson, StudyFile, say

__all__ = ["demo", "simulate", "trial"]

SitesFolder = Annotated[
    Path,
    typer.Option(
        "--sites",
        metavar="DIR",
        help="One folder per site, named after it, with clinical.csv or .parquet and layers.",
    ),
]
Cohort = Literal["cgd", "acc"]


def demo(
    cohort: Annotated[
        Cohort,
        typer.Option(
            help="acc: adrenocortical carcinoma, six layers, four simulated sites; cgd: a trial's five sites."
        ),
    ] = "acc",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For the files.", show_default="./demo-results/COHORT")
    ] = None,
    serve: Annotated[
        bool, typer.Option(help="Show one site's page and the report on free loopback ports until Ctrl-C.")
    ] = True,
) -> None:
    """Train one model over a hub and sites in real processes, on real data that comes with Archipel.

    Writes DIR/result.json, DIR/report.html and, for comparison, DIR/simulated. Takes less than a minute. In the end
    one site fetches and accepts the model, and its page shows the prognosis of made-up patients.
    """
    from archipel.demo import run_demo

    run_demo(cohort, out or Path("demo-results") / cohort, serve=serve)


def simulate(
    study: StudyFile,
    sites: SitesFolder,
    out: Annotated[Path, typer.Option(metavar="DIR", help="For result.json, report.html and predictions.parquet.")],
    secure_sum: Annotated[
        bool,
        typer.Option("--secure-sum", help="Form the federated sums under masks, as real sites do."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a study over site folders in this one process, with the evaluation that only a simulation can do."""
    from rich.console import Console

    from archipel.simulate import simulate as run
    from archipel.terminal import terminal_table

    result = run(study, sites, out, secure_sum=secure_sum)
    if as_json:
        say(result.to_json())
        return
    Console().print(terminal_table(result))
    say(f"Written: {out / 'result.json'}, {out / 'report.html'}")


def trial(
    study: StudyFile,
    sites: SitesFolder,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For result.json and report.html; without it none is written.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the folders of hub and sites (keys, store, ledgers, logs).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a study on a hub and sites in real local processes: TLS, node keys, approvals, gate and ledger.

    Approvals are given on the sites' behalf. Everything started is ended again, whatever happens.
    """
    from rich.console import Console

    from archipel.folders import verify_folder
    from archipel.outputs import write_outputs
    from archipel.terminal import RunProgress, terminal_table
    from archipel.trial import run_trial, temporary_home
    from archipel.watching import tell_news

    if out is not None:
        verify_folder(out)
    console = Console(stderr=True)
    with temporary_home(keep=keep) as home, RunProgress(console) as progress:
        if keep:
            progress.say(f"Folders of hub and sites: {home}")
        found = run_trial(
            study,
            sites,
            home,
            on_stage=progress.say,
            on_check=lambda name, report: progress.say(f"{name}: {report.verdict}"),
            on_view=lambda view: tell_news(progress, view, lines=not console.is_terminal),
        )
    if out is not None:
        write_outputs(out, found.result, found.model, plan=found.plan)
    if as_json:
        say(found.result.to_json())
        return
    Console().print(terminal_table(found.result))
    if out is not None:
        say(f"Written: {out / 'result.json'}, {out / 'report.html'}")
