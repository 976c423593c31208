"""A sum that a site opens itself is the sum of what the others signed, or none; and what follows from it binds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.inbound import Seen
from privacy.secure_errors import SecureSumError
from privacy.verified import PassedOn, is_verified, open_passed_on, signed_bytes, verdict
from schemas.codes import Code
from schemas.messages import RoundRequest
from schemas.plan import Plan, PlanStep
from tests.privacy.secure_federation import Federation, Words, identity, random_words, run_of, sum_of
from tests.simulated_federation import real_plan

SIZE = 7


def passed_on(n: int, gone: tuple[str, ...] = (), number: int = 0) -> tuple[Federation, dict[str, Words], PassedOn]:
    """A round of `n` sites, some of which never answer, and what an honest hub passes on of it."""
    federation = Federation(run_of(n, n_rounds=3))
    vectors = random_words(np.random.default_rng(n), federation.run, SIZE)
    masked = {site: words.astype("<u8").tobytes() for site, words in federation.mask(number, vectors).items()}
    survivors = federation.run.survivors(set(federation.run.sites) - set(gone))
    consents = federation.consent(number, survivors, survivors.alive) if gone else None
    shares = federation.reveal(number, survivors, survivors.alive, consents)
    masked = {site: masked[site] for site in survivors.alive}
    signatures = {site: identity(site).sign(signed_bytes(federation.run, number, masked[site])) for site in masked}
    return federation, vectors, PassedOn(survivors, federation.keys, masked, signatures, shares)


@pytest.mark.parametrize(("n", "gone"), [(3, ()), (4, ()), (4, ("s02",)), (7, ("s00", "s05")), (10, ())])
def test_every_survivor_opens_the_sum_of_the_survivors(n: int, gone: tuple[str, ...]) -> None:
    federation, vectors, passed = passed_on(n, gone)
    expected = sum_of(vectors, passed.survivors.alive)
    for site in passed.survivors.alive:
        found = open_passed_on(federation.run, 0, site, passed.masked[site], passed)
        np.testing.assert_array_equal(found, expected)


def test_shares_of_the_threshold_are_enough_and_those_of_one_liar_are_left_aside() -> None:
    federation, vectors, passed = passed_on(4)
    expected = sum_of(vectors, federation.run.sites)
    fewer = replace(passed, shares={site: passed.shares[site] for site in ("s00", "s02", "s03")})
    lied = passed.shares["s01"][:32] + bytes(len(passed.shares["s01"]) - 32)
    for one in (fewer, replace(passed, shares={**passed.shares, "s01": lied})):
        np.testing.assert_array_equal(open_passed_on(federation.run, 0, "s00", one.masked["s00"], one), expected)


def test_who_is_not_among_the_survivors_opens_nothing() -> None:
    federation, _, passed = passed_on(4, ("s02",))
    with pytest.raises(SecureSumError, match="another masked vector of this site"):
        open_passed_on(federation.run, 0, "s02", passed.masked["s00"], passed)


@pytest.mark.parametrize("number", [1, 2])
def test_a_round_opens_under_its_own_number_alone(number: int) -> None:
    federation, _, passed = passed_on(3)
    with pytest.raises(SecureSumError):
        open_passed_on(federation.run, number, "s00", passed.masked["s00"], passed)


FEDERATION, _, PASSED = passed_on(4)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    kind=st.sampled_from(["keys", "masked", "signatures", "shares"]),
    site=st.sampled_from(FEDERATION.run.sites),
    at=st.integers(0, 10_000),
    flip=st.integers(1, 255),
)
def test_no_byte_of_what_is_passed_on_can_be_changed(kind: str, site: str, at: int, flip: int) -> None:
    """Refused; or, where one site's shares alone are wrong and the others suffice, the very same sum."""
    blobs = dict(getattr(PASSED, kind))
    content = bytearray(blobs[site])
    content[at % len(content)] ^= flip
    changed = replace(PASSED, **{kind: {**blobs, site: bytes(content)}})
    expected = open_passed_on(FEDERATION.run, 0, "s03", PASSED.masked["s03"], PASSED)
    try:
        found = open_passed_on(FEDERATION.run, 0, "s03", PASSED.masked["s03"], changed)
    except SecureSumError:
        return
    assert kind == "shares"
    np.testing.assert_array_equal(found, expected)


# ---------------------------------------------------------------- what follows binds
PLAN = real_plan(privacy={"secure_sum": True})
PART = PLAN.by_name["fit"].parts[0]
FOUND = Seen(given={"grid.edges": np.linspace(1, 64, 64), "grid.n_intervals": np.array(64.0)})


def asked(plan: Plan = PLAN, **changed: np.ndarray) -> RoundRequest:
    arrays = {spec.name: np.zeros(spec.shape) for spec in PART.sends}
    arrays |= {"edges": FOUND.given["grid.edges"].copy(), "n_intervals": np.array(64.0)} | changed
    return RoundRequest("run-1", plan.hash, ("A",), "fit", PART.name, 0, arrays=arrays)


def test_the_grid_is_the_part_that_sites_verify_and_only_under_masks() -> None:
    (grid,) = PLAN.by_name["grid"].parts
    assert is_verified(PLAN, grid)
    assert not is_verified(real_plan(), grid)
    assert [step.name for step in PLAN.steps if any(part.verified for part in step.parts)] == ["grid"]


@pytest.mark.parametrize("bit", [0, 1, 51, 52, 63])
@pytest.mark.parametrize("at", [0, 40, 63])
def test_what_differs_in_one_bit_is_refused(at: int, bit: int) -> None:
    edges = FOUND.given["grid.edges"].copy()
    edges.view(np.uint64)[at] ^= np.uint64(1 << bit)
    assert verdict(asked(edges=edges), PLAN, FOUND) is Code.GRID_DIFFERS
    assert verdict(asked(), PLAN, FOUND) is None


def test_zero_with_a_sign_is_another_zero() -> None:
    found = Seen(given={**FOUND.given, "grid.edges": np.zeros(64)})
    assert verdict(asked(edges=np.zeros(64)), PLAN, found) is None
    assert verdict(asked(edges=-np.zeros(64)), PLAN, found) is Code.GRID_DIFFERS


def test_what_was_not_found_yet_is_refused_and_in_clear_nothing_is() -> None:
    assert verdict(asked(), PLAN, Seen()) is Code.GRID_NOT_VERIFIED
    half = Seen(given={"grid.edges": FOUND.given["grid.edges"]})
    assert verdict(asked(), PLAN, half) is Code.GRID_NOT_VERIFIED
    in_clear = real_plan()
    assert verdict(asked(in_clear), in_clear, Seen()) is None


def test_what_the_site_found_is_found_again_on_the_disk() -> None:
    assert verdict(asked(), PLAN, Seen.decode(FOUND.encode())) is None


def test_a_verified_part_stands_alone_in_a_step_without_inputs() -> None:
    grid = PLAN.by_name["grid"].model_dump()
    other = {**grid["parts"][0], "name": "other", "verified": False}
    for changed in (
        {"inputs": {"mean": "moments.mean"}},
        {"parts": [grid["parts"][0], other]},
        {"parts": [{**grid["parts"][0], "times": 2}]},
    ):
        with pytest.raises(ValueError, match="that part alone, asked once, and no inputs"):
            PlanStep.model_validate({**grid, **changed})
