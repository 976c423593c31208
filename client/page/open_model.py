"""The models that the page may use: opened, verified and refused in codes.

A model is verified by `client.models.usable_model`. Reading and verifying a file of 20,000 features takes longer than
a page may, so a verified model is kept in memory for as long as its file, the site's decision about it and the pinned
key stay what they were; what was withdrawn, expired or removed is refused at the next click.
"""

from __future__ import annotations

import datetime
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.models import (
    HeldModel,
    ModelRefusedError,
    card_of,
    find_model,
    load_models,
    pinned_model_key,
    state_of,
    usable_model,
)
from client.page.shapes import Notice, Refused
from client.received import load_plan
from client.state import SitePaths
from schemas.artefact import Artefact
from schemas.errors import MessageError
from schemas.model_card import read_card
from schemas.plan import Plan

__all__ = ["OpenModel", "OpenModels", "refusal_of"]

NO_PENALTY = "none"
"""What the card of a model says of its penalty where it has none (`archipel.wording.penalty`)."""

_MOST_OPEN = 4


@dataclass(frozen=True)
class OpenModel:
    """A model that may be used.

    Attributes:
        hash: Of its file.
        artefact: Read and verified.
        plan: Of the run that trained it; None where this site does not hold it.
        is_penalised: Whether the card says that coefficients are shrunken.
    """

    hash: str
    artefact: Artefact
    plan: Plan | None = None
    is_penalised: bool = False

    @property
    def origin(self) -> str:
        """From when time is counted, as the dictionary says of the column of the time; empty where not known.

        Models of an older Archipel do not say; then the plan does, where this site holds it.
        """
        if self.artefact.manifest.time_origin:
            return self.artefact.manifest.time_origin
        column = None if self.plan is None else self.plan.dictionary.column(self.plan.study.endpoint.time)
        return "" if column is None else column.description


class OpenModels:
    """The models of one site; safe for several threads."""

    def __init__(self, home: Path, now: Callable[[], datetime.datetime] | None = None) -> None:
        """Open nothing yet.

        Args:
            home: The site's folder.
            now: The clock.
        """
        self._home = home
        self._now = now or (lambda: datetime.datetime.now(datetime.UTC))
        self._open: OrderedDict[tuple[object, ...], OpenModel] = OrderedDict()
        self._lock = threading.Lock()

    def usable(self) -> tuple[HeldModel, ...]:
        """Return the models that are accepted today, in the order in which they came.

        Raises:
            StorageError: When the site's list cannot be read.
        """
        today = self._now().date()
        return tuple(held for held in load_models(self._home).by_hash.values() if state_of(held, today) == "accepted")

    def open(self, which: str) -> OpenModel | Refused:
        """Return a model by its hash, or why it shows no number.

        Raises:
            StorageError: When the site's list or the file cannot be read.
        """
        try:
            key, held = find_model(load_models(self._home), which)
        except ModelRefusedError:
            return Refused((Notice("not-here"),))
        refused = refusal_of(held, self._now().date())
        if refused is not None:
            return refused
        try:
            stamp = self._stamp(key)
            with self._lock:
                if stamp not in self._open:
                    self._open[stamp] = self._read(key)
                self._open.move_to_end(stamp)
                while len(self._open) > _MOST_OPEN:
                    self._open.popitem(last=False)
                return self._open[stamp]
        except ModelRefusedError:
            return Refused((Notice("signature"),))

    def _read(self, key: str) -> OpenModel:
        artefact = usable_model(self._home, key, now=self._now)
        try:
            is_penalised = not read_card(card_of(self._home, key)).penalty.startswith(NO_PENALTY)
        except MessageError:  # an older card says nothing, and then no interval is taken for more than it is
            is_penalised = True
        return OpenModel(key, artefact, load_plan(SitePaths(self._home), artefact.manifest.plan_hash), is_penalised)

    def _stamp(self, key: str) -> tuple[object, ...]:
        """Return what a verified model stands on; another file, card or key is verified anew."""
        folder = self._home / "models" / key
        try:
            files = [(folder / name).stat() for name in ("model.safetensors", "card.json")]
        except OSError:
            raise ModelRefusedError("its files are gone") from None
        marks = tuple((one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino) for one in files)
        return (key, pinned_model_key(self._home), *marks)


def refusal_of(held: HeldModel, today: datetime.date) -> Refused | None:
    """Return why a model that this site holds may not be used; None where it may."""
    state, listed = state_of(held, today), held.listed
    if state == "withdrawn":
        date = listed.withdrawn_at.date().isoformat() if listed.withdrawn_at is not None else ""
        return Refused((Notice("withdrawn", {"reason": listed.reason, "date": date}),))
    if state == "expired":
        return Refused((Notice("expired", {"date": "" if listed.expires is None else listed.expires.isoformat()}),))
    return Refused((Notice("not-accepted"),)) if state == "fetched" else None
