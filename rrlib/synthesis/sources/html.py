"""HTML to plain text and links: what a forum post or a web page says, paragraphs apart by an empty line."""

from __future__ import annotations

import re
import warnings

from bs4 import BeautifulSoup, NavigableString, PageElement, ParserRejectedMarkup, Tag

_MARKS = dict.fromkeys(("p", "div", "ul", "ol", "pre", "blockquote", "table", "section", "article", "hr"), "\n\n")
_MARKS |= {f"h{i}": "\n\n" for i in range(1, 7)} | dict.fromkeys(("li", "tr", "br"), "\n")
"""What stands for the edges of an element; it breaks a line, or begins a paragraph."""

_SILENT = {"script", "style", "noscript", "svg", "nav", "header", "footer", "aside", "form", "template", "head"}


def read_html(html: str) -> tuple[str, tuple[str, ...], str]:
    """(text, links, title) of an HTML fragment or page. Never raises: broken markup is read as far as it goes.

    links: absolute http(s) addresses in their order, each once, without their fragment. Scripts, styles and the
    frame of a page (navigation, header, footer) are left out of the text.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a text looks like an address or a file name: it is a text
        try:
            soup = BeautifulSoup(html, "html.parser")
        except ParserRejectedMarkup:
            soup = BeautifulSoup(html.replace("<!", "&lt;!"), "html.parser")
    addresses = (str(link["href"]) for link in soup.find_all("a", href=True))
    links = dict.fromkeys(a.partition("#")[0] for a in addresses if a.startswith(("http://", "https://")))
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", _text(soup))
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for tree in (*soup.contents, soup):  # it is full of circles: freed at once, or a long dump would pile them up
        tree.decompose()
    return re.sub(r"\n{3,}", "\n\n", text).strip(), tuple(links), title


def _text(soup: BeautifulSoup) -> str:
    """The texts of a tree in their order, with marks at the edges of its blocks. A stack, since trees may be deep."""
    parts: list[str] = []
    waiting: list[tuple[PageElement | str, bool]] = [(soup, False)]  # (element or mark, inside <pre>)
    while waiting:
        element, verbatim = waiting.pop()
        if isinstance(element, Tag):
            if element.name in _SILENT or element.name == "title":
                continue
            mark, verbatim = _MARKS.get(element.name, ""), verbatim or element.name == "pre"
            parts.append(mark)
            if not element.is_empty_element:
                waiting.append((mark, True))
            waiting.extend((child, verbatim) for child in reversed(element.contents))
        elif isinstance(element, str) and type(element) in (str, NavigableString):  # its subclasses are comments
            parts.append(element if verbatim else re.sub(r"\s+", " ", element))
    return "".join(parts)
