"""The command `archipel`: what it can do, in the order in which a newcomer needs it.

The commands themselves stand in `cli_study`, `cli_site`, `cli_hub`, `cli_runs` and `cli_local`; each parses its
words, calls the function that a notebook would call, and prints. Heavy imports (tables, figures, Flower) stand
inside the commands, so that `archipel --help` answers at once.
"""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from archipel import cli_hub, cli_local, cli_runs, cli_site, cli_study
from archipel.cli_common import command_group, run_safely, say

__all__ = ["app", "main"]

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
app.add_typer(cli_site.app, name="site")
app.add_typer(cli_hub.app, name="hub")


def main() -> None:
    """Run the command line."""
    run_safely(app)


if __name__ == "__main__":
    main()
