"""`archipel site account`: who may look at the patient page, and which systems may ask it."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from archipel.cli_common import SITE, AsJson, SiteHome, ask, command_group, print_json, say
from schemas.errors import ArchipelError

if TYPE_CHECKING:  # help must not load what it does not need
    from client.page.accounts import Accounts

__all__ = ["app"]

app = command_group("The patient page's accounts and tokens, and its access log.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the account.", show_default=False)]
Who = Annotated[str | None, typer.Option("--by", help="Who decides; default: this login.", show_default=False)]


class PasswordError(ArchipelError):
    """A password that was not given, or not twice the same."""


class DeclinedError(ArchipelError):
    """A person said no."""


@app.command()
def add(
    name: Name,
    home: SiteHome = SITE,
    role: Annotated[str, typer.Option(help="clinician or administrator.")] = "clinician",
    by: Who = None,
) -> None:
    """Make an account; the password is asked for twice, or read as one line where standard input is no terminal."""
    from client.page.accounts import AccountError

    if role not in ("clinician", "administrator"):
        raise AccountError("The role is clinician or administrator.")
    accounts = _accounts(home)
    account = accounts.add(name, "administrator" if role == "administrator" else "clinician", _password())
    _log(home, by, f"added {account.name} as {account.role}")
    say(f"Added: {account.name}, {account.role}. `archipel site view` serves the page to sign in on.")


@app.command("list")
def list_(home: SiteHome = SITE, as_json: AsJson = False) -> None:
    """List accounts and systems; no password and no token is kept in a form that could be shown."""
    accounts = _accounts(home)
    if as_json:
        print_json(
            {
                "accounts": [one.model_dump(mode="json", exclude={"password"}) for one in accounts.accounts()],
                "systems": [one.model_dump(mode="json", exclude={"digest"}) for one in accounts.tokens()],
            }
        )
        return
    if not accounts.accounts():
        say("No account yet: `archipel site account add NAME`.")
    for account in accounts.accounts():
        state = "locked" if account.is_locked else "open"
        wrong = f", {account.failures} wrong passwords" if account.failures else ""
        say(f"{account.name:<24} {account.role:<14} {state}, since {account.added_at:%Y-%m-%d}{wrong}")
    for token in accounts.tokens():
        say(f"{token.system:<24} {'system':<14} token of {token.added_at:%Y-%m-%d}")


@app.command()
def lock(
    name: Name,
    home: SiteHome = SITE,
    unlock: Annotated[bool, typer.Option("--unlock", help="End every lock of the account instead.")] = False,
    by: Who = None,
) -> None:
    """Lock an account until further notice; its sessions end at the next click."""
    _accounts(home).set_locked(name, is_locked=not unlock)
    _log(home, by, f"{'unlocked' if unlock else 'locked'} {name}")
    say(f"{'Unlocked' if unlock else 'Locked'}: {name}.")


@app.command()
def remove(
    name: Name,
    home: SiteHome = SITE,
    by: Who = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove an account; what it did stays in the access log."""
    if not yes and not ask(f"Remove the account {name}?"):
        raise DeclinedError("Nothing was changed.")
    _accounts(home).remove(name)
    _log(home, by, f"removed {name}")
    say(f"Removed: {name}.")


@app.command()
def token(
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="Name of the system.", show_default=False)],
    home: SiteHome = SITE,
    end: Annotated[bool, typer.Option("--end", help="End the system's access instead.")] = False,
    by: Who = None,
) -> None:
    """Make the token with which one of the hospital's systems asks /api/v1/prognosis; it is shown this once."""
    accounts = _accounts(home)
    if end:
        accounts.remove_token(system)
        _log(home, by, f"ended the token of {system}")
        say(f"Ended: the access of {system}.")
        return
    plain = accounts.add_token(system)
    _log(home, by, f"made a token for {system}")
    say(f"Token of {system}, shown this once; one that it had before no longer works:", error=True)
    say(plain)


@app.command()
def log(
    home: SiteHome = SITE,
    patient: Annotated[
        bool, typer.Option("--patient", help="Ask for one identifier, and show who looked at this patient.")
    ] = False,
    last: Annotated[int, typer.Option(min=0, help="How many lines, the newest; 0: all.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Verify the access log and show it: who looked when, at what; patients by keyed hash."""
    from dataclasses import asdict

    from client.page.access_log import ACCESS_LOG_FILE, AccessLog, read_access_log
    from client.state import SitePaths

    _accounts(home)
    if patient:
        # Asked for and not an argument: those end in a shell's history.
        found = list(AccessLog(home).views_of(_secret("Identifier: ")))
    else:
        found = list(read_access_log(SitePaths(home).state / ACCESS_LOG_FILE))
    chosen = found[-last:] if last else found
    if as_json:
        print_json([{"time": line.time, **asdict(line.view)} for line in chosen])
        return
    if not found:
        say("Nobody.")
    for line in chosen:
        view = line.view
        parts = (view.kind, view.account, view.shown, view.model[:12], view.patient[:12], view.note)
        say(f"{line.time}  {'  '.join(part for part in parts if part)}")
    say(f"The access log is sound; {len(chosen)} of {len(found)} lines are shown.", error=True)


def _accounts(home: Path) -> Accounts:
    from client.page.accounts import Accounts
    from client.settings import load_settings

    load_settings(home)  # refuses a folder that is no site's
    return Accounts(home)


def _log(home: Path, by: str | None, note: str) -> None:
    from client.page.access_log import AccessLog

    AccessLog(home).write("account", by or getpass.getuser(), note=note)


def _password() -> str:
    first = _secret("Password: ")
    if sys.stdin.isatty() and first != _secret("Once more: "):
        raise PasswordError("The two were not the same. Nothing was changed.")
    return first


def _secret(prompt: str) -> str:
    """Return one line that is not shown while it is typed."""
    given = getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not given:
        raise PasswordError("Nothing was given. Nothing was changed.")
    return given
