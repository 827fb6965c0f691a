"""Candidates: joined from a run, queries and a corpus, or read from rank_llm's request files.

A request file is JSON lines: `{"query": {"qid", "text"}, "candidates": [{"docid", "score", "doc"}]}`, where `doc` is
the corpus record or a plain string. RankGPT's form is read as well: `{"query": text, "hits": [{"qid", "docid", "score",
"content"}]}`.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rrlib.errors import InputError
from rrlib.formats.fields import QUERY_TEXT_KEYS, TEXT_KEYS, as_id, check_id, few, record_passage, record_text
from rrlib.formats.textio import add_note, read_jsonl, write_jsonl
from rrlib.formats.trec import without_excluded
from rrlib.types import Candidates, Passage, Query, Run


def make_candidates(
    run: Run,
    queries: Mapping[str, Query] | None,
    corpus: Mapping[str, Passage] | None,
    depth: int | None = None,
    excluded: Mapping[str, set[str]] | None = None,
    collection: str = "",
    texts_required: bool = True,
    notes: list[str] | None = None,
    texts_depth: int | None = None,
) -> list[Candidates]:
    """Join a run with its texts: one `Candidates` for every query of the run, passages in rank-column order.

    Excluded documents are removed first, then at most `depth` candidates are kept (all, if None). With
    `texts_required=False`, what queries and corpus lack (or where they are None) gets an empty text; with `texts_depth`
    only the first so many passages of a query need one. Raises `InputError`, naming the first few and their number, for
    queries and documents of the run without a text.
    """
    if depth is not None and depth < 0:
        raise InputError(f"depth is {depth}", remedy="give a depth of 0 or more")
    if excluded:
        run, removed = without_excluded(run, excluded)
        if removed and notes is not None:
            notes.append(f"{removed} excluded documents removed from the candidates")
    run = {qid: hits[:depth] for qid, hits in run.items()}
    queries, corpus = queries or {}, corpus or {}
    if texts_required:
        absent = [qid for qid in run if qid not in queries]
        _require(absent, len(run), "queries of the run are not in the queries file", queries)
        docids = dict.fromkeys(hit.docid for hits in run.values() for hit in hits[:texts_depth])
        missing = [docid for docid in docids if docid not in corpus]
        _require(missing, len(docids), "documents of the run are not in the corpus")
    return [
        Candidates(
            query=queries.get(qid) or Query(qid),
            passages=tuple(corpus.get(hit.docid) or Passage(hit.docid) for hit in hits),
            scores=tuple(hit.score for hit in hits),
            collection=collection,
        )
        for qid, hits in run.items()
    ]


def _require(missing: Sequence[str], total: int, what: str, there: Collection[str] = ()) -> None:
    if missing:
        others = f" (its ids are like {few(list(there)[:2])})" if there else ""
        raise InputError(
            f"{len(missing)} of {total} {what}: {few(missing)}{others}",
            remedy="give the files that belong to this run (ids must be equal to the letter)",
        )


def read_requests(path: str | Path, collection: str = "", notes: list[str] | None = None) -> list[Candidates]:
    """Read a request file: a list of `Candidates` in file order, passages in the order of the `candidates` list.

    Scores are kept if every candidate of a query has one. Raises `InputError` with file and line for missing parts,
    a document listed twice for a query, a query id that comes twice, and an empty file.
    """
    requests: list[Candidates] = []
    qids: set[str] = set()
    empty = 0
    for line, row in read_jsonl(path, notes):
        request = _request(row, collection, path, line)
        if request.query.qid in qids:
            raise InputError(
                f"the query id {request.query.qid!r} a second time",
                path=path,
                line=line,
                remedy="write one line a query",
            )
        qids.add(request.query.qid)
        empty += sum(not passage.text.strip() for passage in request.passages)
        requests.append(request)
    if not requests:
        raise InputError("there are no requests", path=path, remedy='a line reads: {"query": ..., "candidates": ...}')
    if empty:
        add_note(notes, path, f"{empty} candidates have an empty text")
    return requests


def _as_rank_llm(row: dict[str, Any]) -> dict[str, Any]:
    """A line of RankGPT's results as a request; any other line as it is."""
    hits = row.get("hits")
    if not isinstance(hits, list) or "candidates" in row or not all(isinstance(hit, dict) for hit in hits):
        return row
    query = row.get("query")
    if not isinstance(query, dict):
        qid = next((source[key] for source in (row, *hits) for key in ("qid", "query_id") if key in source), None)
        query = {"qid": qid, "text": query}
    texts = [next((hit[key] for key in ("content", *TEXT_KEYS) if key in hit), None) for hit in hits]
    candidates = [
        {"docid": hit.get("docid"), "score": hit.get("score"), "doc": hit.get("doc") if text is None else text}
        for hit, text in zip(hits, texts, strict=True)
    ]
    return {"query": query, "candidates": candidates}


def _request(row: dict[str, Any], collection: str, path: str | Path, line: int) -> Candidates:
    row = _as_rank_llm(row)
    query, rows = row.get("query"), row.get("candidates")
    if not isinstance(query, dict) or not isinstance(rows, list):
        lacking = "query" if not isinstance(query, dict) else "candidates"
        raise InputError(
            f"a request without {lacking!r}",
            path=path,
            line=line,
            remedy='a line reads: {"query": {"qid", "text"}, "candidates": [{"docid", "score", "doc"}]}',
        )
    qid = _qid(query, path, line)
    check_id(qid, "query id", path, line)
    text = record_text(query, f"query ({qid!r})", path, line, QUERY_TEXT_KEYS)
    passages: list[Passage] = []
    scores: list[float] = []
    for candidate in rows:
        passage, score = _candidate(candidate, qid, path, line)
        passages.append(passage)
        if score is not None:
            scores.append(score)
    all_scores = tuple(scores) if len(scores) == len(passages) else ()
    try:
        return Candidates(Query(qid, text), tuple(passages), all_scores, collection)
    except InputError as error:
        raise InputError(error.message, path=path, line=line, remedy=error.remedy) from None


def _qid(query: Mapping[str, Any], path: str | Path, line: int) -> str:
    return as_id(query.get("qid", query.get("_id", query.get("id"))), "the query id (qid)", path, line)


def _candidate(candidate: object, qid: str, path: str | Path, line: int) -> tuple[Passage, float | None]:
    remedy = 'a candidate reads: {"docid": ..., "score": ..., "doc": {"text": ...}}'
    if not isinstance(candidate, dict):
        raise InputError(f"query {qid}: a candidate is not an object", path=path, line=line, remedy=remedy)
    docid = as_id(candidate.get("docid"), f"query {qid}: a document id (docid)", path, line)
    check_id(docid, "document id", path, line)
    score = candidate.get("score")
    if score is not None and (
        isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= sys.float_info.max
    ):
        raise InputError(
            f"query {qid}: document {docid!r} has the score {score!r}",
            path=path,
            line=line,
            remedy="scores are finite numbers",
        )
    doc = candidate.get("doc")
    if isinstance(doc, str):
        return Passage(docid, doc), score
    if not isinstance(doc, dict):
        raise InputError(f"query {qid}: document {docid!r} has no `doc`", path=path, line=line, remedy=remedy)
    return record_passage({**doc, "_id": docid}, path, line), score


def write_requests(path: str | Path, requests: Sequence[Candidates]) -> Path:
    """Write `Candidates` as a request file; the score is null where there is none. The collection is not written."""

    def row(request: Candidates) -> dict[str, Any]:
        scores: Sequence[float | None] = request.scores or [None] * len(request.passages)
        return {
            "query": {"qid": request.query.qid, "text": request.query.text},
            "candidates": [
                {
                    "docid": passage.docid,
                    "score": score,
                    "doc": {"title": passage.title, "text": passage.text} if passage.title else {"text": passage.text},
                }
                for passage, score in zip(request.passages, scores, strict=True)
            ],
        }

    return write_jsonl(path, (row(request) for request in requests))


def write_reranked(path: str | Path, source: str | Path, rankings: Mapping[str, Sequence[str]]) -> Path:
    """Write a request file once more, its candidates in a new order, as rank_llm writes results.

    rankings: query id -> all its document ids, best first. Whatever else a query, a candidate or its `doc` holds stays;
    a `doc` that is a string becomes the `text` of one. The score becomes n - rank + 1, so that no evaluator can reorder
    ties; the score before is `retrieval_score`. Raises InputError for a source that is no request file, or has another
    query or document than the rankings.
    """

    def rows() -> Iterator[dict[str, Any]]:
        met: set[str] = set()
        for line, row in read_jsonl(source):
            qid, written = _reranked(row, rankings, source, line)
            met.add(qid)
            yield written
        if missing := [qid for qid in rankings if qid not in met]:
            message = f"{len(missing)} of {len(rankings)} queries that were ranked are not in it: {few(missing)}"
            raise InputError(message, path=source, remedy="give the rankings of this very file, and no pipe")

    return write_jsonl(path, rows())


def _reranked(
    row: dict[str, Any], rankings: Mapping[str, Sequence[str]], path: str | Path, line: int
) -> tuple[str, dict[str, Any]]:
    """The query id of a request, and the request in its new order."""
    row = _as_rank_llm(row)
    qid = _request(row, "", path, line).query.qid
    candidates = {as_id(candidate["docid"], "a document id", path, line): candidate for candidate in row["candidates"]}
    order = rankings.get(qid, ())
    if sorted(order) != sorted(candidates):
        message, remedy = "its documents are not those that were ranked", "give the rankings of this very file"
        raise InputError(f"query {qid}: {message}", path=path, line=line, remedy=remedy)
    ranked = []
    for rank, docid in enumerate(order, 1):
        candidate = candidates[docid]
        before = {} if candidate.get("score") is None else {"retrieval_score": candidate["score"]}
        doc = {"text": candidate["doc"]} if isinstance(candidate["doc"], str) else candidate["doc"]
        ranked.append({**candidate, "doc": doc, **before, "score": float(len(order) - rank + 1)})
    return qid, {**row, "candidates": ranked}
