"""Follows a ledger that others append to: everything is read and checked once, then only what is new."""

from __future__ import annotations

from pathlib import Path

from privacy import ledger
from privacy.ledger import Entry
from privacy.storage import locked, storage_error

__all__ = ["LedgerReader"]


class LedgerReader:
    """Reads a ledger and changes nothing.

    After an error the next read begins at the first line again: what was restored meanwhile is then found sound.
    """

    def __init__(self, path: Path) -> None:
        """Keep where the ledger is, which need not exist yet."""
        self._path = path
        self._last: Entry | None = None
        self._end = 0
        self._place = -1

    def read(self) -> tuple[tuple[Entry, ...], bool]:
        """Return the entries since the last read, and whether they begin at the first line.

        Raises:
            LedgerBrokenError: When it is not what this site wrote.
            StorageError: When it cannot be read.
        """
        if not self._path.exists() and self._last is None:
            ledger.verify_ledger(self._path)  # a head without its ledger is one that was removed
            return (), True
        try:
            return self._read()
        except BaseException:
            self._forget()
            raise

    def _read(self) -> tuple[tuple[Entry, ...], bool]:
        try:
            with locked(self._path, exclusive=False) as descriptor:
                place = self._path.stat().st_ino
                if place != self._place:  # another file under this name, as after a restoration
                    self._forget()
                    self._place = place
                is_first = self._end == 0
                content, kept = ledger.read_from(descriptor, self._end), ledger.read_head(self._path)
        except OSError as error:
            raise storage_error(self._path, error) from None
        new = tuple(ledger.chain(content, self._last))
        last = new[-1] if new else self._last
        ledger.verify_head(kept, last)
        self._last, self._end = last, self._end + content.rfind(b"\n") + 1
        return new, is_first

    def _forget(self) -> None:
        self._last, self._end, self._place = None, 0, -1
