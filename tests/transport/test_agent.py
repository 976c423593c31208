"""What leaves a site: the bytes that its gate released, or a number. Looked at from the hub's side."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.wire import SiteFault
from tests.doubles.federation import Federation
from tests.doubles.transport import PATIENT


def test_bodies_travel_unchanged(federation: Federation) -> None:
    bodies = {"paris": b"", "lyon": bytes(range(256)) * 40, "nantes": b"x" * 6_000_000}
    assert federation.ask(bodies) == {site: b"echo:" + body for site, body in bodies.items()}


def test_the_gate_may_answer_without_the_runner(federation: Federation) -> None:
    assert federation.ask({"paris": b"answer:42"}) == {"paris": b"answered 42"}


def test_each_request_has_a_child_of_its_own(federation: Federation) -> None:
    first, second = federation.ask({"paris": b"pid:"}), federation.ask({"paris": b"pid:"})
    assert first["paris"] != second["paris"]
    assert first["paris"] != b"echo:%d" % federation.sites["paris"].pid("runner")


@pytest.mark.parametrize("word", [b"raise", b"leave", b"die", b"text"])
def test_a_failing_runner_says_only_that_it_failed(federation: Federation, word: bytes) -> None:
    assert federation.ask({"lyon": word}) == {"lyon": b"runner failed"}
    assert PATIENT.encode() not in federation.received()
    assert PATIENT not in federation.sites["lyon"].log("runner")


def test_an_unapproved_draft_stays(federation: Federation) -> None:
    assert federation.ask({"lyon": b"secret"}) == {"lyon": b"blocked"}
    assert PATIENT.encode() not in federation.received()


@pytest.mark.parametrize("word", [b"admit-raises", b"admit-odd", b"release-raises", b"release-odd"])
def test_a_failing_gate_lets_nothing_out(federation: Federation, word: bytes) -> None:
    outcome = federation.ask({"nantes": word})["nantes"]
    assert outcome == {"site": "nantes", "reason": "refused", "code": str(int(SiteFault.GATE_FAILED))}
    assert PATIENT.encode() not in federation.received()
    assert PATIENT not in federation.sites["nantes"].log("agent")


@pytest.fixture(scope="module")
def rogue(federation: Federation) -> Any:
    site = federation.add_site("rogue", "rogue", "agent")
    federation.enrol("paris", "lyon", "nantes", "rogue")
    site.start()
    yield site
    site.stop()
    federation.enrol("paris", "lyon", "nantes")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("flower-message", b"blocked"),
        ("failed-with-text", b"runner failed"),
        ("unknown-kind", b"runner failed"),
        ("request-kind", b"runner failed"),
        ("no-frame", b"runner failed"),
        ("trailing", b"echo:fine"),
        ("draft", b"blocked"),  # what "trailing" left behind is not taken for this answer
    ],
)
def test_a_taken_over_runner_gets_nothing_past_the_gate(
    federation: Federation, rogue: Any, words: str, expected: bytes
) -> None:
    assert federation.ask({"rogue": words.encode()}, 60) == {"rogue": expected}
    received = federation.received()
    assert PATIENT.encode() not in received
    assert b"stowaway" not in received
    assert expected in received  # so the recording works, and would have shown the patient


def test_a_runner_that_announces_without_end_is_cut_off(federation: Federation, rogue: Any) -> None:
    assert federation.ask({"rogue": b"endless"}, 60) == {"rogue": b"runner failed"}
