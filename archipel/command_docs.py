"""Writes docs/commands.md from the commands' own help, so that the page cannot lag behind the program.

`python -m archipel.command_docs > docs/commands.md`; a test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from archipel.cli import build

_HEAD = """# Commands

This page is written from the commands' own help (`python -m archipel.command_docs > docs/commands.md`).

- Exit codes: 0 done; 1 failed, also where what was checked has faults; 2 wrong use of the command itself; 130
  ended by Ctrl-C or SIGTERM, with everything it started.
- An error is one sentence that says what to do, or the list of all faults with their places.
- `--json` prints one JSON document on standard output; progress and errors go to standard error.
- The hub's folder comes from `--home` or `--hub`, else from `ARCHIPEL_HUB_HOME`, else `./hub`; a site's from
  `--home`, else `ARCHIPEL_SITE_HOME`, else `./site`.
- Every key of `hub.toml` and `site.toml` may be given by environment under its own name in capitals, keys of a
  section after two underscores: `ARCHIPEL_HUB__PUBLIC_PORT=9443`, `ARCHIPEL_SITE__FLOORS__MIN_PATIENTS=20`. The
  environment wins over the file, lists and truth values are written as in the file (`["", "NA"]`, `true`), and a name
  that is no key is a fault. No secret is a setting: keys lie in the folder.
- `ARCHIPEL_DEBUG=1` lets an unforeseen error show its traceback. It may quote cells of a table: do not send it.

## In which order

On one machine: `archipel demo`; for a study of your own `archipel study check`, `archipel simulate` and
`archipel trial`.

A site joins a hub:

| hub | site |
|---|---|
| `archipel hub init` | `archipel site init --name NAME --tables DIR` |
| | sends `request.json` |
| `archipel hub enrol request.json` | |
| sends `NAME.kit.json` | |
| both compare fingerprints on the phone | |
| | `archipel site join NAME.kit.json` |
| `archipel hub up` | `archipel site check STUDY`, `archipel site up` |

A study runs:

| hub | site |
|---|---|
| `archipel study plan STUDY`, `archipel launch STUDY` | |
| `archipel runs watch RUN` | `archipel site plans`, `archipel site approve HASH` |
| `archipel runs report RUN` | `archipel site ledger show` |

A site's machine is lost, or its keys are renewed (`archipel site rotate` in the place of `restore`):

| hub | site |
|---|---|
| `archipel hub backup OUT`, daily | `archipel site backup OUT`, daily |
| | `archipel site restore FILE --home NEW` |
| | sends `request.json` |
| `archipel hub enrol request.json --replace` | the other sites: `archipel site peers forget NAME` |
| sends `NAME.kit.json` | |
| all compare fingerprints on the phone | |
| | `archipel site join NAME.kit.json`, `archipel site up` |
"""


def render() -> str:
    """Return the page."""
    parts = [_HEAD]
    for words, command in _walk(build(), ("archipel",)):
        # As wide as the page, whatever the terminal.
        context = click.Context(command, info_name=" ".join(words), terminal_width=100, max_content_width=100)
        text = command.get_help(context)
        title = "##" if hasattr(command, "commands") else "###"
        parts.append(f"{title} `{' '.join(words)}`\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def _walk(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _walk(child, (*words, name))


if __name__ == "__main__":
    sys.stdout.write(render())
