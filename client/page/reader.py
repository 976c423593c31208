"""The reader's language: texts, numbers and dates as a reader of English or French writes them.

Texts stand in the code and templates in English; `locale/fr.po` holds the French. The catalog is compiled in memory
when it is first asked for, so no compiled file can lag behind its source.
"""

from __future__ import annotations

import datetime
import functools
import gettext as standard
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from babel import Locale
from babel.dates import format_date
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal

__all__ = ["CATALOGS", "LANGUAGES", "N_", "Reader", "preferred", "reader_of"]

CATALOGS = Path(__file__).parent / "locale"
LANGUAGES: Mapping[str, str] = {"en": "English", "fr": "Français"}
"""The languages of the page, each named in itself; the first is the language of the source."""

_TIMES = frozenset({"day", "month", "year"})
_SINGULAR = {f"{unit}s": unit for unit in _TIMES}
"""Dictionaries write units as they like."""

_MINUS = "\N{MINUS SIGN}"


def N_(text: str) -> str:  # noqa: N802 - the name by which gettext's tools know it
    """Mark a text for the catalogs where it stands; it is translated where it is shown."""
    return text


@dataclass(frozen=True)
class Reader:
    """One language, with how it writes numbers and dates."""

    language: str
    locale: Locale
    translations: standard.NullTranslations

    def text(self, message: str, **values: object) -> str:
        """Return a text with its values filled in."""
        found = self.translations.gettext(message)
        return found % values if values else found

    def plural(self, one: str, many: str, n: int, **values: object) -> str:
        """Return the form of a text that a count asks for; ``%(n)s`` is the count."""
        return self.translations.ngettext(one, many, n) % {"n": self.number(n), **values}

    def number(self, value: float, digits: int | None = None) -> str:
        """Return a number: with so many digits behind the point, or with four significant ones at most."""
        if digits is None:
            shown = float(f"{value:.4g}") if abs(value) < 1000 else round(value)
            return _decimal(shown, "#,##0.######", self.language)
        pattern = "#,##0" + ("." + "0" * digits if digits else "")
        # A rounded zero has no sign: -0.0 would read as a fall.
        return _decimal(round(value, digits) + 0.0, pattern, self.language)

    def signed(self, value: float, digits: int) -> str:
        """Return a number with its sign; none where it rounds to zero."""
        return ("+" if round(value, digits) > 0 else "") + self.number(value, digits)

    def date(self, value: datetime.date) -> str:
        """Return a date: ``21 Nov 2026`` or ``21 nov. 2026``."""
        return format_date(value, format="d MMM y", locale=self.locale)

    def time(self, value: float, unit: str) -> str:
        """Return a length of time, in years where it is a whole number of them: ``5 years`` for 1,825 days."""
        unit = _SINGULAR.get(unit, unit)
        years = value / 365.25 if unit == "day" else value / 12 if unit == "month" else 0.0
        if years >= 0.99 and abs(years - round(years)) < 0.01:
            return self.plural("%(n)s year", "%(n)s years", round(years))
        if unit == "day":
            return self._count("%(n)s day", "%(n)s days", value)
        if unit == "month":
            return self._count("%(n)s month", "%(n)s months", value)
        if unit == "year":
            return self._count("%(n)s year", "%(n)s years", value)
        return f"{self.number(value)} {unit}"

    def is_time(self, unit: str) -> bool:
        """Return whether a unit is one of time that has a text."""
        return _SINGULAR.get(unit, unit) in _TIMES

    def unit(self, unit: str) -> str:
        """Return a unit behind a number that is not one: ``years``; a unit without a text stays as it is."""
        return self.time(2, unit).split(" ", 1)[-1] if self.is_time(unit) else unit

    def _count(self, one: str, many: str, value: float) -> str:
        # French counts 1.5 as one, English as many; gettext's own rule decides on whole numbers alone.
        n = int(value) if float(value).is_integer() or self.language == "fr" else 2
        return self.translations.ngettext(one, many, n) % {"n": self.number(value)}


@functools.cache
def reader_of(language: str) -> Reader:
    """Return the reader of a language; of one that the page does not know, the English."""
    if language not in LANGUAGES or language == "en":
        return Reader("en", Locale("en"), standard.NullTranslations())
    with (CATALOGS / f"{language}.po").open("rb") as file:
        catalog = read_po(file, locale=language)
    compiled = io.BytesIO()
    write_mo(compiled, catalog)
    compiled.seek(0)
    return Reader(language, Locale(language), standard.GNUTranslations(compiled))


def preferred(chosen: str, accepted: str) -> str:
    """Return the language to answer in.

    Args:
        chosen: What the reader chose on the page; empty before.
        accepted: The browser's ``Accept-Language``; its order is kept and its weights are not read, since browsers
            send the languages from the most to the least wanted.
    """
    if chosen in LANGUAGES:
        return chosen
    for part in accepted[:200].split(","):
        language = part.split(";")[0].strip()[:2].lower()
        if language in LANGUAGES:
            return language
    return "en"


@functools.lru_cache(maxsize=20_000)
def _decimal(value: float, pattern: str, language: str) -> str:
    # Babel reads the pattern anew each time; a page writes some sixty numbers, most of them again and again.
    return format_decimal(value, format=pattern, locale=language).replace("-", _MINUS)
