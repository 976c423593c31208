"""A cable with a length: takes every Ethernet frame from one interface to another, later by a given time.

`python -m tests.containers.forwarder OUTER INNER DELAY_S` (root) carries both ways until it is ended. It stands in
for `tc netem`, which not every kernel has; nothing is lost, reordered or limited here.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections import deque

from schemas.processes import end_with_parent

_ALL_PROTOCOLS = 0x0003
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_LONGEST_FRAME = 65_536 + 64


def _listen(interface: str) -> socket.socket:
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    found.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)  # or it would carry its own frames back
    found.bind((interface, _ALL_PROTOCOLS))
    found.setblocking(False)
    return found


def carry(one: socket.socket, other: socket.socket, delay_s: float) -> None:
    """Carry frames both ways for ever."""
    # Every frame waits equally long, so a queue in order of arrival is in order of leaving.
    waiting: deque[tuple[float, socket.socket, bytes]] = deque()
    beyond = {one: other, other: one}
    while True:
        left_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([one, other], [], [], left_s)
        for end in ready:
            waiting.append((time.monotonic() + delay_s, beyond[end], end.recv(_LONGEST_FRAME)))
        while waiting and waiting[0][0] <= time.monotonic():
            _, end, frame = waiting.popleft()
            try:
                end.send(frame)
            except OSError:
                continue  # a full queue drops, as a line does; an interface that is gone takes nothing


def main(arguments: list[str]) -> int:
    """Say "ready" on standard output and carry."""
    outer, inner, delay_s = arguments
    end_with_parent(os.getppid())
    ends = _listen(outer), _listen(inner)
    print("ready", flush=True)
    carry(*ends, float(delay_s))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
