"""LlamaIndex: a node postprocessor, which puts retrieved nodes into the model's order and keeps the best."""

from __future__ import annotations

from typing import Any

from rrlib.adapters.shared import SCORE_BEFORE, PlaceRanker, missing
from rrlib.errors import InputError
from rrlib.records import Tally
from rrlib.rerank import Reranker

try:
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ModuleNotFoundError as error:
    raise missing(error, "llama_index", "llama-index") from error


class RerankPostprocessor(BaseNodePostprocessor):
    """Nodes in the order of a reranker. top_n: the best so many (1 or more), all by default.

    The model reads a node as an embedding would: its text with the metadata that are meant for that. Each node that
    comes out has the reranker's score (in 0 to 1, see rrlib.adapters.shared.Place); the score that it came with is in
    the metadata of a copy, as `retrieval_score`, hidden from models. `reranker` may be replaced. Raises as
    PlaceRanker.rank.
    """

    reranker: Any = Field(exclude=True)
    top_n: int | None = Field(default=None, ge=1)
    _ranker: PlaceRanker = PrivateAttr()

    def __init__(self, reranker: Reranker, top_n: int | None = None, **fields: Any) -> None:
        if not isinstance(reranker, Reranker):
            raise InputError("the reranker is none", remedy="give a rrlib.Reranker")
        super().__init__(reranker=reranker, top_n=top_n, **fields)
        self._ranker = PlaceRanker(reranker)

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows it."""
        return "RerankPostprocessor"

    @property
    def tally(self) -> Tally:
        """What the windows were, over all calls of the reranker that it has now."""
        return self._own().tally

    def _own(self) -> PlaceRanker:
        """The ranker over `reranker`: made anew where that was replaced, by assignment or in a copy."""
        if self._ranker.reranker is not self.reranker:
            self._ranker = PlaceRanker(self.reranker)
        return self._ranker

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        if query_bundle is None:
            raise InputError("there is no query", remedy="give query_str or query_bundle")
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        ranked = self._own().rank(query_bundle.query_str, texts, self.top_n)
        return [_scored(nodes[place.index], place.score) for place in ranked]


def _scored(node: NodeWithScore, score: float) -> NodeWithScore:
    if node.score is None:
        return NodeWithScore(node=node.node, score=score)
    update = {
        "metadata": {**node.node.metadata, SCORE_BEFORE: node.score},
        "excluded_llm_metadata_keys": [*node.node.excluded_llm_metadata_keys, SCORE_BEFORE],
        "excluded_embed_metadata_keys": [*node.node.excluded_embed_metadata_keys, SCORE_BEFORE],
    }
    return NodeWithScore(node=node.node.model_copy(update=update), score=score)
