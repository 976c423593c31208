"""The secure sum: equal to the plain one, and a site that gives away nothing more, whatever the hub says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy import secure_errors as errors
from privacy import secure_sum
from privacy.fixed_point import decode_arrays, encode_arrays
from privacy.secure_protocol import KEY, SIGNATURE, SecureRun, add_keystreams, announcement_bound
from schemas.plan import ArraySpec
from schemas.roster import make_roster
from tests.privacy.secure_federation import (
    PLAN_HASH,
    Federation,
    identity,
    public,
    random_words,
    roster_of,
    run_of,
    sum_of,
)

SPECS = (
    ArraySpec(name="n_patients", shape=(), meaning="patients", bound=1e12),
    ArraySpec(name="gradient", shape=(40,), meaning="slope", bound=1e18),
    ArraySpec(name="hessian", shape=(5, 5), meaning="curvature", bound=1000.0),
)


def summands(run: SecureRun, rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    return {
        site: {
            "n_patients": np.array(float(rng.integers(10, 500))),
            "gradient": rng.normal(0, 300, 40),
            "hessian": rng.normal(0, 30, (5, 5)),
        }
        for site in run.sites
    }


def sizes_and_dropouts() -> list[tuple[int, int]]:
    return [
        (n, dropped) for n in (3, 5, 10, 30) for dropped in sorted({0, 1, n - roster_of(n).threshold})
        if dropped <= n - roster_of(n).threshold
    ]  # fmt: skip


@pytest.mark.parametrize(("n", "n_dropped"), sizes_and_dropouts())
def test_the_secure_sum_is_the_plain_sum_with_and_without_dropouts(n: int, n_dropped: int) -> None:
    run = run_of(n, n_rounds=2)
    federation = Federation(run)
    rng = np.random.default_rng(n)
    for number in range(2):
        local = summands(run, rng)
        dropped = rng.choice(run.sites, n_dropped, replace=False).tolist()
        vectors = {site: encode_arrays(arrays, SPECS, n) for site, arrays in local.items()}
        found = decode_arrays(federation.round(number, vectors, dropped), SPECS, n)
        for spec in SPECS:
            plain = sum(local[site][spec.name] for site in run.sites if site not in dropped)
            assert np.abs(found[spec.name] - plain).max() <= 1e-9


@settings(max_examples=25)
@given(st.integers(2, 9), st.integers(1, 70), st.data())
def test_masks_cancel_to_the_last_bit(n: int, size: int, data: st.DataObject) -> None:
    run = run_of(n)
    vectors = random_words(np.random.default_rng(data.draw(st.integers(0, 99))), run, size)
    n_dropped = data.draw(st.integers(0, n - run.threshold))
    dropped = data.draw(st.permutations(run.sites))[:n_dropped]
    total = Federation(run).round(0, vectors, dropped)
    assert total.tolist() == sum_of(vectors, set(run.sites) - set(dropped)).tolist()


def test_fewer_sites_of_the_roster_than_all_can_form_a_run() -> None:
    roster = roster_of(6)
    run = SecureRun(roster, PLAN_HASH, "run-1", roster.names[:5], 1)
    vectors = random_words(np.random.default_rng(5), run, 3)
    assert Federation(run).round(0, vectors).tolist() == sum_of(vectors, run.sites).tolist()


def test_masks_span_many_pieces_of_a_long_vector() -> None:
    run = run_of(3)
    vectors = random_words(np.random.default_rng(3), run, 100_003)
    total = Federation(run).round(0, vectors)
    assert np.array_equal(total, sum(vectors.values()))


def test_the_keystream_is_that_of_the_standard() -> None:
    """RFC 8439, A.1, test vector 1: key, nonce and counter 0."""
    vector = np.zeros(2, dtype=np.uint64)
    add_keystreams(vector, [bytes(32)], [])
    assert vector.astype("<u8").tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28"
    add_keystreams(vector, [], [bytes(32)])
    assert vector.tolist() == [0, 0]


def test_a_masked_vector_looks_like_noise() -> None:
    """Chi-square over all bytes, of one site and of the sum of two: the shares are what opens it."""
    run = run_of(3)
    masked = Federation(run).mask(0, {site: np.zeros(50_000, dtype=np.uint64) for site in run.sites})
    for words in (masked["s00"], masked["s00"] + masked["s01"], sum(masked.values())):
        counts = np.bincount(np.frombuffer(words.tobytes(), dtype=np.uint8), minlength=256)
        expected = counts.sum() / 256
        statistic = float(((counts - expected) ** 2 / expected).sum())
        assert 150 < statistic < 380, "255 degrees of freedom, beyond 1e-5 on either side"


# ---------------------------------------------------------------- set-up with a hub that changes what it passes on
RUN = run_of(4, n_rounds=3)


def announced(run: SecureRun = RUN) -> tuple[secure_sum.Announced, dict[str, bytes]]:
    """One site that has announced its keys, and what an honest hub would pass on to it."""
    state, message = secure_sum.begin(run, "s00", identity("s00"))
    keys = {site: secure_sum.begin(run, site, identity(site))[1] for site in run.sites}
    return state, {**keys, "s00": message}


def of_run(run: SecureRun, site: str = "s01") -> bytes:
    return secure_sum.begin(run, site, identity(site))[1]


def by(signer: Ed25519PrivateKey, body: bytes, site: str = "s01") -> bytes:
    return body + signer.sign(announcement_bound(RUN, site, body))


def body_of(message: bytes) -> bytes:
    return message[:-SIGNATURE]


def two_equal(keys: Mapping[str, bytes]) -> bytes:
    body = bytearray(body_of(keys["s01"]))
    body[2 * KEY : 3 * KEY] = body[3 * KEY : 4 * KEY]
    return by(identity("s01"), bytes(body))


KEY_ATTACKS: list[tuple[str, Callable[[dict[str, bytes]], Mapping[str, bytes]], type[errors.SecureSumError]]] = [
    ("swapped key", lambda k: {**k, "s01": body_of(of_run(RUN)) + k["s01"][-SIGNATURE:]}, errors.ForgedKeysError),
    ("the hub's signature", lambda k: {**k, "s01": by(identity("hub"), body_of(k["s01"]))}, errors.ForgedKeysError),
    ("one bit of a key", lambda k: {**k, "s01": flipped(k["s01"], 70)}, errors.ForgedKeysError),
    ("one bit of a signature", lambda k: {**k, "s01": flipped(k["s01"], -1)}, errors.ForgedKeysError),
    ("two sites exchanged", lambda k: {**k, "s01": k["s02"], "s02": k["s01"]}, errors.ForgedKeysError),
    ("invented peer", lambda k: {**k, "s04": of_run(run_of(5), "s04")}, errors.UnknownPeerError),
    ("invented in place of one", lambda k: {**drop(k, "s01"), "h": k["s01"]}, errors.UnknownPeerError),
    ("missing peer", lambda k: drop(k, "s01"), errors.MissingPeerError),
    ("the site itself missing", lambda k: drop(k, "s00"), errors.MissingPeerError),
    ("another run", lambda k: {**k, "s01": of_run(run_of(4, 3, run_id="run-2"))}, errors.WrongContextError),
    ("another plan", lambda k: {**k, "s01": of_run(replace(RUN, plan_hash="b" * 64))}, errors.WrongContextError),
    ("another roster", lambda k: {**k, "s01": of_run(run_of(4, 3, threshold=4))}, errors.WrongContextError),
    ("another list of sites", lambda k: {**k, "s01": of_run(fewer_sites())}, errors.WrongContextError),
    ("another number of rounds", lambda k: {**k, "s01": of_run(run_of(4, 4))}, errors.WrongLengthError),
    ("cut short", lambda k: {**k, "s01": k["s01"][:-1]}, errors.WrongLengthError),
    ("a byte too long", lambda k: {**k, "s01": k["s01"] + b"\0"}, errors.WrongLengthError),
    ("empty", lambda k: {**k, "s01": b""}, errors.WrongLengthError),
    ("one's own keys changed", lambda k: {**k, "s00": of_run(RUN, "s00")}, errors.AnsweredOtherwiseError),
    ("one key for two rounds", lambda k: {**k, "s01": two_equal(k)}, errors.DuplicateKeyError),
    ("another's keys", lambda k: {**k, "s01": by(identity("s01"), body_of(k["s02"]))}, errors.DuplicateKeyError),
    ("a key of small order", lambda k: {**k, "s01": with_channel(k["s01"], bytes(KEY))}, errors.BadKeyError),
]  # fmt: skip


def flipped(message: bytes, at: int) -> bytes:
    changed = bytearray(message)
    changed[at] ^= 1
    return bytes(changed)


def drop(messages: Mapping[str, bytes], site: str) -> dict[str, bytes]:
    return {name: message for name, message in messages.items() if name != site}


def fewer_sites() -> SecureRun:
    return replace(RUN, sites=RUN.sites[:3])


def with_channel(message: bytes, channel: bytes) -> bytes:
    body = body_of(message)
    return by(identity("s01"), body[:KEY] + channel + body[2 * KEY :])


@pytest.mark.parametrize(("situation", "attack", "error"), KEY_ATTACKS, ids=[name for name, _, _ in KEY_ATTACKS])
def test_keys_that_are_not_those_of_all_sites_of_the_run_are_refused(
    situation: str,
    attack: Callable[[dict[str, bytes]], Mapping[str, bytes]],
    error: type[errors.SecureSumError],
) -> None:
    state, keys = announced()
    with pytest.raises(error) as raised:
        secure_sum.deal(state, attack(keys))
    assert type(raised.value) is error


def dealt() -> tuple[secure_sum.Dealt, dict[str, bytes]]:
    """One site that has dealt its shares, and the honest boxes for it."""
    states, messages = {}, {}
    for site in RUN.sites:
        states[site], messages[site] = secure_sum.begin(RUN, site, identity(site))
    boxes = {}
    for site in RUN.sites:
        states[site], boxes[site] = secure_sum.deal(states[site], messages)
    return states["s00"], {site: boxes[site]["s00"] for site in RUN.sites if site != "s00"}


BOX_ATTACKS: list[tuple[str, Callable[[dict[str, bytes]], Mapping[str, bytes]], type[errors.SecureSumError]]] = [
    ("one bit", lambda b: {**b, "s01": flipped(b["s01"], 40)}, errors.DamagedBoxError),
    ("another nonce", lambda b: {**b, "s01": flipped(b["s01"], 0)}, errors.DamagedBoxError),
    ("exchanged", lambda b: {**b, "s01": b["s02"], "s02": b["s01"]}, errors.DamagedBoxError),
    ("of another run", lambda b: {**b, "s01": dealt()[1]["s01"]}, errors.DamagedBoxError),
    ("cut short", lambda b: {**b, "s01": b["s01"][:-1]}, errors.DamagedBoxError),
    ("empty", lambda b: {**b, "s01": b""}, errors.DamagedBoxError),
    ("missing", lambda b: drop(b, "s01"), errors.MissingPeerError),
    ("invented", lambda b: {**b, "s04": b["s01"]}, errors.UnknownPeerError),
    ("from itself", lambda b: {**b, "s00": b["s01"]}, errors.UnknownPeerError),
]


@pytest.mark.parametrize(("situation", "attack", "error"), BOX_ATTACKS, ids=[name for name, _, _ in BOX_ATTACKS])
def test_shares_that_a_peer_did_not_seal_for_this_site_are_refused(
    situation: str,
    attack: Callable[[dict[str, bytes]], Mapping[str, bytes]],
    error: type[errors.SecureSumError],
) -> None:
    state, boxes = dealt()
    assert secure_sum.receive(state, boxes).held.shape == (4, 2, 3, KEY)
    with pytest.raises(error) as raised:
        secure_sum.receive(state, attack(boxes))
    assert type(raised.value) is error


def test_a_site_takes_part_only_where_the_roster_has_its_identity() -> None:
    with pytest.raises(errors.RunError):
        secure_sum.begin(RUN, "s00", identity("s01"))
    with pytest.raises(errors.RunError):
        secure_sum.begin(RUN, "s09", identity("s09"))


def test_a_run_cannot_be_made_of_fewer_sites_than_the_threshold_or_of_others() -> None:
    with pytest.raises(errors.ThresholdError):
        replace(RUN, sites=RUN.sites[:2])
    for sites in (("s00", "s01", "s02", "x"), RUN.sites[::-1], (*RUN.sites, "s03")):
        with pytest.raises(errors.RunError):
            replace(RUN, sites=sites)
    for words in ({"n_rounds": 0}, {"plan_hash": "A" * 64}, {"plan_hash": ""}, {"run_id": ""}):
        with pytest.raises(errors.RunError):
            replace(RUN, **words)


def test_every_word_of_a_run_changes_its_context() -> None:
    others = [
        replace(RUN, plan_hash="b" * 64), replace(RUN, run_id="run-2"), replace(RUN, n_rounds=4), fewer_sites(),
        replace(RUN, roster=roster_of(4, 4)),
        replace(RUN, roster=make_roster({f"s{i:02}": public(f"x{i}") for i in range(4)})),
    ]  # fmt: skip
    assert len({run.context for run in (RUN, *others)}) == 7


KEYS_STATE, KEYS = announced()
BOX_STATE, BOXES = dealt()


@given(st.sampled_from(RUN.sites), st.data())
def test_no_changed_byte_of_anybodys_keys_passes(site: str, data: st.DataObject) -> None:
    changed = bytearray(KEYS[site])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(errors.SecureSumError):
        secure_sum.deal(KEYS_STATE, {**KEYS, site: bytes(changed)})


@given(st.sampled_from(sorted(BOXES)), st.data())
def test_no_changed_byte_of_a_box_passes(site: str, data: st.DataObject) -> None:
    changed = bytearray(BOXES[site])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(errors.DamagedBoxError):
        secure_sum.receive(BOX_STATE, {**BOXES, site: bytes(changed)})


@given(st.binary(max_size=300))
def test_noise_is_neither_keys_nor_a_box(noise: bytes) -> None:
    with pytest.raises(errors.WrongLengthError):
        secure_sum.deal(KEYS_STATE, {**KEYS, "s01": noise})
    with pytest.raises(errors.DamagedBoxError):
        secure_sum.receive(BOX_STATE, {**BOXES, "s01": noise})
