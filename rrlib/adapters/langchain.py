"""LangChain: a document compressor, which puts retrieved documents into the model's order and keeps the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rrlib.adapters.shared import SCORE_BEFORE, PlaceRanker, missing
from rrlib.records import Tally
from rrlib.rerank import Reranker

try:
    from langchain_core.documents import BaseDocumentCompressor, Document
    from pydantic import ConfigDict, Field, PrivateAttr
except ModuleNotFoundError as error:
    raise missing(error, "langchain_core", "langchain") from error

SCORE = "relevance_score"
"""The name of the score in a document's metadata, as LangChain's own rerankers have it."""


class RerankCompressor(BaseDocumentCompressor):
    """Documents in the order of a reranker. top_n: the best so many (1 or more), all by default.

    Each document that comes out is a copy with its id and metadata, and with `relevance_score` (in 0 to 1, see
    rrlib.adapters.shared.Place); what it had under that name is under `retrieval_score`. `reranker` may be replaced.
    Raises as PlaceRanker.rank.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    reranker: Reranker
    top_n: int | None = Field(default=None, ge=1)
    _ranker: PlaceRanker = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        self._ranker = PlaceRanker(self.reranker)

    @property
    def tally(self) -> Tally:
        """What the windows were, over all calls of the reranker that it has now."""
        return self._own().tally

    def _own(self) -> PlaceRanker:
        """The ranker over `reranker`: made anew where that was replaced, by assignment or in a copy."""
        if self._ranker.reranker is not self.reranker:
            self._ranker = PlaceRanker(self.reranker)
        return self._ranker

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Any = None) -> list[Document]:
        """The documents, best first. callbacks: not used, there is no run of LangChain's inside."""
        ranked = self._own().rank(query, [document.page_content for document in documents], self.top_n)
        return [_scored(documents[place.index], place.score) for place in ranked]


def _scored(document: Document, score: float) -> Document:
    before = {SCORE_BEFORE: document.metadata[SCORE]} if SCORE in document.metadata else {}
    return document.model_copy(update={"metadata": {**document.metadata, **before, SCORE: score}})
