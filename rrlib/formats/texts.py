"""Queries and passages: the texts that runs and judgements only name.

Queries and corpora come as JSON lines, `id<TAB>text` or a table (a corpus in one file, or a folder of shards). It is
streamed: with `only`, a collection of millions of passages costs no more memory than the passages wanted.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, MissingFileError
from rrlib.formats.columns import NAMES, Column, Header, read_header, what_it_looks_like
from rrlib.formats.fields import QUERY_TEXT_KEYS, TEXT_KEYS, no_control, record_id, record_passage, record_text
from rrlib.formats.textio import BLANKS, TextLines, add_note, open_text, parse_object
from rrlib.types import Passage, Query


def _query_lines(path: str | Path, notes: list[str] | None) -> Iterator[tuple[int, str, str, dict[str, Any]]]:
    """Yield (line number, id, text, metadata); the first line that is not blank tells a table from JSON lines."""
    first = ""
    header: Header | None = None
    with open_text(path) as lines:
        for line in lines:
            if not line.strip(BLANKS):
                continue
            if not first:
                first = line.lstrip(BLANKS)[0]
                if first not in "{[":
                    header = read_header(line, (Column.QUERY, Column.TEXT), path, lines.lineno, sure=True)
                    if header is not None:
                        continue
            if first in "{[":
                record = parse_object(line, path, lines.lineno)
                qid = record_id(record, "query", path, lines.lineno)
                text = record_text(record, f"query ({qid!r})", path, lines.lineno, QUERY_TEXT_KEYS)
                yield lines.lineno, qid, text, _metadata(record, path, lines.lineno)
            else:
                yield lines.lineno, *_query_row(line, header, path, lines.lineno), {}
        for repair in lines.repairs:
            add_note(notes, path, repair)


def _query_row(line: str, header: Header | None, path: str | Path, lineno: int) -> tuple[str, str]:
    """Id and text on one line of a table; a text may hold tabs where no header says how many columns there are."""
    if header is not None and (header.width > 2 or header.separator != "\t" or header.place[Column.QUERY] != 0):
        cells = header.cells(line) or []
        qid, text = (cells[header.place[column]] for column in (Column.QUERY, Column.TEXT)) if cells else ("", "")
        wrong = "" if qid else f"no query id: under this header a line has {header.width} fields"
    else:
        qid, tab, text = line.partition("\t")
        qid = qid.strip(BLANKS)
        wrong = "no tab between a query id and its text" if not tab else "" if qid else "an empty query id"
    if not wrong and "\r" in text and "\t" in text[text.index("\r") :]:
        wrong = "several lines in one"
    if wrong:
        usual = "a line reads: id<TAB>text (or give JSON lines with the keys _id and text)"
        remedy = "; ".join(part for part in (what_it_looks_like(line) if "\r" in line else "", usual) if part)
        raise InputError(wrong, path=path, line=lineno, remedy=remedy)
    no_control(qid, "query id", path, lineno)
    return qid, text.strip(BLANKS)


def _metadata(record: dict[str, Any], path: str | Path, line: int) -> dict[str, Any]:
    metadata = record.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise InputError(
            "`metadata` is not an object", path=path, line=line, remedy="write it as {...}, or leave it out"
        )
    return metadata


def queries_with_metadata(
    path: str | Path, notes: list[str] | None = None
) -> tuple[dict[str, Query], dict[str, dict[str, Any]]]:
    queries: dict[str, Query] = {}
    metadata: dict[str, dict[str, Any]] = {}
    for line, qid, text, extra in _query_lines(path, notes):
        if qid in queries:
            raise InputError(
                f"the query id {qid!r} a second time", path=path, line=line, remedy="give every query an id of its own"
            )
        queries[qid] = Query(qid, text)
        metadata[qid] = extra
    if not queries:
        raise InputError("there are no queries", path=path, remedy="a line reads: id<TAB>text, or a JSON object")
    if empty := sum(not query.text.strip() for query in queries.values()):
        add_note(notes, path, f"{empty} of {len(queries)} queries have an empty text")
    return queries, metadata


def read_queries(path: str | Path, notes: list[str] | None = None) -> dict[str, Query]:
    """Read queries: TSV `id<TAB>text`, or JSON lines with `_id`/`id`/`qid` and `text` (or `query`).

    Empty texts are counted in `notes`. Raises `InputError` for lines without a tab, records without id or text,
    a query id that comes twice, and a file without queries.
    """
    return queries_with_metadata(path, notes)[0]


def corpus_files(path: Path) -> list[Path]:
    """The files of a corpus: the file itself, or in a folder `corpus.jsonl[.gz]`, else all JSON-lines files."""
    if not path.exists():
        raise MissingFileError("no such corpus", path=path, remedy="name a JSON-lines file or a folder of them")
    if not path.is_dir():
        return [path]
    for name in ("corpus.jsonl", "corpus.jsonl.gz"):
        if (path / name).is_file():
            return [path / name]
    files = sorted(
        file
        for file in path.iterdir()
        if file.name.endswith((".jsonl", ".jsonl.gz")) and not file.name.startswith(("queries.", "."))
    )
    if not files:
        raise MissingFileError(
            "no corpus in this folder",
            path=path,
            remedy="it should hold corpus.jsonl, corpus.jsonl.gz or shards *.jsonl",
        )
    return files


def _documents(path: Path, notes: list[str] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, record) of one file of a corpus, JSON lines or a table; its first line tells which."""
    with open_text(path) as lines:
        rest = iter(lines)
        first = next((line for line in rest if line.strip(BLANKS)), "{}")
        if lines.lineno and first.lstrip(BLANKS)[0] not in "{[" and (header := _document_header(first)) is not None:
            yield from _table_rows(lines, rest, *header)
        else:
            as_json = first.lstrip(BLANKS)[0] in "{["
            for line in chain([first] if lines.lineno else [], rest):
                if line.strip(BLANKS):
                    parse = parse_object if as_json else _document_row
                    yield lines.lineno, parse(line, path, lines.lineno)
        for repair in lines.repairs:
            add_note(notes, path, repair)


def _document_row(line: str, path: str | Path, lineno: int) -> dict[str, Any]:
    """`id<TAB>text`, as MS MARCO's collection comes."""
    docid, tab, text = line.partition("\t")
    if not tab or not docid.strip(BLANKS):
        remedy = "give JSON lines, id<TAB>text, or a table under a header such as: docid,title,text"
        raise InputError("neither JSON nor a document id and a tab", path=path, line=lineno, remedy=remedy)
    return {"_id": docid.strip(BLANKS), "text": text}


def _table_rows(
    lines: TextLines, rest: Iterator[str], names: list[str], separator: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (last line number, record) below a header; a text in quotes may hold separators and line ends, and a quote
    inside it is doubled. Quotes that do not fit are refused, not guessed at: they would swallow lines."""
    rows = csv.reader((line + "\n" for line in rest), delimiter=separator, strict=True)
    begun = lines.lineno + 1  # the line on which the row begins
    try:
        for cells in rows:
            begun = lines.lineno + 1
            if cells and len(cells) != len(names):
                why = f"{len(cells)} fields under a header of {len(names)}"
                raise InputError(why, path=lines.path, line=lines.lineno, remedy="quote texts that hold the separator")
            if cells:
                record = dict(zip(names, cells, strict=True))
                yield lines.lineno, {**record, "_id": record["_id"].strip(BLANKS)}
    except csv.Error as error:
        remedy = "put a text with quotes into quotes and double those inside it, or give JSON lines"
        raise InputError(f"quotes that do not fit: {error}", path=lines.path, line=begun, remedy=remedy) from None


def _document_header(line: str) -> tuple[list[str], str] | None:
    """The columns of a table of documents as keys of a record, and its separator; None where a line is no header."""
    separator = next((sign for sign in "\t,;" if sign in line), "\t")
    names = [re.sub(r"[-_ .]", "", cell.strip(BLANKS + '"').lower()) for cell in line.split(separator)]
    ids = [name for name in ("id", *NAMES[Column.DOCUMENT].split()) if name in names]
    texts = [name for name in TEXT_KEYS if name in names]
    if not ids or not texts or ids[0] == texts[0]:
        return None
    keys = {ids[0]: "_id", texts[0]: "text", "title": "title"}
    return [keys.get(name, f"column {place}") for place, name in enumerate(names)], separator


def read_corpus(
    path: str | Path, only: Collection[str] | None = None, notes: list[str] | None = None
) -> dict[str, Passage]:
    """Read passages: document id -> Passage, from a file or a folder (`corpus.jsonl[.gz]`, or shards).

    A file is JSON lines, `id<TAB>text` without a header, or a table (tabs, commas, semicolons) under a header that
    names an id, a text and perhaps a title.

    Keys: `_id`/`id`/`qid`/`docid`; `text`/`contents`/`segment`/`body`/`passage`; `title` if there is one. With
    `only`, other documents are read past and not kept (nor are their texts checked); ids of `only` that the corpus
    lacks are simply not in the result. Empty texts are counted in `notes`. Raises `InputError` for records without
    id or text, for a document id that comes twice, and for an empty corpus.
    """
    wanted = None if only is None else frozenset(only)
    corpus: dict[str, Passage] = {}
    seen = 0
    for shard in corpus_files(Path(path)):
        for line, record in _documents(shard, notes):
            seen += 1
            docid = record_id(record, "document", shard, line)
            if wanted is not None and docid not in wanted:
                continue
            if docid in corpus:
                raise InputError(
                    f"the document id {docid!r} a second time",
                    path=shard,
                    line=line,
                    remedy="give every document an id of its own",
                )
            corpus[docid] = record_passage(record, shard, line)
    if not seen:
        raise InputError("the corpus is empty", path=path, remedy="it should hold one JSON object a line")
    if empty := sum(not passage.text.strip() for passage in corpus.values()):
        add_note(notes, path, f"{empty} of {len(corpus)} documents have an empty text")
    return corpus
