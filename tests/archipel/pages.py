"""Reads a page as a browser would: which elements and attributes it has, and what it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Page(HTMLParser):
    """Elements with their attributes, and the text outside of `style`."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    style: str = ""

    def __post_init__(self) -> None:
        HTMLParser.__init__(self)
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._in_style = tag == "style"
        if tag in ("td", "th", "li", "dd", "dt"):
            self.pieces.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.style += data
        else:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    return page


def assert_self_contained(html: str) -> None:
    """Nothing in the page runs, and nothing in it makes a browser ask anybody for anything."""
    page = read(html)
    fetching = {
        "script",
        "iframe",
        "object",
        "embed",
        "img",
        "image",
        "audio",
        "video",
        "source",
        "form",
        "base",
        "use",
    }
    assert not fetching & {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has a handler"
            if name in ("href", "src", "xlink:href"):
                assert value.startswith("#") or value == "data:,", f"{tag} fetches {value}"
            if name not in ("xmlns", "content") and tag != "desc":
                assert "url(" not in value
    assert "url(" not in page.style
    assert "@import" not in page.style
    policy = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    ]
