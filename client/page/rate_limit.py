"""How often one account may look for patients: a bucket that fills steadily, so nobody lists a hospital by trying.

Every try counts, whether it found somebody or not. Kept in memory: a restart ends all sessions anyway.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

__all__ = ["RateLimit"]

_MOST_NAMES = 10_000


class RateLimit:
    """A token bucket for each name; safe for several threads."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with full buckets.

        Args:
            per_minute: Tries that a bucket holds, and that flow into it in a minute.
            clock: Seconds, never backward.
        """
        self._size = float(per_minute)
        self._per_second = per_minute / 60
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = Lock()

    def take(self, name: str) -> bool:
        """Return whether one more try is allowed, and count it if so."""
        now = self._clock()
        with self._lock:
            left, at = self._buckets.pop(name, (self._size, now))
            left = min(self._size, left + (now - at) * self._per_second)
            is_allowed = left >= 1
            self._buckets[name] = (left - 1 if is_allowed else left, now)
            # The names that were quiet longest go first: their buckets are the fullest.
            while len(self._buckets) > _MOST_NAMES:
                self._buckets.popitem(last=False)
            return is_allowed
