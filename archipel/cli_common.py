"""What all commands share: where homes lie, how JSON and sentences are printed, how an error becomes an exit code.

Exit codes: 0 done; 1 failed, also when what was checked has faults; 2 wrong use of the command itself; 130 ended by
Ctrl-C or SIGTERM, as shells have it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from archipel.alive import running_children
from schemas.errors import ArchipelError

__all__ = [
    "AsJson",
    "HubFolder",
    "INTERRUPTED",
    "HubHome",
    "StoppedError",
    "SiteHome",
    "StudyFile",
    "ask",
    "command_group",
    "print_json",
    "run_safely",
    "say",
    "verify_not_running",
]

HELP_NAMES = {"help_option_names": ["-h", "--help"]}

HubHome = Annotated[
    Path,
    typer.Option("--home", envvar="ARCHIPEL_HUB_HOME", show_default="./hub", help="The hub's folder."),
]
HubFolder = Annotated[
    Path,
    typer.Option("--hub", envvar="ARCHIPEL_HUB_HOME", show_default="./hub", help="The hub's folder."),
]
SiteHome = Annotated[
    Path,
    typer.Option("--home", envvar="ARCHIPEL_SITE_HOME", show_default="./site", help="The site's folder."),
]
StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study (TOML).", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a program that reads it.")]

HUB = Path("hub")
SITE = Path("site")

_FAILED = 1
INTERRUPTED = 130


class AlreadyRunningError(ArchipelError):
    """A second start from one folder."""


class UnansweredError(ArchipelError):
    """A question that stayed open."""


class StoppedError(BaseException):
    """Somebody pressed Ctrl-C or a supervisor asked the command to end; everything started has been ended.

    As KeyboardInterrupt, no `except Exception` on the way takes it for a failure.
    """


def command_group(help_text: str) -> typer.Typer:
    """Return an empty group of commands."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        context_settings=HELP_NAMES,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        add_completion=False,
    )


def say(text: str = "", *, error: bool = False) -> None:
    """Print lines for a person; errors go to standard error."""
    typer.echo(text, err=error)


def ask(question: str) -> bool:
    """Return a person's yes or no.

    Raises:
        UnansweredError: When nobody is there to answer.
    """
    try:
        return typer.confirm(question)
    except click.Abort:
        say()
        raise UnansweredError("Nobody answered, so nothing was changed. Where nobody can be: `--yes`.") from None


def print_json(value: Any) -> None:
    """Print one JSON document for a program."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def run_safely(app: Callable[[], None]) -> None:
    """Run a command and turn whatever ends it into a sentence and an exit code; never a traceback.

    The text of an error that is not ours may quote a table's cell, so only its kind and place are shown. Who wants
    the rest on a machine of theirs sets ARCHIPEL_DEBUG=1.
    """
    try:
        app()
    except ArchipelError as error:
        _fail(str(error))
    except (StoppedError, KeyboardInterrupt):
        say("Stopped.", error=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); nothing is left to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_FAILED)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or 'the system refused an operation'}.")
    except Exception as error:
        if os.environ.get("ARCHIPEL_DEBUG") == "1":
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        logging.getLogger("archipel").debug("unforeseen", exc_info=error)
        _fail(
            f"Something happened that Archipel did not foresee ({type(error).__name__} in "
            f"{Path(frame.filename).name}, line {frame.lineno}). Please report it with this line; "
            "ARCHIPEL_DEBUG=1 shows more, which may include patients' values: do not send that."
        )


def verify_not_running(home: Path, what: str, patience_s: float = 3.0) -> None:
    """Refuse to start a hub or site a second time from one folder: each would keep half of the truth.

    Args:
        home: The folder.
        what: ``hub`` or ``site``.
        patience_s: How long the processes of a supervisor that was killed a moment ago may take to end.

    Raises:
        AlreadyRunningError: Naming the processes.
    """
    deadline = time.monotonic() + patience_s
    while (found := running_children(home)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if found:
        named = ", ".join(f"{name} {pid}" for name, pid in found.items())
        raise AlreadyRunningError(f"The {what} in {home.resolve()} runs already ({named}): stop that one first.")


def _fail(sentence: str) -> None:
    say(sentence, error=True)
    sys.exit(_FAILED)
