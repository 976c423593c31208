"""A site killed in the middle of a release, or out of disk: the same bytes later, one entry, nothing unrecorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from privacy.ledger import verify_ledger
from schemas.canonical import sha256_hex
from schemas.messages import encode
from tests.guards import GuardedSite

# What is replaced by an end without any cleaning up, as by kill -9 at this point.
POINTS = {
    "before the bytes are kept": "answers.Answers.keep = lambda *_: os._exit(9)",
    "kept, not entered": "ledger.Ledger.append = lambda *_: os._exit(9)",
    "entered, head not written": "ledger._write_head = lambda *_: os._exit(9)",
    "entered, not marked": "answers.Answers.mark_ledgered = lambda *_: os._exit(9)",
    "marked, not sent": "answers.Answers.mark_ledgered = ended_after(answers.Answers.mark_ledgered)",
}

_RELEASE = """
import os, sys
from pathlib import Path
from client import answers
from privacy import ledger
from tests.guards import GuardedSite

def ended_after(function):
    def run(*arguments):
        function(*arguments)
        os._exit(9)
    return run

site = GuardedSite(Path(sys.argv[1]))
{injected}
site.answer(site.ask(), site.draft())
"""


def _in_child(site: GuardedSite, code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, str(site.home)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path.cwd(), timeout=60)


@pytest.mark.parametrize("point", POINTS, ids=[point.replace(" ", "-") for point in POINTS])
def test_a_site_killed_in_a_release_sends_the_same_bytes_later_under_one_entry(tmp_path: Path, point: str) -> None:
    site = GuardedSite(tmp_path)
    site.set_up()
    site.guard.close()
    assert _in_child(site, _RELEASE.format(injected=POINTS[point])).returncode == 9
    site.open()
    # The runner is asked again where nothing was kept; where something was, its new draft must not matter.
    reply = site.answer(site.ask(), site.draft())
    assert reply.status == "ok"
    again = site.answer(site.ask(), site.draft(code="STEP_FAILED", arrays={}))
    assert encode(again) == encode(reply)
    digests = [entry.event.digest for entry in site.ledger() if entry.event.kind == "release"]
    assert digests == [sha256_hex(encode(reply))]
    assert verify_ledger(site.paths.ledger).head.count == len(site.ledger())


_FULL = """
import resource, sys
from pathlib import Path
from tests.guards import GuardedSite

site = GuardedSite(Path(sys.argv[1]))
most = max(path.stat().st_size for path in site.paths.state.iterdir())
limit = {limit}
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
print(site.answer(site.ask(), site.draft()).code)
print([kind for kind, *_ in site.events()].count("release"))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(site.answer(site.ask(), site.draft()).status)
print([kind for kind, *_ in site.events()].count("release"))
"""


@pytest.mark.parametrize(
    "limit", ["site.paths.ledger.stat().st_size + 50", "0"], ids=["room-for-half-a-line", "no-room-at-all"]
)
def test_on_a_full_disk_nothing_leaves_until_there_is_room(tmp_path: Path, limit: str) -> None:
    site = GuardedSite(tmp_path)
    site.set_up()
    site.guard.close()
    done = _in_child(site, _FULL.format(limit=limit))
    assert done.stdout.splitlines() == ["STORAGE_FAILED", "0", "ok", "1"], done.stderr
