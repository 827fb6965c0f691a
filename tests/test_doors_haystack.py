"""The door into Haystack, used as its own documentation uses a ranker: behind a retriever, in a real pipeline."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from scripted_engine import by_gain

from rrlib.adapters.haystack import ReasoningRanker
from rrlib.errors import InputError

MODEL = "package:rrlib.miniature/reranker"
CONTENTS = ["soup gain 3", "beside a window: soup gain 9", "a crow", "soup gain 5"]


def store() -> InMemoryDocumentStore:
    documents = InMemoryDocumentStore()
    documents.write_documents([Document(content=text, meta={"n": n}) for n, text in enumerate(CONTENTS)])
    return documents


def pipeline(ranker: ReasoningRanker) -> Pipeline:
    made = Pipeline()
    made.add_component("retriever", InMemoryBM25Retriever(document_store=store()))
    made.add_component("ranker", ranker)
    made.connect("retriever.documents", "ranker.documents")
    return made


def asked(**more: Any) -> dict[str, dict[str, Any]]:
    return {"retriever": {"query": "soup", "top_k": 3}, "ranker": {"query": "soup", **more}}


@pytest.mark.parametrize(("own", "given", "wanted"), [(None, None, [1, 3, 0]), (2, None, [1, 3]), (2, 1, [1])])
def test_behind_a_retriever_in_a_pipeline(own: int | None, given: int | None, wanted: list[int]) -> None:
    made = pipeline(ReasoningRanker(by_gain(), top_k=own))
    documents = made.run(asked(top_k=given))["ranker"]["documents"]
    assert [document.meta["n"] for document in documents] == wanted
    assert all(document.meta["retrieval_score"] > 0 for document in documents)  # BM25's
    assert documents[0].score == 1.0


def test_awaited() -> None:
    made = pipeline(ReasoningRanker(by_gain()))
    documents = asyncio.run(made.run_async(asked()))["ranker"]["documents"]
    assert [document.meta["n"] for document in documents] == [1, 3, 0]


def test_written_to_yaml_and_read_again(tmp_path: Path) -> None:
    """Read back, warmed up by the pipeline, and run with the packaged model and the numpy engine."""
    made = Pipeline()
    made.add_component("ranker", ReasoningRanker(MODEL, "numpy", top_k=2, options={"depth": 20}))
    path = tmp_path / "pipeline.yaml"
    path.write_text(made.dumps(), encoding="utf-8")
    again = Pipeline.loads(path.read_text(encoding="utf-8"), allowed_modules=["rrlib.adapters.haystack"])
    query = "In a tavern, clouds piled up each sunny afternoon, and hot soup cooled sooner beside an open window. Why?"
    texts = ["Cabbage notes: bacteria make acid from its sugar.", "Heated fluid rises and chilled fluid descends."]
    documents = [Document(content=text) for text in (*texts, "Sweat carries away latent heat.")]
    ranked = again.run({"ranker": {"query": query, "documents": documents}})["ranker"]["documents"]
    assert len(ranked) == 2 and ranked[0].score == 1.0 and again.get_component("ranker").tally.windows == 1


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="top_k"):
        ReasoningRanker(by_gain(), top_k=0)
    with pytest.raises(InputError, match="top_k"):
        ReasoningRanker(by_gain()).run(query="q", documents=[Document(content="a")], top_k=-1)
    with pytest.raises(InputError, match="warm_up"):
        ReasoningRanker(MODEL, "numpy").run(query="q", documents=[Document(content="a")])
    with pytest.raises(InputError, match="cannot be written"):
        ReasoningRanker(by_gain()).to_dict()


def test_a_document_without_text_is_an_empty_one() -> None:
    documents = [Document(id="image", content=None), Document(id="b", content="b 1"), Document(id="c", content="c 2")]
    ranked = ReasoningRanker(by_gain()).run(query="q", documents=documents)["documents"]
    assert sorted(document.id for document in ranked) == ["b", "c", "image"]
