"""The first stage, made here: BM25 (bm25s) or any dense encoder over a corpus in memory.

One index serves sources (candidates for synthesis), benchmarks (`bm25_run`, whose runs stand beside published ones) and
the miniature (the order of its pools). They differ in k1 and b, and in the order of equal scores; both are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rrlib.errors import InputError
from rrlib.types import Hit, Passage, Query, Run

ANSERINI = {"k1": 0.9, "b": 0.4}
"""Parameters of Anserini's runs, and so of the field's published BM25 figures; bm25s' own are 1.5 and 0.75."""

Encoder = Callable[[Sequence[str]], Any]
"""Texts -> array of shape (texts, dimensions); queries and passages alike. Any sentence encoder's `encode` does."""


class Retriever(Protocol):
    """Finds passages of a corpus for a text, best first."""

    def search(self, text: str, k: int, without: frozenset[str] = frozenset()) -> list[Passage]: ...


class Bm25:
    """BM25 over passages, title in front of text: bm25s with its English stop words, no stemmer.

    keep_empty: index passages without a text too (they count in BM25's mean length). Raises InputError where nothing
    has a text.
    """

    def __init__(
        self, passages: Iterable[Passage], *, k1: float = 1.5, b: float = 0.75, keep_empty: bool = False
    ) -> None:
        import bm25s

        self.passages = _distinct(passages, keep_empty)
        self._index = bm25s.BM25(k1=k1, b=b)
        self._index.index(_tokens([f"{p.title} {p.text}" for p in self.passages]), show_progress=False)

    def scores(self, text: str) -> NDArray[np.float32]:
        """The score of every passage, shape (P,); all 0 where the corpus has no word of the text."""
        words = [word for word in _tokens([text])[0] if word in self._index.vocab_dict]
        if not words:
            return np.zeros(len(self.passages), dtype=np.float32)
        return np.asarray(self._index.get_scores(words))  # (P,)

    def search(self, text: str, k: int, without: frozenset[str] = frozenset()) -> list[Passage]:
        """The k best passages with a word of the text, equal scores by document id."""
        scores = self.scores(text)
        return [self.passages[i] for i in _best(scores, self.passages, k, without) if scores[i] > 0]


class Dense:
    """Cosine similarity of any encoder over passages. Raises InputError where nothing has a text."""

    def __init__(self, passages: Iterable[Passage], encode: Encoder, batch: int = 64) -> None:
        self.passages, self._encode = _distinct(passages), encode
        texts = [f"{p.title} {p.text}".strip() for p in self.passages]
        rows = [_unit(encode(texts[start : start + batch])) for start in range(0, len(texts), batch)]
        self._matrix = np.concatenate(rows)  # (P, dimensions), float32

    def search(self, text: str, k: int, without: frozenset[str] = frozenset()) -> list[Passage]:
        """The k best passages, equal scores by document id."""
        scores = self._matrix @ _unit(self._encode([text]))[0]  # (P,)
        return [self.passages[i] for i in _best(scores, self.passages, k, without)]


def bm25_run(
    corpus: Mapping[str, Passage], queries: Mapping[str, Query], excluded: Mapping[str, set[str]], depth: int = 100
) -> Run:
    """The best `depth` documents of each query by BM25 with Anserini's parameters, its excluded documents left out.

    Scores are rounded to 6 decimals; equal scores stand in trec_eval's order (document id, descending), so that rank
    and score tell the same story. A query that shares no word with the corpus gets no hits.
    """
    index = Bm25(corpus.values(), **ANSERINI, keep_empty=True)
    docids = [passage.docid for passage in index.passages]
    run: Run = {}
    for qid, query in queries.items():
        scores = np.round(index.scores(query.text).astype(float), 6)  # (P,)
        banned = excluded.get(qid, set())
        wide = min(len(docids), depth + len(banned))
        edge = np.partition(scores, -wide)[-wide]  # all that tie with the last are looked at, so that ids decide
        places = [i for i in np.flatnonzero((scores >= edge) & (scores > 0)) if docids[i] not in banned]
        best = sorted(places, key=lambda i: (scores[i], docids[i]), reverse=True)[:depth]
        run[qid] = [Hit(docids[i], float(scores[i]), rank) for rank, i in enumerate(best, 1)]
    return run


def _best(scores: NDArray[Any], passages: Sequence[Passage], k: int, without: frozenset[str]) -> list[int]:
    """Places of the k highest scores (shape (P,)), best first, equal scores by document id.

    Which of those that tie at the cut are among them is argpartition's choice: stored candidates, and answers that were
    paid for, rest on it.
    """
    wide = min(len(passages), k + len(without))
    top: list[int] = np.argpartition(-scores, wide - 1)[:wide].tolist() if wide else []
    ranked = sorted(top, key=lambda i: (-float(scores[i]), passages[i].docid))
    return [i for i in ranked if passages[i].docid not in without][:k]


def _tokens(texts: list[str]) -> Any:
    import bm25s

    return bm25s.tokenize(texts, stopwords="en", show_progress=False, return_ids=False)


def _unit(vectors: Any) -> NDArray[np.float32]:
    rows = np.asarray(vectors, dtype=np.float32)
    if rows.ndim != 2:
        raise InputError(f"the encoder gave an array of shape {rows.shape}", remedy="return one row a text")
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _distinct(passages: Iterable[Passage], keep_empty: bool = False) -> list[Passage]:
    by_id = {passage.docid: passage for passage in passages if keep_empty or passage.text.strip()}
    if not any(passage.text.strip() for passage in by_id.values()):
        raise InputError("the corpus has no passage with a text", remedy="check the corpus that was named")
    return list(by_id.values())
