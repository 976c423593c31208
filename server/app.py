"""The hub's Flower app: carries the round engine's bodies to the sites and back.

`FlowerExchange` is the `server.exchange.Exchange` over Flower. `app` is the
ServerApp that the launcher starts for a submitted run; it reads our run id, opens
the exchange and hands over to `server.conduct`, which knows no Flower. The bundle
that was submitted is a stub that names this installed module; its code is not used.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from flwr.app import Context, Message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid, ServerApp

from schemas.wire import POLL_S, WireError, from_record, shorten_backoff, to_record
from server.exchange import Failure

__all__ = ["HOME_VARIABLE", "RUN_KEY", "FlowerExchange", "MessageGrid", "app"]

log = logging.getLogger("archipel.hub")

HOME_VARIABLE = "ARCHIPEL_HUB_HOME"
RUN_KEY = "archipel-run"

_LOOK_AT_NODES_S = 0.5
# What the hub itself says about a message whose node is away or whose reply never arrived whole.
_LOST = {ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE}


class MessageGrid(Protocol):
    """The part of Flower's `Grid` that an exchange needs."""

    def get_node_ids(self) -> Iterable[int]:
        """Returns the nodes that are online."""
        ...

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Sends messages and returns their ids in order."""
        ...

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Returns the replies that are there."""
        ...


class FlowerExchange:
    """Asks each site once; a site that is away or comes back is asked again until the deadline."""

    def __init__(self, grid: MessageGrid, nodes: Callable[[], Mapping[str, int]]) -> None:
        """Keeps the grid.

        Args:
            grid: Flower's connection of this run.
            nodes: Node id of each enrolled site now, by name; looked up again as sites come and go.
        """
        self._grid = grid
        self._nodes = nodes

    def ask(
        self,
        bodies: Mapping[str, bytes],
        deadline_s: float,
        *,
        on_reply: Callable[[str, bytes | Failure], None] | None = None,
    ) -> dict[str, bytes | Failure]:
        """Sends one body to each site and returns what came of it.

        Only replies to the messages of this very call are looked at, and the
        messages expire with the deadline, so a late answer to an earlier round is
        never taken for one of this.

        Args:
            bodies: What to send, by site name.
            deadline_s: Seconds after which a silent site is a `Failure`.
            on_reply: Called for each site as soon as its outcome is known.
        """
        start = time.monotonic()
        call = _Call(self._grid, self._nodes, bodies, start + deadline_s)
        while True:
            for site, outcome in call.step():
                if on_reply is not None:
                    on_reply(site, outcome)
            if call.is_done():
                return {site: call.outcomes[site] for site in bodies}
            # Often at first, since most rounds are short; a long one costs the hub little.
            time.sleep(min(2 * POLL_S, max(0.4 * POLL_S, (time.monotonic() - start) / 20)))


class _Call:
    """The state of one `ask`: who was sent what, who answered."""

    def __init__(
        self,
        grid: MessageGrid,
        nodes: Callable[[], Mapping[str, int]],
        bodies: Mapping[str, bytes],
        deadline: float,
    ) -> None:
        self._grid = grid
        self._nodes = nodes
        self._bodies = bodies
        self._deadline = deadline
        self._sent: dict[str, str] = {}  # message id -> site
        self._look_at = 0.0
        self.outcomes: dict[str, bytes | Failure] = {}

    def is_done(self) -> bool:
        return len(self.outcomes) == len(self._bodies)

    def step(self) -> list[tuple[str, bytes | Failure]]:
        """Sends what can be sent, takes what arrived; returns the outcomes that are new."""
        before = set(self.outcomes)
        self._send()
        self._receive()
        if time.monotonic() >= self._deadline:
            self._give_up()
        return [(site, outcome) for site, outcome in self.outcomes.items() if site not in before]

    def _waiting(self) -> list[str]:
        asked = set(self._sent.values())
        return [site for site in self._bodies if site not in asked and site not in self.outcomes]

    def _send(self) -> None:
        waiting = self._waiting()
        now = time.monotonic()
        if not waiting or now < self._look_at:
            return
        self._look_at = now + _LOOK_AT_NODES_S
        online = set(self._grid.get_node_ids())
        nodes = self._nodes()
        present = [site for site in waiting if nodes.get(site) in online]
        # A second longer than we listen: it is we who say "late", not Flower.
        time_s = max(0.0, self._deadline - now) + 1.0
        messages = [Message(to_record(self._bodies[site]), nodes[site], "query", ttl=time_s) for site in present]
        if not messages:
            return
        for site, message_id in zip(present, self._grid.push_messages(messages), strict=True):
            if message_id:
                self._sent[message_id] = site

    def _receive(self) -> None:
        if not self._sent:
            return
        for message in self._grid.pull_messages(list(self._sent)):
            site = self._sent.pop(message.metadata.reply_to_message_id, None)
            if site is None:
                continue
            outcome = _outcome(site, message)
            if outcome is not None:
                self.outcomes[site] = outcome
            else:
                log.info("%s is away and is asked again when it is back", site)

    def _give_up(self) -> None:
        online = set(self._grid.get_node_ids())
        nodes = self._nodes()
        for site in self._bodies:
            if site not in self.outcomes:
                is_online = site in self._sent.values() and nodes.get(site) in online
                self.outcomes[site] = Failure(site, "late" if is_online else "offline")


def _outcome(site: str, message: Message) -> bytes | Failure | None:
    """Returns what a reply says, or None where the hub says that there will be none."""
    if message.has_error():
        code = message.error.code
        if message.metadata.src_node_id == SUPERLINK_NODE_ID and code in _LOST:
            return None
        # The number alone: an error's reason is text from the site's side.
        return Failure(site, "refused", str(int(code)))
    try:
        return from_record(message.content)
    except WireError:
        return Failure(site, "malformed")


def published_nodes(home: Path) -> Callable[[], Mapping[str, int]]:
    """Returns a reader of the node ids that the SuperLink of this home publishes."""
    path = home / "run" / "nodes.json"

    def read() -> Mapping[str, int]:
        return {str(name): int(node_id) for name, node_id in json.loads(path.read_text("utf-8")).items()}

    return read


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conducts one run of ours within one Flower run."""
    from server.conduct import conduct

    shorten_backoff()
    home = Path(os.environ[HOME_VARIABLE])
    conduct(str(context.run_config[RUN_KEY]), home, FlowerExchange(grid, published_nodes(home)))
