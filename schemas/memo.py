"""What was computed from a cohort's cells, kept beside it so that the next round need not compute it again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass
class Memo:
    """The last array of each kind, with what it was computed from.

    It changes no result: an array is handed out only where everything that it was computed from is equal. It lives
    and dies with its cohort, in the site's memory.
    """

    _kept: dict[str, tuple[Hashable, tuple[Floats, ...], Floats]] = field(default_factory=dict)

    def get(self, kind: str, key: Hashable, given: Sequence[Floats]) -> Floats | None:
        """Return the array of a kind, if it was computed from the same."""
        kept = self._kept.get(kind)
        if kept is None or kept[0] != key or len(kept[1]) != len(given):
            return None
        same = all(np.array_equal(a, b) for a, b in zip(kept[1], given, strict=True))
        return kept[2] if same else None

    def put(self, kind: str, key: Hashable, given: Sequence[Floats], array: Floats) -> Floats:
        """Keep an array, in place of the last of its kind, and return it read-only."""
        array.flags.writeable = False
        self._kept[kind] = (key, tuple(np.array(one) for one in given), array)
        return array
