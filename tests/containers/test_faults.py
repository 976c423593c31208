"""What hospitals and hubs live through: a line cut and mended, a hub that dies, a full disk, a slow line, a restart.

In each case a run is going, nobody does anything but what is shown here, and the result is the one of a run that
nothing happened to.
"""

from __future__ import annotations

import time
from pathlib import Path

from archipel.studies import compile_study
from privacy.ledger import LEDGER_FILE
from tests.containers.conftest import FULL, SITES, Say
from tests.containers.kit import Federation, Standing, assert_same
from tests.containers.link import slow_line
from tests.containers.podman import podman, until
from tests.containers.studies import write_study

TOLERANCE = 1e-9
CUT, SLOW = "nih", "small-centres"
STOPS_WITHIN_S = 10.0
WAIT_S = 300.0
"""For what takes seconds on a calm machine: a loaded one is slow without being wrong."""

# In the container, until the disk takes no byte more.
_FILL = """
import json, os
with open("/var/lib/archipel/filler", "wb", buffering=0) as file:
    for size in (1 << 20, 4096, 1):
        try:
            while file.write(bytes(size)):
                pass
        except OSError as error:
            last = error.errno
print(json.dumps(last))
"""
_CONNECT = """
import json, socket, sys, time
start = time.monotonic()
socket.create_connection((sys.argv[1], 8443), 10).close()
print(json.dumps(time.monotonic() - start))
"""


def test_a_site_cut_off_in_a_round_is_named_and_the_run_goes_on_when_it_is_back(federation, undisturbed, say: Say):
    site, network = federation.site(CUT), federation.network(CUT)
    run_id = federation.launch()
    federation.await_rounds(run_id, 2)
    podman("network", "disconnect", network, site.name)
    try:
        named = until(lambda: _is_paused_for(federation.standing(run_id), CUT), "the site to be named", WAIT_S)
        stuck = federation.standing(run_id).rounds
        time.sleep(4)  # the missing site is asked again meanwhile
        assert federation.standing(run_id).rounds == stuck
    finally:
        podman("network", "connect", network, site.name)
    back = time.monotonic()
    until(lambda: federation.standing(run_id).rounds > stuck, "the round that waited for the site", WAIT_S)
    back = time.monotonic() - back
    result = federation.finish(run_id)
    assert CUT in federation.standing(run_id).missing
    assert result.rounds > stuck
    assert [one.status for one in result.sites] == ["took part"] * len(SITES)
    assert_same(result, undisturbed[0], TOLERANCE)
    say(f"a site cut off: named after {named:.0f} s (deadline 8 s), its answer there {back:.0f} s after reconnecting")


def test_a_killed_hub_goes_on_from_the_last_complete_round_without_a_hand(federation, undisturbed, say: Say):
    run_id = federation.launch()
    federation.await_rounds(run_id, 3)
    federation.hub.kill()
    federation.hub.start()
    began = time.monotonic()
    until(federation.hub_answers, "the hub to answer again", WAIT_S, 1)
    before = federation.standing(run_id).rounds
    until(lambda: federation.standing(run_id).rounds > before, "the next round", WAIT_S)
    next_round = time.monotonic() - began
    result = federation.finish(run_id)
    assert 3 <= before < result.rounds
    assert any("from its last complete round" in text for text in federation.standing(run_id).events)
    numbers = [(done.step, done.number) for done in result.round_log]
    assert len(set(numbers)) == len(numbers), "a complete round was asked again"
    assert_same(result, undisturbed[0], TOLERANCE)
    say(f"the hub killed after round {before}: the next round was complete {next_round:.0f} s after its start")


def test_a_site_with_a_full_disk_releases_nothing_says_so_and_goes_on_with_room(federation, undisturbed, say: Say):
    site = federation.site(FULL)
    assert site.attempt("archipel", "site", "health").code == 0
    run_id = federation.launch()
    federation.await_rounds(run_id, 2)
    try:
        assert site.python(_FILL) == 28  # ENOSPC
        until(lambda: _is_paused_for(federation.standing(run_id), FULL), "the site to be named", WAIT_S)
        stuck, released = federation.standing(run_id).rounds, _ledger(federation, FULL)
        health = site.attempt("archipel", "site", "health")
        assert health.code == 1
        assert "disk" in health.out.casefold()
        time.sleep(4)  # it is asked again meanwhile
        assert federation.standing(run_id).rounds == stuck
        assert _ledger(federation, FULL) == released
    finally:
        site.run("rm", "-f", "/var/lib/archipel/filler")
    result = federation.finish(run_id)
    assert result.rounds > stuck
    assert _ledger(federation, FULL).startswith(released)
    assert "sound" in site.run("archipel", "site", "ledger", "verify")
    until(lambda: site.attempt("archipel", "site", "health").code == 0, "the site to be well again", WAIT_S, 1)
    assert_same(result, undisturbed[0], TOLERANCE)
    say(f"a full disk: `archipel site health` says {_reason(health.out)!r}")


def test_a_line_of_200_ms_and_1_mbit_carries_a_study(federation, undisturbed, say: Say):
    result, seconds = undisturbed
    site, address = federation.site(SLOW), federation.hub.addresses()[federation.network(SLOW)]
    with slow_line(site, round_trip_s=0.2, rate="1mbit"):
        connects = [float(site.python(_CONNECT, address)) for _ in range(3)]
        assert min(connects) >= 0.2
        assert min(connects) < 0.4
        run_id = federation.launch()
        slow = federation.finish(run_id)
    assert float(site.python(_CONNECT, address)) < 0.2
    assert_same(slow, result, TOLERANCE)
    say(
        f"200 ms and 1 Mbit/s at one site: {federation.seconds(run_id):.1f} s against {seconds:.1f} s "
        f"({slow.rounds} rounds; connecting takes {1000 * min(connects):.0f} ms)"
    )


def test_everything_stopped_in_a_round_and_started_again_is_as_before(federation, undisturbed, study, say: Say):
    run_id = federation.launch()
    federation.await_rounds(run_id, 2)
    took = {container.name: container.stop() for container in federation.containers}
    assert {code for _, code in took.values()} == {0}
    assert max(seconds for seconds, _ in took.values()) < STOPS_WITHIN_S
    before = {name: _state(federation.volume(name)) for name in ("hub", *SITES)}
    for container in federation.containers:
        container.start()
    result = federation.finish(run_id)
    assert_same(result, undisturbed[0], TOLERANCE)
    # The plan was approved before; a further run of it needs nobody.
    assert_same(federation.finish(federation.launch()), undisturbed[0], TOLERANCE)
    for name, files in before.items():
        now = _state(federation.volume(name))
        for file, content in files.items():
            is_same = now[file].startswith(content) if file.name == LEDGER_FILE else now[file] == content
            assert is_same, f"{name}: {file} has changed"
    # A new plan needs its approval and nothing else.
    new = write_study(study.parent, "another", deadline_s=8, file="another.toml")
    plan = compile_study(new)
    another = federation.launch(new.name)
    until(lambda: "archipel site approve" in federation.standing(another).message, "the new plan to wait", WAIT_S)
    for name in SITES:
        site = federation.site(name)
        until(
            lambda site=site: plan.hash[:12] in site.run("archipel", "site", "plans"), "the plan at the site", WAIT_S
        )
        site.run("archipel", "site", "approve", plan.hash[:12], "--yes", "--by", "a test")
    assert federation.finish(another).plan_hash == plan.hash
    for name in SITES:
        assert "sound" in federation.site(name).run("archipel", "site", "ledger", "verify")
    slowest = max(seconds for seconds, _ in took.values())
    say(f"a stop in the middle of a round: the slowest container ended in {slowest:.1f} s, all with exit code 0")


# ---------------------------------------------------------------- looking
def _is_paused_for(standing: Standing, site: str) -> bool:
    return standing.status == "paused" and site in standing.message


def _ledger(federation: Federation, site: str) -> bytes:
    return (federation.volume(site) / "state" / LEDGER_FILE).read_bytes()


def _reason(health: str) -> str:
    """Return the line of a health report that says what is wrong."""
    return next(line.strip() for line in health.splitlines() if not line.startswith(("ok", "warn")))


def _state(home: Path) -> dict[Path, bytes]:
    """Return what must outlive a restart: settings, keys, registrations, approvals, plans, lists of sites, ledger."""
    kept = ("*.toml", "sites.json", "keys/*", "state/*.json", "state/plans/*", "state/rosters/*/*", "state/ledger.*")
    found = {path.relative_to(home): path.read_bytes() for words in kept for path in home.glob(words)}
    assert Path("keys/identity.key") in found
    # These name the ledger's end, which moves.
    return {
        path: content for path, content in found.items() if path.name not in ("ledger.head", "countersigned.json")
    }
