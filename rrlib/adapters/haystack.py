"""Haystack: a ranker component, which puts retrieved documents into the model's order and keeps the best."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rrlib.adapters.shared import SCORE_BEFORE, PlaceRanker, missing
from rrlib.errors import InputError
from rrlib.formats.objects import check_top_k
from rrlib.records import Tally
from rrlib.rerank import Reranker

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ModuleNotFoundError as error:
    raise missing(error, "haystack", "haystack") from error


@component
class ReasoningRanker:
    """Documents in the order of a reranker, as Haystack's own rankers give them.

    model, engine, options: of rrlib.Reranker, which `warm_up` makes (a pipeline calls it), so that a pipeline with this
    component can be written to YAML. Or model is a Reranker already made, of which nothing can be written. top_k: the
    best so many (1 or more), all by default. Each document that comes out is a copy with the reranker's score (in 0 to
    1, see rrlib.adapters.shared.Place); the score that it came with is in its `meta`, as `retrieval_score`. A document
    without text is read as an empty one. Raises as PlaceRanker.rank.
    """

    def __init__(
        self,
        model: str | Reranker,
        engine: str = "transformers",
        top_k: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        check_top_k(top_k)
        self.model = model if isinstance(model, Reranker) else str(model)
        self.engine, self.top_k, self.options = engine, top_k, options or {}
        self._ranker = PlaceRanker(model) if isinstance(model, Reranker) else None

    def warm_up(self) -> None:
        """Load the model, once."""
        if self._ranker is None and isinstance(self.model, str):
            self._ranker = PlaceRanker(Reranker(self.model, self.engine, **self.options))

    @property
    def tally(self) -> Tally:
        """What the windows were, over all calls."""
        return Tally() if self._ranker is None else self._ranker.tally

    def to_dict(self) -> dict[str, Any]:
        """As a pipeline is written. Raises InputError where a Reranker was given, which cannot be."""
        if isinstance(self.model, Reranker):
            raise InputError("a Reranker cannot be written", remedy="give model, engine and options instead")
        return default_to_dict(self, model=self.model, engine=self.engine, top_k=self.top_k, options=self.options)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ReasoningRanker:
        """As a pipeline is read: `Pipeline.loads(text, allowed_modules=["rrlib.adapters.haystack"])`."""
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """The documents, best first. top_k: takes the place of the component's own."""
        if self._ranker is None:
            raise InputError("the model is not loaded", remedy="call warm_up() first; a pipeline does it by itself")
        texts = [document.content or "" for document in documents]
        ranked = self._ranker.rank(query, texts, self.top_k if top_k is None else top_k)
        return {"documents": [_scored(documents[place.index], place.score) for place in ranked]}


def _scored(document: Document, score: float) -> Document:
    before = {} if document.score is None else {SCORE_BEFORE: document.score}
    return replace(document, score=score, meta={**document.meta, **before})
