"""Reads HTML pages, for the tests of all pages."""

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Read a page; refuse tags that do not match and everything that needs another file, a script or the network.

    Attributes:
        text: what a reader sees, each piece with its white space as one blank.
        words: the same as one string.
        tags: names of all elements.
        sources: values of `src` and `href`.
        tables: the rows of each table, as lists of cells.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open
        self.words = " ".join(self.text)
        assert "Content-Security-Policy" in source and "default-src 'none'" in source
        assert all(uri.startswith(("data:image/png;base64,", "#")) for uri in self.sources)
        assert all(uri[1:] in re.findall(r'id="(\w+)"', source) for uri in self.sources if uri.startswith("#"))
        shown = re.sub(r'"data:[^"]*"|xmlns(:\w+)?="[^"]*"', "", source)
        assert not re.search(r"https?:|url\((?!#)|@import|\b(None|Undefined|Markup)\b", shown)
        # All coordinates are numbers.
        assert not re.search(r' (?:d|cx|cy|x|y)="[^"]*(?:nan|inf)[^"]*"', shown)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "iframe", "object"}
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        piece = " ".join(data.split())
        if piece and "style" not in self._open:
            self.text.append(piece)
            if {"td", "th"} & set(self._open):
                self.tables[-1][-1][-1] += f" {piece}" if self.tables[-1][-1][-1] else piece

    def row(self, table: str, first: str) -> dict[str, str]:
        """Return the row that begins with `first`, by column, in the first table with a column `table`."""
        rows = next(rows for rows in self.tables if table in rows[0])
        return dict(zip(rows[0], next(row for row in rows[1:] if row[0] == first), strict=False))


@pytest.fixture(scope="session")
def read_page() -> type[Page]:
    """Return `Page`."""
    return Page


@pytest.fixture(scope="session")
def charts_of() -> Callable[[str], dict[str, str]]:
    """Return a function that maps the title of each chart of a page to its caption and drawing."""

    def charts(source: str) -> dict[str, str]:
        found = re.findall(r"<figure>\n<figcaption><h3>(.*?)</h3>(.*?)</figure>", source, re.DOTALL)
        assert len({title for title, _ in found}) == len(found)
        return dict(found)

    return charts


@pytest.fixture
def check_golden_page(check_golden: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """Compare a page with a golden file, without its style, its charts and the content of its pictures."""

    def check(name: str, source: str) -> None:
        source = re.sub(r"<style>.*?</style>\n?", "", source, flags=re.DOTALL)
        source = re.sub(r"<svg.*?</svg>", "<svg/>", source, flags=re.DOTALL)
        check_golden(name, re.sub(r"(data:image/png;base64,)[^\"]*", r"\1...", source))

    return check
