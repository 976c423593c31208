"""Which models show numbers: signed, accepted, not withdrawn, not expired; and why the others do not."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from client.model_fetch import fetch_models
from client.models import accept_model, remove_model
from client.page.open_model import OpenModel, OpenModels
from client.page.shapes import Refused
from tests.client.page.page_kit import codes, small_model
from tests.model_release import NOW, SmallHub


def now() -> datetime.datetime:
    return NOW


class Held:
    """A site that has accepted one model of a hub."""

    def __init__(self, folder: Path, *, expires: datetime.date | None = None) -> None:
        self.hub = SmallHub(folder / "hub")
        self.home = self.hub.site(folder / "brest")
        self.key = self.hub.release(expires=expires)
        fetch_models(self.home, self.hub.call(self.home), now=now)
        self.models = OpenModels(self.home, now)

    def refused(self) -> list[str]:
        found = self.models.open(self.key)
        assert isinstance(found, Refused), "the model was opened"
        return codes(found)


@pytest.fixture
def held(tmp_path: Path) -> Held:
    return Held(tmp_path)


def test_an_accepted_model_is_opened_and_kept_until_its_file_changes(held: Held) -> None:
    accept_model(held.home, held.key, who="A", now=now)
    first = held.models.open(held.key)
    assert isinstance(first, OpenModel)
    assert (first.hash, first.plan, first.origin) == (held.key, None, "")
    assert held.models.open(held.key) is first
    file = held.home / "models" / held.key / "model.safetensors"
    file.touch()
    assert held.models.open(held.key) is not first
    assert [one.listed.hash for one in held.models.usable()] == [held.key]


def test_no_number_before_somebody_accepted_the_model(held: Held) -> None:
    assert held.refused() == ["not-accepted"]
    assert held.models.usable() == ()


def test_no_number_from_a_withdrawn_model_from_the_next_click_on(held: Held) -> None:
    accept_model(held.home, held.key, who="A", now=now)
    assert isinstance(held.models.open(held.key), OpenModel)
    held.hub.withdraw(held.key, "steroids were coded the wrong way round")
    fetch_models(held.home, held.hub.call(held.home), now=now)
    found = held.models.open(held.key)
    assert isinstance(found, Refused)
    assert dict(found.reasons[0].values)["reason"] == "steroids were coded the wrong way round"
    assert codes(found) == ["withdrawn"]


def test_no_number_after_the_last_day(tmp_path: Path) -> None:
    held = Held(tmp_path, expires=NOW.date())
    accept_model(held.home, held.key, who="A", now=now)
    assert isinstance(held.models.open(held.key), OpenModel)
    held.models = OpenModels(held.home, lambda: NOW + datetime.timedelta(days=1))
    assert held.refused() == ["expired"]


def test_no_number_from_a_file_that_was_altered_while_the_page_runs(held: Held) -> None:
    accept_model(held.home, held.key, who="A", now=now)
    assert isinstance(held.models.open(held.key), OpenModel)
    file = held.home / "models" / held.key / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert held.refused() == ["signature"]
    file.unlink()
    assert held.refused() == ["signature"]


def test_no_number_when_another_key_is_pinned(held: Held) -> None:
    accept_model(held.home, held.key, who="A", now=now)
    assert isinstance(held.models.open(held.key), OpenModel)
    kit = held.home / "keys" / "hub.json"
    text = kit.read_text()
    before = text.index('"model_public_key"')
    start = text.index('"', text.index(":", before)) + 1
    kit.write_text(text[:start] + "A" * 43 + text[start + 43 :])
    assert held.refused() == ["signature"]


def test_a_model_that_is_not_here_is_said_not_to_be(held: Held) -> None:
    accept_model(held.home, held.key, who="A", now=now)
    remove_model(held.home, held.key, who="A")
    assert held.refused() == ["not-here"]
    unknown = held.models.open("")
    assert isinstance(unknown, Refused)
    assert codes(unknown) == ["not-here"]


def test_a_card_that_says_nothing_of_the_penalty_counts_as_penalised(held: Held) -> None:
    accept_model(held.home, held.key, who="A", now=now)
    found = held.models.open(held.key)
    assert isinstance(found, OpenModel)
    assert found.is_penalised


def test_a_model_says_itself_from_when_time_is_counted() -> None:
    """Also at a site that never saw the study's plan."""
    said = small_model(time_origin="From diagnosis to death or last contact")
    assert (said.plan, said.origin) == (None, "From diagnosis to death or last contact")
    assert small_model().origin == ""
