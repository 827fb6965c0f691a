"""What the doors have in common: a missing library is named, and texts are ranked by their places.

A stack keeps what it handed over (ids, metadata, scores, duplicates): only places go to the reranker and come back.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rrlib.errors import EngineError, InputError, missing_extra
from rrlib.formats.objects import check_top_k, question_from
from rrlib.ranking import judged_scores, why_unranked
from rrlib.records import RerankResult, Tally, WindowRecord
from rrlib.rerank import Reranker
from rrlib.types import Candidates, Passage, Query

SCORE_BEFORE = "retrieval_score"
"""The name under which a passage keeps the score that it came with, where its stack has one place for scores."""


class UnreadWarning(UserWarning):
    """Some windows kept the order they had: their call failed, or no answer could be read."""


def missing(error: ModuleNotFoundError, package: str, extra: str) -> ImportError:
    """The error to raise where a door's library is not installed: it names the extra. package: its name in Python.
    The error itself where it is another module that is missing."""
    if (error.name or "").partition(".")[0] != package:
        return error
    return missing_extra(package, extra)


@dataclass(frozen=True, slots=True)
class Place:
    """index: which of the texts, from 0. score: in 0 to 1, never rising from the best to the last; the probability of
    the word for relevant with the strategy `pointwise`, else (n - rank + 1) / n, which says the rank and no more."""

    index: int
    score: float


class PlaceRanker:
    """Ranks texts that are known by their places. tally: what the windows were, over all calls (rrlib.records.Tally):
    `tally.unread` counts those that kept the order they had."""

    def __init__(self, reranker: Reranker) -> None:
        self.reranker, self.tally = reranker, Tally()

    def rank(self, query: str, texts: Sequence[str], top_n: int | None = None) -> list[Place]:
        """The places of the texts, best first; the best top_n alone. No texts: no places, and no call.

        Raises InputError for an empty query or texts that are all empty, EngineError where a call of the model failed
        or no answer could be read: an order is not passed off as the model's that is the retriever's own.
        """
        check_top_k(top_n)
        return self.rank_with_windows(query, texts)[0][:top_n] if texts else []

    def rank_with_windows(self, query: str, texts: Sequence[str]) -> tuple[list[Place], list[WindowRecord]]:
        """As `rank`, all places, and what the model said in each window, in the order they finished."""
        result = self.reranker.rerank([question(query, texts)])
        self._count(result)
        if (reason := why_unranked(result.records)) is not None:
            raise EngineError(reason)
        _warn(result)
        (order,) = result.rankings.values()
        return places(order, result.records), result.records

    def rank_all(self, questions: Sequence[Candidates]) -> list[list[Place]]:
        """The places of each question's texts, for many questions at once. Raises EngineError where the model ranked
        nothing at all; single windows that failed or could not be read are counted, with a warning."""
        result = self.reranker.rerank([asked for asked in questions if asked.passages])
        self._count(result)
        if result.records and len(result.unread) == len(result.records):
            raise EngineError(why_unranked(result.records) or "")
        _warn(result)
        windows = defaultdict(list)
        for record in result.records:
            windows[record.collection, record.qid].append(record)
        keys = [(asked.collection, asked.query.qid) for asked in questions]
        return [places(result.rankings.get(key, []), windows[key]) for key in keys]

    def _count(self, result: RerankResult) -> None:
        for record in result.records:
            self.tally.take(record)


def _warn(result: RerankResult) -> None:
    if result.unread:
        share = f"{len(result.unread)} of {len(result.records)} windows"
        warnings.warn(f"{share} failed or could not be read, and kept the order they had", UnreadWarning, stacklevel=4)


def question(query: Any, texts: Sequence[str | Passage], qid: str = "") -> Candidates:
    """A query and its texts, whose ids are their places. Raises InputError for an empty query or texts all empty, which
    names the query where it has a qid."""
    passages = [
        Passage(str(index), text.text, text.title) if isinstance(text, Passage) else Passage(str(index), text)
        for index, text in enumerate(texts)
    ]
    if not qid:
        return question_from(query, passages)
    try:
        return question_from(Query(qid, query), passages)
    except InputError as error:
        raise InputError(f"query {qid}: {error.message}", remedy=error.remedy) from error


def places(order: Sequence[str], windows: Sequence[WindowRecord]) -> list[Place]:
    """The places that a question's ids name, best first, with their scores. windows: those of that question."""
    n = len(order)
    scores = judged_scores(order, windows) or [(n - rank) / n for rank in range(n)]
    return [Place(int(docid), score) for docid, score in zip(order, scores, strict=True)]
