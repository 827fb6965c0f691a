"""StackExchange dumps (archive.org): questions whose accepted answer links to a page (complex QA, section 4.1).

Posts.xml is one `<row .../>` a post, ordered by id, and may be many gigabytes. It is read in one pass: questions that
wait for their accepted answer lie in a temporary SQLite file, so memory stays flat.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from rrlib.errors import InputError, MissingFileError
from rrlib.formats.textio import add_note
from rrlib.synthesis.sources import SourceQuery
from rrlib.synthesis.sources.html import read_html

LICENCE = "CC BY-SA"
"""Of rows that do not name theirs (ContentLicense)."""


def read_posts(
    path: str | Path,
    domain: str,
    *,
    with_links: bool = True,
    min_score: int | None = None,
    notes: list[str] | None = None,
) -> Iterator[SourceQuery]:
    """Questions with their accepted answer, in the order of the answers.

    domain: the site's name, such as `biology`; it chooses the recipe and prefixes the query ids. with_links: only
    questions whose accepted answer links to a page elsewhere than StackExchange itself. min_score: least score of the
    question; None = any. Counts what was left out in `notes`. Raises InputError for a file that is no such dump.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError("no such dump", path=path, remedy="unpack the site's archive: 7z x SITE.7z Posts.xml")
    with open(path, "rb") as file:
        if file.read(6) == b"7z\xbc\xaf\x27\x1c":
            raise InputError("this is a 7z archive", path=path, remedy="unpack it: 7z x SITE.7z Posts.xml")
        file.seek(0)
        yield from _posts(file, path, domain, with_links, min_score, notes)


def _posts(
    file: IO[bytes], path: Path, domain: str, with_links: bool, min_score: int | None, notes: list[str] | None
) -> Iterator[SourceQuery]:
    waiting = sqlite3.connect("", isolation_level=None)
    waiting.execute("PRAGMA journal_mode = OFF")
    waiting.execute("PRAGMA synchronous = OFF")
    waiting.execute("CREATE TABLE q (answer INTEGER PRIMARY KEY, id TEXT, title TEXT, body TEXT, licence TEXT)")
    no_link = rows = 0
    try:
        for row in _rows(file, path):
            rows += 1
            kind, number = row.get("PostTypeId"), row.get("Id", "")
            if kind == "1" and row.get("AcceptedAnswerId", "").isdigit():
                if min_score is None or int(row.get("Score") or 0) >= min_score:
                    licence = row.get("ContentLicense") or LICENCE
                    texts = (row.get("Title", ""), row.get("Body", ""), licence)
                    question = (int(row["AcceptedAnswerId"]), number, *texts)
                    waiting.execute("INSERT OR REPLACE INTO q VALUES (?, ?, ?, ?, ?)", question)
            elif kind == "2" and number.isdigit():
                question = waiting.execute("SELECT * FROM q WHERE answer = ?", (int(number),)).fetchone()
                if question is None:
                    continue
                waiting.execute("DELETE FROM q WHERE answer = ?", (int(number),))
                answer, links, _ = read_html(row.get("Body", ""))
                links = tuple(link for link in links if not _own(link))
                if with_links and not links:
                    no_link += 1
                    continue
                _, qid, title, body, licence = question
                text = f"{title}\n\n{read_html(body)[0]}".strip()
                yield SourceQuery(f"{domain}-{qid}", text, answer, domain, links, licence=licence)
        left = waiting.execute("SELECT COUNT(*) FROM q").fetchone()[0]
        if no_link:
            add_note(notes, path, f"{no_link} accepted answers without a link were left out")
        if left:
            add_note(notes, path, f"{left} questions whose accepted answer is not in the dump were left out")
        if not rows:
            raise InputError("no <row> in this file", path=path, remedy="give the Posts.xml of a StackExchange dump")
    finally:
        waiting.close()


def _rows(file: IO[bytes], path: Path) -> Iterator[dict[str, str]]:
    """The attributes of every row; the tree behind it is thrown away as it grows."""
    try:
        events = ElementTree.iterparse(file, events=("start", "end"))
        root = None
        for event, element in events:
            if root is None:
                root = element
            if event == "end" and element.tag == "row":
                yield dict(element.attrib)
                root.clear()
    except ElementTree.ParseError as error:
        line = error.position[0] if getattr(error, "position", None) else None
        raise InputError(
            f"not XML, or cut off: {error}", path=path, line=line, remedy="give the whole Posts.xml, unpacked"
        ) from None


def _own(link: str) -> bool:
    """Whether an address is StackExchange's own: another question, a user, a picture."""
    host = link.split("/")[2].lower() if link.count("/") >= 2 else ""
    names = ("stackexchange.com", "stackoverflow.com", "superuser.com", "serverfault.com", "askubuntu.com", "imgur.com")
    return any(host == name or host.endswith(f".{name}") for name in (*names, "mathoverflow.net", "sstatic.net"))
