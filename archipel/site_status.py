"""How a site is: its processes, its hub, what waits for a person, and its ledger in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from archipel.alive import running_children
from archipel.cli_common import say
from client.approvals import list_plans
from client.confinement import supported
from client.heads import verify_held
from client.hub_check import check_hub, trouble
from client.noising import Account, accounts, price_of
from client.own_figures import OwnFigures, own_figures
from client.peers import load_peers
from client.restored import load_restored, restored_line
from client.settings import SiteSettings, load_settings
from client.site_process import missing_files
from client.state import SitePaths
from privacy.ledger import Entry, entries
from schemas.errors import ArchipelError
from schemas.plan import Plan
from schemas.shown import shown_count

__all__ = [
    "SiteStatus",
    "budget_lines",
    "figure_lines",
    "ledger_lines",
    "ledger_records",
    "price_lines",
    "show_site_status",
    "site_status",
]


@dataclass(frozen=True)
class SiteStatus:
    """What `archipel site status` shows.

    Attributes:
        processes: Process id of agent and runner where they run now.
        hub: Empty where the hub answers and the clocks agree; else what is wrong and what to do.
        paused: Nothing leaves the site.
        plans: How many plans are in each state.
        rosters_pending: Lists of sites that wait for a decision although their plan is approved.
        peers: Sites whose keys are pinned.
        ledger_entries: Length of the ledger; None where it is not sound.
        ledger_fault: Why it is not.
        missing: What is missing among the keys.
        budget: Privacy budget of each dataset, the current one first.
        budget_fault: Why it cannot be read.
        figures: How the models of the runs do on the site's own unseen patients, the latest run first.
        countersigned: How far the hub has countersigned the ledger, in a sentence.
        restored: What a site that was put back from a backup has lost and refuses, in a sentence; empty at any other.
        unprotected: What this kernel cannot keep a step's process from, a sentence each; empty where it can.
    """

    name: str
    hub_address: str
    processes: Mapping[str, int]
    hub: str
    paused: bool
    plans: Mapping[str, int]
    rosters_pending: int
    peers: tuple[str, ...]
    ledger_entries: int | None
    ledger_fault: str
    missing: tuple[str, ...]
    budget: tuple[Account, ...] = ()
    budget_fault: str = ""
    figures: tuple[OwnFigures, ...] = ()
    countersigned: str = ""
    restored: str = ""
    unprotected: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it for a program."""
        return asdict(self) | {"figures": [one.model_dump(mode="json") for one in self.figures]}


def site_status(home: Path) -> SiteStatus:
    """Look at a site.

    Raises:
        FaultsError: When its settings are wrong.
    """
    settings = load_settings(home)
    processes = running_children(home)
    missing = tuple(str(fault) for fault in missing_files(home))
    plans: dict[str, int] = {}
    found = list_plans(home)
    for status in found:
        plans[status.state] = plans.get(status.state, 0) + 1
    try:
        held = verify_held(home)
        count: int | None = held.head.count
        fault, countersigned = "", held.sentence
    except ArchipelError as error:
        count, fault, countersigned = None, str(error), ""
    budget, budget_fault = _budget(home, settings)
    return SiteStatus(
        name=settings.name,
        hub_address=settings.hub_address,
        processes=processes,
        hub=_hub(home, settings.hub_address, is_running=bool(processes)),
        paused=SitePaths(home).paused.exists(),
        plans=plans,
        rosters_pending=sum(
            known.state == "pending" for status in found if status.state == "approved" for known in status.rosters
        ),
        peers=tuple(sorted(load_peers(SitePaths(home)))),
        ledger_entries=count,
        ledger_fault=fault,
        missing=missing,
        budget=budget,
        budget_fault=budget_fault,
        figures=tuple(own_figures(SitePaths(home))),
        unprotected=supported().lacking,
        countersigned=countersigned,
        restored=_restored(home),
    )


def _restored(home: Path) -> str:
    try:
        found = load_restored(SitePaths(home))
    except ArchipelError as error:
        return str(error)
    return "" if found is None else restored_line(found)


def _budget(home: Path, settings: SiteSettings) -> tuple[tuple[Account, ...], str]:
    try:
        return accounts(SitePaths(home), settings), ""
    except ArchipelError as error:
        return (), str(error)


def _hub(home: Path, address: str, *, is_running: bool) -> str:
    """Return what is wrong between site and hub, or "" where all is well."""
    authority = home / "keys" / "hub-ca.crt"
    if not authority.exists():
        return "The site has not joined: `archipel site join KIT.json`."
    found = check_hub(address, authority)
    # The health page answers everybody; what the hub says to this site, only its agent hears.
    return found.sentence or (trouble(home) if is_running else "")


def show_site_status(status: SiteStatus) -> None:
    """Print it for a person."""
    runs = ", ".join(f"{name} {pid}" for name, pid in sorted(status.processes.items()))
    say(f"Site {status.name}: {f'running ({runs})' if runs else 'not running (`archipel site up`)'}")
    say(f"Hub {status.hub_address}: {status.hub or 'answers'}")
    say("Releases: " + ("paused (`archipel site resume`)" if status.paused else "as approved"))
    say("Plans: " + (", ".join(f"{n} {state}" for state, n in sorted(status.plans.items())) or "none has arrived"))
    if status.rosters_pending:
        say(f"Lists of sites that wait for a decision: {status.rosters_pending} (`archipel site plans`)")
    say("Pinned keys of other sites: " + (", ".join(status.peers) or "none yet"))
    if status.ledger_entries is None:
        say(f"Ledger: NOT SOUND. {status.ledger_fault}")
    else:
        say(f"Ledger: {status.ledger_entries} {'entry' if status.ledger_entries == 1 else 'entries'}, sound")
        say(f"  {status.countersigned}")
    if status.restored:
        say(status.restored)
    for line in budget_lines(status.budget, status.budget_fault):
        say(line)
    for line in figure_lines(status.figures[:1]):
        say(line)
    for sentence in status.unprotected:
        say(f"Warning: {sentence}")
    for fault in status.missing:
        say(f"Fault: {fault}")


def figure_lines(found: Sequence[OwnFigures]) -> list[str]:
    """Return what the models of runs reach on the site's own unseen patients, for a person."""
    words = {"c_index": "C", "ibs": "Brier score", "calibration_slope": "calibration slope"}
    lines = []
    for one in found:
        known = [f"{words[name]} {value:.3f}" for name, value in one.values.items() if value is not None]
        about = f"about {shown_count(one.n_patients)} unseen patients of this site"
        kept = "these figures stay here"
        if not any(one.counted.values()):
            kept = "too few patients or events to count among the sites'; " + kept
        lines.append(f"Study {one.study}, run {one.run_id}: {', '.join(known) or 'no figure'} over {about} ({kept})")
    return lines


def budget_lines(found: Sequence[Account], fault: str = "") -> list[str]:
    """Return what is spent and left of each account, for a person."""
    if fault:
        return [f"Privacy budget: NOT SOUND. {fault}"]
    lines = []
    if not any(one.is_current for one in found):
        lines.append(
            "Privacy budget: none, so studies under differential privacy are refused (`[budget]` in site.toml)"
        )
    for one in found:
        left = one.left
        spent = f"epsilon {left.spent_epsilon:.3g}"
        at = f"at delta {left.limit.delta:g}, {left.releases} release{'' if left.releases == 1 else 's'}"
        if one.is_current:
            spent += f" of {left.limit.epsilon:g} spent ({at}); a further study of up to {left.left_epsilon:.3g} fits"
        else:
            spent += f" spent ({at}); site.toml names this account no longer"
        lines.append(f"Privacy budget of {one.dataset}: {spent}")
    return lines


def price_lines(home: Path, plan: Plan) -> list[str]:
    """Return what a run of a plan under differential privacy costs this site, for the person who is to approve it.

    Raises:
        BudgetBrokenError, StorageError: When the budget cannot be read.
    """
    found = accounts(SitePaths(home), load_settings(home))
    if plan.study.privacy.differential is None or not found or not found[0].is_current:
        return []
    price = price_of(plan, found[0])
    runs = f"{price.runs_left} run{'' if price.runs_left == 1 else 's'} of this plan"
    fits = (
        f"{runs} fit{'s' if price.runs_left == 1 else ''}" if price.is_affordable else "which is MORE than is allowed"
    )
    after = f"A run of this plan lifts it to epsilon {price.epsilon_after:.3g}; {fits}."
    return [*budget_lines(found[:1]), after]


def ledger_records(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a ledger for a program.

    Raises:
        LedgerBrokenError: When it is not what this site wrote.
    """
    return [asdict(entry) for entry in _sound(path)]


def _sound(path: Path) -> Sequence[Entry]:
    return tuple(entries(path))


def ledger_lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line for each entry, for a person."""
    lines = []
    for record in records:
        event = record["event"]
        words = [str(record["time"])[:19].replace("T", " "), f"{event['kind']:<10}"]
        if event["study"]:
            words.append(event["study"])
        if event["run"]:
            words.append(f"run {event['run']}")
        if event["step"]:
            words.append(f"{event['step']} {event['part']} #{event['number']}")
        if event["n_bytes"]:
            arrays = ", ".join(f"{name}{list(shape)}" for name, shape in event["arrays"])
            words.append(f"{event['n_bytes']} bytes ({arrays or 'no array'})")
        if event["n_patients"] is not None:
            words.append(f"over about {event['n_patients']} patients")
        if event.get("dataset"):
            words.append(f"paid from {event['dataset']}: mu squared {event['mu_squared']:.3g}")
        words += [word for word in (event["rule"], f"by {event['who']}" if event["who"] else "") if word]
        lines.append("  ".join(words))
    return lines
