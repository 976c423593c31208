"""Asking sites on behalf of one run: the exchange, the clock, what it costs, and heeding a request to stop.

Every wait of a conducted run happens here, and none of them is deaf: while an answer or the next attempt is waited
for, the run gives signs of life and looks whether it should stop or was taken over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from schemas.errors import ArchipelError
from server.exchange import Exchange, Failure
from server.records import Cost, Hold, Level, Status
from server.store import Store

__all__ = ["Asker", "Pacing", "StopRequestedError"]

log = logging.getLogger("archipel.hub")

_SIGN_OF_LIFE_S = 5.0


class StopRequestedError(ArchipelError):
    """Somebody asked the run to stop."""


@dataclass(frozen=True)
class Pacing:
    """How often the hub looks, and by which clock; tests bring their own.

    Attributes:
        retry_s: Between two times that a missing site is asked.
        heed_s: Between two looks for a request to stop.
        clock: Seconds since whenever.
    """

    retry_s: float = 3.0
    heed_s: float = 0.5
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Asker:
    """The one who asks, for as long as it holds the run."""

    def __init__(self, store: Store, hold: Hold, exchange: Exchange, pacing: Pacing) -> None:
        self.pacing = pacing
        self._store = store
        self._hold = hold
        self._exchange = exchange
        self._bytes_up = self._bytes_down = 0
        self._recorded = Cost()
        self._started = self._alive = pacing.clock()
        self._shown: tuple[Status, str] | None = None

    def ask(self, bodies: Mapping[str, bytes], deadline_s: float) -> dict[str, bytes | Failure]:
        """Ask each site once and return what came of it, one entry for each.

        Raises:
            StopRequestedError: As soon as somebody asked the run to stop; late answers are not looked at.
            TakenOverError: When another process conducts the run now.
        """
        call = _Call(self._exchange, bodies, deadline_s)
        while not call.is_over(self.pacing.heed_s):
            self.heed()
        answers = call.result()
        outcomes = {site: answers.get(site, Failure(site, "late")) for site in bodies}
        self._bytes_up += sum(len(answer) for answer in outcomes.values() if isinstance(answer, bytes))
        self._bytes_down += sum(len(body) for body in bodies.values())
        return outcomes

    def rest(self, seconds: float) -> None:
        """Wait before the next attempt."""
        until = self.pacing.clock() + seconds
        while (left := until - self.pacing.clock()) > 0:
            self.heed()
            self.pacing.sleep(min(left, self.pacing.heed_s))

    def heed(self) -> None:
        """Look whether to go on.

        Raises:
            StopRequestedError: When somebody asked the run to stop.
            TakenOverError: When another process conducts the run now.
        """
        if self._store.stop_requested(self._hold):
            raise StopRequestedError("Stopped on request.")
        now = self.pacing.clock()
        if now - self._alive >= _SIGN_OF_LIFE_S:
            self._alive = now
            self._store.sign_of_life(self._hold)

    def total(self) -> Cost:
        """Return everything spent since the start of this conduct."""
        return Cost(self.pacing.clock() - self._started, self._bytes_up, self._bytes_down)

    def cost(self) -> Cost:
        """Return what was spent since this was last called; the caller records it."""
        total = self.total()
        since = total - self._recorded
        self._recorded = total
        return since

    def show(self, status: Status, text: str, level: Level = "info") -> None:
        """Change the run's status and say so, once for as long as it stays the same."""
        if self._shown != (status, text):
            self._shown = (status, text)
            self._store.set_status(self._hold, status, text)
            self.say(text, level)

    def say(self, text: str, level: Level = "info") -> None:
        """Add a sentence to what `archipel runs watch` shows and to the hub's log."""
        self._store.log_event(self._hold.run_id, level, text)
        log.log(logging.getLevelNamesMapping()[level.upper()], "run %s: %s", self._hold.run_id, text)


class _Call:
    """One call of the exchange in a thread of its own, so that a long deadline does not make the run deaf."""

    def __init__(self, exchange: Exchange, bodies: Mapping[str, bytes], deadline_s: float) -> None:
        self._answers: dict[str, bytes | Failure] = {}
        self._error: BaseException | None = None

        def work() -> None:
            try:
                self._answers = exchange.ask(bodies, deadline_s)
            except BaseException as error:  # raised again where the run is conducted
                self._error = error

        # A daemon: after a stop nobody waits for it, and it must not keep the process.
        self._thread = threading.Thread(target=work, name="exchange", daemon=True)
        self._thread.start()

    def is_over(self, wait_s: float) -> bool:
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def result(self) -> dict[str, bytes | Failure]:
        if self._error is not None:
            raise self._error
        return self._answers
