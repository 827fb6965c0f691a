"""Tables: lines of cells, with a header or without one, and what a line that is no such line looks like.

A header is read by the names of its columns, in any order: `query-id corpus-id score` of BEIR, `qid,docno,rank,score`
of a data frame that was saved. Without one the columns stand as the format says.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rrlib.errors import InputError
from rrlib.formats.textio import BLANKS


class Column(StrEnum):
    """What a column holds; the value is the name to write."""

    QUERY = "query-id"
    DOCUMENT = "corpus-id"
    GRADE = "grade"
    RANK = "rank"
    SCORE = "score"
    TEXT = "text"
    IGNORED = "iteration"
    """Read past: the constant of the TREC forms, the tag of a run, texts beside ids."""


NAMES: Mapping[Column, str] = {
    Column.QUERY: "queryid qid topic topicid topicno topicnumber querynumber query",
    Column.DOCUMENT: "corpusid docno docid documentid document doc passageid pid",
    Column.GRADE: "grade relevance rel label judgement judgment score",
    Column.RANK: "rank position",
    Column.SCORE: "score sim similarity",
    Column.TEXT: "text query title question",
    Column.IGNORED: "iteration iter q0 0 tag runtag runid run system",
}
_BLANK_BEYOND_ASCII = re.compile(r"[^\S \t\r\n\f\v]")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Header:
    """Where each column of a table stands, among how many. separator: tab, comma or semicolon; empty: blanks."""

    place: Mapping[Column, int]
    width: int
    separator: str

    def cells(self, line: str) -> list[str] | None:
        """The cells of a line under this header; None where there are more or fewer than it has."""
        if self.separator:
            try:
                row = line.split("\t") if self.separator == "\t" else next(csv.reader([line], delimiter=self.separator))
            except (csv.Error, StopIteration):
                return None
            if len(row) == self.width:
                return [cell.strip(BLANKS) for cell in row]
        before = self.place.get(Column.DOCUMENT, self.width - 1)
        return split_line(line, before, self.width - 1 - before) if self.separator in ("", "\t") else None


def split_line(line: str, before: int, after: int) -> list[str] | None:
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


def read_header(
    line: str,
    columns: tuple[Column, ...],
    path: str | Path,
    lineno: int,
    optional: tuple[Column, ...] = (),
    sure: bool = False,
) -> Header | None:
    """The header that a first line is; None where it is data.

    It is data where a cell begins with a digit, or where no cell is the name of a column. columns: those that the table
    must have; a name that fits several columns is that of these, then of the optional ones (`score` is a grade in
    judgements). sure: tables of two columns, whose data may look like a name: a header names all of `columns`, and
    blanks separate nothing. Raises `InputError` for an unknown name, a name that stands twice and a missing column.
    """
    text = line.strip(BLANKS)
    separator = next((sign for sign in "\t,;" if sign in text), "")
    cells = [text] if sure and not separator else text.split(separator or None)
    cells = [cell.strip(BLANKS + '"') for cell in cells]
    names = [re.sub(r"[-_ .]", "", cell.lower()) for cell in cells]
    order = (*columns, *optional, *(column for column in Column if column not in (*columns, *optional)))
    meaning = [next((column for column in order if name in NAMES[column].split()), None) for name in names]
    if Column.QUERY in columns and "id" in names and "queryid" not in names:
        meaning[names.index("id")] = Column.QUERY
    named = [name for name, column in zip(names, meaning, strict=True) if column is not None and name != "q0"]
    if len(cells) < 2 or not named or any(name[:1].isdigit() for name in names):
        return None
    meaning = _one_of_each(names, meaning)
    if sure and not set(columns) <= set(meaning):
        return None
    remedy = "; ".join(f"{column.value}: {NAMES[column].replace(' ', ', ')}" for column in (*columns, *optional))
    unknown = [repr(cell) for cell, column in zip(cells, meaning, strict=True) if column is None and cell]
    missing = [column.value for column in columns if column not in meaning]
    twice = [name for name in named if names.count(name) > 1]
    if unknown or missing or twice:
        what = "unknown columns " + ", ".join(unknown) if unknown else "no column " + ", ".join(missing)
        what = f"the column {twice[0]!r} twice" if twice else what
        remedy = f"a header names its columns so: {remedy}; read past: {NAMES[Column.IGNORED].replace(' ', ', ')}"
        raise InputError(f"a header with {what}: {text[:200]!r}", path=path, line=lineno, remedy=remedy)
    return Header({column: meaning.index(column) for column in order if column in meaning}, len(cells), separator)


def _one_of_each(names: list[str], meaning: list[Column | None]) -> list[Column | None]:
    """Of several names of one column the first in `NAMES` counts; `query` beside an id is a text."""
    chosen = list(meaning)
    for column in (Column.QUERY, Column.DOCUMENT, Column.TEXT):
        places = [place for place, other in enumerate(chosen) if other is column]
        best = min(places, key=lambda place: (NAMES[column] + " id").split().index(names[place]), default=0)
        for place in places:
            if place != best:
                chosen[place] = Column.TEXT if column is Column.QUERY and names[place] == "query" else Column.IGNORED
    return chosen


def is_comment(line: str) -> bool:
    """Whether a line of a run or of judgements is a comment: its first sign that is no blank is `#` (trec_eval 10)."""
    return line.lstrip(BLANKS).startswith("#")


def what_it_looks_like(line: str) -> str:
    """What a line that has too few cells, or a cell that is no number, may be instead, and what to do; empty if that
    cannot be said."""
    if "\r" in line:
        return "carriage returns end its lines (old Mac): tr '\\r' '\\n' mends it"
    if _BLANK_BEYOND_ASCII.search(line):
        return "no-break or other wide spaces stand between its fields: write plain blanks or tabs"
    if _DECIMAL_COMMA.fullmatch(line.strip()):
        return "this is a decimal comma: write a point"
    for sign, name in ((",", "commas"), (";", "semicolons")):
        if line.count(sign) > 1:
            header = sign.join(("query-id", "corpus-id", "rank", "score"))
            return f"{name} separate its fields: put a header line above, such as {header}"
    return ""
