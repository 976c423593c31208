"""This site's own figures of each model, computed beside the pages, so that no click waits for them.

They read all of the site's patients with outcomes. Until they are there a page says that they are not computed yet;
where the administrator chose to correct the risks by them, the first page waits. Old figures are shown while newer
ones are computed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from client.page.open_model import OpenModel
from client.page.shapes import SiteCalibration
from schemas.errors import ArchipelError

__all__ = ["Background"]

_FRESH_S = 600.0


class Background:
    """The figures by model; safe for several threads.

    Args:
        compute: Returns a model's figures; may take long.
        waits: Whether the first question waits for them.
        clock: Seconds, never backward.
    """

    def __init__(
        self,
        compute: Callable[[OpenModel], SiteCalibration],
        *,
        waits: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = compute
        self._waits = waits
        self._clock = clock
        self._known: dict[str, tuple[float, SiteCalibration]] = {}
        self._busy: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()

    def of(self, model: OpenModel) -> SiteCalibration:
        """Return a model's figures as they were computed last, and see to it that they are not older than minutes."""
        with self._lock:
            known = self._known.get(model.hash)
            is_old = known is None or self._clock() - known[0] > _FRESH_S
            busy = self._busy.get(model.hash)
            if is_old and busy is None:
                busy = threading.Thread(target=self._work, args=(model,), daemon=True)
                self._busy[model.hash] = busy
                busy.start()
        if known is None and self._waits and busy is not None:
            busy.join()
            with self._lock:
                known = self._known.get(model.hash)
        return known[1] if known is not None else SiteCalibration(0.0, reason="not-computed")

    def _work(self, model: OpenModel) -> None:
        try:
            found = self._compute(model)
        except ArchipelError:  # the page says that they could not be computed; the tables' own check says why
            found = SiteCalibration(0.0, reason="failed")
        with self._lock:
            self._known[model.hash] = (self._clock(), found)
            self._busy.pop(model.hash, None)
