"""One living agent per site: a crashed one is replaced at once, a copy has to wait."""

from __future__ import annotations

from server.presence import SILENT_S, Presence


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_same_folder_takes_its_place_again_at_once() -> None:
    presence = Presence(Clock())
    assert presence.replace(1, "here")
    presence.hear(1)
    assert presence.replace(1, "here")


def test_a_copy_is_refused_while_the_first_is_heard() -> None:
    clock = Clock()
    presence = Presence(clock)
    assert presence.replace(1, "here")
    for _ in range(10):
        clock.now += SILENT_S - 1
        assert not presence.replace(1, "there")
        assert not presence.replace(1, "")
        presence.hear(1)
    clock.now += SILENT_S
    assert presence.replace(1, "there")
    assert not presence.replace(1, "here")


def test_who_left_is_replaced_by_anyone() -> None:
    presence = Presence(Clock())
    assert presence.replace(1, "here")
    presence.leave(1)
    assert presence.replace(1, "there")


def test_one_that_does_not_say_where_it_runs_is_never_the_same() -> None:
    presence = Presence(Clock())
    assert presence.replace(1, "")
    assert not presence.replace(1, "")


def test_sites_do_not_stand_in_each_others_way() -> None:
    presence = Presence(Clock())
    assert presence.replace(1, "here")
    assert presence.replace(2, "here")
