"""The door into LlamaIndex, used as its own documentation uses a postprocessor: alone, and in a query engine."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from scripted_engine import BEST, TEXTS, by_gain

from rrlib.adapters.llama_index import RerankPostprocessor
from rrlib.errors import InputError


class Fixed(BaseRetriever):
    """A retriever that finds all texts for any query; the last without a score."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        scores = [*(1.0 / (place + 1) for place in range(len(TEXTS) - 1)), None]
        nodes = [TextNode(text=text, id_=str(place)) for place, text in enumerate(TEXTS)]
        return [NodeWithScore(node=node, score=score) for node, score in zip(nodes, scores, strict=True)]


def places_of(nodes: list[NodeWithScore]) -> list[int]:
    return [int(node.node_id) for node in nodes]


def test_it_is_a_postprocessor_with_their_arguments() -> None:
    theirs = inspect.signature(BaseNodePostprocessor._postprocess_nodes).parameters
    assert list(inspect.signature(RerankPostprocessor._postprocess_nodes).parameters) == list(theirs)


def test_in_a_query_engine() -> None:
    synthesizer = get_response_synthesizer(llm=MockLLM(), response_mode=ResponseMode.COMPACT)
    postprocessors = [RerankPostprocessor(reranker=by_gain(), top_n=3)]
    engine = RetrieverQueryEngine(Fixed(), synthesizer, node_postprocessors=postprocessors)
    response = engine.query("q")
    assert places_of(response.source_nodes) == BEST[:3]
    text = str(response)  # the mock says what it was asked
    assert text.index("gain 9") < text.index("gain 6") < text.index("gain 5") and "gain 4" not in text
    assert "retrieval_score" not in text


def test_in_the_query_engine_of_an_index() -> None:
    """`index.as_query_engine(node_postprocessors=[...])`, as LlamaIndex's pages use it, with its mocks for models."""
    documents = [Document(text=text, id_=str(place)) for place, text in enumerate(TEXTS)]
    index = VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=4))
    door = RerankPostprocessor(by_gain(), top_n=3)
    engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=len(TEXTS), node_postprocessors=[door])
    assert [node.node.ref_doc_id for node in engine.query("q").source_nodes] == [str(place) for place in BEST[:3]]


@pytest.mark.parametrize("given", [{"query_str": "q"}, {"query_bundle": QueryBundle("q")}])
def test_a_query_as_a_text_or_a_bundle_and_awaited(given: dict[str, Any]) -> None:
    door = RerankPostprocessor(by_gain())
    nodes = Fixed().retrieve("q")
    ranked = door.postprocess_nodes(nodes, **given)
    assert places_of(ranked) == BEST
    assert places_of(asyncio.run(door.apostprocess_nodes(nodes, **given))) == BEST
    came_with = {int(node.node_id): node.metadata.get("retrieval_score") for node in ranked}
    assert came_with[0] == 1.0 and came_with[7] is None
    assert all(node.node.get_content(MetadataMode.LLM) == node.node.get_content() for node in ranked)


def test_what_the_model_reads_is_what_an_embedding_would() -> None:
    """Metadata decide here: the texts are equal, and one key is hidden from embeddings."""
    nodes = [
        NodeWithScore(node=TextNode(text=f"t {gain}", metadata={"who": "a"}, excluded_embed_metadata_keys=["who"]))
        for gain in (1, 2)
    ]
    prompts: list[str] = []
    reranker = by_gain()
    submit = reranker.engine.submit
    reranker.engine.submit = lambda requests, decoding: (  # type: ignore[method-assign]
        prompts.extend(request.messages[-1]["content"] for request in requests),
        submit(requests, decoding),
    )
    RerankPostprocessor(reranker).postprocess_nodes(nodes, query_str="q")
    assert "who" not in prompts[0] and "t 2" in prompts[0]
    shown = [NodeWithScore(node=TextNode(text="t 1", metadata={"who": "a"})), nodes[1]]
    RerankPostprocessor(reranker).postprocess_nodes(shown, query_str="q")
    assert "who: a" in prompts[1]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="no query"):
        RerankPostprocessor(by_gain()).postprocess_nodes(Fixed().retrieve("q"))
    with pytest.raises(InputError, match=r"rrlib\.Reranker"):
        RerankPostprocessor("a model")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="top_n"):
        RerankPostprocessor(by_gain(), top_n=0)
    assert RerankPostprocessor(by_gain(), top_n=2).to_dict()["top_n"] == 2
