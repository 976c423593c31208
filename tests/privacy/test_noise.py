"""Noise on the grid: the right distribution from the right source, and nothing of the sum's lowest digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from privacy import noise as noise_module
from privacy.fixed_point import decode_arrays, encode_arrays
from privacy.noise import MAX_STD_UNITS, Source, discrete_gaussian, grid_of, noisy, system_words
from schemas.plan import ArraySpec, Noise, PartSpec

PART = PartSpec(
    name="gradient",
    sends=(),
    releases=(
        ArraySpec(name="slope", shape=(3, 2), meaning="slopes"),
        ArraySpec(name="value", shape=(), meaning="value"),
    ),
    times=5,
    noise=Noise(sensitivity=2.0, share=0.1, honest_sites=3),
)
NOISES = st.builds(
    Noise, sensitivity=st.floats(1e-2, 1e3), share=st.floats(1e-3, 1.0), honest_sites=st.integers(1, 30)
)


def seeded(seed: int) -> Source:
    rng = np.random.default_rng(seed)
    return lambda n: rng.integers(0, 2**64, size=n, dtype=np.uint64)


def summand(seed: int = 0) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return {"slope": rng.normal(size=(3, 2)) * 40, "value": np.array(rng.normal())}


@pytest.mark.parametrize("std", [1, 2, 7, 30])
def test_the_discrete_gaussian_has_its_probabilities(std: int) -> None:
    n = 100_000
    drawn = discrete_gaussian(std, n, seeded(std))
    values = np.arange(-12 * std, 12 * std + 1)
    expected = np.exp(-(values**2) / (2 * std**2))
    expected *= n / expected.sum()
    counts = np.bincount(drawn + 12 * std, minlength=values.size)
    common = expected >= 5
    observed = [*counts[common], counts[~common].sum()]
    wanted = [*expected[common], expected[~common].sum()]
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


def test_at_the_size_in_use_it_is_a_gaussian_to_every_test() -> None:
    std = 2**24
    drawn = discrete_gaussian(std, 40_000, seeded(1)) / std
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert abs(drawn.mean()) < 4 / 200
    assert abs(drawn.var() - 1) < 4 * math.sqrt(2 / 40_000)
    assert abs(stats.kurtosis(drawn)) < 4 * math.sqrt(24 / 40_000)


def test_its_lowest_digits_are_uniform() -> None:
    drawn = discrete_gaussian(2**20, 40_000, seeded(2))
    assert stats.chisquare(np.bincount(drawn % 64, minlength=64)).pvalue > 1e-3


@pytest.mark.parametrize("std", [0, -1, MAX_STD_UNITS + 1])
def test_a_size_that_would_leave_64_bits_is_refused(std: int) -> None:
    with pytest.raises(ValueError, match="standard deviation"):
        discrete_gaussian(std, 1, seeded(0))


def test_no_numbers_need_no_noise() -> None:
    assert discrete_gaussian(5, 0, seeded(0)).shape == (0,)


@given(bound=st.integers(1, 2**63), n=st.integers(0, 50), seed=st.integers(0, 1000))
def test_whole_numbers_stay_below_their_bound(bound: int, n: int, seed: int) -> None:
    drawn = noise_module._below(np.full(n, bound, dtype=np.uint64), seeded(seed))
    assert drawn.shape == (n,)
    assert all(int(number) < bound for number in drawn)


def test_words_that_would_make_small_numbers_likelier_are_drawn_again() -> None:
    bound = 3 * 2**62  # 2^64 leaves a quarter over
    words = iter([np.array([5], dtype=np.uint64), np.array([2**63], dtype=np.uint64)])
    assert noise_module._below(np.array([bound], dtype=np.uint64), lambda n: next(words)) == [2**63]


def test_the_probability_of_an_exponential_is_right_above_one_too() -> None:
    n = 200_000
    for numerator, denominator in [(1, 3), (5, 5), (12, 5), (1, 1)]:
        drawn = noise_module._bernoulli_exp(np.full(n, numerator, dtype=np.uint64), denominator, seeded(numerator))
        p = math.exp(-numerator / denominator)
        assert abs(drawn.mean() - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_the_systems_randomness_is_never_the_same() -> None:
    assert not np.array_equal(system_words(4), system_words(4))
    assert not np.array_equal(noisy(summand(), PART, 1.0)["slope"], noisy(summand(), PART, 1.0)["slope"])


def test_the_noise_of_the_sites_that_are_counted_on_adds_up_to_what_the_guarantee_needs() -> None:
    mu, n = 0.5, 3000
    part = PART.model_copy(update={"releases": (ArraySpec(name="slope", shape=(n,), meaning="slopes"),)})
    zero = {"slope": np.zeros(n)}
    total = sum(noisy(zero, part, mu, seeded(site))["slope"] for site in range(3))
    assert np.std(total) == pytest.approx(2.0 / mu, rel=4 / math.sqrt(2 * n))


@given(noise=NOISES, mu=st.floats(1e-3, 10.0), n_numbers=st.integers(1, 10_000))
def test_the_noise_is_never_less_than_its_share_and_hardly_more(noise: Noise, mu: float, n_numbers: int) -> None:
    grid = grid_of(noise, mu, n_numbers)
    wanted = noise.sensitivity / (mu * math.sqrt(noise.honest_sites))
    rounding = 2 * math.sqrt(n_numbers) * grid.unit / (mu * math.sqrt(noise.honest_sites))
    assert math.frexp(grid.unit)[0] == 0.5
    assert 2**23 <= grid.std_units <= MAX_STD_UNITS
    assert wanted + rounding <= grid.std * (1 + 1e-12)
    assert grid.std <= (wanted + rounding) * (1 + 1e-6)


def test_what_leaves_lies_on_the_grid_whatever_the_summand_was() -> None:
    grid = grid_of(PART.noise, 1.0, 7) if PART.noise else None
    assert grid is not None
    out = noisy(summand(), PART, 1.0, seeded(3))
    assert {name: array.shape for name, array in out.items()} == {"slope": (3, 2), "value": ()}
    for name, array in out.items():
        in_units = array / grid.unit
        assert np.array_equal(in_units, np.rint(in_units))
        assert np.all(np.abs(array - summand()[name]) < 8 * grid.std)


def test_digits_below_the_grid_do_not_leave() -> None:
    one = summand()
    other = {name: array + 1e-9 for name, array in one.items()}
    for name in one:
        assert np.array_equal(noisy(one, PART, 1.0, seeded(4))[name], noisy(other, PART, 1.0, seeded(4))[name])


def test_masks_hold_the_noisy_sum_exactly() -> None:
    answers = [noisy(summand(site), PART, 0.3, seeded(site)) for site in range(3)]
    vectors = [encode_arrays(answer, PART.releases, 3) for answer in answers]
    total = decode_arrays(np.sum(vectors, axis=0, dtype=np.uint64), PART.releases, 3)
    for name, array in total.items():
        assert np.array_equal(array, np.sum([answer[name] for answer in answers], axis=0))


def test_a_part_without_noise_and_a_number_beyond_the_noise_are_refused() -> None:
    with pytest.raises(ValueError, match="adds no noise"):
        noisy(summand(), PART.model_copy(update={"noise": None}), 1.0, seeded(0))
    with pytest.raises(ValueError, match="too large"):
        noisy({**summand(), "value": np.array(1e12)}, PART, 1.0, seeded(0))
