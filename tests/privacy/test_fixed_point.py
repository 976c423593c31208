"""Numbers as words modulo 2^64: decoded as encoded, never wrapped, and as exact as the docs say."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privacy.fixed_point import (
    COARSEST_EXPONENT,
    EncodingRefusedError,
    NotFiniteError,
    OutOfBoundError,
    WrongFormError,
    decode_arrays,
    encode_arrays,
    scale_of,
    vector_length,
)
from schemas.plan import ArraySpec

bounds = st.floats(1e-200, 1e24)
numbers_of_sites = st.integers(2, 255)


def spec(bound: float, shape: tuple[int, ...] = (), name: str = "x") -> ArraySpec:
    return ArraySpec(name=name, shape=shape, meaning="numbers", bound=bound)


@given(bounds, numbers_of_sites)
def test_the_largest_sum_does_not_wrap_and_twice_the_scale_could(bound: float, n: int) -> None:
    scale = scale_of(bound, n)
    rest = Fraction(bound)
    for k in scale.exponents:
        assert n * (rest * Fraction(2) ** k + Fraction(1, 2)) <= 2**63 - 1
        if k < 1000:
            assert n * (rest * Fraction(2) ** (k + 1) + Fraction(1, 2)) > 2**63 - 1, "no resolution is given away"
        rest = Fraction(1, 2) / Fraction(2) ** k
    assert scale.exponents[-1] >= COARSEST_EXPONENT
    assert all(k < COARSEST_EXPONENT for k in scale.exponents[:-1]), "no word more than needed"


@pytest.mark.parametrize(
    ("bound", "n", "words"), [(1.0, 3, 1), (2.0**20, 30, 1), (1e12, 3, 2), (1e18, 30, 2), (1e24, 30, 2)]
)
def test_tight_bounds_cost_one_word_and_the_plans_widest_two(bound: float, n: int, words: int) -> None:
    assert scale_of(bound, n).n_words == words


def test_a_sum_over_thirty_sites_keeps_nine_decimals_whatever_the_bound() -> None:
    assert max(scale_of(10.0**k, 30).sum_error(30) for k in range(-12, 25)) <= 1e-9


@settings(max_examples=200)
@given(bounds, numbers_of_sites, st.data())
def test_a_sum_is_off_by_at_most_half_a_unit_a_site(bound: float, n: int, data: st.DataObject) -> None:
    """Against exact fractions; the result itself is a float64, rounded once for each word and once for their sum."""
    values = data.draw(st.lists(st.floats(-bound, bound), min_size=1, max_size=n))
    one = (spec(bound),)
    total = np.zeros(vector_length(one, n), dtype=np.uint64)
    for value in values:
        total += encode_arrays({"x": np.array(value)}, one, n)
    exact = sum(Fraction(value) for value in values)
    found = Fraction(float(decode_arrays(total, one, n)["x"]))
    scale = scale_of(bound, n)
    rounding = (abs(exact) + Fraction(n) * Fraction(2) ** -scale.exponents[0]) * Fraction(2) ** -52
    assert abs(found - exact) <= Fraction(len(values), 2) * Fraction(2) ** -scale.exponents[-1] + rounding


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("n", [2, 3, 10, 30, 255])
@pytest.mark.parametrize("bound", [1e-9, 1.0, 3.7, 1e12, 1e24])
def test_every_site_at_the_bound_does_not_wrap(bound: float, n: int, sign: float) -> None:
    one = (spec(bound),)
    vector = encode_arrays({"x": np.array(sign * bound)}, one, n)
    total = vector * np.uint64(n)
    assert decode_arrays(total, one, n)["x"] == pytest.approx(sign * n * bound, rel=1e-15)


@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=3, max_side=4), elements=st.floats(-1e6, 1e6)),
    hnp.arrays(np.float64, (3,), elements=st.floats(-1, 1)),
    st.integers(2, 40),
)
def test_arrays_come_back_by_name_and_shape(first: np.ndarray, second: np.ndarray, n: int) -> None:
    specs = (spec(1e6, first.shape, "first"), spec(1.0, (3,), "second"), spec(1.0, (0, 2), "none"))
    arrays = {"none": np.zeros((0, 2)), "second": second, "first": first}
    vector = encode_arrays(arrays, specs, n)
    assert vector.shape == (vector_length(specs, n),)
    decoded = decode_arrays(vector, specs, n)
    assert list(decoded) == ["first", "second", "none"]
    for name, array in arrays.items():
        assert decoded[name].shape == array.shape
        assert np.abs(decoded[name] - array).max(initial=0) <= 2.0**-COARSEST_EXPONENT / 2 + 1e-9 * 2.0**-20


def test_whole_numbers_come_back_exactly() -> None:
    counts = np.array([0.0, 1, 17, 123_456_789, 1e12])
    one = (spec(1e12, (5,)),)
    vector = encode_arrays({"x": counts}, one, 30)
    assert decode_arrays(vector * np.uint64(30), one, 30)["x"].tolist() == (30 * counts).tolist()


ONE = (spec(10.0, (2,)),)
REFUSED: list[tuple[str, Callable[[], object], type[EncodingRefusedError]]] = [
    ("NaN", lambda: encode_arrays({"x": np.array([1, np.nan])}, ONE, 3), NotFiniteError),
    ("infinity", lambda: encode_arrays({"x": np.array([1, -np.inf])}, ONE, 3), NotFiniteError),
    ("a hair too large", lambda: encode_arrays({"x": np.array([1, np.nextafter(10, 11)])}, ONE, 3), OutOfBoundError),
    ("too small", lambda: encode_arrays({"x": np.array([1, -11.0])}, ONE, 3), OutOfBoundError),
    ("2^64 times the bound", lambda: encode_arrays({"x": np.array([1, 10 * 2.0**64])}, ONE, 3), OutOfBoundError),
    ("another shape", lambda: encode_arrays({"x": np.zeros(3)}, ONE, 3), WrongFormError),
    ("another type", lambda: encode_arrays({"x": np.zeros(2, dtype=np.float32)}, ONE, 3), WrongFormError),
    ("another name", lambda: encode_arrays({"y": np.zeros(2)}, ONE, 3), WrongFormError),
    ("one too many", lambda: encode_arrays({"x": np.zeros(2), "y": np.zeros(2)}, ONE, 3), WrongFormError),
    ("one too few", lambda: encode_arrays({}, ONE, 3), WrongFormError),
    ("a longer sum", lambda: decode_arrays(np.zeros(3, dtype=np.uint64), ONE, 3), WrongFormError),
    ("a shorter sum", lambda: decode_arrays(np.zeros(1, dtype=np.uint64), ONE, 3), WrongFormError),
    ("a sum of floats", lambda: decode_arrays(np.zeros(2), ONE, 3), WrongFormError),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("situation", "attempt", "error"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_what_cannot_be_summed_is_refused_and_never_wrapped(
    situation: str, attempt: Callable[[], object], error: type[EncodingRefusedError]
) -> None:
    with pytest.raises(error):
        attempt()


@pytest.mark.parametrize(("bound", "n"), [(0.0, 3), (-1.0, 3), (float("inf"), 3), (float("nan"), 3), (1.0, 0)])
def test_no_scale_without_a_bound_or_a_site(bound: float, n: int) -> None:
    with pytest.raises(ValueError):
        scale_of(bound, n)
