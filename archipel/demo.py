"""`archipel demo`: the whole of Archipel on public data, in one command and under a minute.

It deals real tables out to sites, starts a hub and the sites in processes of their own, trains the model of
`configs/COHORT/study.toml`, then simulates the same study on the same folders for comparison. Where the sites are not
those of the study that the tables come from, terminal and report say so.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import shutil
import socketserver
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from archipel.alive import process_age_s
from archipel.cli_common import StoppedError, say
from archipel.demo_page import ReadyPage, prepare_page
from archipel.demo_tables import Dealt, deal_by_centre, deal_by_label, read_rows, write_site_folders
from archipel.folders import verify_folder
from archipel.local_federation import LocalFederation
from archipel.outputs import write_outputs
from archipel.simulate import simulate
from archipel.site_check import check_folder
from archipel.terminal import RunProgress, terminal_table
from archipel.trial import Trial, ended_on_signals, run_trial, temporary_home
from archipel.watching import tell_news
from client.page.serve import serve_page
from schemas.errors import ArchipelError
from schemas.result import Result
from schemas.study import load_study

__all__ = ["DemoError", "make_sites", "run_demo", "serve_site_page", "serving_report"]

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
Cohort = Literal["cgd", "acc"]

# Every patient of a site may lack a layer, so the demo shows it: site-d is not given its micro-RNA table.
_LAYERS: dict[Cohort, tuple[str, ...]] = {"cgd": (), "acc": ("rna", "cnv", "protein", "mutation", "mirna")}
_ABSENT: dict[Cohort, tuple[tuple[str, str], ...]] = {"cgd": (), "acc": (("site-d", "mirna"),)}
_NOTES: dict[Cohort, tuple[str, ...]] = {
    "cgd": (),
    "acc": (
        "The four sites are simulated: the patients are real, of one study, and were dealt out by the column "
        "simulated_site of the demo's table.",
        "The demo withholds the micro-RNA table of site-d, so that one site lacks a layer; site-c and site-d have "
        "protein of fewer than 10 patients, so protein counts as missing there.",
    ),
}


class DemoError(ArchipelError):
    """The demo cannot run here."""


@dataclass(frozen=True)
class Sites:
    """The demo's tables, dealt out.

    Attributes:
        shares: One for each site.
        left_out: Sentences about patients who are in no site's table, and why.
        notes: Sentences about what these sites are, for whoever reads the results.
    """

    shares: tuple[Dealt, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def run_demo(cohort: Cohort, out: Path, *, serve: bool = False) -> Path:
    """Run the demo, write its files into `out`, and return the report.

    Args:
        cohort: Which tables.
        out: Folder of the files.
        serve: Whether one site's page and the report are served at the end, until Ctrl-C.

    Raises:
        DemoError: When the demo's tables are not there.
        ArchipelError: When something on the way fails, with what to do.
    """
    began = process_age_s(), time.monotonic()
    study = CONFIGS / cohort / "study.toml"
    if not study.is_file():
        raise DemoError(f"The demo's files are not in {CONFIGS}: run the demo from a checkout of Archipel.")
    verify_folder(out)
    console = Console()
    with contextlib.ExitStack() as stack:
        stack.enter_context(ended_on_signals())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="archipel-demo-")))
        sites = make_sites(cohort, folder)
        for share in sites.shares:
            console.print(f"Site {share.name}: {len(share.rows)} patients ({', '.join(share.centres)})", style="dim")
        for sentence in (*sites.left_out, *sites.notes):
            console.print(sentence, style="yellow")
        home = stack.enter_context(temporary_home())
        pages: list[ReadyPage] = []
        with RunProgress(console) as progress:
            trial = run_trial(
                study,
                folder,
                home,
                on_stage=progress.say,
                on_check=lambda name, report: progress.say(f"  {name}: {report.verdict}"),
                on_view=lambda view: tell_news(progress, view, lines=not console.is_terminal),
                on_done=lambda federation, run_id: pages.append(_page_of(federation, run_id, progress)),
            )
        console.print("Simulating the same study on the same tables, for comparison", style="dim")
        simulated = simulate(study, folder, out / "simulated", notes=sites.notes)
        report = _written(out, trial, simulated, sites, console, began)
        if serve:
            serve_site_page(pages[0], report)
    return report


def _page_of(federation: LocalFederation, run_id: str, progress: RunProgress) -> ReadyPage:
    site = next(iter(federation.sites))
    progress.say(f"Releasing the model, and accepting it at {site}, on the people's behalf")
    return prepare_page(federation.hub, run_id, federation.site(site))


def _written(
    out: Path, trial: Trial, simulated: Result, sites: Sites, console: Console, began: tuple[float, float]
) -> Path:
    """Write the demo's files, tell what came out and how long it took, and return the report."""
    before_s, started = began
    result = trial.result.model_copy(update={"warnings": (*trial.result.warnings, *sites.notes)})
    _, page = write_outputs(out, result, trial.model, plan=trial.plan, simulated=simulated)
    console.print(terminal_table(result, simulated))
    first_s = before_s + trial.timing.first_round_s
    whole_s = before_s + time.monotonic() - started
    say(f"First round after {first_s:.1f} s, everything in {whole_s:.1f} s.")
    say(f"Written: {out / 'result.json'}, {page}, {out / 'simulated'}")
    return page


def make_sites(cohort: Cohort, folder: Path) -> Sites:
    """Deal the demo's tables out into one folder per site, and put right what the site check finds.

    A table that contradicts its dictionary is refused as a whole. What a data manager would do then, who cannot ask
    the clinic for the right date, is done here and said: a patient whose time is not above 0 was never at risk and
    is left out of the table.
    """
    rows = read_rows(CONFIGS / "demo" / f"{cohort}_clinical.csv")
    deal = {
        "cgd": lambda: deal_by_centre(rows, "centre"),
        "acc": lambda: deal_by_label(rows, "simulated_site", "site"),
    }
    study, dictionary = load_study(CONFIGS / cohort / "study.toml")
    shares: list[Dealt] = []
    left_out: list[str] = []
    for share in deal[cohort]():
        home = write_site_folders([share], folder)[share.name]
        wrong = [
            problem
            for problem in check_folder(home, study, dictionary).problems
            if problem.blocks and problem.column == study.endpoint.time
        ]
        left_out += [f"{share.name}: {problem} (left out here, as a data manager would)" for problem in wrong]
        named = {row for problem in wrong for row in problem.rows}
        # A table's first record is row 2, as in a spreadsheet.
        kept = tuple(row for number, row in enumerate(share.rows, start=2) if number not in named)
        shares.append(replace(share, rows=kept))
    layers = {layer: read_rows(CONFIGS / "demo" / f"{cohort}_{layer}.csv") for layer in _LAYERS[cohort]}
    write_site_folders(shares, folder, layers=layers, absent=_ABSENT[cohort])
    return Sites(tuple(shares), tuple(left_out), _NOTES[cohort])


def serve_site_page(ready: ReadyPage, report: Path) -> None:
    """Serve one site's page, and the report beside it, until Ctrl-C."""
    with serving_report(report) as address:
        say(f"The report is at {address}")

        def tell(page: str) -> None:
            say(f"The page of {ready.home.name} is at {page} (research use only)")
            say(f"  account {ready.account}, password {ready.password}")
            say(f"  made-up patients: {', '.join(ready.patients)} (Ctrl-C ends)")

        with contextlib.suppress(KeyboardInterrupt, StoppedError):
            serve_page(ready.home, port=0, on_ready=tell)
    say("")


@contextlib.contextmanager
def serving_report(page: Path) -> Iterator[str]:
    """Serve one report on a free port of loopback and yield its address."""
    with tempfile.TemporaryDirectory(prefix="archipel-report-") as folder:
        # A folder of its own: nothing else that lies beside the report is served.
        shutil.copyfile(page, Path(folder) / "index.html")
        handler = functools.partial(_QuietHandler, directory=folder)
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}/"
            finally:
                server.shutdown()
                thread.join()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing about each request."""
