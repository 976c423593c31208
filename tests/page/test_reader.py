"""Two languages: every text is translated, with the same blanks; numbers are written as each reader writes them."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

from client.page.reader import CATALOGS, preferred, reader_of
from client.page.rendering import TEMPLATES
from client.page.shapes import CALIBRATION_REASONS, CODES, Notice, SiteCalibration
from client.page.words import NOTICES, calibration_text, notice_text
from tests.page.texts import extracted

_BLANK = re.compile(r"%\((\w+)\)s|%%")


def test_every_text_of_the_page_has_its_french_and_no_other() -> None:
    with (CATALOGS / "fr.po").open("rb") as file:
        french = {message.id: message for message in read_po(file) if message.id}
    wanted = {message.id for message in extracted() if message.id}
    assert wanted == set(french)
    for message in french.values():
        forms = [message.string] if isinstance(message.string, str) else list(message.string)
        ids = [message.id] if isinstance(message.id, str) else list(message.id)
        assert all(forms), message.id
        assert not message.fuzzy, message.id
        blanks = [sorted(_BLANK.findall(text)) for text in ids + forms]
        assert all(one == blanks[0] for one in blanks), message.id


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.j2")), ids=lambda path: path.name)
def test_no_word_of_a_template_stands_outside_the_catalog(template: Path) -> None:
    """What is left when everything filled in and every tag is taken away; and attributes that people hear or see."""
    filled = re.sub(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}", "", template.read_text(encoding="utf-8"), flags=re.DOTALL)
    spoken = re.findall(r'(?:aria-label|title|alt|placeholder)="([^"]*)"', filled)
    plain = re.sub(r"<[^>]*>|&\w+;", " ", filled)
    words = set(re.findall(r"[^\W\d_]{2,}", " ".join([plain, *spoken])))
    assert words <= {"Archipel"}


def test_units_are_written_in_the_reader_s_language() -> None:
    french = reader_of("fr")
    assert [french.unit(unit) for unit in ("year", "years", "month", "days", "mmol/L")] == [
        "ans", "ans", "mois", "jours", "mmol/L",
    ]  # fmt: skip
    assert french.time(57, "years") == "57 ans"


@pytest.mark.parametrize("language", ["en", "fr"])
def test_every_code_has_a_sentence_with_all_its_values(language: str) -> None:
    assert set(NOTICES) == set(CODES)
    for code, names in CODES.items():
        values = {
            name: 3.5 if name in {"low", "high", "horizon", "last", "slope"} else name.upper() for name in names
        }
        text = notice_text(Notice(code, values), reader_of(language))
        assert "%" not in text, code
        assert text.endswith((".", "COLUMN", "REASON", "3.5).", ")")), (code, text)


def test_open_ends_of_a_range_are_not_left_blank() -> None:
    notice = Notice("beyond-range", {"column": "Age", "low": 18.0, "high": "", "unit": "year"})
    assert notice_text(notice, reader_of("en")) == "“Age” lies outside what the model learned from (18 to … years)."


def test_numbers_dates_and_lengths_of_time() -> None:
    english, french = reader_of("en"), reader_of("fr")
    assert (english.number(1234.5), french.number(12.5)) == ("1,234", "12,5")
    assert (english.number(-0.04, 1), english.signed(-3.26, 1), french.signed(3.26, 1)) == ("0.0", "−3.3", "+3,3")
    assert [english.time(t, "day") for t in (365, 1095, 1825, 1826, 180, 1)] == [
        "1 year", "3 years", "5 years", "5 years", "180 days", "1 day",
    ]  # fmt: skip
    assert french.time(60, "month") == "5 ans"
    assert french.date(datetime.date(2026, 11, 3)) == "3 nov. 2026"


@pytest.mark.parametrize(
    ("chosen", "accepted", "language"),
    [
        ("", "", "en"), ("", "fr-CA,fr;q=0.9,en;q=0.8", "fr"), ("", "de,fr;q=0.5", "fr"), ("en", "fr", "en"),
        ("xx", "de", "en"), ("", "," * 5000, "en"),
    ],
)  # fmt: skip
def test_the_language_chosen_goes_before_the_browser_s(chosen: str, accepted: str, language: str) -> None:
    assert preferred(chosen, accepted) == language


@pytest.mark.parametrize("reason", [*CALIBRATION_REASONS, ""])
def test_a_calibration_that_is_not_known_says_why(reason: str) -> None:
    assert calibration_text(SiteCalibration(365, reason=reason), "day", reader_of("en")).startswith("not known")
