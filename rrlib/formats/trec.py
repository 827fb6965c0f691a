"""TREC runs, qrels and lists of excluded documents.

Document ids may contain blanks (BRIGHT's StackOverflow set has some), so lines are read from both ends: for a run
the first field is the query, the second the constant `Q0`, the last three are rank, score and tag, and all between
is the document id. Fields are separated by tabs or blanks; where the tabs alone give the right number of fields,
they win, and then even query ids may contain blanks.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rrlib.errors import InputError
from rrlib.formats.columns import Column, Header, is_comment, read_header, split_line, what_it_looks_like
from rrlib.formats.fields import as_id, check_id, few, no_control, record_id
from rrlib.formats.nested import nested_qrels, nested_run
from rrlib.formats.textio import BLANKS, TextLines, add_note, open_text, parse_object, write_lines
from rrlib.types import Hit, Qrels, Run

_INTEGER = re.compile(r"([+-]?[0-9]{1,18})(?:\.0+)?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_JUDGED = re.compile(r"\S+[ \t]+[Qq]?[0Oo][ \t]+\S+[ \t]+[+-]?[0-9]+")
_CONSTANT = re.compile(r"[Qq][0Oo]|[0-9]+")
_RUN_REMEDY = "a line reads: query Q0 document rank score tag"
MAX_GRADE = 9999
"""trec_eval keeps a counter for every grade: a document id in the wrong column would take gigabytes."""


def _integer(text: str) -> int | None:
    match = _INTEGER.fullmatch(text)
    return None if match is None else int(match.group(1))


def _shown(line: str) -> str:
    return repr(line if len(line) <= 80 else line[:77] + "...")


def _remedy(text: str, usual: str) -> str:
    """What to do about a line or a cell that cannot be read: what it looks like, then what is usual."""
    return "; ".join(part for part in (what_it_looks_like(text), usual) if part)


def _is_json(line: str) -> bool:
    """Whether a file that begins with this line is JSON: a brace or bracket, and no line whose query id begins so."""
    if not line.lstrip(BLANKS).startswith(("{", "[")):
        return False
    run, judgement = split_line(line, 2, 3), split_line(line, 2, 1)
    is_run = run is not None and _integer(run[3]) is not None and _NUMBER.fullmatch(run[4]) is not None
    return not is_run and (judgement is None or _integer(judgement[-1]) is None)


def _data_lines(lines: TextLines, notes: list[str] | None) -> Iterator[str]:
    """The lines of a run or of judgements that are neither blank nor comments; comments are counted in `notes`."""
    comments = 0
    for line in lines:
        if is_comment(line):
            comments += 1
        elif line.strip(BLANKS):
            yield line
    for repair in lines.repairs:
        add_note(notes, lines.path, repair)
    if comments:
        add_note(notes, lines.path, f"{comments} comment lines (#) were read past")


def read_run(path: str | Path, notes: list[str] | None = None) -> Run:
    """Read a TREC run: query id -> hits in the order of the rank column (numeric; equal ranks in file order).

    That order is the one to rerank in. Evaluation orders by score instead (see `rrlib.evaluation.metrics`).
    Scores are finite floats in whatever unit the run uses. Also read: tables under a header that names their columns
    (`qid,docno,rank,score`; without ranks they follow the scores), and JSON of ranx and pytrec_eval. Lines that begin
    with # are comments. Raises `InputError` for an empty file, a short line, a rank or score that is no number, an id
    with control characters, and a document that a query lists twice.
    """
    run: Run = {}
    first_line: dict[str, dict[str, int]] = {}
    header, ranked = None, True
    with open_text(path) as lines:
        for number, line in enumerate(_data_lines(lines, notes)):
            if number == 0 and _is_json(line):
                return nested_run(line, lines, path)
            if number == 0 and (header := _run_header(line, path, lines.lineno)) is not None:
                ranked = Column.RANK in header.place
                continue
            qid, hit = _run_line(line, header, path, lines.lineno)
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
    if not run:
        raise InputError("the run is empty", path=path, remedy=f"check the program that wrote it; {_RUN_REMEDY}")
    if not ranked:
        return ranked_by_score(run)
    for hits in run.values():
        hits.sort(key=lambda hit: hit.rank)
    return run


def _run_header(line: str, path: str | Path, lineno: int) -> Header | None:
    header = read_header(line, (Column.QUERY, Column.DOCUMENT), path, lineno, optional=(Column.RANK, Column.SCORE))
    if header is not None and not {Column.RANK, Column.SCORE} & set(header.place):
        raise InputError("a header without rank or score", path=path, line=lineno, remedy="name one of them, or both")
    return header


def _run_line(line: str, header: Header | None, path: str | Path, lineno: int) -> tuple[str, Hit]:
    cells = split_line(line, 2, 3) if header is None else header.cells(line)
    if cells is None:
        count, width = len(line.split()), 6 if header is None else header.width
        message = f"{count} fields, {width} are expected: {_shown(line)}"
        raise InputError(message, path=path, line=lineno, remedy=_remedy(line, _RUN_REMEDY))
    if header is None:
        qid, constant, docid, rank_text, score_text, _tag = cells
        if not _CONSTANT.fullmatch(constant) and len(line.split()) > 6:
            raise InputError(
                f"the second field is {constant!r} where Q0 is expected: {_shown(line)}",
                path=path,
                line=lineno,
                remedy=_RUN_REMEDY,
            )
    else:
        qid, docid = cells[header.place[Column.QUERY]], cells[header.place[Column.DOCUMENT]]
        rank_text = cells[header.place[Column.RANK]] if Column.RANK in header.place else "0"
        score_text = (
            cells[header.place[Column.SCORE]] if Column.SCORE in header.place else str(-(_integer(rank_text) or 0))
        )
    no_control(qid, "query id", path, lineno)
    no_control(docid, "document id", path, lineno)
    rank = _integer(rank_text)
    if rank is None:
        remedy = _remedy(rank_text, _RUN_REMEDY)
        raise InputError(f"the rank {rank_text!r} is not an integer", path=path, line=lineno, remedy=remedy)
    if not _NUMBER.fullmatch(score_text) or not math.isfinite(score := float(score_text)):
        remedy = _remedy(score_text, _RUN_REMEDY)
        raise InputError(f"the score {score_text!r} is not a finite number", path=path, line=lineno, remedy=remedy)
    if not qid or not docid:
        raise InputError(f"an empty id: {_shown(line)}", path=path, line=lineno, remedy=_RUN_REMEDY)
    return qid, Hit(docid, score, rank)


def ranked_by_score(run: Run) -> Run:
    """The run with the ranks that its scores give: falling, equal ones by document id descending (trec_eval's)."""
    by_score = {qid: sorted(hits, key=lambda hit: (hit.score, hit.docid), reverse=True) for qid, hits in run.items()}
    return {
        qid: [Hit(hit.docid, hit.score, rank) for rank, hit in enumerate(hits, 1)] for qid, hits in by_score.items()
    }


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
            yield from _hit_lines(path, qid, hits, tag, separator)

    for hit in (hit for hits in run.values() for hit in hits):
        if not math.isfinite(hit.score):
            raise InputError(f"document {hit.docid!r} has the score {hit.score}", path=path, remedy="scores are finite")
    return write_lines(path, lines())


def _hit_lines(path: str | Path, qid: str, hits: Sequence[Hit], tag: str, separator: str) -> Iterator[str]:
    check_id(qid, "query id", path)
    for hit in hits:
        check_id(hit.docid, "document id", path)
        score = int(hit.score) if hit.score.is_integer() and abs(hit.score) < 1e15 else hit.score
        yield separator.join((qid, "Q0", hit.docid, str(hit.rank), repr(score), tag))


class RunPipe:
    """A pipe or a device into which the queries of a run are written one by one, each at once.

    tabs: separate fields by tabs, as where a query id contains a blank. number: of an open file that is written to
    instead, and left open. A path is opened with the first query, which waits for its reader. `write` raises
    InputError for ids that a run line cannot hold, and where nobody reads on.
    """

    def __init__(self, path: str | Path, tag: str, *, tabs: bool = False, number: int | None = None) -> None:
        self.path, self.tag, self.separator = Path(path), tag, "\t" if tabs else " "
        self._number, self._opened = number, False

    def __enter__(self) -> RunPipe:
        return self

    def __exit__(self, *error: object) -> None:
        if self._opened and self._number is not None:
            os.close(self._number)

    def write(self, qid: str, docids: Sequence[str]) -> None:
        """Write the lines of one query, best document first."""
        hits = ranking_to_run({qid: docids})[qid]
        text = "".join(f"{line}\n" for line in _hit_lines(self.path, qid, hits, self.tag, self.separator))
        data = text.encode("utf-8")
        try:
            if self._number is None:
                self._number, self._opened = os.open(self.path, os.O_WRONLY), True
            while data:
                data = data[os.write(self._number, data) :]
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror or error}", path=self.path) from None


def read_qrels(path: str | Path, notes: list[str] | None = None) -> Qrels:
    """Read relevance judgements: query id -> document id -> integer grade.

    TREC form (query, iteration, document, grade; no header), or columns under a header that names them in any order
    (BEIR's `query-id corpus-id score`), separated by tabs, blanks, commas or semicolons; or JSON of ranx and
    pytrec_eval. Lines that begin with # are comments. A pair judged twice with one grade is counted in `notes`; with
    two grades it is an `InputError`, as are short lines, grades that are no integers, ids with control characters,
    unknown columns and an empty file.
    """
    qrels: Qrels = {}
    header, repeats = None, 0
    with open_text(path) as lines:
        for number, line in enumerate(_data_lines(lines, notes)):
            if number == 0 and _is_json(line):
                return nested_qrels(line, lines, path, MAX_GRADE)
            if number == 0:
                columns = (Column.QUERY, Column.DOCUMENT, Column.GRADE)
                if (header := read_header(line, columns, path, lines.lineno)) is not None:
                    continue
            qid, docid, grade = _qrels_line(line, header, path, lines.lineno)
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
    if not qrels:
        raise InputError("there are no judgements", path=path, remedy="a line reads: query 0 document grade")
    if repeats:
        add_note(notes, path, f"{repeats} judgements stand there twice with the same grade")
    return qrels


def _qrels_line(line: str, header: Header | None, path: str | Path, lineno: int) -> tuple[str, str, int]:
    cells = split_line(line, 2, 1) if header is None else header.cells(line)
    if cells is None:
        usual = "a line reads: query 0 document grade"
        if header is not None:
            names = sorted((place, column.value) for column, place in header.place.items())
            usual = "a line reads, under this header: " + " ".join(name for _, name in names)
        raise InputError(
            f"{len(line.split())} fields, {4 if header is None else header.width} are expected: {_shown(line)}",
            path=path,
            line=lineno,
            remedy=_remedy(line, usual),
        )
    place = {Column.QUERY: 0, Column.DOCUMENT: 2, Column.GRADE: 3} if header is None else header.place
    qid, docid, text = (cells[place[column]] for column in (Column.QUERY, Column.DOCUMENT, Column.GRADE))
    no_control(qid, "query id", path, lineno)
    no_control(docid, "document id", path, lineno)
    grade = _integer(text)
    if grade is None or abs(grade) > MAX_GRADE:
        usual = "the grade stands in the last column (three columns need a header: query-id corpus-id score)"
        raise InputError(
            f"the grade {text!r} is not an integer between -{MAX_GRADE} and {MAX_GRADE}",
            path=path,
            line=lineno,
            remedy=_remedy(text, usual),
        )
    if not qid or not docid:
        raise InputError(f"an empty id: {_shown(line)}", path=path, line=lineno, remedy="every row names both ids")
    return qid, docid, grade


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
    header = None
    with open_text(path) as lines:
        for line in lines:
            if not line.strip(BLANKS):
                continue
            if line.lstrip(BLANKS).startswith("{"):
                qid, docids = _excluded_object(line, path, lines.lineno)
            else:
                if lines.lineno == 1:
                    header = read_header(line, (Column.QUERY, Column.DOCUMENT), path, 1, sure=True)
                    if header is not None:
                        continue
                cells = split_line(line, 1, 0) if header is None else header.cells(line)
                if header is None and _JUDGED.fullmatch(line.strip(BLANKS)):
                    raise InputError(
                        f"a judgement, where a query and a document are expected: {_shown(line)}",
                        path=path,
                        line=lines.lineno,
                        remedy="a line reads: query document",
                    )
                if cells is None:
                    raise InputError(
                        f"1 field, 2 are expected: {_shown(line)}",
                        path=path,
                        line=lines.lineno,
                        remedy=_remedy(line, "a line reads: query document"),
                    )
                place = {Column.QUERY: 0, Column.DOCUMENT: 1} if header is None else header.place
                qid, docids = cells[place[Column.QUERY]], [cells[place[Column.DOCUMENT]]]
            for identifier in (qid, *docids):
                no_control(identifier, "id", path, lines.lineno)
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
