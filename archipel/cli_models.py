"""`archipel models`: attack, release and withdraw models at the hub."""

from __future__ import annotations

import datetime
import getpass
from pathlib import Path
from typing import Annotated

import typer

from archipel.cli_common import HUB, AsJson, HubFolder, StudyFile, ask, command_group, print_json, say
from schemas.errors import ArchipelError

__all__ = ["app"]

app = command_group("Models of the hub: attack, release to the sites, withdraw.")

Who = Annotated[str | None, typer.Option("--by", help="Who decides; default: this login.", show_default=False)]
Model = Annotated[
    str,
    typer.Argument(metavar="HASH", help="The model's hash, six characters or more.", show_default=False),
]


class DeclinedError(ArchipelError):
    """A person said no."""


@app.command("list")
def list_(hub: HubFolder = HUB, as_json: AsJson = False) -> None:
    """List the models, which sites hold each, and who has not yet heard of a withdrawal."""
    from archipel.models import list_models

    found = list_models(hub)
    if as_json:
        print_json(
            [
                {**one.listed.model_dump(mode="json"), "holders": list(one.holders), "not_told": list(one.not_told)}
                for one in found
            ]
        )
        return
    if not found:
        say("No model yet: `archipel models release RUN` makes one of a finished run.")
    for one in found:
        listed = one.listed
        state = "withdrawn" if listed.withdrawn_at is not None else "released"
        say(f"{listed.hash[:12]}  {state:<9}  {listed.study}  run {listed.run_id}  until {listed.expires}")
        say(f"  sent to: {', '.join(one.holders) or 'no site yet'}")
        if listed.withdrawn_at is not None:
            told = (
                f"not yet heard by: {', '.join(one.not_told)}" if one.not_told else "every site that holds it knows"
            )
            say(f"  withdrawn on {listed.withdrawn_at:%Y-%m-%d}: {listed.reason}; {told}")


@app.command()
def release(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or its beginning.", show_default=False)],
    hub: HubFolder = HUB,
    by: Who = None,
    attack: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What `archipel models attack` wrote.", show_default=False),
    ] = None,
    no_attack: Annotated[
        str,
        typer.Option("--no-attack", metavar="REASON", help="Why no attack was run; it stands on the card."),
    ] = "",
    expires: Annotated[
        datetime.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Last day of use.", show_default="two years from today"),
    ] = None,
    intended_use: Annotated[
        str, typer.Option("--intended-use", help="For what it may be used.", show_default="the study's purpose")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Also write model.safetensors, card.json and card.html.", show_default=False
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Sign the model of a finished run, with its card, and let every enrolled site fetch it."""
    from archipel.folders import make_folder
    from archipel.model_card import write_card
    from archipel.models import Terms
    from archipel.models import release as let_out
    from archipel.runs import find_run, open_store

    with open_store(hub) as store:
        found = find_run(store, run_id)
    if not yes and not ask(f"Release the model of run {found} to every enrolled site?"):
        raise DeclinedError("Nothing was released.")
    terms = Terms(
        who=by or getpass.getuser(),
        expires=expires.date() if expires else None,
        intended_use=intended_use,
        attack=attack,
        no_attack=no_attack,
    )
    done = let_out(hub, found, terms)
    say(f"Released: {done.hash[:12]}, study {done.card.study}, until {done.card.expires}.")
    if done.card.attack is not None:
        leak = done.card.attack
        say(f"Membership attack: AUC {leak.auc:.2f} ({leak.lower:.2f}-{leak.upper:.2f}; 0.50 is guessing).")
    if out is not None:
        make_folder(out)
        (out / "model.safetensors").write_bytes(done.artefact)
        say(f"Written: {', '.join(str(path) for path in write_card(done.card, out))}")
    say("Sites take it with `archipel site models fetch`; a person there accepts it.")


@app.command()
def withdraw(
    model: Model,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the people at the sites.", show_default=False)],
    hub: HubFolder = HUB,
    by: Who = None,
) -> None:
    """Take a model back, for good: every site refuses it from its next contact with the hub on."""
    from archipel.models import withdraw as take_back

    found = take_back(hub, model, reason, who=by or getpass.getuser())
    say(f"Withdrawn: {found.listed.hash[:12]}, study {found.listed.study}.")
    if found.not_told:
        say(f"To hear of it at their next contact (running sites ask once a minute): {', '.join(found.not_told)}.")


@app.command()
def log(hub: HubFolder = HUB, as_json: AsJson = False) -> None:
    """Show who released and withdrew which model, when and why. Exit code 1 where the log was changed."""
    from archipel.models import model_log

    entries = model_log(hub)
    if as_json:
        print_json([vars(entry) for entry in entries])
        return
    for entry in entries:
        say(f"{entry.at:%Y-%m-%d %H:%M:%S}  {entry.what:<10}  {entry.model[:12]}  {entry.text}  by {entry.who}")
    say(f"The log is sound: {len(entries)} {'entry' if len(entries) == 1 else 'entries'}.")


@app.command()
def card(
    model: Model,
    out: Annotated[Path, typer.Option(metavar="DIR", help="For card.json and card.html.")],
    hub: HubFolder = HUB,
) -> None:
    """Write the card of a released model as JSON and as a page."""
    from archipel.folders import make_folder
    from archipel.model_card import write_card
    from archipel.models import card_of

    make_folder(out)
    say(f"Written: {', '.join(str(path) for path in write_card(card_of(hub, model), out))}")


@app.command()
def attack(
    study: StudyFile,
    sites: Annotated[
        Path, typer.Option("--sites", metavar="DIR", help="One folder per site, with the tables in it.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="For the outcome (JSON).")] = Path("membership.json"),
    basis: Annotated[
        str, typer.Option(help="Whose rows these are, in a sentence; stands on the card.", show_default=False)
    ] = "",
    models: Annotated[int, typer.Option(min=8, max=512, help="How many models to train.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the random halves.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Try to tell who trained the study's model, from the model alone, in a simulation over site folders.

    Needs the rows of all sites in one place: the real ones where they may lie together, else a cohort of the same
    kind. `release` puts the outcome on the card.
    """
    from archipel.folders import make_parent
    from archipel.membership import attack_study

    make_parent(out)
    found = attack_study(study, sites, basis=basis, n_models=models, seed=seed)
    out.write_text(found.model_dump_json(indent=1) + "\n", "utf-8")
    if as_json:
        say(found.model_dump_json(indent=1))
        return
    say(f"AUC {found.auc:.3f} (95 % interval {found.lower:.3f}-{found.upper:.3f}); 0.5 is guessing.")
    say(f"Found at one in a hundred false alarms: {100 * found.found_at_1_percent:.1f} % of the members.")
    say(f"Written: {out}")
