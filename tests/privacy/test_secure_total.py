"""The hub's side of the secure sum: a wrong share ends the round and names who gave it; no sum is silently wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import secure_errors as errors
from privacy import secure_sum, secure_total
from privacy.secure_protocol import KEY, Survivors
from tests.privacy.secure_federation import Federation, Words, identity, random_words, run_of, sum_of

RUN = run_of(6, n_rounds=2)  # threshold 5
GONE = "s05"
ALIVE = RUN.survivors(RUN.sites[:5])
ALL = RUN.survivors(RUN.sites)
HONEST = Federation(RUN)
PLAIN = random_words(np.random.default_rng(6), RUN, 4)


@dataclass(frozen=True)
class Round:
    """What the hub has in its hands at the end of a round."""

    survivors: Survivors
    vectors: Mapping[str, Words]
    answers: Mapping[str, bytes]


def played(survivors: Survivors, number: int = 0) -> Round:
    """An honest round, from the state after set-up."""
    states, vectors = {}, {}
    for site in RUN.sites:
        states[site], vectors[site] = secure_sum.mask(HONEST.states[site], number, PLAIN[site])
    consents = {}
    for site in survivors.alive:
        states[site], consents[site] = secure_sum.consent(states[site], number, survivors, identity(site))
    answers = {site: secure_sum.reveal(states[site], number, survivors, consents)[1] for site in survivors.alive}
    return Round(survivors, {site: vectors[site] for site in survivors.alive}, answers)


def total(one: Round, number: int = 0) -> Words:
    return secure_total.total(HONEST.announcements, number, one.survivors, one.vectors, one.answers)


def flipped(answer: bytes, owner: str) -> bytes:
    """The shares with one bit of the share of `owner`'s secret changed."""
    changed = bytearray(answer)
    changed[KEY * (1 + RUN.sites.index(owner)) + 11] ^= 4
    return bytes(changed)


@pytest.mark.parametrize("survivors", [ALL, ALIVE])
def test_honest_rounds_give_the_sum(survivors: Survivors) -> None:
    assert total(played(survivors)).tolist() == sum_of(PLAIN, survivors.alive).tolist()


def test_the_threshold_of_answers_is_enough_and_it_does_not_matter_whose() -> None:
    one = played(ALL)
    for missing in RUN.sites:
        fewer = {site: answer for site, answer in one.answers.items() if site != missing}
        assert total(replace(one, answers=fewer)).tolist() == sum_of(PLAIN, RUN.sites).tolist()


@pytest.mark.parametrize("liar", RUN.sites)
@pytest.mark.parametrize("owner", ["s00", "s03", "s05"])
def test_a_wrong_share_among_more_than_needed_names_the_site_that_gave_it(liar: str, owner: str) -> None:
    one = played(ALL)
    answers = {**one.answers, liar: flipped(one.answers[liar], owner)}
    with pytest.raises(errors.SharesDisagreeError, match=f"shares from {liar} disagree") as raised:
        total(replace(one, answers=answers))
    assert raised.value.sites == (liar,)


@pytest.mark.parametrize("owner", ["s00", GONE])
def test_a_wrong_share_among_just_enough_names_the_owner_and_all_who_answered(owner: str) -> None:
    one = played(ALIVE)
    answers = {**one.answers, "s02": flipped(one.answers["s02"], owner)}
    with pytest.raises(errors.SharesDisagreeError, match=f"of the secrets of {owner}") as raised:
        total(replace(one, answers=answers))
    assert raised.value.sites == RUN.sites[:5]


def test_two_liars_end_the_round_too() -> None:
    one = played(ALL)
    answers = {**one.answers, **{site: flipped(one.answers[site], "s04") for site in ("s01", "s02")}}
    with pytest.raises(errors.SharesDisagreeError):
        total(replace(one, answers=answers))


ENDED = played(ALIVE)


@given(st.sampled_from(ALIVE.alive), st.data())
def test_no_changed_byte_of_anybodys_shares_changes_the_sum(site: str, data: st.DataObject) -> None:
    """It ends the round, or falls on the five bits of a mask key that X25519 overwrites, where nothing changes."""
    changed = bytearray(ENDED.answers[site])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = total(replace(ENDED, answers={**ENDED.answers, site: bytes(changed)}))
    except (errors.SharesDisagreeError, errors.WrongContextError):
        return
    assert found.tolist() == sum_of(PLAIN, ALIVE.alive).tolist()
    changes = np.frombuffer(bytes(changed), dtype=np.uint8) ^ np.frombuffer(ENDED.answers[site], dtype=np.uint8)
    assert np.flatnonzero(changes)[0] in (len(changes) - KEY, len(changes) - 1), (
        "first or last byte of the key of s05"
    )


def only(one: Round, *sites: str) -> dict[str, bytes]:
    return {site: one.answers[site] for site in sites}


FAULTS: list[tuple[str, Callable[[Round], Round], type[errors.SecureSumError]]] = [
    ("too few shares", lambda r: replace(r, answers=only(r, "s00", "s01", "s02", "s03")), errors.ThresholdError),
    ("shares of a stranger", lambda r: replace(r, answers={**r.answers, "x": b""}), errors.UnknownPeerError),
    ("shares of a dropped site", lambda r: replace(r, answers={**r.answers, GONE: b""}), errors.UnknownPeerError),
    ("cut short", lambda r: replace(r, answers={**r.answers, "s00": r.answers["s00"][:-1]}), errors.WrongLengthError),
    ("of another list", lambda r: replace(r, answers={**r.answers, "s00": played(ALL).answers["s00"]}),
     errors.WrongContextError),
    ("of another round", lambda r: replace(r, answers={**r.answers, "s00": played(ALIVE, 1).answers["s00"]}),
     errors.WrongContextError),
    ("a vector missing", lambda r: replace(r, vectors={s: v for s, v in r.vectors.items() if s != "s01"}),
     errors.MissingPeerError),
    ("a vector too many", lambda r: replace(r, vectors={**r.vectors, GONE: PLAIN[GONE]}), errors.UnknownPeerError),
    ("a shorter vector", lambda r: replace(r, vectors={**r.vectors, "s00": r.vectors["s00"][:3]}),
     errors.WrongLengthError),
    ("vectors of floats", lambda r: replace(r, vectors={s: np.zeros(4) for s in r.vectors}),  # type: ignore[misc]
     errors.WrongLengthError),
    ("a list below threshold", lambda r: replace(r, survivors=RUN.survivors(RUN.sites[:4])), errors.ThresholdError),
    ("overlap", lambda r: replace(r, survivors=Survivors(RUN.sites, (GONE,))), errors.OverlapError),
]  # fmt: skip


@pytest.mark.parametrize(("situation", "fault", "error"), FAULTS, ids=[name for name, _, _ in FAULTS])
def test_a_round_that_does_not_add_up_has_no_sum(
    situation: str, fault: Callable[[Round], Round], error: type[errors.SecureSumError]
) -> None:
    with pytest.raises(error) as raised:
        total(fault(played(ALIVE)))
    assert type(raised.value) is error


def test_a_round_that_the_run_has_not_has_no_sum() -> None:
    with pytest.raises(errors.RunError):
        total(played(ALL), 2)


def test_every_site_gets_the_boxes_of_its_peers_and_the_hub_notices_a_missing_one() -> None:
    boxes = {s: {p: f"{s}>{p}".encode() for p in RUN.sites if p != s} for s in RUN.sites}
    inboxes = secure_total.inboxes(RUN, boxes)
    assert inboxes["s02"] == {s: f"{s}>s02".encode() for s in RUN.sites if s != "s02"}
    for damaged, error in (
        ({s: b for s, b in boxes.items() if s != "s01"}, errors.MissingPeerError),
        ({**boxes, "s01": {p: b for p, b in boxes["s01"].items() if p != "s02"}}, errors.MissingPeerError),
        ({**boxes, "s01": {**boxes["s01"], "s01": b""}}, errors.UnknownPeerError),
        ({**boxes, "x": boxes["s01"]}, errors.UnknownPeerError),
    ):
        with pytest.raises(error):
            secure_total.inboxes(RUN, damaged)


def test_the_hub_loads_nothing_that_holds_a_sites_secrets() -> None:
    code = "import sys, privacy.secure_total; print(*sorted(m for m in sys.modules if m.startswith('privacy.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "privacy.secure_total" in loaded
    assert "privacy.secure_sum" not in loaded
    assert "privacy.secure_state" not in loaded
