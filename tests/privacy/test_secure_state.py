"""A site's state survives bytes; killed before its message left, a site says the same again; what is over is gone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import secure_errors as errors
from privacy import secure_sum, secure_total
from privacy.secure_state import State, read_state, state_bytes
from schemas.errors import ArchipelError, IncompatibleVersionError, MessageError
from tests.privacy.secure_federation import Federation, identity, random_words, run_of, sum_of

RUN = run_of(4, n_rounds=3)
VECTORS = random_words(np.random.default_rng(4), RUN, 50)
SURVIVORS = RUN.survivors(["s00", "s01", "s02"])


def stored(state: State) -> State:
    """The state as a killed and restarted process finds it."""
    again = read_state(state_bytes(state))
    assert type(again) is type(state)
    assert state_bytes(again) == state_bytes(state)
    return again


def test_killed_between_state_and_message_everywhere_a_site_says_the_same_again() -> None:
    """Every step of every site is answered twice, the second time from the stored bytes of the state it left."""
    states, keys = {}, {}
    for site in RUN.sites:
        state, keys[site] = secure_sum.begin(RUN, site, identity(site))
        states[site] = stored(state)
        assert states[site].message == keys[site]
    boxes = {}
    for site in RUN.sites:
        dealt, boxes[site] = secure_sum.deal(states[site], keys)
        states[site], again = secure_sum.deal(stored(dealt), keys)
        assert again == boxes[site]
    inboxes = secure_total.inboxes(RUN, boxes)
    for site in RUN.sites:
        ready = stored(secure_sum.receive(states[site], inboxes[site]))
        states[site] = secure_sum.receive(ready, inboxes[site])
    masked = {}
    for site in RUN.sites:
        state, masked[site] = secure_sum.mask(states[site], 1, VECTORS[site])
        states[site], again = secure_sum.mask(stored(state), 1, VECTORS[site])
        assert again.tobytes() == masked[site].tobytes()
    consents = {}
    for site in SURVIVORS.alive:
        state, consents[site] = secure_sum.consent(states[site], 1, SURVIVORS, identity(site))
        states[site], again = secure_sum.consent(stored(state), 1, SURVIVORS, identity(site))
        assert again == consents[site]
    answers = {}
    for site in SURVIVORS.alive:
        state, answers[site] = secure_sum.reveal(states[site], 1, SURVIVORS, consents)
        states[site], again = secure_sum.reveal(stored(state), 1, SURVIVORS, consents)
        assert again == answers[site]
    known = secure_total.read_announcements(RUN, keys)
    total = secure_total.total(known, 1, SURVIVORS, {s: masked[s] for s in SURVIVORS.alive}, answers)
    assert total.tolist() == sum_of(VECTORS, SURVIVORS.alive).tolist()


def test_a_set_up_step_is_answered_once() -> None:
    states, keys = {}, {}
    for site in RUN.sites:
        states[site], keys[site] = secure_sum.begin(RUN, site, identity(site))
    dealt, _ = secure_sum.deal(states["s00"], keys)
    others = {**keys, "s01": secure_sum.begin(RUN, "s01", identity("s01"))[1]}
    with pytest.raises(errors.AnsweredOtherwiseError):
        secure_sum.deal(stored(dealt), others)
    boxes = {site: secure_sum.deal(states[site], keys)[1]["s00"] for site in RUN.sites if site != "s00"}
    ready = secure_sum.receive(dealt, boxes)
    with pytest.raises(errors.AnsweredOtherwiseError):
        secure_sum.receive(stored(ready), {**boxes, "s01": boxes["s02"]})


def test_what_is_over_is_gone_from_the_state() -> None:
    """Not one 8-byte piece of a past round's secrets and shares is left in the stored bytes."""
    federation = Federation(RUN)
    before = federation.states["s00"]
    secrets = [
        array.tobytes()
        for number in (0, 1)
        for array in (*before.secrets[:, number], *before.held[:, :, number].reshape(-1, 32))
    ]
    opened = state_bytes(before)
    assert all(secret[:8] in opened for secret in secrets)
    federation.round(0, VECTORS)
    masked, _ = secure_sum.mask(federation.states["s00"], 1, VECTORS["s00"])
    later, _ = secure_sum.mask(masked, 2, VECTORS["s00"])  # round 1 was never finished, and is over nevertheless
    content = state_bytes(later)
    assert not any(secret[at : at + 8] in content for secret in secrets for at in range(0, 32, 8))
    assert later.secrets.shape == (2, 1, 32)


def test_the_channel_key_is_gone_once_the_boxes_are_open() -> None:
    state, message = secure_sum.begin(RUN, "s00", identity("s00"))
    keys = {site: secure_sum.begin(RUN, site, identity(site)) for site in RUN.sites[1:]}
    messages = {"s00": message, **{site: one for site, (_, one) in keys.items()}}
    dealt, _ = secure_sum.deal(state, messages)
    boxes = {site: secure_sum.deal(one, messages)[1]["s00"] for site, (one, _) in keys.items()}
    assert state.channel_key in state_bytes(dealt)
    assert state.channel_key not in state_bytes(secure_sum.receive(dealt, boxes))


STATE = state_bytes(Federation(RUN).states["s00"])


@given(st.integers(0, len(STATE) - 1), st.integers(1, 255))
def test_a_damaged_state_is_read_as_a_state_or_refused(at: int, change: int) -> None:
    damaged = bytearray(STATE)
    damaged[at] ^= change
    try:
        read_state(bytes(damaged))
    except ArchipelError:
        return


@pytest.mark.parametrize("content", [b"", b"{}", STATE[:-1], STATE + b"\0", STATE[: len(STATE) // 2]])
def test_a_torn_state_is_refused(content: bytes) -> None:
    with pytest.raises(MessageError):
        read_state(content)


def test_a_state_of_another_version_is_named_as_such() -> None:
    content = STATE.replace(b'\\"version\\":1', b'\\"version\\":2')
    assert content != STATE
    with pytest.raises(IncompatibleVersionError):
        read_state(content)
