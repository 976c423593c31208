"""A round at a site whose hub asks what it should not: one vector is masked, one list answered, one share given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import secure_errors as errors
from privacy import secure_sum
from privacy.secure_protocol import KEY, Survivors
from privacy.secure_sum import MASK_KEYS, SELF_SEEDS
from tests.privacy.secure_federation import Federation, identity, run_of

RUN = run_of(4, n_rounds=3)
HONEST = Federation(RUN)
VECTOR = np.arange(5, dtype=np.uint64)
ALL = RUN.survivors(RUN.sites)
WITHOUT_3 = RUN.survivors(["s00", "s01", "s02"])


def ready() -> secure_sum.Ready:
    return HONEST.states["s00"]


def masked(number: int = 0) -> secure_sum.Ready:
    return secure_sum.mask(ready(), number, VECTOR)[0]


def signatures(number: int, survivors: Survivors, *sites: str) -> dict[str, bytes]:
    found = {}
    for site in sites:
        state, _ = secure_sum.mask(HONEST.states[site], number, VECTOR)
        _, found[site] = secure_sum.consent(state, number, survivors, identity(site))
    return found


LISTS: list[tuple[str, Survivors, type[errors.SecureSumError]]] = [
    ("alive and dead overlap", Survivors(RUN.sites, ("s03",)), errors.OverlapError),
    ("a third of them twice", Survivors(("s00", "s01", "s02"), ("s02", "s03")), errors.OverlapError),
    ("below threshold", RUN.survivors(["s00", "s01"]), errors.ThresholdError),
    ("nobody", RUN.survivors([]), errors.ThresholdError),
    ("without the site itself", RUN.survivors(["s01", "s02", "s03"]), errors.SurvivorsError),
    ("an invented survivor", Survivors(("s00", "s01", "s02", "s04"), ("s03",)), errors.UnknownPeerError),
    ("an invented dropout", Survivors(RUN.sites, ("s04",)), errors.UnknownPeerError),
    ("a site in neither", Survivors(("s00", "s01", "s02"), ()), errors.SurvivorsError),
    ("a survivor twice", Survivors(("s00", "s00", "s01", "s02"), ("s03",)), errors.SurvivorsError),
    ("in another order", Survivors(("s01", "s00", "s02"), ("s03",)), errors.SurvivorsError),
]


@pytest.mark.parametrize(("situation", "survivors", "error"), LISTS, ids=[name for name, _, _ in LISTS])
def test_a_list_that_is_none_gets_no_shares_and_no_signature(
    situation: str, survivors: Survivors, error: type[errors.SecureSumError]
) -> None:
    state = masked()
    for ask in (
        lambda: secure_sum.reveal(state, 0, survivors, signatures(0, WITHOUT_3, "s00", "s01", "s02")),
        lambda: secure_sum.consent(state, 0, survivors, identity("s00")),
    ):
        with pytest.raises(error) as raised:
            ask()
        assert type(raised.value) is error


CONSENTS: list[tuple[str, Callable[[], dict[str, bytes] | None], type[errors.SecureSumError]]] = [
    ("none", lambda: None, errors.ThresholdError),
    ("too few", lambda: signatures(0, WITHOUT_3, "s00", "s01"), errors.ThresholdError),
    ("one of the dropped", lambda: {**signatures(0, WITHOUT_3, "s00", "s01"), "s03": b""}, errors.UnknownPeerError),
    ("to another list", lambda: signatures(0, ALL, "s00", "s01", "s02"), errors.ForgedSignatureError),
    ("of another round", lambda: signatures(1, WITHOUT_3, "s00", "s01", "s02"), errors.ForgedSignatureError),
    ("one forged", lambda: {**signatures(0, WITHOUT_3, "s00", "s01"), "s02": bytes(64)}, errors.ForgedSignatureError),
    ("one signed for two", lambda: copied(signatures(0, WITHOUT_3, "s00", "s01")), errors.ForgedSignatureError),
]


def copied(consents: dict[str, bytes]) -> dict[str, bytes]:
    return {**consents, "s02": consents["s01"]}


@pytest.mark.parametrize(("situation", "consents", "error"), CONSENTS, ids=[name for name, _, _ in CONSENTS])
def test_a_list_that_leaves_somebody_out_needs_the_threshold_of_signatures(
    situation: str, consents: Callable[[], dict[str, bytes] | None], error: type[errors.SecureSumError]
) -> None:
    with pytest.raises(error) as raised:
        secure_sum.reveal(masked(), 0, WITHOUT_3, consents())
    assert type(raised.value) is error
    secure_sum.reveal(masked(), 0, WITHOUT_3, signatures(0, WITHOUT_3, "s00", "s01", "s02"))


def test_a_second_list_is_refused_after_shares_and_after_a_signature() -> None:
    revealed, _ = secure_sum.reveal(masked(), 0, ALL)
    signed, _ = secure_sum.consent(masked(), 0, WITHOUT_3, identity("s00"))
    three = signatures(0, WITHOUT_3, "s00", "s01", "s02")
    for state, other in ((revealed, WITHOUT_3), (signed, ALL), (signed, RUN.survivors(["s00", "s01", "s03"]))):
        with pytest.raises(errors.SecondListError):
            secure_sum.reveal(state, 0, other, three)
        with pytest.raises(errors.SecondListError):
            secure_sum.consent(state, 0, other, identity("s00"))


def test_of_each_peer_one_share_is_given_and_the_right_one() -> None:
    state = masked()
    _, answer = secure_sum.reveal(state, 0, WITHOUT_3, signatures(0, WITHOUT_3, "s00", "s01", "s02"))
    rows = np.frombuffer(answer, dtype=np.uint8).reshape(-1, KEY)[1:]
    assert len(rows) == 4
    for i, kind in enumerate([SELF_SEEDS, SELF_SEEDS, SELF_SEEDS, MASK_KEYS]):
        assert np.array_equal(rows[i], state.held[i, kind, 0])


def test_two_vectors_are_never_masked_in_one_round() -> None:
    state = masked()
    with pytest.raises(errors.AnsweredOtherwiseError):
        secure_sum.mask(state, 0, VECTOR + np.uint64(1))
    with pytest.raises(errors.AnsweredOtherwiseError):
        secure_sum.mask(state, 0, VECTOR[:4])


def test_a_round_that_is_over_is_over() -> None:
    over, _ = secure_sum.reveal(masked(), 0, ALL)
    later = masked(1)
    for state in (over, later, secure_sum.mask(over, 2, VECTOR)[0]):
        with pytest.raises(errors.RoundOverError):
            secure_sum.mask(state, 0, VECTOR)
    for ask in (secure_sum.reveal, lambda *words: secure_sum.consent(*words, identity("s00"))):
        with pytest.raises(errors.RoundOverError):
            ask(later, 0, ALL)


def test_shares_are_given_only_in_a_round_in_which_a_vector_was_masked() -> None:
    for state, number in ((ready(), 0), (masked(0), 1)):
        with pytest.raises(errors.NotMaskedError):
            secure_sum.reveal(state, number, ALL)
        with pytest.raises(errors.NotMaskedError):
            secure_sum.consent(state, number, ALL, identity("s00"))


@pytest.mark.parametrize("number", [-1, 3, 10**9])
def test_a_round_that_the_run_has_not_is_refused(number: int) -> None:
    with pytest.raises(errors.RunError):
        secure_sum.mask(ready(), number, VECTOR)
    with pytest.raises(errors.RunError):
        secure_sum.reveal(masked(), number, ALL)


@pytest.mark.parametrize("vector", [np.zeros(3), np.zeros((2, 2), dtype=np.uint64), np.zeros(0, dtype=np.uint64)])
def test_only_a_row_of_words_is_masked(vector: np.ndarray) -> None:
    with pytest.raises(errors.WrongLengthError):
        secure_sum.mask(ready(), 0, vector)


def test_a_list_is_read_as_it_was_written() -> None:
    assert Survivors.read(WITHOUT_3.content) == WITHOUT_3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        ALL.content + b" ",
        b"[" * 100_000,
        b'{"alive":["s00"],"dropped":1}',
        b'{"alive":"s0","dropped":[]}',
        b'{"alive":[1],"dropped":[]}',
        b'{"alive":[],"dropped":[],"more":[]}',
    ],
)
def test_what_is_not_exactly_a_list_is_refused(content: bytes) -> None:
    with pytest.raises(errors.SurvivorsError):
        Survivors.read(content)


@given(st.binary(max_size=60))
def test_noise_is_no_list(noise: bytes) -> None:
    with pytest.raises(errors.SurvivorsError):
        Survivors.read(noise)
