"""The two forms of a request and of its answer: Cohere's (also Jina's and vLLM's), and TEI's.

Fields that we do not know are passed over, as the servers do whose forms these are. Documents are known by their
place in the request, from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag

from rrlib.ranking import judged_scores
from rrlib.records import RerankResult, WindowRecord
from rrlib.types import Candidates, Passage, Query


def _as_document(value: Any) -> Any:
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, Document) or (isinstance(value, Mapping) and isinstance(value.get("text"), str)):
        return value
    raise ValueError("a document is a string, or an object with a string `text`")


class Document(BaseModel):
    """A document. title: shown in front of the text, as a corpus with titles has it."""

    text: str
    title: str = ""


class RerankRequest(BaseModel):
    """`POST /v1/rerank`. top_n: only the best so many. max_tokens_per_doc: documents are cut to this, or to the
    server's own limit where that is smaller. return_reasoning, stream: ours."""

    query: str
    documents: list[Annotated[Document, BeforeValidator(_as_document)]]
    model: str | None = None
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False
    max_tokens_per_doc: int | None = Field(None, ge=1)
    return_reasoning: bool = False
    stream: bool = False


class TextsRequest(BaseModel):
    """`POST /rerank` as TEI has it. raw_scores: scores on an open scale instead of 0 to 1. truncate: where it is false,
    a text that is longer than the server's limit is refused instead of cut."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = None


def _form_of(body: Any) -> str | None:
    """Which form a body of `POST /rerank` has: the one whose list of texts it holds."""
    if isinstance(body, RerankRequest | TextsRequest):
        return "documents" if isinstance(body, RerankRequest) else "texts"
    named = [key for key in ("documents", "texts") if isinstance(body, Mapping) and key in body]
    return named[0] if len(named) == 1 else None


EitherRequest = Annotated[
    Annotated[RerankRequest, Tag("documents")] | Annotated[TextsRequest, Tag("texts")],
    Discriminator(
        _form_of,
        custom_error_type="form",
        custom_error_message="give a query with `documents` (Cohere's form) or with `texts` (TEI's), one of them",
    ),
]
"""What `POST /rerank` takes."""


def candidates_of(asked: RerankRequest | TextsRequest) -> Candidates:
    """The request as a query with its passages, whose ids are their places."""
    documents = asked.documents if isinstance(asked, RerankRequest) else [Document(text=text) for text in asked.texts]
    passages = [Passage(str(place), doc.text, doc.title) for place, doc in enumerate(documents)]
    return Candidates(Query("query", asked.query), tuple(passages))


def order_of(result: RerankResult) -> list[int]:
    """The places of all documents, best first."""
    (ranking,) = result.rankings.values()
    return [int(docid) for docid in ranking]


def scores_of(result: RerankResult, *, raw: bool = False) -> list[float]:
    """A score a document, in the order of the ranking, never rising.

    Where every document was judged for itself (the pointwise strategy) it is the probability of the word for relevant;
    raw: its log-odds. Else it only says the rank: (n - rank + 1) / n, in 0 to 1; raw: n - rank + 1.
    """
    (ranking,) = result.rankings.values()
    n, judged = len(ranking), judged_scores(ranking, result.records, log_odds=raw)
    if judged is not None:
        return judged
    return [float(n - rank) if raw else (n - rank) / n for rank in range(n)]


def window_of(record: WindowRecord, *, reasoning: bool) -> dict[str, Any]:
    """A window as clients see it: documents as shown, their ranking, how the answer was read (a verdict of
    rrlib.responses), and the chain of thought where it is asked for."""
    row: dict[str, Any] = {
        "documents": [int(docid) for docid in record.docids],
        "ranking": [int(docid) for docid in record.ranked_docids],
        "verdict": record.verdict,
    }
    if record.score is not None:
        row["score"] = record.score
    return {**row, "reasoning": record.reasoning} if reasoning else row


def rerank_answer(asked: RerankRequest, result: RerankResult, model: str, name: str) -> dict[str, Any]:
    """The answer in Cohere's form. name: its id. unread_windows: windows whose answer could not be read, so that they
    kept the order they had. reasoning: a row a window, in the order they finished, where it was asked for."""
    results: list[dict[str, Any]] = []
    for place, score in list(zip(order_of(result), scores_of(result), strict=True))[: asked.top_n]:
        row: dict[str, Any] = {"index": place, "relevance_score": score}
        if asked.return_documents:
            row["document"] = asked.documents[place].model_dump(exclude_defaults=True)
        results.append(row)
    tokens_in, tokens_out = tokens_of(result.records)
    usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
    body: dict[str, Any] = {"id": name, "model": model, "results": results, "usage": usage}
    body["unread_windows"] = len(result.unread)
    if asked.return_reasoning:
        body["reasoning"] = [window_of(record, reasoning=True) for record in result.records]
    return body


def texts_answer(asked: TextsRequest, result: RerankResult) -> list[dict[str, Any]]:
    """The answer in TEI's form: a list, best first."""
    pairs = zip(order_of(result), scores_of(result, raw=asked.raw_scores), strict=True)
    rows: list[dict[str, Any]] = [{"index": place, "score": score} for place, score in pairs]
    return [{**row, "text": asked.texts[row["index"]]} for row in rows] if asked.return_text else rows


def tokens_of(records: Sequence[WindowRecord]) -> tuple[int, int]:
    """(read, written) by the model."""
    return sum(record.tokens_in for record in records), sum(record.tokens_out for record in records)
