"""`archipel site models`: fetch the hub's models, accept and remove them."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from archipel.cli_common import SITE, AsJson, SiteHome, ask, command_group, print_json, say
from schemas.errors import ArchipelError

__all__ = ["app"]

app = command_group("The hub's models at this site: fetch, accept, remove.")

Which = Annotated[
    str,
    typer.Argument(metavar="HASH", help="The model's hash, six characters or more.", show_default=False),
]
Who = Annotated[str | None, typer.Option("--by", help="Who decides; default: this login.", show_default=False)]


class DeclinedError(ArchipelError):
    """A person said no."""


@app.command("list")
def list_(home: SiteHome = SITE, as_json: AsJson = False) -> None:
    """List the models at this site, who accepted each, and which the hub has withdrawn."""
    from client.model_fetch import utc_now
    from client.models import load_models, state_of

    known, today = load_models(home), utc_now().date()
    if as_json:
        print_json(
            [{**held.model_dump(mode="json"), "state": state_of(held, today)} for held in known.by_hash.values()]
        )
        return
    if not known.by_hash:
        say("No model is here: `archipel site models fetch` asks the hub.")
    for key, held in known.by_hash.items():
        by = f" by {held.accepted_by} on {held.accepted_at:%Y-%m-%d}" if held.accepted_at is not None else ""
        say(f"{key[:12]}  {state_of(held, today):<9}  {held.listed.study}  until {held.listed.expires}{by}")
        if held.listed.withdrawn_at is not None:
            say(f"  withdrawn on {held.listed.withdrawn_at:%Y-%m-%d}: {_clean(held.listed.reason)}")
    if known.heard_at is not None:
        say(f"Last heard from the hub: {known.heard_at:%Y-%m-%d %H:%M} UTC.")


@app.command()
def fetch(home: SiteHome = SITE) -> None:
    """Ask the hub for its released models and for what it has withdrawn; verify and keep what is new."""
    from client.model_fetch import fetch_models

    found = fetch_models(home)
    for held in found.withdrawn:
        say(f"Withdrawn by the hub: {held.listed.hash[:12]}, {held.listed.study}: {_clean(held.listed.reason)}")
    for held in found.new:
        say(
            f"Fetched: {held.listed.hash[:12]}, {held.listed.study}, {held.listed.n_bytes} bytes, signature verified."
        )
    if not found.new:
        say("No new model.")
    else:
        say("Next: `archipel site models accept HASH` shows the card and asks.")


@app.command()
def accept(
    which: Which,
    home: SiteHome = SITE,
    by: Who = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="The card was read already: do not ask.")] = False,
) -> None:
    """Show a model's card in short, ask, and accept it: from then on this site's page may use it."""
    from archipel.model_card import card_text
    from client.model_fetch import utc_now
    from client.models import accept_model, card_of, find_model, load_models
    from schemas.model_card import read_card

    key, _ = find_model(load_models(home), which)
    say(card_text(read_card(card_of(home, key))))
    if not yes and not ask(f"Accept the model {key[:12]} for use at this site?"):
        raise DeclinedError("Not accepted. The model stays here, unused.")
    held = accept_model(home, key, who=by or getpass.getuser(), now=utc_now)
    say(f"Accepted: {key[:12]} by {held.accepted_by}. `archipel site models remove {key[:12]}` takes it away again.")


@app.command()
def remove(which: Which, home: SiteHome = SITE, by: Who = None) -> None:
    """Remove a model and its files from this site; the ledger keeps that it was here."""
    from client.models import remove_model

    held = remove_model(home, which, who=by or getpass.getuser())
    say(f"Removed: {held.listed.hash[:12]}, study {held.listed.study}.")


def _clean(text: str) -> str:
    return "".join(character for character in text if character.isprintable())
