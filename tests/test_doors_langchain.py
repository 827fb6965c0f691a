"""The door into LangChain, used as LangChain's own documentation uses a compressor: behind a retriever, in a chain."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from pydantic import ValidationError
from scripted_engine import BEST, TEXTS, by_gain

from rrlib.adapters.langchain import RerankCompressor


class Fixed(BaseRetriever):
    """A retriever that finds all texts for any query."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(text, metadata={"n": place}) for place, text in enumerate(TEXTS)]


def best_of(documents: Any) -> list[int]:
    return [document.metadata["n"] for document in documents]


def test_it_is_a_compressor_with_their_arguments() -> None:
    theirs = inspect.signature(BaseDocumentCompressor.compress_documents).parameters
    ours = inspect.signature(RerankCompressor.compress_documents).parameters
    assert list(ours) == list(theirs)
    assert isinstance(RerankCompressor(reranker=by_gain()), BaseDocumentCompressor)


def test_in_a_chain_behind_a_retriever() -> None:
    compressor = RerankCompressor(reranker=by_gain(), top_n=3)
    found = {"documents": Fixed(), "query": RunnablePassthrough()}
    chain = found | RunnableLambda(lambda given: compressor.compress_documents(**given))
    assert best_of(chain.invoke("q")) == BEST[:3]
    assert [best_of(documents) for documents in chain.batch(["q", "p"])] == [BEST[:3]] * 2


def test_behind_the_retriever_of_their_documentation() -> None:
    """ContextualCompressionRetriever, as LangChain's pages on rerankers use it."""
    from langchain_classic.retrievers import ContextualCompressionRetriever

    compressor = RerankCompressor(reranker=by_gain(), top_n=3)
    retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=Fixed())
    assert best_of(retriever.invoke("q")) == BEST[:3]
    assert best_of(asyncio.run(retriever.ainvoke("q"))) == BEST[:3]
    assert [best_of(documents) for documents in retriever.batch(["q", "p"])] == [BEST[:3]] * 2


def test_awaited() -> None:
    compressor = RerankCompressor(reranker=by_gain())
    assert best_of(asyncio.run(compressor.acompress_documents(Fixed().invoke("q"), "q"))) == BEST


@pytest.mark.parametrize("fields", [{"top_n": 0}, {"reranker": "a model"}, {}])
def test_wrong_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RerankCompressor(**({"reranker": by_gain(), **fields} if fields else {}))
