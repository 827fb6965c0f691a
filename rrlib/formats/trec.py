"""TREC runs, qrels and lists of excluded documents.

Document ids may contain blanks (BRIGHT's StackOverflow set has some), so lines are read from both ends: for a run
the first field is the query, the second the constant `Q0`, the last three are rank, score and tag, and all between
is the document id. Fields are separated by tabs or blanks; where the tabs alone give the right number of fields,
they win, and then even query ids may contain blanks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rrlib.errors import InputError
from rrlib.formats.fields import HEADER_NAMES, as_id, check_id, few, is_header, record_id
from rrlib.formats.textio import BLANKS, add_note, open_text, parse_object, write_lines
from rrlib.types import Hit, Qrels, Run

_INTEGER = re.compile(r"([+-]?[0-9]{1,18})(?:\.0+)?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_CONSTANT = re.compile(r"[Qq][0Oo]|[0-9]+")
_RUN_REMEDY = "a line reads: query Q0 document rank score tag"
MAX_GRADE = 9999
"""trec_eval keeps a counter for every grade: a document id in the wrong column would take gigabytes."""


def _cells(line: str, before: int, after: int) -> list[str] | None:
    """The cells of a line: `before`, the document id, `after`; by tabs where they give that many, else by blanks.

    None if there are too few. Splits bytes, because `str.split` also splits at white space that belongs to ids.
    """
    text = line.strip(BLANKS)
    cells = [cell.strip(BLANKS) for cell in text.split("\t")]
    if len(cells) == before + 1 + after and all(cells):
        return cells
    head = text.encode("utf-8").split(None, before)
    tail = head[-1].rsplit(None, after) if len(head) == before + 1 else []
    if len(tail) != after + 1:
        return None
    return [cell.decode("utf-8") for cell in (*head[:-1], *tail)]


def _integer(text: str) -> int | None:
    match = _INTEGER.fullmatch(text)
    return None if match is None else int(match.group(1))


def _shown(line: str) -> str:
    return repr(line if len(line) <= 80 else line[:77] + "...")


def read_run(path: str | Path, notes: list[str] | None = None) -> Run:
    """Read a TREC run: query id -> hits in the order of the rank column (numeric; equal ranks in file order).

    That order is the one to rerank in. Evaluation orders by score instead (see `rrlib.evaluation.metrics`).
    Scores are finite floats in whatever unit the run uses. Raises `InputError` for an empty file, a short line, a
    rank or score that is no number, and a document that a query lists twice.
    """
    run: Run = {}
    first_line: dict[str, dict[str, int]] = {}
    with open_text(path) as lines:
        for line in lines:
            if not line.strip(BLANKS):
                continue
            qid, hit = _run_line(line, path, lines.lineno)
            seen = first_line.setdefault(qid, {})
            if hit.docid in seen:
                raise InputError(
                    f"query {qid}: document {hit.docid!r} a second time (first on line {seen[hit.docid]})",
                    path=path,
                    line=lines.lineno,
                    remedy="keep one line for every document of a query",
                )
            seen[hit.docid] = lines.lineno
            run.setdefault(qid, []).append(hit)
        for repair in lines.repairs:
            add_note(notes, path, repair)
    if not run:
        raise InputError("the run is empty", path=path, remedy=f"check the program that wrote it; {_RUN_REMEDY}")
    for hits in run.values():
        hits.sort(key=lambda hit: hit.rank)
    return run


def _run_line(line: str, path: str | Path, lineno: int) -> tuple[str, Hit]:
    cells = _cells(line, 2, 3)
    if cells is None:
        count = len(line.split())
        raise InputError(f"{count} fields, 6 are expected: {_shown(line)}", path=path, line=lineno, remedy=_RUN_REMEDY)
    qid, constant, docid, rank_text, score_text, _tag = cells
    if not _CONSTANT.fullmatch(constant) and len(line.split()) > 6:
        raise InputError(
            f"the second field is {constant!r} where Q0 is expected: {_shown(line)}",
            path=path,
            line=lineno,
            remedy=_RUN_REMEDY,
        )
    rank = _integer(rank_text)
    if rank is None:
        raise InputError(f"the rank {rank_text!r} is not an integer", path=path, line=lineno, remedy=_RUN_REMEDY)
    if not _NUMBER.fullmatch(score_text) or not math.isfinite(score := float(score_text)):
        raise InputError(f"the score {score_text!r} is not a finite number", path=path, line=lineno, remedy=_RUN_REMEDY)
    return qid, Hit(docid, score, rank)


def ranking_to_run(rankings: Mapping[str, Sequence[str]]) -> Run:
    """Turn best-first lists of document ids into a run with strictly decreasing scores n - rank + 1.

    Handing first-stage scores to a reranked list would let trec_eval's tie order reshuffle it.
    """
    run: Run = {}
    for qid, docids in rankings.items():
        if len(set(docids)) != len(docids):
            twice = [docid for docid in dict.fromkeys(docids) if list(docids).count(docid) > 1]
            raise InputError(f"query {qid}: ranked twice: {few(twice)}", remedy="rank every document once")
        n = len(docids)
        run[qid] = [Hit(docid, float(n - i), i + 1) for i, docid in enumerate(docids)]
    return run


def write_run(path: str | Path, rankings: Mapping[str, Sequence[str]], tag: str) -> Path:
    """Write best-first document ids as a TREC run with ranks 1..n and scores n..1.

    Raises `InputError` for ids that a run line cannot hold (control characters, blanks at an end, empty).
    """
    return write_scored_run(path, ranking_to_run(rankings), tag)


def write_scored_run(path: str | Path, run: Run, tag: str) -> Path:
    """Write a run with its own ranks and scores (full precision, so reading it back gives the same floats).

    Fields are separated by blanks, or by tabs where a query id contains a blank.
    """

    separator = "\t" if any(" " in qid for qid in run) else " "

    def lines() -> Iterator[str]:
        check_id(tag, "tag", path, blanks=False)
        for qid, hits in run.items():
            check_id(qid, "query id", path)
            for hit in hits:
                check_id(hit.docid, "document id", path)
                score = int(hit.score) if hit.score.is_integer() and abs(hit.score) < 1e15 else hit.score
                yield separator.join((qid, "Q0", hit.docid, str(hit.rank), repr(score), tag))

    for hit in (hit for hits in run.values() for hit in hits):
        if not math.isfinite(hit.score):
            raise InputError(f"document {hit.docid!r} has the score {hit.score}", path=path, remedy="scores are finite")
    return write_lines(path, lines())


def read_qrels(path: str | Path, notes: list[str] | None = None) -> Qrels:
    """Read relevance judgements: query id -> document id -> integer grade.

    TREC form (query, iteration, document, grade; no header) or BEIR form (query, document, grade under a header
    line such as `query-id corpus-id score`), separated by tabs or blanks. A pair judged twice with one grade is
    counted in `notes`; with two grades it is an `InputError`, as are short lines, grades that are no integers and
    an empty file.
    """
    qrels: Qrels = {}
    columns, repeats = 4, 0
    with open_text(path) as lines:
        started = False
        for line in lines:
            if not line.strip(BLANKS):
                continue
            if not started:
                started = True
                if _is_header(line):
                    columns = len(line.split())
                    continue
            qid, docid, grade = _qrels_line(line, columns, path, lines.lineno)
            grades = qrels.setdefault(qid, {})
            earlier = grades.get(docid)
            if earlier is not None and earlier != grade:
                raise InputError(
                    f"query {qid}: document {docid!r} has the grades {earlier} and {grade}",
                    path=path,
                    line=lines.lineno,
                    remedy="keep one judgement",
                )
            repeats += earlier is not None
            grades[docid] = grade
        for repair in lines.repairs:
            add_note(notes, path, repair)
    if not qrels:
        raise InputError("there are no judgements", path=path, remedy="a line reads: query 0 document grade")
    if repeats:
        add_note(notes, path, f"{repeats} judgements stand there twice with the same grade")
    return qrels


def _is_header(line: str) -> bool:
    cells = line.lower().split()
    return cells[0] in HEADER_NAMES and len(cells) in (3, 4) and _integer(cells[-1]) is None


def _qrels_line(line: str, columns: int, path: str | Path, lineno: int) -> tuple[str, str, int]:
    cells = _cells(line, columns - 2, 1)
    if cells is None:
        raise InputError(
            f"{len(line.split())} fields, {columns} are expected: {_shown(line)}",
            path=path,
            line=lineno,
            remedy="a line reads: query 0 document grade"
            if columns == 4
            else "a line reads, under this header: query document grade",
        )
    grade = _integer(cells[-1])
    if grade is None or abs(grade) > MAX_GRADE:
        raise InputError(
            f"the grade {cells[-1]!r} is not an integer between -{MAX_GRADE} and {MAX_GRADE}",
            path=path,
            line=lineno,
            remedy="the grade stands in the last column (three columns need a header: query-id corpus-id score)",
        )
    return cells[0], cells[-2], grade


def write_qrels(path: str | Path, qrels: Qrels) -> Path:
    """Write judgements: BEIR form (tabs, header) where the name ends in `.tsv` or `.tsv.gz`, else TREC form."""
    beir = str(path).removesuffix(".gz").endswith(".tsv")
    separator = "\t" if any(" " in qid for qid in qrels) else " "

    def lines() -> Iterator[str]:
        if beir:
            yield "query-id\tcorpus-id\tscore"
        for qid, grades in qrels.items():
            check_id(qid, "query id", path)
            for docid, grade in grades.items():
                check_id(docid, "document id", path)
                yield f"{qid}\t{docid}\t{grade}" if beir else separator.join((qid, "0", docid, str(grade)))

    return write_lines(path, lines())


def read_excluded(path: str | Path, notes: list[str] | None = None) -> dict[str, set[str]]:
    """Read documents that must not be ranked for a query: query id -> document ids.

    Lines `query document` (tabs or blanks), or JSON lines with an id and a list `excluded_ids`. An empty file
    excludes nothing.
    """
    excluded: dict[str, set[str]] = {}
    with open_text(path) as lines:
        for line in lines:
            if not line.strip(BLANKS):
                continue
            if line.lstrip(BLANKS).startswith("{"):
                qid, docids = _excluded_object(line, path, lines.lineno)
            else:
                cells = _cells(line, 1, 0)
                if cells is None:
                    raise InputError(
                        f"1 field, 2 are expected: {_shown(line)}",
                        path=path,
                        line=lines.lineno,
                        remedy="a line reads: query document",
                    )
                if lines.lineno == 1 and is_header(cells[0], cells[1]):
                    continue
                qid, docids = cells[0], [cells[1]]
            excluded.setdefault(qid, set()).update(docids)
        for repair in lines.repairs:
            add_note(notes, path, repair)
    return excluded


def _excluded_object(line: str, path: str | Path, lineno: int) -> tuple[str, list[str]]:
    record = parse_object(line, path, lineno)
    docids = record.get("excluded_ids")
    if not isinstance(docids, list):
        raise InputError("no list `excluded_ids`", path=path, line=lineno, remedy="write a list of document ids")
    qid = record_id(record, "query", path, lineno)
    return qid, [as_id(docid, "an excluded document id", path, lineno) for docid in docids]


def without_excluded(run: Run, excluded: Mapping[str, set[str]]) -> tuple[Run, int]:
    """The run without the documents that are excluded for a query, and how many lines that removed."""
    allowed: Run = {}
    removed = 0
    for qid, hits in run.items():
        banned = excluded.get(qid, set())
        allowed[qid] = [hit for hit in hits if hit.docid not in banned]
        removed += len(hits) - len(allowed[qid])
    return allowed, removed
