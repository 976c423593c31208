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
from pathlib import Path

from rich.console import Console

from archipel.alive import process_age_s
from archipel.cli_common import StoppedError, say
from archipel.demo_page import ReadyPage, prepare_page
from archipel.demo_sites import CONFIGS, Cohort, Sites, make_sites
from archipel.folders import verify_folder
from archipel.local_federation import LocalFederation
from archipel.outputs import write_outputs
from archipel.simulate import simulate
from archipel.terminal import RunProgress, terminal_table
from archipel.trial import Trial, ended_on_signals, run_trial, temporary_home
from archipel.watching import tell_news
from client.page.serve import serve_page
from schemas.errors import ArchipelError
from schemas.result import Result

__all__ = ["CONFIGS", "DemoError", "make_sites", "run_demo", "serve_site_page", "serving_report"]


class DemoError(ArchipelError):
    """The demo cannot run here."""


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
