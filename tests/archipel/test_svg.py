import itertools
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archipel.svg import Canvas, Scale, nice_ticks, ratio_ticks, spread_apart

finite = st.floats(min_value=-1e6, max_value=1e6)
# XML itself forbids control characters; a browser reading HTML does not care.
written = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"), max_size=60)


@given(words=written, title=written)
def test_any_text_stays_text(words: str, title: str) -> None:
    canvas = Canvas("x", 10, 10, title=title, description=title)
    canvas.text((1, 2), words)
    root = ElementTree.fromstring(canvas.markup())
    assert [child.tag.split("}")[1] for child in root] == ["title", "desc", "text"]
    assert root[2].text == (words or None)
    assert root[0].text == (title or None)


@given(low=finite, width=st.floats(min_value=1e-3, max_value=1e6), about=st.integers(1, 12))
def test_ticks_are_round_inside_and_few(low: float, width: float, about: int) -> None:
    ticks = nice_ticks(low, low + width, about)
    assert len(ticks) <= 2 * about + 1
    assert all(low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in ticks)
    assert ticks == sorted(ticks)


def test_ticks_look_as_people_expect() -> None:
    assert nice_ticks(0, 388, 7) == [0, 100, 200, 300]
    assert nice_ticks(0, 1, 4) == [0, 0.25, 0.5, 0.75, 1]
    assert nice_ticks(5, 5, 4) == [5]


@given(low=st.floats(0.005, 0.95), high=st.floats(1.05, 200), most=st.integers(3, 8))
def test_ratio_ticks_hold_one_and_are_few(low: float, high: float, most: int) -> None:
    ticks = ratio_ticks(low, high, most)
    assert 1 in ticks
    assert all(low <= tick <= high for tick in ticks)
    assert len(ticks) <= max(most, 5)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=8), st.floats(1, 40))
def test_labels_never_overlap_and_keep_their_order(wanted: list[float], gap: float) -> None:
    placed = spread_apart(wanted, gap)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for before, after in itertools.pairwise(placed[i] for i in order):
        assert after - before >= gap - 1e-6


def test_labels_with_room_stay_where_they_are() -> None:
    assert spread_apart([10, 100, 50], 16) == [10, 100, 50]


@pytest.mark.parametrize(("logarithmic", "middle"), [(False, 2.5), (True, 2.0)])
def test_scale_maps_the_middle_and_keeps_inside(logarithmic: bool, middle: float) -> None:
    scale = Scale((1, 4), (100, 200), logarithmic=logarithmic)
    assert scale(middle) == pytest.approx(150)
    assert scale(1000) == 200
    assert scale(0.1) == 100
    assert scale.holds(4)
    assert not scale.holds(4.1)
