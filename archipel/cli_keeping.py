"""Backup, restoration and new keys, of a site and of a hub; `cli_site` and `cli_hub` register them."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from archipel.cli_common import HUB, SITE, HubHome, SiteHome, ask, say

__all__ = ["accept_loss", "backup_hub", "backup_site", "restore_hub", "restore_site", "rotate_site"]

Out = Annotated[
    Path,
    typer.Argument(
        metavar="OUT", help="The file to write, or a folder in which it gets name and time.", show_default=False
    ),
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="What `backup` wrote.", show_default=False)]
Phrase = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="Encrypt with its first line (12 characters or more); to restore, the same.",
        show_default=False,
    ),
]
Who = Annotated[str | None, typer.Option("--by", help="Who decides; default: this login.", show_default=False)]


def backup_site(out: Out, home: SiteHome = SITE, passphrase_file: Phrase = None) -> None:
    """Write this site's state into one file, also while the site runs; patients' tables are never in it.

    In it: settings, ledger, approvals, budget, what was answered (and not the answers), the fingerprints of cohorts
    and their key, opt-outs, models, accounts and access log of the patient page. Not in it: tables, the keys of
    connection and identity. Keep it as confidential as the site's folder: the key of the fingerprints is in it.
    """
    from archipel.homes import utc_now
    from archipel.site_backup import backup_site as make
    from client.settings import load_settings

    path = _named(out, load_settings(home).name)
    found = make(home, path, utc_now(), _phrase(passphrase_file))
    say(
        f"The site {found.name} is in {path}: {len(found.members)} files, {found.ledger_count} entries of the ledger."
    )
    say("Keep it on another machine, as confidential as this folder. The patients' tables are not in it.")


def restore_site(file: File, home: SiteHome = SITE, by: Who = None, passphrase_file: Phrase = None) -> None:
    """Make a site from a backup, in an empty folder: all of the file is verified before anything is written.

    The site gets new keys, so the hub enrols it anew. It answers no run from before the backup ever again, no plan
    counts as approved, and until it has joined all of its privacy budget counts as spent.
    """
    from archipel.enrol import fingerprint
    from archipel.homes import utc_now
    from archipel.site_backup import restore_site as make
    from client.settings import load_settings

    found, request, n_runs = make(file, home, utc_now(), who=_person(by), passphrase=_phrase(passphrase_file))
    settings = load_settings(home)
    say(f"The site {found.name} is in {home.resolve()}, as it was on {found.created:%Y-%m-%d %H:%M} UTC.")
    say(f"Its ledger goes on after {found.ledger_count} entries. {n_runs} runs from before are refused for good,")
    say("and no plan is approved any more: a withdrawal after the backup would else be undone.")
    say(f"Fingerprint of this site, which is new: {fingerprint(request.identity_public_key)}")
    say("Next:")
    say(f"  1. Send {home / 'request.json'} to the hub, which enrols it with `--replace`; the other sites forget the")
    say(f"     old key (`archipel site peers forget {found.name}`). Compare fingerprints on the phone.")
    say("  2. `archipel site join KIT.json` says what was lost since the backup.")
    say("  3. Bring optout.txt up to date, and look through `archipel site account list`: both are as of the backup.")
    if not settings.tables.is_dir():
        say(f"  4. Put the tables into {settings.tables}, which is not there (`tables` in site.toml).")


def rotate_site(home: SiteHome = SITE, by: Who = None) -> None:
    """Make new keys for this site and a request for the hub; the old ones stay in use until the new kit is joined.

    From `archipel hub enrol` until `archipel site join` the hub does not know this site, so do both within minutes,
    and while no run is going: under the secure sum a run is bound to the keys it began with.
    """
    from archipel.enrol import fingerprint
    from archipel.homes import REQUEST_FILE, utc_now
    from archipel.rotation import rotate_site as make

    request = make(home, home / REQUEST_FILE, utc_now(), who=_person(by))
    say(f"Fingerprint of this site from then on: {fingerprint(request.identity_public_key)}")
    say(
        f"Next: send {home / REQUEST_FILE} to the hub, then `archipel site join KIT.json` with the kit it sends back."
    )
    say(f"The other sites then run `archipel site peers forget {request.name}` and compare the new fingerprint on")
    say("the phone; plans under the secure sum have to be approved again with it. Make a new backup afterwards.")


def accept_loss(
    home: SiteHome = SITE,
    by: Who = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="It was read and decided already: do not ask.")] = False,
) -> None:
    """Let exact sums leave a restored site again although it does not know all that it has released.

    Ask the hub first which studies ran between the backup and the loss, and over whom. Where the eligible patients
    of a new study differ by fewer than ten from one of these, do not take part in it.
    """
    from archipel.homes import utc_now
    from client.restored import LossError
    from client.restored import accept_loss as decide

    say("A sum over nearly the same patients as a forgotten one gives away those in which they differ.")
    if not yes and not ask("Did you ask the hub what ran after the backup, and do you answer for going on?"):
        raise LossError(
            "Not accepted. Exact sums stay refused; studies under differential privacy are not concerned."
        )
    accepted = decide(home, who=_person(by), now=utc_now())
    say(f"Accepted by {accepted.accepted_by}; it stands in the ledger.")


def backup_hub(out: Out, home: HubHome = HUB, passphrase_file: Phrase = None) -> None:
    """Write the hub's state into one file, also while the hub runs. ALL OF ITS SECRET KEYS ARE IN IT.

    Whoever has the file can be this hub: its authority, its identity, its keys for models and heads are in it, since
    no site could come back to a hub without them. Encrypt it (`--passphrase-file`), keep it as these keys are kept.
    """
    from archipel.homes import utc_now
    from archipel.hub_backup import backup_hub as make
    from server.hub_home import load_hub_settings

    path = _named(out, load_hub_settings(home).host)
    found = make(home, path, utc_now(), _phrase(passphrase_file))
    say(f"The hub {found.name} is in {path}: {len(found.members)} files.")
    say("ALL SECRET KEYS OF THE HUB ARE IN IT: whoever has this file can be this hub. Keep it apart, encrypted.")


def restore_hub(file: File, home: HubHome = HUB, passphrase_file: Phrase = None) -> None:
    """Make a hub from a backup, in an empty folder; its sites come back by themselves, its open runs are ended.

    All of the file is verified before anything is written. Never let the old hub run beside it.
    """
    from archipel.homes import utc_now
    from archipel.hub_backup import restore_hub as make

    found, n_ended = make(file, home, utc_now(), _phrase(passphrase_file))
    say(f"The hub {found.name} is in {home.resolve()}, as it was on {found.created:%Y-%m-%d %H:%M} UTC.")
    say(f"{n_ended} runs that were not done are ended: sites may have answered more of them than the backup knows.")
    say("What came after the backup is gone: enrol and revoke sites, release and withdraw models again.")
    say("Next: `archipel hub up`; the sites come back by themselves.")


def _named(out: Path, name: str) -> Path:
    """Return the file to write; in a folder, one that tells whose and when."""
    from archipel.homes import utc_now

    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    return out / f"{safe}-{utc_now():%Y%m%dT%H%M%SZ}.backup.tar" if out.is_dir() else out


def _phrase(file: Path | None) -> str | None:
    """Return the passphrase in a file, which its owner alone may read."""
    from schemas.errors import Fault, FaultsError

    if file is None:
        return None
    try:
        if file.stat().st_mode & 0o077:
            raise FaultsError(str(file), [Fault(file.name, "can be read by other users", f"chmod 600 {file}")])
        return file.read_text("utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError):
        raise FaultsError(str(file), [Fault(file.name, "cannot be read as text", "check the path")]) from None


def _person(given: str | None) -> str:
    return given or getpass.getuser()
