"""Who is signed in: sessions of this process, kept in memory alone, so that a restart ends them all.

The cookie holds 256 random bits; here lies their hash. A session ends after `idle` without a click, after `longest`
in any case, when its account is locked or removed, and when somebody signs out.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock

from client.page.accounts import Role, utc_now

__all__ = ["Session", "Sessions", "is_csrf_token"]

_MOST_SESSIONS = 1000


@dataclass(frozen=True)
class Session:
    """One person's session.

    Attributes:
        id: Names the session in this process; no secret, and not the cookie.
        account: Of the person.
        role: Of the account when the session began.
        csrf: That the session's forms carry.
        began_at, seen_at: The first and the last click.
    """

    id: str
    account: str
    role: Role
    csrf: str
    began_at: datetime.datetime
    seen_at: datetime.datetime


class Sessions:
    """All sessions; safe for several threads."""

    def __init__(
        self,
        *,
        idle: datetime.timedelta,
        longest: datetime.timedelta,
        now: Callable[[], datetime.datetime] = utc_now,
    ) -> None:
        """Begin without any.

        Args:
            idle: A session ends after so long without a click.
            longest: And after so long in any case.
            now: The clock.
        """
        self._idle = idle
        self._longest = longest
        self._now = now
        self._held: dict[str, Session] = {}
        self._lock = Lock()

    def begin(self, account: str, role: Role) -> tuple[str, Session]:
        """Begin a session; returns the secret of its cookie, which is kept nowhere, and the session."""
        token, now = secrets.token_urlsafe(32), self._now()
        session = Session(secrets.token_hex(8), account, role, secrets.token_urlsafe(32), now, now)
        with self._lock:
            self._drop_ended(now)
            while len(self._held) >= _MOST_SESSIONS:
                oldest = min(self._held, key=lambda key: self._held[key].seen_at)
                del self._held[oldest]
            self._held[_digest(token)] = session
        return token, session

    def find(self, token: str) -> Session | None:
        """Return the session that a cookie opens, and count it as a click; None where it has ended."""
        now, key = self._now(), _digest(token)
        with self._lock:
            session = self._held.get(key)
            if session is None or self._has_ended(session, now):
                self._held.pop(key, None)
                return None
            self._held[key] = seen = replace(session, seen_at=now)
            return seen

    def end(self, token: str) -> None:
        """End one session."""
        with self._lock:
            self._held.pop(_digest(token), None)

    def end_all_of(self, account: str) -> None:
        """End every session of an account."""
        with self._lock:
            self._held = {key: one for key, one in self._held.items() if one.account != account}

    def _drop_ended(self, now: datetime.datetime) -> None:
        self._held = {key: one for key, one in self._held.items() if not self._has_ended(one, now)}

    def _has_ended(self, session: Session, now: datetime.datetime) -> bool:
        return now - session.seen_at >= self._idle or now - session.began_at >= self._longest


def is_csrf_token(session: Session, given: str) -> bool:
    """Return whether a form carries its session's token."""
    return hmac.compare_digest(session.csrf.encode(), given.encode())


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
