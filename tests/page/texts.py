"""Every text of the page, as it stands in code and templates."""

from __future__ import annotations

from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir

PAGE = Path(__file__).resolve().parents[2] / "client" / "page"
_METHODS = [("**.html.j2", "jinja2"), ("**.py", "python")]
_KEYWORDS = {"N_": None, "_": None, "gettext": None, "plural": (1, 2), "_count": (1, 2)}


def extracted() -> Catalog:
    """Return the page's texts with the files that they stand in."""
    catalog = Catalog(charset="utf-8")
    for file, _, message, _, _ in extract_from_dir(
        PAGE, _METHODS, {"**.html.j2": {"newstyle_gettext": "true", "trimmed": "false"}}, _KEYWORDS
    ):
        if message:
            catalog.add(message, None, [(file, 1)])
    return catalog
