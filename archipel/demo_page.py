"""The end of the demo: its model is released, fetched and accepted, and one site's page shows it.

What people decide in production is decided here on their behalf, and said so in every record. The page's patients are
made up: each cell is one of the site's, and no two neighbouring cells are of the same patient, since the model has
seen the site's own patients and the page refuses those.
"""

from __future__ import annotations

import csv
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from archipel.homes import utc_now
from archipel.models import Terms, release
from client.model_fetch import fetch_models
from client.models import accept_model
from client.page.accounts import Accounts
from client.settings import load_settings

__all__ = ["DEMO_PERSON", "ReadyPage", "made_up_patients", "prepare_page"]

DEMO_PERSON = "archipel demo (on the person's behalf)"
_ACCOUNT = "demo"
_PATIENTS = ("NEW-1", "NEW-2", "NEW-3", "NEW-4", "NEW-5")
_NO_ATTACK = "the demo runs none; `archipel models attack` does, as docs/attacks.md shows"
_FOLDER = "current"


@dataclass(frozen=True)
class ReadyPage:
    """A page that can be served.

    Attributes:
        home: The site's folder.
        account, password: With which one signs in.
        patients: Identifiers that can be searched for.
    """

    home: Path
    account: str
    password: str
    patients: tuple[str, ...]


def prepare_page(hub: Path, run_id: str, site: Path) -> ReadyPage:
    """Release the run's model at the hub, fetch and accept it at a site, and make an account there.

    The hub has to run.

    Raises:
        ArchipelError: When any of it is refused.
    """
    released = release(hub, run_id, Terms(DEMO_PERSON, no_attack=_NO_ATTACK))
    fetch_models(site)
    accept_model(site, released.hash, who=DEMO_PERSON, now=utc_now)
    made_up_patients(load_settings(site).tables, site / _FOLDER, _PATIENTS)
    settings = site / "site.toml"
    settings.write_text(settings.read_text("utf-8") + f'\n[view]\ntables = "{_FOLDER}"\n', "utf-8")
    password = secrets.token_urlsafe(12)
    Accounts(site).add(_ACCOUNT, "clinician", password)
    return ReadyPage(site, _ACCOUNT, password, _PATIENTS)


def made_up_patients(tables: Path, folder: Path, names: Sequence[str]) -> None:
    """Write tables of patients whom nobody is: cell after cell from one patient of `tables` after the other."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in sorted(tables.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        header, body = rows[0], rows[1:]
        with (folder / path.name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            for k, name in enumerate(names):
                mixed = [body[(k * len(names) + j) % len(body)][j] for j in range(len(header))]
                mixed[header.index("patient_id")] = name
                writer.writerow(mixed)
