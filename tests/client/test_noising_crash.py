"""A site killed (kill -9) at every point of a release under differential privacy: paid once, entered once, sent so.

The real guard over real files, in a child process that kills itself at the point it is told. The parent stands for
the hub: it asks again after each kill, once the site is up again, and keeps what it receives.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from client import answers, noising
from privacy import budget, ledger
from privacy.ledger import verify_ledger
from schemas.canonical import sha256_hex
from schemas.messages import Reply, decode_as, encode
from tests.private_guards import DATASET, GRADIENT, PrivateSite, private_hub, private_plan, private_sites, sent

KILLS = 20
PLAN = private_plan(rounds=KILLS, honest_sites=2)


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def then_die(function: Callable[..., object]) -> Callable[..., None]:
    def run(*arguments: object) -> None:
        function(*arguments)
        die()

    return run


@contextlib.contextmanager
def dies_before_commit(store: answers.Answers) -> Iterator[None]:
    store._db.execute("BEGIN IMMEDIATE")
    yield
    die()


def _torn_line(descriptor: int, line: bytes) -> None:
    os.write(descriptor, line[: len(line) // 2])
    die()


# Where the child dies: what is replaced, and by what.
POINTS: dict[str, tuple[object, str, object]] = {
    "before the debit": (budget.Budget, "debit", die),
    "in the debit, before it is on the disk": (budget.Budget, "_insert", then_die(budget.Budget._insert)),
    "debited, no noise drawn": (noising, "noisy", die),
    "noise drawn and masked, not kept": (answers.Answers, "keep", die),
    "kept, before it is on the disk": (answers.Answers, "_transaction", dies_before_commit),
    "kept, not entered": (ledger.Ledger, "append", die),
    "half of the ledger's line written": (ledger, "write_all", _torn_line),
    "line written, head not": (ledger, "_write_head", die),
    "entered, not marked": (answers.Answers, "mark_ledgered", die),
    "marked, not sent": (answers.Answers, "mark_ledgered", then_die(answers.Answers.mark_ledgered)),
    "sent": (os, "abort", die),  # which nothing calls: the child dies when it has written to the pipe
}
IS_PAID = list(POINTS).index("debited, no noise drawn")


def killed(site: PrivateSite, request: bytes, point: str) -> bytes:
    """Let a child answer as the site and die at `point`; returns what it had sent by then."""
    site.guard.close()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            site.open()
            setattr(*POINTS[point])
            os.write(write, site(request))
            die()
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        wire = pipe.read()
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, point
    return wire


def assert_paid_and_entered_once(site: PrivateSite, heard: list[bytes]) -> None:
    """What holds after every kill, with no way of telling when the next one comes."""
    verify_ledger(site.paths.ledger)
    charges = {(charge.step, charge.number): charge.mu_squared for charge in site.charges()}
    assert len(charges) == len(site.charges())
    entered = [entry.event for entry in site.ledger() if entry.event.dataset]
    digests = [event.digest for event in entered]
    assert len(digests) == len(set(digests))
    assert {(e.step, e.number): e.mu_squared for e in entered}.items() <= charges.items()
    assert {event.dataset for event in entered} <= {DATASET}
    for body in heard:
        assert digests.count(sha256_hex(body)) == 1, "released without its entry"


def test_killed_twenty_times_a_site_pays_once_for_each_release_and_enters_it_before_it_leaves(tmp_path: Path) -> None:
    sites = private_sites(tmp_path, PLAN)
    hub, site = private_hub(sites), sites["A"]
    hub.set_up()
    points = [*POINTS, *random.Random(20).choices(list(POINTS)[1:], k=KILLS - len(POINTS))]
    heard: list[bytes] = []
    for number, point in enumerate(points):
        asked = hub.value_request(*GRADIENT, number, sent(PLAN, *GRADIENT))
        wire = killed(site, encode(asked), point)
        assert bool(wire) == (point == "sent")
        heard += [wire] if wire else []
        assert_paid_and_entered_once(site, heard)
        is_paid = number in {charge.number for charge in site.charges()}
        assert is_paid == (list(POINTS).index(point) >= IS_PAID), point
        site.open()
        hub.value(*GRADIENT, number, asked.arrays)
        body = encode(hub.masked["A"])
        assert not wire or body == wire, "other bytes for the same question"
        heard.append(body)
        assert_paid_and_entered_once(site, [body])
        found = hub.open(*GRADIENT, number)
        exact = [one.summand(*GRADIENT)["gradient_beta"] for one in sites.values()]
        assert np.abs(found["gradient_beta"] - np.sum(exact, axis=0)).max() < 1e3
    assert [charge.number for charge in site.charges()] == list(range(KILLS))
    assert len({charge.mu_squared for charge in site.charges()}) == 1
    assert len([entry for entry in site.ledger() if entry.event.dataset]) == KILLS
    assert all(decode_as(body, Reply).status == "ok" for body in heard)
