"""The patients that a session has open: behind a random handle in the address, in this process's memory alone.

So no identifier and no value of a patient stands in an address, a browser's history, a proxy's log or a file. What
was typed in is stored nowhere else and goes with the session.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from client.page.shapes import Row

__all__ = ["OpenPatient", "OpenPatients"]

_MOST_PER_SESSION = 30
_MOST_SESSIONS = 200


@dataclass(frozen=True)
class OpenPatient:
    """One patient that a session looks at.

    Attributes:
        model: Hash of the model that was asked.
        row: As it was found or typed in.
        since: Time since the origin at which somebody said that the patient is free of the event; None: not said. It
            says something of the patient, so it stands here and in no address.
    """

    model: str
    row: Row
    since: float | None = None


class OpenPatients:
    """Handles by session; the oldest go first when there are too many."""

    def __init__(self) -> None:
        self._by_session: OrderedDict[str, OrderedDict[str, OpenPatient]] = OrderedDict()
        self._lock = Lock()

    def open(self, session: str, patient: OpenPatient) -> str:
        """Keep a patient and return the handle."""
        handle = secrets.token_urlsafe(16)
        with self._lock:
            held = self._by_session.setdefault(session, OrderedDict())
            self._by_session.move_to_end(session)
            held[handle] = patient
            while len(held) > _MOST_PER_SESSION:
                held.popitem(last=False)
            while len(self._by_session) > _MOST_SESSIONS:
                self._by_session.popitem(last=False)
        return handle

    def change(self, session: str, handle: str, patient: OpenPatient) -> None:
        """Put what is now known of an open patient in the place of what was; nothing where the handle is closed."""
        with self._lock:
            held = self._by_session.get(session, OrderedDict())
            if handle in held:
                held[handle] = patient

    def find(self, session: str, handle: str) -> OpenPatient | None:
        """Return the patient behind a handle of this session; a handle of another opens nothing."""
        with self._lock:
            return self._by_session.get(session, OrderedDict()).get(handle)

    def forget(self, session: str) -> None:
        """Drop everything that a session had open."""
        with self._lock:
            self._by_session.pop(session, None)
