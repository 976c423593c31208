"""Templates in the reader's language, everything escaped."""

from __future__ import annotations

import functools
from pathlib import Path

import jinja2

from client.page.reader import LANGUAGES, reader_of

__all__ = ["TEMPLATES", "render"]

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, language: str, **values: object) -> str:
    """Return one template, filled in."""
    return _environment(language).get_template(f"{template}.html.j2").render(**values)


@functools.cache
def _environment(language: str) -> jinja2.Environment:
    reader = reader_of(language)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    # newstyle: the text is translated first and the escaped values are put in afterwards.
    environment.install_gettext_translations(reader.translations, newstyle=True)  # type: ignore[attr-defined]
    environment.globals.update(reader=reader, languages=LANGUAGES)
    return environment
