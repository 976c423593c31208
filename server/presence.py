"""Which agent of a site is alive: decided from when it was heard and where it runs.

Flower keeps a node's place for a minute after it died, so that a site which
restarts is refused for so long. Here a new agent may take the place at once where
it is certain that the old one is gone. No network and no Flower.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["SILENT_S", "Presence"]

SILENT_S = 25.0
"""A node that sent nothing for so long may be replaced by another with its key. A live one beats every 23 s."""


class Presence:
    """When each node was last heard, and from which folder and machine."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[int, float] = {}
        self._instances: dict[int, str] = {}

    def hear(self, node_id: int) -> None:
        """The node called."""
        self._heard[node_id] = self._clock()

    def leave(self, node_id: int) -> None:
        """The node said goodbye, or its line broke while it waited for news."""
        self._heard.pop(node_id, None)

    def replace(self, node_id: int, instance: str) -> bool:
        """Gives the node's place to an agent, if nobody living holds it; returns whether.

        Two living agents of one site would each keep half of a ledger. An agent
        locks its folder, so a second with the same folder and machine proves that
        the first is gone; any other waits until the first has been silent.

        Args:
            node_id: The node, whose key the caller holds.
            instance: Digest of the caller's folder and machine; "" where it does not say.
        """
        heard = self._heard.get(node_id)
        is_silent = heard is None or self._clock() - heard >= SILENT_S
        is_same = instance != "" and self._instances.get(node_id) == instance
        if not is_silent and not is_same:
            return False
        self._instances[node_id] = instance
        self.hear(node_id)
        return True
