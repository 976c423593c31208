"""A site killed in a message of the secure sum: the same bytes later, one entry, never a second mask."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from client.questions import read_request
from privacy.ledger import verify_ledger
from schemas.canonical import sha256_hex
from schemas.messages import Reply, decode_as, encode
from tests.secure_guards import hub_of, masked_sites
from tests.secure_hub import SecureHub

# What is replaced by an end without any cleaning up, as by kill -9 at this point.
POINTS = {
    "before state and bytes are kept": "answers.Answers.keep = lambda *_: os._exit(9)",
    "state written, bytes not": "answers.Answers._transaction = ended_before_commit",
    "kept, not entered": "ledger.Ledger.append = lambda *_: os._exit(9)",
    "entered, not marked": "answers.Answers.mark_ledgered = lambda *_: os._exit(9)",
    "marked, not sent": "answers.Answers.mark_ledgered = ended_after(answers.Answers.mark_ledgered)",
}

_ANSWER = """
import contextlib, os, sys
from pathlib import Path
from client import answers
from privacy import ledger
from tests.secure_guards import MaskedSite, MASKED_PLAN

def ended_after(function):
    def run(*arguments):
        function(*arguments)
        os._exit(9)
    return run

@contextlib.contextmanager
def ended_before_commit(store):
    store._db.execute("BEGIN IMMEDIATE")
    yield
    os._exit(9)

site = MaskedSite(Path(sys.argv[1]), MASKED_PLAN, "A")
{injected}
site(sys.stdin.buffer.read())
"""

ROUND = ("fit", "gradient", 0)


def to_announce(hub: SecureHub) -> bytes:
    return encode(hub.keys_request())


def to_deal(hub: SecureHub) -> bytes:
    hub.announce()
    return encode(hub.shares_request())


def to_receive(hub: SecureHub) -> bytes:
    hub.announce()
    hub.deal()
    return encode(hub.inbox_request("A"))


def to_mask(hub: SecureHub) -> bytes:
    hub.set_up()
    return encode(hub.value_request("moments", "sums", 0, {}))


def to_reveal(hub: SecureHub) -> bytes:
    hub.set_up()
    hub.value("moments", "sums", 0, {})
    return encode(hub.list_request("moments", "sums", 0, hub.run.survivors(hub.sites)))


@pytest.mark.parametrize("before", [to_announce, to_deal, to_receive, to_mask, to_reveal])
@pytest.mark.parametrize("point", POINTS, ids=[point.replace(" ", "-") for point in POINTS])
def test_a_site_killed_in_a_message_answers_it_the_same_later_under_one_entry(
    tmp_path: Path, point: str, before: Callable[[SecureHub], bytes]
) -> None:
    sites = masked_sites(tmp_path)
    site, hub = sites["A"], hub_of(sites)
    request = before(hub)
    site.guard.close()
    code = _ANSWER.format(injected=POINTS[point])
    command = [sys.executable, "-c", code, str(site.home)]
    done = subprocess.run(command, input=request, capture_output=True, cwd=Path.cwd(), timeout=60)
    assert done.returncode == 9, done.stderr
    site.open()
    stored = site.guard._answers.find(*_name(request))
    body = site(request)
    assert decode_as(body, Reply).status == "ok"
    assert stored is None or stored.reply == body
    site.n_patients = 50  # another draft must change nothing: the answer stands
    site.open()
    assert site(request) == body
    digests = [entry.event.digest for entry in site.ledger() if entry.event.digest]
    assert digests.count(sha256_hex(body)) == 1
    assert len(digests) == len(set(digests))
    assert verify_ledger(site.paths.ledger).head.count == len(site.ledger())


def test_the_sum_is_exact_when_every_site_was_killed_on_the_way(tmp_path: Path) -> None:
    sites = masked_sites(tmp_path)
    hub = hub_of(sites)
    hub.set_up()
    points = list(POINTS)
    for name, point in zip(sites, points[1:4], strict=True):
        sites[name].guard.close()
        code = _ANSWER.format(injected=POINTS[point]).replace('"A")', f'"{name}")')
        request = encode(hub.value_request("moments", "sums", 0, {}))
        command = [sys.executable, "-c", code, str(sites[name].home)]
        assert subprocess.run(command, input=request, cwd=Path.cwd(), timeout=60, check=False).returncode == 9
        sites[name].open()
    hub.value("moments", "sums", 0, {})
    found = hub.open("moments", "sums", 0)
    assert found["n_patients"] == 120
    expected = sum(site.summand("moments", "sums")["total"] for site in sites.values())
    assert abs(found["total"] - expected).max() < 1e-9


def _name(request: bytes) -> tuple[str, str, int, str]:
    asked = read_request(request)
    step, _, number = asked.round
    return asked.request.run_id, step, number, asked.request.phase
