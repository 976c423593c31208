"""What a notebook imports: a study, with the same verbs as the command line.

from archipel import Study
study = Study("configs/cgd/study.toml", hub="hub")
study.check()                      # faults with their lines, or nothing
print(study.card())                # what would leave a site
result = study.simulate("sites")   # in this process
run = study.launch()               # over the hub's enrolled sites
study.watch(run)
study.result(run).coefficients
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from archipel import runs as _runs
from archipel.compare import Comparison
from archipel.compare import compare as _compare
from archipel.studies import compile_study, read_study, why_simulate_alone
from archipel.watching import RunView, follow
from schemas.card import data_use_card
from schemas.errors import Fault, FaultsError
from schemas.plan import Plan
from schemas.result import Result
from server.records import RunRecord

__all__ = ["Study"]


@dataclass(frozen=True)
class Study:
    """A study file, and the hub that its runs go through.

    Attributes:
        path: The study (TOML).
        hub: The hub's folder; needed by everything that concerns runs.
    """

    path: Path | str
    hub: Path | str = "hub"

    def check(self) -> tuple[Fault, ...]:
        """Return every fault of the study and its dictionary, each with its line; empty where there is none."""
        try:
            read_study(Path(self.path))
        except FaultsError as error:
            return error.faults
        return ()

    def plan(self) -> Plan:
        """Return what the study compiles to: what sites are asked to approve.

        Raises:
            FaultsError: When the study is wrong, or exists in `simulate` alone.
        """
        return compile_study(Path(self.path))

    def card(self) -> str:
        """Return the data-use card of the plan, in plain words."""
        return data_use_card(self.plan())

    def simulate_alone_because(self) -> tuple[Fault, ...]:
        """Return what keeps the study from running in a real federation; empty where nothing does."""
        return why_simulate_alone(*read_study(Path(self.path)))

    def simulate(self, sites: Path | str, out: Path | str = "simulated", *, secure_sum: bool = False) -> Result:
        """Run the study over site folders in this process, and write result, report and predictions to `out`.

        Args:
            sites: One folder per site, named after it.
            out: For the files.
            secure_sum: Whether the federated sums are formed under masks, as between real sites.
        """
        from archipel.simulate import simulate

        return simulate(Path(self.path), Path(sites), Path(out), secure_sum=secure_sum)

    def trial(self, sites: Path | str, *, on_view: Callable[[RunView], None] | None = None) -> Result:
        """Run the study on a hub and sites in real local processes, all ended afterwards.

        Args:
            sites: One folder per site, named after it.
            on_view: Called whenever the run has moved.
        """
        from archipel.trial import run_trial, temporary_home

        with temporary_home() as home:
            return run_trial(Path(self.path), Path(sites), home, on_view=on_view).result

    def launch(self, sites: Sequence[str] | None = None) -> str:
        """Start a run over the named sites (default: all that are enrolled) and return its id."""
        return _runs.launch(Path(self.hub), Path(self.path), sites)

    def runs(self) -> list[RunRecord]:
        """Return the runs of this study at the hub, the newest first."""
        name = read_study(Path(self.path))[0].name
        with _runs.open_store(Path(self.hub)) as store:
            return [run for run in store.runs() if run.study == name]

    def watch(self, run_id: str, on_view: Callable[[RunView], None] | None = None) -> RunRecord:
        """Follow a run until it ends, and return how it ended.

        Args:
            run_id: From `launch`.
            on_view: Called whenever the run has moved; default: a progress bar.
        """
        from archipel.terminal import RunProgress
        from archipel.watching import tell_news

        with _runs.open_store(Path(self.hub)) as store:
            if on_view is not None:
                for view in follow(store, run_id):
                    on_view(view)
            else:
                with RunProgress() as progress:
                    for view in follow(store, run_id):
                        tell_news(progress, view)
            return store.run(run_id)

    def stop(self, run_id: str) -> str:
        """Ask a run to stop, and return what will happen."""
        return _runs.stop(Path(self.hub), run_id)

    def resume(self, run_id: str) -> None:
        """Go on with a run from its last complete round, under its own id."""
        _runs.resume(Path(self.hub), run_id)

    def result(self, run_id: str) -> Result:
        """Return what a finished run found."""
        return _runs.result_of(Path(self.hub), run_id)

    def report(self, run_id: str, out: Path | str) -> Path:
        """Write model, result and report of a finished run to `out`, and return the report's path."""
        from archipel.outputs import write_outputs

        with _runs.open_store(Path(self.hub)) as store:
            plan = _runs.plan_of(store, run_id)
        result = self.result(run_id)
        model = _runs.model_of(Path(self.hub), result)
        return write_outputs(Path(out), result, model, plan=plan)[1]

    def compare(self, *run_ids: str) -> Comparison:
        """Return two or more runs (or ``result.json`` files) side by side."""
        return _compare(_runs.load_results(Path(self.hub), run_ids))
