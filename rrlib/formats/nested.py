"""Runs and judgements as one JSON object, `{query id: {document id: number}}`: how ranx and pytrec_eval hold them.

Other JSON that is given for a run is called by its name: RankGPT's results and rank_llm's requests hold texts too.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rrlib.errors import InputError
from rrlib.formats.fields import check_id, few
from rrlib.types import Hit, Qrels, Run


def nested_run(first: str, rest: Iterable[str], path: str | Path) -> Run:
    """The run whose file begins with `first`; ranks follow the scores, equal ones by document id descending.

    Raises `InputError` for JSON of another form (named where it is one that others write) and for scores that are no
    finite numbers.
    """
    run: Run = {}
    for qid, scores in _tables(first, rest, path, "score"):
        for docid, score in scores.items():
            if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) < math.inf:
                raise InputError(f"query {qid}: document {docid!r} has the score {score!r}", path=path, remedy=_NUMBERS)
        if any(abs(score) > _LARGEST for score in scores.values()):
            raise InputError(f"query {qid}: a score is too large", path=path, remedy=_NUMBERS)
        order = sorted(scores, key=lambda docid: (float(scores[docid]), docid), reverse=True)
        run[qid] = [Hit(docid, float(scores[docid]), rank) for rank, docid in enumerate(order, 1)]
    if not any(run.values()):
        raise InputError("the run is empty", path=path, remedy="check the program that wrote it")
    return run


def nested_qrels(first: str, rest: Iterable[str], path: str | Path, limit: int) -> Qrels:
    """The judgements whose file begins with `first`. Raises `InputError` as `nested_run`, and for grades that are no
    integers between -limit and limit."""
    qrels: Qrels = {}
    for qid, grades in _tables(first, rest, path, "grade"):
        for docid, grade in grades.items():
            if isinstance(grade, bool) or not isinstance(grade, int | float) or grade != grade or abs(grade) > limit:
                raise InputError(f"query {qid}: document {docid!r} has the grade {grade!r}", path=path, remedy=_NUMBERS)
            if grade != int(grade):
                raise InputError(f"query {qid}: the grade {grade!r} is not an integer", path=path, remedy=_NUMBERS)
        qrels[qid] = {docid: int(grade) for docid, grade in grades.items()}
    if not any(qrels.values()):
        raise InputError("there are no judgements", path=path, remedy="check the program that wrote it")
    return qrels


_LARGEST = sys.float_info.max
_NUMBERS = "scores are finite numbers, grades are integers"


def _tables(first: str, rest: Iterable[str], path: str | Path, what: str) -> Iterable[tuple[str, dict[str, Any]]]:
    form = f"as JSON it reads {{query id: {{document id: {what}}}}}; other forms are lines"
    try:
        value = json.loads("\n".join((first, *rest)), object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        value = _first_object(first) if isinstance(error, json.JSONDecodeError) else None
        if value is None:
            message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
            raise InputError(f"not JSON: {message}", path=path, line=line, remedy=form) from None
    row = value[0] if isinstance(value, list) and value else value
    keys = set(row) if isinstance(row, dict) else set()
    for mark, name in (("hits", "RankGPT's results"), ("candidates", "rank_llm's requests")):
        if {"query", mark} <= keys:
            raise InputError(f"these are {name}, with texts", path=path, remedy="give the file as --requests")
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        shown = f"; its keys are {few(sorted(map(str, keys)))}" if keys else ""
        raise InputError(f"JSON of another form{shown}", path=path, remedy=form)
    for qid, table in value.items():
        for identifier, name in ((qid, "query id"), *((docid, "document id") for docid in table)):
            if not identifier:
                raise InputError(f"an empty {name}", path=path, remedy=form)
            check_id(identifier, name, path)
    return list(value.items())


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return value


def _first_object(line: str) -> Any:
    """The object on the first line of JSON lines; None where that is no JSON either."""
    try:
        return [json.loads(line)]
    except (ValueError, RecursionError):
        return None
