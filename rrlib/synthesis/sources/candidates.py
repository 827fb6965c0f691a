"""From queries to items: every query gets its candidates (paper sections 4.1, B.1).

Two ways: the pages that an accepted answer links to, cut into passages, with web results as a pool of hard negatives
(complex QA); or retrieval over a corpus, by BM25 or by any dense encoder (coding, mathematics, web search).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from rrlib.errors import InputError
from rrlib.synthesis.sources import SourceQuery
from rrlib.synthesis.sources.items import Item
from rrlib.synthesis.sources.websearch import Page, Pages, SearchProvider
from rrlib.types import Passage, Query

MIN_CHARS, MAX_CHARS = 80, 2000
"""Shorter paragraphs join the next one; longer ones are cut at a sentence. 2,000 characters are about 512 tokens."""

Encoder = Callable[[Sequence[str]], Any]
"""Texts -> array of shape (texts, dimensions); queries and passages alike. Any sentence encoder's `encode` does."""


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


class Retriever(Protocol):
    """Finds passages of a corpus for a text, best first."""

    def search(self, text: str, k: int, without: frozenset[str] = frozenset()) -> list[Passage]: ...


class Bm25:
    """BM25 (bm25s, English stop words, no stemming) over passages; equal scores by document id."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        import bm25s

        self.passages = _distinct(passages)
        self._bm25s, self._model = bm25s, bm25s.BM25()
        texts = [f"{p.title} {p.text}" for p in self.passages]
        tokens = bm25s.tokenize(texts, stopwords="en", show_progress=False, return_ids=False)
        self._model.index(tokens, show_progress=False)

    def search(self, text: str, k: int, without: frozenset[str] = frozenset()) -> list[Passage]:
        """The k best passages; none where no word of the text is known."""
        tokens = self._bm25s.tokenize(text, stopwords="en", show_progress=False, return_ids=False)[0]
        known = [token for token in tokens if token in self._model.vocab_dict]
        if not known:
            return []
        return _best(self._model.get_scores(known), self.passages, k, without, positive=True)


class Dense:
    """Cosine similarity of any encoder over passages, in memory: float32 of passages x dimensions."""

    def __init__(self, passages: Iterable[Passage], encode: Encoder, batch: int = 64) -> None:
        import numpy as np

        self.passages, self._encode = _distinct(passages), encode
        rows = [
            _unit(encode([f"{p.title} {p.text}".strip() for p in self.passages[start : start + batch]]))
            for start in range(0, len(self.passages), batch)
        ]
        self._matrix = np.concatenate(rows)

    def search(self, text: str, k: int, without: frozenset[str] = frozenset()) -> list[Passage]:
        """The k best passages."""
        return _best(self._matrix @ _unit(self._encode([text]))[0], self.passages, k, without)


def _unit(vectors: Any) -> Any:
    import numpy as np

    rows = np.asarray(vectors, dtype=np.float32)
    if rows.ndim != 2:
        raise InputError(f"the encoder gave an array of shape {rows.shape}", remedy="return one row a text")
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _distinct(passages: Iterable[Passage]) -> list[Passage]:
    known = {passage.docid: passage for passage in passages if passage.text.strip()}
    if not known:
        raise InputError("the corpus has no passage with a text", remedy="check the corpus that was named")
    return list(known.values())


def _best(
    scores: Any, passages: Sequence[Passage], k: int, without: frozenset[str], positive: bool = False
) -> list[Passage]:
    import numpy as np

    wide = min(len(passages), k + len(without))
    top: list[int] = np.argpartition(-scores, wide - 1)[:wide].tolist() if wide else []
    ranked = sorted(top, key=lambda i: (-float(scores[i]), passages[i].docid))
    return [passages[i] for i in ranked if passages[i].docid not in without and (scores[i] > 0 or not positive)][:k]


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
