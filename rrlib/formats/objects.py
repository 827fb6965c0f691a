"""Queries and passages out of Python objects: what a person hands to `Reranker.rank`, or what is wanted instead.

Read are a list (tuple, array, series, generator) of texts, of Passages, of dicts, or of things with `doc_id` and
`text`; a dict of id -> text; and a table (pandas, polars, pyarrow) with a column of texts. Nothing is guessed: what can
be read in two ways is refused.
"""

from __future__ import annotations

import json
import math
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from os import PathLike
from typing import Any

from rrlib.disk import hash_text
from rrlib.errors import InputError
from rrlib.formats import fields
from rrlib.types import Candidates, Passage, Query

ID_KEYS = ("docid", "doc_id", "docno", "pid", "passage_id", *fields.ID_KEYS)
TEXT_KEYS = (*fields.TEXT_KEYS, "content", "page_content", "document", "doc")
_WANTED = "give a list of texts, such as [text, text], a list of Passage, or a dict of id -> text"


def kind(thing: object) -> str:
    """What a thing is, in a word or two: `a number`, `a DataFrame`."""
    if thing is None:
        return "None"
    if isinstance(thing, bool):
        return "True or False"
    if isinstance(thing, float) and math.isnan(thing):
        return "missing (NaN)"
    if isinstance(thing, int | float):
        return "a number"
    names = {str: "one text", bytes: "bytes", list: "a list", tuple: "a tuple", dict: "a dict", Passage: "one Passage"}
    return next((name for of, name in names.items() if isinstance(thing, of)), f"a {type(thing).__name__}")


def query_from(query: object) -> Query:
    """A query from a text or a Query. Raises InputError for what is neither, or has no text."""
    if isinstance(query, Query):
        if not query.text.strip():
            remedy = f"write Query('1', {query.qid!r}), or give the text itself"
            raise InputError(f"this Query has the id {query.qid!r} and no text", remedy=remedy)
        return query
    if not isinstance(query, str):
        raise InputError(f"the query is {kind(query)}", remedy="rank(query, docs) takes one text, then a list of texts")
    if not query.strip():
        raise InputError("the query is empty", remedy="give its text")
    return Query("query", query)


def passages_from(docs: Any, doc_ids: Any = None) -> tuple[Passage, ...]:
    """Passages in the order given. doc_ids: their ids, which hold against others; without any, "1", "2", ...

    Raises InputError for what holds no texts, and for ids that are none, come twice or are of another number.
    """
    rows = _rows(docs)
    passages = [_passage(row, number, len(rows)) for number, row in enumerate(rows, 1)]
    ids = [docid for docid, _ in passages] if doc_ids is None else _ids(doc_ids, len(rows))
    without = [number for number, docid in enumerate(ids, 1) if docid is None]
    if without and len(without) < len(ids):
        raise InputError(f"document {without[0]} has no id, and others have", remedy="give all of them one, or none")
    named = [docid if docid is not None else str(number) for number, docid in enumerate(ids, 1)]
    for docid, times in Counter(named).items():
        if times > 1:
            raise InputError(f"two documents have the id {docid!r}", remedy="give every document an id of its own")
    if passages and not any(passage.text.strip() or passage.title.strip() for _, passage in passages):
        raise InputError("no document has a text", remedy="write Passage(id, text), or give the texts themselves")
    return tuple(Passage(docid, old.text, old.title) for docid, (_, old) in zip(named, passages, strict=True))


def question_from(query: Any, docs: Any, doc_ids: Any = None) -> Candidates:
    """One query with its passages. Its collection is a name made of its texts: in a log, where a query is found by
    collection and id, another question has a place of its own. Raises InputError as `query_from`, `passages_from`."""
    if isinstance(docs, str | Query) and not isinstance(query, str | Query):
        raise InputError("the query stands where the docs should", remedy="rank(query, docs): the query is first")
    asked, passages = query_from(query), passages_from(docs, doc_ids)
    shown = json.dumps([asked.text, *((p.docid, p.title, p.text) for p in passages)])
    return Candidates(asked, passages, collection="rank-" + hash_text(shown)[:12])


def _rows(docs: Any) -> list[Any]:
    """The documents as a list, ids and texts of a dict as rows."""
    if hasattr(docs, "columns") or hasattr(docs, "column_names"):
        return _table_rows(docs)
    if isinstance(docs, Mapping):
        if any(key in docs for key in TEXT_KEYS):
            raise InputError("docs is a dict of fields, one document", remedy="give a list of such dicts")
        wrong = next((key for key, text in docs.items() if not isinstance(text, str | Passage)), None)
        if wrong is not None:
            raise InputError(f"docs[{wrong!r}] is {kind(docs[wrong])}", remedy="a dict of docs holds id -> text")
        return [{"docid": key, "text": getattr(text, "text", text)} for key, text in docs.items()]
    if isinstance(docs, Set):
        raise InputError("docs is a set, which has no order", remedy="give a list, best of the first stage first")
    if isinstance(docs, str | bytes | PathLike | Passage | Query | Candidates) or not isinstance(docs, Iterable):
        raise InputError(f"docs is {kind(docs)}", remedy=_WANTED)
    return list(docs)


def _table_rows(table: Any) -> list[Any]:
    """The rows of a table as dicts of text, id and title. Raises InputError where no column holds texts."""
    columns = [str(name) for name in getattr(table, "column_names", None) or table.columns]
    if not any(key in columns for key in TEXT_KEYS):
        names = ", ".join(columns) or "none"
        raise InputError(f"docs has no column of texts, but {names}", remedy='give a list: docs["COLUMN"]')
    for method, arguments in (("to_dicts", ()), ("to_pylist", ()), ("to_dict", ("records",))):
        if hasattr(table, method):
            return list(getattr(table, method)(*arguments))
    return list(table)


def _passage(row: Any, number: int, n: int) -> tuple[str | None, Passage]:
    """The id, if it has one, and the passage of one document; the passage's own id is for the moment any."""
    if isinstance(row, Passage):
        return row.docid, row
    if isinstance(row, str):
        return None, Passage(str(number), str(row))
    if hasattr(row, "doc_id") and hasattr(row, "text"):  # a Document of the package rerankers
        row = {"text": row.text} if row.doc_id is None else {"doc_id": row.doc_id, "text": row.text}
    if not isinstance(row, Mapping):
        raise InputError(f"document {number} of {n} is {kind(row)}", remedy=_WANTED)
    key = next((key for key in TEXT_KEYS if key in row), None)
    if key is None or not isinstance(row[key], str):
        what = f"has the keys {fields.few(row) or 'none'}" if key is None else f"has a {key!r} that is {kind(row[key])}"
        raise InputError(f"document {number} of {n} {what}", remedy='give it a text: {"docid": ..., "text": ...}')
    named = next((name for name in ID_KEYS if name in row), None)
    title = row.get("title")
    docid = None if named is None else _id(row[named], number)
    return docid, Passage(str(number), str(row[key]), title if isinstance(title, str) else "")


def _ids(doc_ids: Any, n: int) -> list[str | None]:
    if isinstance(doc_ids, str | bytes | Mapping | Set) or not isinstance(doc_ids, Iterable):
        raise InputError(f"doc_ids is {kind(doc_ids)}", remedy="give a list of ids, one a document")
    ids: list[str | None] = [_id(value, number) for number, value in enumerate(doc_ids, 1)]
    if len(ids) != n:
        raise InputError(f"{len(ids)} doc_ids for {n} docs", remedy="give one id a document")
    return ids


def _id(value: Any, number: int) -> str:
    """An id as a string: whole numbers (of numpy too) are written out."""
    try:
        text = value if isinstance(value, str) else str(operator.index(value))
    except TypeError:
        text = ""
    if not text or isinstance(value, bool):
        what = "empty" if isinstance(value, str) else kind(value)
        raise InputError(f"the id of document {number} is {what}", remedy="ids are texts or whole numbers")
    return str(text)


def candidates_from(candidates: Any) -> Sequence[Candidates]:
    """What `Reranker.rerank` takes, as a list: Candidates, one or many. Raises InputError for anything else."""
    if isinstance(candidates, Candidates):
        return [candidates]
    remedy = "give a list of Candidates; a query and its texts go to rank(query, docs)"
    if isinstance(candidates, str | bytes | Mapping) or not isinstance(candidates, Iterable):
        raise InputError(f"rerank was given {kind(candidates)}", remedy=remedy)
    items = list(candidates)
    for number, item in enumerate(items, 1):
        if not isinstance(item, Candidates):
            raise InputError(f"candidates {number} of {len(items)} is {kind(item)}", remedy=remedy)
    return items


def check_top_k(top_k: Any) -> None:
    """Refuse what is no number of passages: InputError."""
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise InputError(f"top_k is {top_k!r}", remedy="give 1 or more, or leave it out for all")
