"""The command `archipel`: what it can do, in the order in which a newcomer needs it.

The commands themselves stand in `cli_study`, `cli_site`, `cli_hub`, `cli_runs`, `cli_models` and `cli_local`; each
parses its words, calls the function that a notebook would call, and prints. Heavy imports (tables, figures, Flower)
stand inside the commands, so that `archipel --help` answers at once.
"""

from __future__ import annotations

import importlib.metadata
import typing
from typing import Annotated

import click
import typer
import typer.core
import typer.models

from archipel import cli_hub, cli_local, cli_models, cli_runs, cli_site, cli_study
from archipel.cli_common import command_group, run_safely, say

__all__ = ["app", "build", "main"]

# typer escapes its help for rich even where rich does not print it, which shows as stray backslashes.
typer.core.HAS_RICH = False

app = command_group(
    "Federated prognosis: hospitals train one survival model together, and only sums leave a site. "
    "Exit codes: 0 done, 1 failed, 2 wrong use."
)


def _show_version(value: bool) -> None:
    if value:
        say(f"archipel {importlib.metadata.version('archipel')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


app.command("demo")(cli_local.demo)
app.command("simulate")(cli_local.simulate)
app.command("trial")(cli_local.trial)
app.command("launch")(cli_runs.launch)
app.add_typer(cli_study.app, name="study")
app.add_typer(cli_runs.app, name="runs")
app.add_typer(cli_models.app, name="models")
app.add_typer(cli_site.app, name="site")
app.add_typer(cli_hub.app, name="hub")


def build() -> click.Command:
    """Return the whole command line, with the help of every argument.

    click 8.5 gave arguments a help of their own and thereby empties the one that the pinned typer (below 0.21, by
    Flower) sets. It is put back from the annotations into the line that typer prints; put into the argument itself,
    it would be printed a second time by click.
    """
    command = typer.main.get_command(app)
    _restore_help(command)
    return command


def _restore_help(command: click.Command) -> None:
    for child in getattr(command, "commands", {}).values():
        _restore_help(child)
    written = typing.get_type_hints(command.callback, include_extras=True) if command.callback else {}
    for parameter in command.params:
        for note in getattr(written.get(parameter.name or ""), "__metadata__", ()):
            if isinstance(note, typer.models.ArgumentInfo):
                line = (note.metavar or (parameter.name or "").upper(), note.help or "")
                vars(parameter)["get_help_record"] = lambda ctx, line=line: line


def main() -> None:
    """Run the command line."""
    run_safely(build())


if __name__ == "__main__":
    main()
