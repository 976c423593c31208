"""Shares over GF(2^8): as a slow obvious version says, any threshold of them rebuild, fewer say nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.shamir import combine, split


# ---------------------------------------------------------------- slow and obvious
def times(a: int, b: int) -> int:
    """The product in the field of AES, bit by bit (FIPS 197, 4.2)."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= 0x11B << (bit - 8)
    return product


def inverse(a: int) -> int:
    return next(b for b in range(1, 256) if times(a, b) == 1)


def interpolate(points: list[int], values: list[int], at: int) -> int:
    total = 0
    for i, (x, y) in enumerate(zip(points, values, strict=True)):
        weight = 1
        for other in points[:i] + points[i + 1 :]:
            weight = times(weight, times(at ^ other, inverse(x ^ other)))
        total ^= times(weight, y)
    return total


def test_the_product_is_the_one_of_the_standard() -> None:
    assert times(0x57, 0x83) == 0xC1  # FIPS 197, 4.2


# ---------------------------------------------------------------- laws
sizes = st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@settings(max_examples=60)
@given(sizes, st.binary(min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_gives_the_secret_back(size: tuple[int, int], secret: bytes, random: object) -> None:
    n, t = size
    secrets = np.frombuffer(secret, dtype=np.uint8)
    shares = split(secrets, n, t)
    chosen = random.sample(range(n), t)  # type: ignore[attr-defined]
    assert combine([i + 1 for i in chosen], shares[chosen]).tobytes() == secret
    assert combine(list(range(1, n + 1)), shares).tobytes() == secret, "more shares than needed do no harm"


@settings(max_examples=30)
@given(sizes, st.binary(min_size=1, max_size=3), st.integers(0, 255))
def test_the_fast_version_is_the_slow_one(size: tuple[int, int], secret: bytes, at: int) -> None:
    n, t = size
    shares = split(np.frombuffer(secret, dtype=np.uint8), n, t)
    points = list(range(1, n + 1))
    slow = [interpolate(points, [int(v) for v in shares[:, k]], at) for k in range(len(secret))]
    assert combine(points, shares, at=at).tolist() == slow


@given(st.integers(2, 8), st.integers(0, 255))
def test_a_share_is_what_the_others_say_it_is(n: int, byte: int) -> None:
    shares = split(np.array([byte], dtype=np.uint8), n, n - 1)
    assert combine(list(range(1, n)), shares[:-1], at=n) == shares[-1]


def test_fewer_shares_fit_every_secret() -> None:
    """Two of three: for one share and each of 256 secrets there is exactly one polynomial."""
    share = int(split(np.array([42], dtype=np.uint8), 3, 2)[0, 0])
    others = {interpolate([0, 1], [secret, share], 2) for secret in range(256)}
    assert others == set(range(256))


def test_single_shares_are_uniform() -> None:
    secrets = np.full(256 * 400, 7, dtype=np.uint8)
    for share in split(secrets, 3, 2):
        counts = np.bincount(share, minlength=256)
        statistic = float(((counts - 400) ** 2 / 400).sum())
        assert 150 < statistic < 380, "chi-square with 255 degrees of freedom, beyond 1e-5 on either side"


def test_all_rounds_are_shared_at_once_and_each_byte_on_its_own() -> None:
    secrets = np.random.default_rng(1).integers(0, 256, (2, 50, 32), dtype=np.uint8)
    shares = split(secrets, 5, 4)
    assert shares.shape == (5, 2, 50, 32)
    for chosen in itertools.combinations(range(5), 4):
        assert np.array_equal(combine([i + 1 for i in chosen], shares[list(chosen)]), secrets)
    part = shares[:, 1, 7]
    assert np.array_equal(combine([1, 2, 3, 4], part[:4]), secrets[1, 7])


@pytest.mark.parametrize(("n", "t"), [(3, 0), (3, 4), (256, 200), (0, 0)])
def test_shares_that_cannot_be_are_refused(n: int, t: int) -> None:
    with pytest.raises(ValueError):
        split(np.zeros(1, dtype=np.uint8), n, t)


@pytest.mark.parametrize("points", [[], [1, 1], [0, 1], [1, 256], [1]])
def test_points_that_cannot_be_are_refused(points: list[int]) -> None:
    with pytest.raises(ValueError):
        combine(points, np.zeros((2, 4), dtype=np.uint8))
