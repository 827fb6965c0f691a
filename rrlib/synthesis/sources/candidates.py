"""From queries to items: every query gets its candidates (paper sections 4.1, B.1).

Two ways: the pages that an accepted answer links to, cut into passages, with web results as a pool of hard negatives
(complex QA); or retrieval over a corpus, by BM25 or by any dense encoder (coding, mathematics, web search).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

from rrlib.retrieval import Retriever
from rrlib.synthesis.sources import SourceQuery
from rrlib.synthesis.sources.items import Item
from rrlib.synthesis.sources.websearch import Page, Pages, SearchProvider
from rrlib.types import Passage, Query

MIN_CHARS, MAX_CHARS = 80, 2000
"""Shorter paragraphs join the next one; longer ones are cut at a sentence. 2,000 characters are about 512 tokens."""


def cut_passages(
    text: str, prefix: str, title: str = "", *, least: int = MIN_CHARS, most: int = MAX_CHARS
) -> list[Passage]:
    """Cut a page at its empty lines. Ids are `prefix#0`, `prefix#1`, ...; lengths in characters.

    A paragraph under `least` (a heading, a caption) goes before the next; one over `most` is cut behind a sentence.
    """
    pieces: list[str] = []
    waiting = ""
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = " ".join(paragraph.split())
        if not paragraph:
            continue
        waiting = f"{waiting}\n{paragraph}" if waiting else paragraph
        if len(waiting) >= least:
            pieces += _cut(waiting, most)
            waiting = ""
    if waiting:
        if pieces and len(pieces[-1]) + len(waiting) < most:
            pieces[-1] = f"{pieces[-1]}\n{waiting}"
        else:
            pieces.append(waiting)
    return [Passage(f"{prefix}#{i}", piece, title) for i, piece in enumerate(pieces)]


def _cut(text: str, most: int) -> list[str]:
    out = []
    while len(text) > most:
        ends = [m.end() for m in re.finditer(r"[.!?]\s", text[:most])]
        end = ends[-1] if ends and ends[-1] > most // 2 else text.rfind(" ", most // 2, most) + 1 or most
        out.append(text[:end].strip())
        text = text[end:].strip()
    return [*out, text] if text else out


# --- items -----------------------------------------------------------------------------------------------------------


def retrieved_items(queries: Iterable[SourceQuery], retriever: Retriever, depth: int) -> Iterator[Item]:
    """Items whose candidates are retrieved. A query is never its own candidate, nor is what it excludes."""
    for query in queries:
        yield _item(query, tuple(retriever.search(query.text, depth, query.excluded | {query.qid})))


def linked_items(
    queries: Iterable[SourceQuery],
    pages: Pages,
    search: SearchProvider | None = None,
    *,
    results: int = 10,
    depth: int = 0,
) -> Iterator[Item]:
    """Items whose candidates are the linked pages, cut; with `search`, the first `results` of the web as hard pool.

    Queries none of whose links leads to a page are left out. depth: at most so many candidates, 0 = all.
    """
    for query in queries:
        linked = [page for page in map(pages.get, query.links) if page is not None]
        candidates = _passages(linked)[: depth or None]
        if not candidates:
            continue
        candidate_texts = {passage.text for passage in candidates}
        web_results = search.search(query.text, results) if search is not None else ()
        pool = tuple(p for p in _passages(web_results) if p.text not in candidate_texts)
        yield _item(query, tuple(candidates), pool)


def _passages(pages: Iterable[Page]) -> list[Passage]:
    """All passages of some pages; a page met twice counts once."""
    passages: dict[str, Passage] = {}
    for page in pages:
        name = hashlib.sha256(page.url.encode("utf-8", "replace")).hexdigest()[:16]
        for passage in cut_passages(page.text, name, page.title):
            passages.setdefault(passage.docid, passage)
    return list(passages.values())


def _item(query: SourceQuery, candidates: tuple[Passage, ...], pool: tuple[Passage, ...] = ()) -> Item:
    return Item(
        Query(query.qid, query.text),
        candidates,
        query.domain,
        query.gold_answer,
        pool,
        dict(query.labels) or None,
        query.licence,
    )
