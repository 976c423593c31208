"""A roster names every site and key once, asks for more than two thirds, and has one hash; so has an approval."""

from __future__ import annotations

import base64
import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from archipel import enrol
from schemas.errors import MessageError
from schemas.roster import (
    TWO_SITES,
    Approval,
    fingerprint,
    least_threshold,
    make_roster,
    read_approval,
    read_roster,
)
from tests.privacy.secure_federation import public, roster_of


@given(st.integers(3, 255))
def test_the_least_threshold_is_the_least_above_two_thirds(n: int) -> None:
    t = least_threshold(n)
    assert 3 * t > 2 * n >= 3 * (t - 1)
    assert t <= n


@given(st.integers(3, 60), st.data())
def test_a_threshold_holds_exactly_above_two_thirds(n: int, data: st.DataObject) -> None:
    t = data.draw(st.integers(0, n + 1))
    if 3 * t > 2 * n and t <= n:
        assert roster_of(n, t).threshold == t
    else:
        with pytest.raises(ValueError):
            roster_of(n, t)


def test_three_sites_need_all_three() -> None:
    assert roster_of(3).threshold == 3


def test_two_sites_say_so_in_words_and_no_others_do() -> None:
    keys = {name: public(name) for name in ("one", "two", "three")}
    pair = {name: keys[name] for name in ("one", "two")}
    with pytest.raises(ValueError, match="two sites"):
        make_roster(pair)
    assert make_roster(pair, two_sites=True).two_sites == TWO_SITES
    assert make_roster(pair, two_sites=True).threshold == 2
    with pytest.raises(ValueError, match="two sites"):
        make_roster(keys, two_sites=True)
    with pytest.raises(ValueError):
        make_roster({"one": keys["one"]})


def test_no_site_and_no_key_stands_twice() -> None:
    with pytest.raises(ValueError, match="one key"):
        make_roster({"a": public("x"), "b": public("x"), "c": public("y")})
    with pytest.raises(ValueError, match="one name"):
        make_roster({"site": public("x"), "SITE": public("y"), "other": public("z")})


def test_one_key_written_in_two_ways_is_one_key() -> None:
    key = base64.b64encode(bytes(31) + b"\x00").decode()
    other = key[:-2] + "B="  # the last letter's low bits mean nothing
    assert base64.b64decode(key) == base64.b64decode(other)
    with pytest.raises(ValueError):
        make_roster({"a": key, "b": other, "c": public("y")})


def test_the_order_in_which_sites_are_named_does_not_matter() -> None:
    keys = {name: public(name) for name in ("c", "a", "b")}
    assert make_roster(keys).hash == make_roster(dict(reversed(keys.items()))).hash
    assert make_roster(keys).names == ("a", "b", "c")


def test_every_part_of_a_roster_changes_its_hash_and_fingerprint() -> None:
    rosters = [roster_of(4), roster_of(4, 4), roster_of(5), make_roster({n: public(n) for n in ("s00", "s01", "x")})]
    assert len({roster.hash for roster in rosters}) == len({roster.fingerprint for roster in rosters}) == 4


def test_a_roster_is_read_as_it_was_written() -> None:
    for roster in (roster_of(2), roster_of(3), roster_of(30, 25)):
        assert read_roster(roster.content) == roster
        assert read_roster(roster.content).hash == roster.hash


def changed(**words: Any) -> bytes:
    return json.dumps({**json.loads(roster_of(4).content), **words}, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        roster_of(4).content + b" ",
        roster_of(4).content.replace(b":", b": ", 1),
        changed(threshold=2),
        changed(threshold=3.0),
        changed(threshold="3"),
        changed(threshold=True),
        changed(version=2),
        changed(note="hello"),
        changed(sites=json.loads(roster_of(4).content)["sites"][::-1]),
        changed(sites=json.loads(roster_of(4).content)["sites"][:1] * 4),
        changed(two_sites=TWO_SITES),
    ],
)
def test_what_is_not_exactly_a_roster_is_refused(content: bytes) -> None:
    with pytest.raises(MessageError):
        read_roster(content)


@given(st.binary(max_size=200))
def test_noise_is_no_roster_and_no_approval(noise: bytes) -> None:
    with pytest.raises(MessageError):
        read_roster(noise)
    with pytest.raises(MessageError):
        read_approval(noise)


def test_the_fingerprint_is_the_one_that_enrolment_shows() -> None:
    assert fingerprint(public("s00")) == enrol.fingerprint(public("s00"))


def test_a_site_whose_pinned_fingerprint_differs_is_named() -> None:
    roster = roster_of(3)
    pins = {site.name: site.fingerprint for site in roster.sites}
    assert roster.unpinned(pins) == ()
    assert roster.unpinned({**pins, "s01": pins["s02"]}) == ("s01",)
    assert roster.unpinned({"s00": pins["s00"]}) == ("s01", "s02")


def test_an_approval_is_read_as_it_was_written_and_a_roster_is_none() -> None:
    day = datetime.date(2027, 1, 31)
    approval = Approval(site="s00", plan_hash="a" * 64, roster_hash="b" * 64, terms_hash="c" * 64, expires=day)
    assert read_approval(approval.content) == approval
    for content in (approval.content + b"\n", roster_of(3).content):
        with pytest.raises(MessageError):
            read_approval(content)
    with pytest.raises(ValidationError):
        Approval(site="s00", plan_hash="A" * 64, roster_hash="b" * 64, terms_hash="c" * 64, expires=day)
