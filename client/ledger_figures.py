"""What a site's ledger adds up to, for health and metrics: read once, then only what is new."""

from __future__ import annotations

import datetime
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from privacy.ledger_reader import LedgerReader

__all__ = ["Figures", "LedgerFigures"]

_LEFT = frozenset({"setup", "release", "shares"})


@dataclass
class Figures:
    """Sums over the entries of a ledger.

    Attributes:
        entries: All of them.
        rounds: Summands that left.
        bytes_up: Of everything that left.
        refusals: By rule (a word of `schemas.codes`).
        last_left: When an answer left last, seconds since 1970; 0 before the first.
    """

    entries: int = 0
    rounds: int = 0
    bytes_up: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    last_left: float = 0.0


class LedgerFigures:
    """Follows one ledger; may be asked from several threads."""

    def __init__(self, path: Path) -> None:
        self._reader = LedgerReader(path)
        self._figures = Figures()
        self._lock = threading.Lock()

    def read(self) -> Figures:
        """Return the sums of now.

        Raises:
            LedgerBrokenError: When the ledger is not what this site wrote.
            StorageError: When it cannot be read.
        """
        with self._lock:
            new, is_first = self._reader.read()
            found = self._figures
            if is_first:
                found = Figures()
            left = [entry for entry in new if entry.event.kind in _LEFT]
            refusals = Counter(entry.event.rule for entry in new if entry.event.kind == "refusal")
            self._figures = Figures(
                entries=found.entries + len(new),
                rounds=found.rounds + sum(entry.event.kind == "release" for entry in new),
                bytes_up=found.bytes_up + sum(entry.event.n_bytes for entry in left),
                refusals=found.refusals + refusals,
                last_left=datetime.datetime.fromisoformat(left[-1].time).timestamp() if left else found.last_left,
            )
            return self._figures
