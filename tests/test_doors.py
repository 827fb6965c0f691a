"""What every door into another stack must keep, one table over all of them: order, scores, metadata, duplicates, ties,
empty lists, top_n; and failures that look like failures. What is each stack's own is in tests/test_doors_*.py.
"""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from scripted_engine import BEST, SHARES, TEXTS, Scripted, by_gain

from rrlib.adapters.shared import UnreadWarning
from rrlib.engines import Reply
from rrlib.errors import EngineError, InputError, MissingPackageError
from rrlib.rerank import Reranker

Rows = list[tuple[str, float, float | None, dict[str, Any]]]
"""What came out, best first: text, score, the score it came with, other metadata."""


def langchain(reranker: Reranker, texts: list[str], top_n: int | None, query: str) -> tuple[Rows, Any]:
    from langchain_core.documents import Document

    from rrlib.adapters.langchain import RerankCompressor

    metadata = [{"relevance_score": -float(place), "n": place, "deep": {"a": [place]}} for place in range(len(texts))]
    documents = [Document(text, id=f"d{m['n']}", metadata=m) for text, m in zip(texts, metadata, strict=True)]
    door = RerankCompressor(reranker=reranker, top_n=top_n)
    out = door.compress_documents(documents, query)
    assert [document.metadata["relevance_score"] for document in documents] == [-float(m["n"]) for m in metadata]
    assert all(document.id == f"d{document.metadata['n']}" for document in out)
    return [_row(d.page_content, d.metadata.pop("relevance_score"), d.metadata) for d in out], door


def llama_index(reranker: Reranker, texts: list[str], top_n: int | None, query: str) -> tuple[Rows, Any]:
    from llama_index.core.schema import NodeWithScore, TextNode

    from rrlib.adapters.llama_index import RerankPostprocessor

    hidden = {"excluded_embed_metadata_keys": ["n", "deep"], "excluded_llm_metadata_keys": ["n"]}
    nodes = [
        TextNode(text=text, id_=f"d{place}", metadata={"n": place, "deep": {"a": [place]}}, **hidden)
        for place, text in enumerate(texts)
    ]
    given = [NodeWithScore(node=node, score=-float(place)) for place, node in enumerate(nodes)]
    door = RerankPostprocessor(reranker=reranker, top_n=top_n)
    out = door.postprocess_nodes(given, query_str=query)
    assert [(node.score, node.metadata["n"]) for node in given] == [(-float(n), n) for n in range(len(texts))]
    assert all("retrieval_score" not in node.metadata for node in given)
    assert all(node.node_id == f"d{node.metadata['n']}" for node in out)
    return [_row(node.node.get_content(), node.score or 0.0, node.metadata) for node in out], door


def haystack(reranker: Reranker, texts: list[str], top_n: int | None, query: str) -> tuple[Rows, Any]:
    from haystack import Document

    from rrlib.adapters.haystack import ReasoningRanker

    documents = [
        Document(id=f"d{place}", content=text, score=-float(place), meta={"n": place, "deep": {"a": [place]}})
        for place, text in enumerate(texts)
    ]
    door = ReasoningRanker(reranker, top_k=top_n)
    out = door.run(query=query, documents=documents)["documents"]
    assert [(document.score, len(document.meta)) for document in documents] == [
        (-float(n), 2) for n in range(len(texts))
    ]
    assert all(document.id == f"d{document.meta['n']}" for document in out)
    return [_row(document.content, document.score, document.meta) for document in out], door


def pyterrier(reranker: Reranker, texts: list[str], top_n: int | None, query: str) -> tuple[Rows, Any]:
    import pandas
    import pyterrier

    import rrlib

    columns = ["qid", "query", "docno", "text", "score", "rank", "n", "deep"]
    rows = [["1", query, f"d{n}", text, -float(n), n, n, {"a": [n]}] for n, text in enumerate(texts)]
    frame = pandas.DataFrame(rows, columns=columns)
    before = frame.copy(deep=True)
    door = rrlib.pt.Reranker(reranker)
    out = (door if top_n is None else door % top_n)(frame)
    assert before.equals(frame) and pyterrier.Transformer in type(door).mro()
    assert list(out["rank"]) == list(range(len(out))) and list(out["docno"]) == [f"d{n}" for n in out["n"]]
    kept = ["retrieval_score", "n", "deep"]
    n = len(texts)  # its scores are n - rank
    return [_row(row["text"], row["score"] / n, {k: row[k] for k in kept}) for row in out.to_dict("records")], door


def _row(text: str, score: float, metadata: dict[str, Any]) -> tuple[str, float, float | None, dict[str, Any]]:
    return text, score, metadata.get("retrieval_score"), {k: metadata[k] for k in metadata if k != "retrieval_score"}


DOORS: dict[str, Callable[..., tuple[Rows, Any]]] = {
    "langchain": langchain,
    "llama_index": llama_index,
    "haystack": haystack,
    "pyterrier": pyterrier,
}
"""A door each: it hands texts over, the i-th with score -i and metadata n = i, and gives back rows and the door."""


MANY = {"pyterrier"}
"""The doors that take many questions at once."""


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Callable[..., tuple[Rows, Any]]:
    return DOORS[request.param]


@pytest.mark.parametrize("top_n", [None, 1, 3, 8, 99])
def test_order_scores_and_what_came_along(door: Any, top_n: int | None) -> None:
    rows, _ = door(by_gain(), TEXTS, top_n, "q")
    wanted = [(TEXTS[place], score) for place, score in zip(BEST, SHARES, strict=True)][:top_n]
    assert [row[:2] for row in rows] == wanted
    assert [row[2] for row in rows] == [-float(place) for place in BEST][:top_n]
    assert [row[3] for row in rows] == [{"n": place, "deep": {"a": [place]}} for place in BEST][:top_n]


def test_equal_texts_and_equal_ranks_keep_their_order(door: Any) -> None:
    rows, _ = door(by_gain(), ["a 1", "b 2", "a 1", "c 1", "b 2"], None, "q")
    assert [row[3]["n"] for row in rows] == [1, 4, 0, 2, 3]
    assert [row[1] for row in rows] == [1.0, 0.8, 0.6, 0.4, 0.2]


def test_nothing_in_nothing_out_and_nothing_asked(door: Any) -> None:
    reranker = by_gain()
    rows, made = door(reranker, [], None, "q")
    assert rows == [] and reranker.engine.calls == 0 and made.tally.windows == 0


def test_an_empty_text_among_others(door: Any) -> None:
    rows, _ = door(by_gain(), ["", "b 2", "a 1"], None, "q")
    assert sorted(row[0] for row in rows) == ["", "a 1", "b 2"]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (["no list at all"] * 3, "no answer of 3 could be read"),
        ([Reply(error="it broke")] * 3, "every call failed; the last reason: it broke"),
    ],
)
def test_what_is_not_the_models_order_is_an_error(door: Any, answers: list[Any], reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        door(by_gain(*answers, window=4, stride=2), TEXTS, None, "q")


@pytest.mark.parametrize("name", DOORS)
def test_one_call_that_failed(name: str) -> None:
    """An error where there is one question; among many it is counted, and said."""
    reranker = by_gain(Reply(error="it broke"), window=4, stride=2)
    if name not in MANY:
        with pytest.raises(EngineError, match="1 of 3 calls of the model failed: it broke"):
            DOORS[name](reranker, TEXTS, None, "q")
        return
    with pytest.warns(UnreadWarning, match="1 of 3 windows"):
        _, made = DOORS[name](reranker, TEXTS, None, "q")
    assert made.tally.failed == 1 and made.tally.last_error == "it broke"


def test_a_window_that_could_not_be_read_is_counted_and_said(door: Any) -> None:
    with pytest.warns(UnreadWarning, match="1 of 3 windows"):
        rows, made = door(by_gain("no list at all", window=4, stride=2), TEXTS, None, "q")
    assert sorted(row[0] for row in rows) == sorted(TEXTS)
    assert made.tally.windows == 3 and made.tally.unread == {"no_answer": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnreadWarning)
        assert door(by_gain(), TEXTS, None, "q")[1].tally.unread == {}


@pytest.mark.parametrize(("texts", "query"), [(TEXTS, " "), (["", " "], "q")])
def test_what_is_no_question_is_bad_input(door: Any, texts: list[str], query: str) -> None:
    with pytest.raises(InputError):
        door(by_gain(), texts, None, query)


@pytest.mark.parametrize("name", DOORS)
def test_a_probability_where_each_was_judged_by_itself(name: str) -> None:
    """Except where scores go to an evaluator: there they fall by one."""
    chances = {"gain 3": 0.25, "gain 1": 0.75, "gain 4": 0.5}

    class Judge(Scripted):
        """Scores a passage by the table above."""

        def _reply(self, request: Any) -> Reply:
            (chance,) = [chance for text, chance in chances.items() if text in request.messages[-1]["content"]]
            yes, no = request.choices
            return Reply(logprobs={yes: math.log(chance), no: math.log(1 - chance)})

    reranker = Reranker(Judge(), style="pointwise_nothink", strategy="pointwise", depth=None)
    rows, _ = DOORS[name](reranker, list(chances), None, "q")
    assert [row[0] for row in rows] == ["gain 1", "gain 4", "gain 3"]
    assert [row[1] for row in rows] == pytest.approx([1, 2 / 3, 1 / 3] if name in MANY else [0.75, 0.5, 0.25])


LIBRARIES = {
    "langchain": ("langchain_core", "langchain"),
    "llama_index": ("llama_index", "llama-index"),
    "haystack": ("haystack", "haystack"),
    "pyterrier": ("pyterrier", "pyterrier"),
    "mcp": ("mcp", "mcp"),
    "mteb": ("mteb", "mteb"),
}
"""Module of rrlib.adapters -> the library it needs, and the extra that brings it."""


@pytest.mark.parametrize("module", LIBRARIES)
def test_a_library_that_is_not_there_is_named_with_its_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, extra = LIBRARIES[module]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"rrlib.adapters.{module}", raising=False)
    with pytest.raises(MissingPackageError) as refused:
        importlib.import_module(f"rrlib.adapters.{module}")
    assert str(refused.value) == f"this needs {package}, which is not installed -> pip install 'rrlib[{extra}]'"


def test_another_module_that_is_missing_is_said_as_it_is() -> None:
    from rrlib.adapters.shared import missing

    error = ModuleNotFoundError("No module named 'orjson'", name="orjson")
    assert missing(error, "langchain_core", "langchain") is error
