"""`archipel site`: everything a hospital does, in the order in which it does it."""

from __future__ import annotations

import datetime
import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from archipel import cli_keeping, cli_site_accounts, cli_site_models, cli_site_view
from archipel.cli_common import SITE, AsJson, SiteHome, ask, command_group, print_json, say, verify_not_running
from schemas.errors import ArchipelError

if TYPE_CHECKING:  # help must not load what it does not need
    from schemas.plan import Plan
    from schemas.roster import Roster

__all__ = ["app"]

app = command_group("The partner site: make it, check its tables, decide about plans, run it.")
ledger = command_group("The record of everything that left this site.")
app.add_typer(ledger, name="ledger")
peers = command_group("The keys of the other sites whose fingerprints were compared here.")
app.add_typer(peers, name="peers")
app.add_typer(cli_site_models.app, name="models")
app.add_typer(cli_site_accounts.app, name="account")
app.command()(cli_site_view.view)

Which = Annotated[
    str,
    typer.Argument(
        metavar="HASH|FILE",
        help="A received plan's hash (six characters or more), or a plan's file.",
        show_default=False,
    ),
]
Who = Annotated[str | None, typer.Option("--by", help="Who decides; default: this login.", show_default=False)]


class DeclinedError(ArchipelError):
    """A person said no."""


@app.command()
def init(
    name: Annotated[
        str, typer.Option(help="The site's name in rosters and results (letters, digits, dot, dash, underscore).")
    ],
    tables: Annotated[
        Path,
        typer.Option(help="Folder of clinical.csv (or .parquet) and one file per layer.", show_default="HOME/tables"),
    ] = Path("tables"),
    title: Annotated[str, typer.Option(help="The hospital's name, for people.")] = "",
    home: SiteHome = SITE,
) -> None:
    """Make the site's folder: settings, its own keys, and request.json for the hub. What is there is kept."""
    from archipel.enrol import fingerprint
    from archipel.homes import REQUEST_FILE, init_site, utc_now
    from client.settings import load_settings

    given = tables if str(tables) == "tables" else tables.resolve()
    request = init_site(home, name, given, utc_now(), title=title)
    settings = load_settings(home)
    say(f"The site's folder is {home.resolve()}; its settings are in site.toml, and what was there is kept.")
    if not settings.tables.is_dir():
        say(f"Its tables are expected in {settings.tables}, which is not there yet (`tables` in site.toml).")
    say(f"Fingerprint of this site: {fingerprint(request.identity_public_key)}")
    say(f"Next: send {home / REQUEST_FILE} to the hub (nothing in it is secret), compare fingerprints on the phone,")
    say("then `archipel site join KIT.json` with the kit that comes back.")


@app.command()
def join(
    kit: Annotated[Path, typer.Argument(metavar="KIT.json", help="What the hub sent back.", show_default=False)],
    home: SiteHome = SITE,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="The fingerprint was compared already: do not ask.")
    ] = False,
) -> None:
    """Accept the hub's kit: verifies signature and expiry, then keeps the hub's authority and address."""
    from archipel.enrol import fingerprint
    from archipel.homes import join_site, read_kit_for, read_limited, utc_now
    from client.restored import history_of

    content = read_limited(kit)
    offered = read_kit_for(home, content, utc_now())
    say(f"The kit is for the site {offered.site}, from the hub at {offered.hub_address}.")
    say(f"Fingerprint of the hub: {fingerprint(offered.hub_public_key)}")
    history = history_of(home, offered.ledger_head, offered.heads_public_key)
    if history is not None:
        say(f"What this restored site has lost: {history.sentence}")
        if history.verdict == "unknown":
            say("That is for good once this kit is joined. Ask the hub for a kit with a head, where it has one.")
    if not yes and not ask("Is this the fingerprint that the hub's administrator reads out?"):
        raise DeclinedError("Nothing was changed. Ask the hub's administrator for a new kit, by another way.")
    join_site(home, content, utc_now())
    say("Joined. Next: `archipel site check STUDY`, then `archipel site up`.")


@app.command()
def check(
    question: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY|DICTIONARY", help="What to hold the tables against (TOML).", show_default=False
        ),
    ],
    home: SiteHome = SITE,
    as_json: AsJson = False,
) -> None:
    """Name every problem of this site's tables at once, with row and column and never with a cell's value.

    Nothing is sent. Exit code 0 where the site can take part, 1 where it cannot.
    """
    from archipel.site_check import check_site

    report = check_site(home, question)
    say(report.as_json() if as_json else report.text())
    raise typer.Exit(0 if report.can_take_part else 1)


@app.command()
def plans(home: SiteHome = SITE, as_json: AsJson = False) -> None:
    """List the plans that the hub has sent, with what this site decided about each."""
    from client.approvals import list_plans

    found = list_plans(home)
    if as_json:
        print_json(
            [
                {
                    "hash": status.plan.hash,
                    "study": status.plan.study.name,
                    "state": status.state,
                    "approver": status.approval.approver if status.approval else None,
                    "approved_at": status.approval.approved_at if status.approval else None,
                    "expires": status.approval.expires if status.approval else None,
                    "rosters": [
                        {"hash": known.roster.hash, "state": known.state, "sites": list(known.roster.names)}
                        for known in status.rosters
                    ],
                }
                for status in found
            ]
        )
        return
    if not found:
        say("No plan has arrived. One arrives when the hub launches a study; a plan's file can be approved as well.")
    for status in found:
        decided = f" by {status.approval.approver}" if status.approval else ""
        say(f"{status.plan.hash[:12]}  {status.state:<9}  {status.plan.study.name}{decided}")
        for known in status.rosters:
            say(f"  with roster {known.roster.hash[:12]}  {known.state:<9}  {', '.join(known.roster.names)}")
    if any("pending" in (status.state, *(known.state for known in status.rosters)) for status in found):
        say("Next: `archipel site approve HASH` shows the data-use card, and who takes part, and asks.")


@app.command()
def approve(
    which: Which,
    home: SiteHome = SITE,
    by: Who = None,
    roster: Annotated[
        str | None,
        typer.Option(
            metavar="HASH|FILE",
            help="With which sites, where the plan's sums are masked.",
            show_default="the list of sites that came last",
        ),
    ] = None,
    expires: Annotated[
        datetime.datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="Last day on which this site answers.", show_default="as the study says"
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Card and fingerprints were read and compared already: do not ask.")
    ] = False,
) -> None:
    """Show a plan's data-use card and who takes part, ask, and approve both: from then on this site answers it."""
    from archipel.site_status import price_lines
    from client.approvals import approve as decide
    from client.approvals import find_plan
    from schemas.card import data_use_card

    plan = find_plan(home, which)
    chosen = _roster_to_show(home, plan, roster)
    say(data_use_card(plan))
    if chosen is not None:
        _show_roster(home, chosen)
    elif plan.study.privacy.secure_sum:
        say("No list of sites has come with this plan yet. Approve the plan when it has, or once now and once then.")
    for line in price_lines(home, plan):
        say(line)
    say()
    with_whom = "" if chosen is None else f" with these {len(chosen.sites)} sites, fingerprints compared,"
    if not yes and not ask(f"Approve this plan ({plan.hash[:12]}){with_whom} for this site?"):
        raise DeclinedError("Not approved. Nothing leaves this site for this plan.")
    decide(home, which, approver=_person(by), roster=chosen, expires=expires.date() if expires else None)
    say(f"Approved: {plan.hash[:12]}, study {plan.study.name}.")
    if chosen is not None:
        say(f"With the sites {', '.join(chosen.names)} (roster {chosen.hash[:12]}); their keys are pinned now.")
    say(f"`archipel site withdraw {plan.hash[:12]}` takes it back at any time.")


@app.command()
def withdraw(which: Which, home: SiteHome = SITE, by: Who = None) -> None:
    """Take an approval back; it holds at once, also in a run that is going."""
    from client.approvals import withdraw as decide

    status = decide(home, which, who=_person(by))
    say(f"Withdrawn: {status.plan.hash[:12]}, study {status.plan.study.name}. Nothing more leaves for this plan.")


@app.command()
def pause(home: SiteHome = SITE, by: Who = None) -> None:
    """Let nothing at all leave this site until `resume`; it holds at once, also in a run that is going."""
    from client.approvals import pause as decide

    decide(home, who=_person(by))
    say("Paused: nothing leaves this site. Runs wait for it or go on without it, as their study says.")


@app.command()
def resume(home: SiteHome = SITE, by: Who = None) -> None:
    """End a pause."""
    from client.approvals import is_paused
    from client.approvals import resume as decide

    if not is_paused(home):
        say("This site is not paused.")
        return
    decide(home, who=_person(by))
    say("The pause is over.")


@app.command()
def up(home: SiteHome = SITE) -> None:
    """Run the site until Ctrl-C or SIGTERM; processes that die are started again.

    Logs are in HOME/logs, or on standard output as JSON lines where the settings say `logs = "stdout"`.
    """
    from client.site_process import serve
    from schemas.processes import die_with_parent

    die_with_parent()
    verify_not_running(home, "site")
    raise typer.Exit(serve(home, say))


@app.command()
def status(home: SiteHome = SITE, as_json: AsJson = False) -> None:
    """Show whether the site runs, its hub answers, what waits for a decision, ledger and privacy budget."""
    from archipel.site_status import show_site_status, site_status

    found = site_status(home)
    if as_json:
        print_json(found.to_dict())
        return
    show_site_status(found)


@app.command()
def doctor(home: SiteHome = SITE, as_json: AsJson = False) -> None:
    """Look at everything that may be wrong with this site, and say what to do; it need not run.

    Settings, kernel, versions, folder, keys, disk, opt-outs, plans, ledger, tables, kit, processes, and the way to
    the hub: proxy, name, port, TLS, hub, clock, enrolment. All are looked at, also when one fails. For a monitoring
    system: exit code 0 where nothing is a problem, warnings allowed; 1 where something is.
    """
    from archipel.doctor import show_diagnosis

    raise typer.Exit(show_diagnosis(home, as_json=as_json))


@app.command()
def health(home: SiteHome = SITE, as_json: AsJson = False) -> None:
    """Ask the running site how it is: processes, disk, ledger, privacy budget, certificate and hub.

    For a container's health check or a monitoring system. Exit code 0 where it is healthy, warnings included; 1 where
    it is not, or does not answer.
    """
    from archipel.health import show_health

    raise typer.Exit(show_health(home, "site", as_json=as_json))


app.command("backup")(cli_keeping.backup_site)
app.command("restore")(cli_keeping.restore_site)
app.command("accept-loss")(cli_keeping.accept_loss)
app.command("rotate")(cli_keeping.rotate_site)


@peers.command("list")
def list_peers(home: SiteHome = SITE, as_json: AsJson = False) -> None:
    """List the sites whose keys are pinned here, with the fingerprints that were compared."""
    from client.peers import load_peers
    from client.state import SitePaths
    from schemas.roster import fingerprint

    pins = {name: fingerprint(key) for name, key in sorted(load_peers(SitePaths(home)).items())}
    if as_json:
        print_json(pins)
        return
    if not pins:
        say("No key is pinned yet: `archipel site approve` pins those of the sites whose fingerprints were compared.")
    for name, compared in pins.items():
        say(f"{compared}  {name}")


@peers.command()
def forget(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The site that has a new key.", show_default=False)],
    home: SiteHome = SITE,
    by: Who = None,
) -> None:
    """Forget the key of a site, so that a list of sites with its new one can be approved, fingerprints compared."""
    from client.peers import forget_peer

    say(f"Forgotten: the key {forget_peer(home, name, who=_person(by))} of {name}.")
    say("A list of sites with another key for it can be approved now: compare its fingerprint on the phone first.")


@ledger.command()
def verify(home: SiteHome = SITE) -> None:
    """Check every line, the chain, the end and the hub's signature of the ledger.

    Exit code 1 where anything was changed or cut off.
    """
    from client.heads import verify_held

    found = verify_held(home)
    say(f"The ledger is sound: {found.head.count} entries, head {found.head.hash[:16]}.")
    say(found.sentence)


@ledger.command()
def show(
    home: SiteHome = SITE,
    last: Annotated[int, typer.Option(min=0, help="How many entries, the newest; 0: all.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show what left this site, when, for which run and step, and who decided what."""
    from archipel.site_status import ledger_lines, ledger_records
    from client.state import ledger_path

    records = ledger_records(ledger_path(home))
    chosen = records[-last:] if last else records
    if as_json:
        print_json(chosen)
        return
    if not records:
        say("Nothing has left this site, and nothing was decided yet.")
    for line in ledger_lines(chosen):
        say(line)
    if len(chosen) < len(records):
        say(f"({len(records) - len(chosen)} earlier entries: `--last 0` shows all)")


def _roster_to_show(home: Path, plan: Plan, which: str | None) -> Roster | None:
    """Return the roster that is shown and then approved: the very same, whatever comes meanwhile."""
    from client.received import find_roster
    from client.state import SitePaths

    if not plan.study.privacy.secure_sum and which is None:
        return None
    return find_roster(SitePaths(home), plan.hash, which)


def _show_roster(home: Path, roster: Roster) -> None:
    from client.peers import load_peers
    from client.settings import load_settings
    from client.state import SitePaths
    from schemas.card import roster_card

    say(roster_card(roster, load_settings(home).name, load_peers(SitePaths(home))))


def _person(given: str | None) -> str:
    return given or getpass.getuser()
