"""A hub that somebody took over: `python -m tests.doubles.hostile_hub --home DIR` in place of `server.launcher`.

SuperLink, TLS and the way to the sites are the real ones. What is asked in a run is said by the test that waits at
the other end of a socket, and every answer is handed to it as it came (`tests.hostile_federation`).
"""

from __future__ import annotations

import sys
import types
from multiprocessing.connection import Listener
from pathlib import Path

from server.exchange import Exchange

ADDRESS_FILE = "hostile-hub.address"


def conduct(run_id: str, home: Path, exchange: Exchange) -> None:
    """Pass on what the test says, as (bodies, deadline), until it hangs up."""
    # In Linux's abstract namespace: no path that could be too long for a socket, and nothing to remove.
    address = f"\0archipel-hostile-hub-{run_id}"
    with Listener(address, "AF_UNIX") as listener:
        partial = home / f"{ADDRESS_FILE}.partial"
        partial.write_text(address)
        partial.replace(home / ADDRESS_FILE)
        with listener.accept() as test:
            while True:
                try:
                    bodies, deadline_s = test.recv()
                except EOFError:
                    return
                test.send(exchange.ask(bodies, deadline_s))


def main() -> int:
    """Serve runs as the real launcher does, with the hostile module inside."""
    module = types.ModuleType("server.conduct")
    module.conduct = conduct  # type: ignore[attr-defined]
    sys.modules["server.conduct"] = module
    from server import launcher

    return launcher.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
