"""The call and the results of the package rerankers (AnswerDotAI), held equal to that package's own."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
import types
from typing import Any

import pytest
from scripted_engine import BEST, TEXTS, by_gain

from rrlib.errors import InputError
from rrlib.rerank import Reranker

IDS = ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7"]


def part(name: str) -> Any:
    """A module of the package, without what the package imports at once: every framework that it finds, 14 seconds."""
    for package in ("rerankers", "rerankers.models"):
        spec = importlib.util.find_spec(package) if package not in sys.modules else None
        if spec is not None:
            shell = sys.modules[package] = types.ModuleType(package)
            shell.__path__ = list(spec.submodule_search_locations or [])
    return importlib.import_module(f"rerankers.{name}")


Document, BaseRanker, results = part("documents").Document, part("models.ranker").BaseRanker, part("results")


class Theirs(BaseRanker):
    """A ranker of that package: the same order, the same scores."""

    def __init__(self, model_name_or_path: str = "", verbose: int = 0) -> None: ...

    def score(self, query: str, doc: str) -> float:
        return float(doc.split()[-1])

    def rank(self, query: str, docs: Any, doc_ids: Any = None) -> Any:
        documents = [Document(text, doc_id=doc_id) for text, doc_id in zip(docs, doc_ids, strict=True)]
        best = sorted(documents, key=lambda document: -self.score(query, document.text))
        n = len(best)
        ranked = [results.Result(document, score=float(n - at), rank=at + 1) for at, document in enumerate(best)]
        return results.RankedResults(results=ranked, query=query, has_scores=True)


def fields_of(result: Any) -> tuple[Any, ...]:
    document = result.document
    return result.doc_id, result.text, result.score, result.rank, document.doc_id, document.text


@pytest.mark.parametrize(
    "call",
    [
        lambda results: [fields_of(result) for result in results],
        lambda results: fields_of(results[0]),
        lambda results: results.results_count(),
        lambda results: [fields_of(result) for result in results.top_k(3)],
        lambda results: [fields_of(result) for result in results.top_k(99)],
        lambda results: [results.get_score_by_docid(docid) for docid in IDS],
        lambda results: results.get_score_by_docid("nowhere"),
        lambda results: fields_of(results.get_result_by_docid("d4")),
        lambda results: results.get_result_by_docid("nowhere"),
    ],
)
@pytest.mark.parametrize("awaited", [False, True])
def test_the_same_names_give_the_same_answers(call: Any, awaited: bool) -> None:
    ours, theirs = by_gain(), Theirs()
    if awaited:
        pair = [asyncio.run(ranker.rank_async("q", TEXTS, doc_ids=IDS)) for ranker in (ours, theirs)]
    else:
        pair = [ranker.rank("q", TEXTS, doc_ids=IDS) for ranker in (ours, theirs)]
    assert call(pair[0]) == call(pair[1])


@pytest.mark.parametrize("name", ["rank", "rank_async"])
def test_their_arguments_are_among_ours(name: str) -> None:
    theirs = list(inspect.signature(getattr(BaseRanker, name)).parameters)
    ours = list(inspect.signature(getattr(Reranker, name)).parameters)
    assert theirs == ours[: len(theirs)]


def test_their_documents_are_taken_with_their_ids() -> None:
    documents = [Document(text, doc_id=10 + place, metadata={"place": place}) for place, text in enumerate(TEXTS)]
    ranking = by_gain().rank("q", documents)
    assert ranking.docids == [str(10 + place) for place in BEST]
    assert ranking.get_score_by_docid(15) == ranking.get_score_by_docid("15") == 8.0
    assert by_gain().rank("q", [Document(text) for text in TEXTS]).docids == [str(place + 1) for place in BEST]


def test_several_at_once() -> None:
    async def together() -> list[Any]:
        reranker = by_gain()
        return await asyncio.gather(*(reranker.rank_async(f"q{i}", TEXTS[i:], top_k=2) for i in range(4)))

    best = [["gain 9", "gain 6"]] * 4
    assert [[hit.text for hit in ranking] for ranking in asyncio.run(together())] == best


@pytest.mark.parametrize("k", [0, -1, True, "3"])
def test_no_number_of_passages(k: Any) -> None:
    with pytest.raises(InputError, match="top_k"):
        by_gain().rank("q", TEXTS).top_k(k)
