"""HTML to plain text and links: what a forum post or a web page says, paragraphs apart by an empty line."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_BLOCKS = {"p", "div", "li", "ul", "ol", "pre", "blockquote", "table", "tr", "section", "article", "br", "hr"} | {
    f"h{i}" for i in range(1, 7)
}
_SILENT = {"script", "style", "noscript", "svg", "nav", "header", "footer", "aside", "form", "template", "head"}
_VOID = {"br", "hr", "img", "input", "meta", "link", "wbr"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.links: dict[str, None] = {}
        self.title = ""
        self._silent = self._pre = 0
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = self._in_title or tag == "title"
        self._silent += tag in _SILENT
        self._pre += tag == "pre"
        if tag in _BLOCKS:
            self.parts.append("\n" if tag in ("br", "li", "tr") else "\n\n")
        href = dict(attrs).get("href") if tag == "a" else None
        if href and href.startswith(("http://", "https://")):
            self.links[href.partition("#")[0]] = None

    def handle_endtag(self, tag: str) -> None:
        self._in_title = self._in_title and tag != "title"
        self._silent = max(0, self._silent - (tag in _SILENT))
        self._pre = max(0, self._pre - (tag == "pre"))
        if tag in _BLOCKS and tag not in _VOID:
            self.parts.append("\n" if tag in ("li", "tr") else "\n\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._silent:
            self.parts.append(data if self._pre else re.sub(r"\s+", " ", data))


def read_html(html: str) -> tuple[str, tuple[str, ...], str]:
    """(text, links, title) of an HTML fragment or page. Never raises: broken markup is read as far as it goes.

    links: absolute http(s) addresses in their order, each once, without their fragment. Scripts, styles and the
    frame of a page (navigation, header, footer) are left out.
    """
    reader = _Reader()
    reader.feed(html)
    reader.close()
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", "".join(reader.parts))
    return re.sub(r"\n{3,}", "\n\n", text).strip(), tuple(reader.links), " ".join(reader.title.split())
