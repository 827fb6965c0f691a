"""Problems with solutions (LeetCode, MATH), and lists of theorems (ProofWiki): JSON arrays, JSON lines, or folders.

Collections of these files differ in their names for the same things, so each reader knows several and says which it
wanted when none is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, MissingFileError
from rrlib.formats import open_text, read_jsonl
from rrlib.synthesis.sources import SourceQuery
from rrlib.synthesis.sources.html import read_html
from rrlib.types import Passage

_PROBLEM = ("content", "description", "problem_description", "question", "problem", "query", "text")
_SOLUTION = ("python", "python3", "solution", "solution_code", "code", "answer", "c++", "cpp", "java", "javascript")
_ID = ("id", "_id", "frontend_id", "questionFrontendId", "question_id", "slug", "task_id")
_STATEMENT = ("statement", "contents", "content", "text", "theorem", "body")

Place = tuple[Path, int]
"""A file, and the 1-based line (or the number of the object in an array) of a record."""


def read_leetcode(path: str | Path, domain: str = "leetcode", licence: str = "unknown") -> Iterator[SourceQuery]:
    """LeetCode problems with a solution: `content` (HTML or text) and `python`, `solution` or another language.

    A solution may be a string, or an object of languages. Raises InputError for a record without problem or solution.
    """
    for record, place in _records(path):
        qid = _string(record, _ID, place, "id")
        text = _plain(_string(record, _PROBLEM, place, "problem"))
        title = str(record.get("title") or "").strip()
        solution = _string(record, _SOLUTION, place, "solution")
        problem = f"{title}\n\n{text}" if title and not text.startswith(title) else text
        yield SourceQuery(f"{domain}-{qid}", problem, solution, domain, licence=str(record.get("licence") or licence))


def read_math(path: str | Path, domain: str = "math-qa", licence: str = "MIT") -> Iterator[SourceQuery]:
    """MATH (Hendrycks et al., 2021): `problem`, `solution`, `type`; a folder of `<subject>/<n>.json`, or JSON lines.

    Query ids are `<subject>/<n>` in a folder, else the record's own id or its number. Raises InputError for a record
    without problem or solution.
    """
    root = Path(path)
    if root.is_dir():
        files = sorted(root.rglob("*.json"), key=lambda p: (p.parent.as_posix(), len(p.stem), p.stem))
        if not files:
            raise MissingFileError("no JSON files below this folder", path=root, remedy="give MATH/train, unpacked")
        records = ((f"{p.parent.relative_to(root).as_posix()}/{p.stem}", _object(p), (p, 1)) for p in files)
    else:
        records = ((str(_first(r, _ID) or place[1]), r, place) for r, place in _records(root))
    for qid, record, place in records:
        problem = _string(record, ("problem", "question"), place, "problem")
        solution = _string(record, ("solution", "answer"), place, "solution")
        yield SourceQuery(f"{domain}-{qid.removeprefix('./')}", problem, solution, domain, licence=licence)


def read_theorems(path: str | Path, prefix: str = "theorem") -> Iterator[Passage]:
    """Theorems as passages: `title`, and `statement`, `contents` (a string, or a list of lines) or `text`; proofs too.

    Reads lists of such records, and NaturalProofs' file of ProofWiki ({"dataset": {"theorems": [...]}}). The text is
    the statement, and where there is one, the first of `proof` / `proofs` behind an empty line.
    """
    for record, place in _records(path):
        docid = str(_first(record, _ID) if _first(record, _ID) is not None else place[1])
        statement = _string(record, _STATEMENT, place, "statement")
        proof = record.get("proof") or next(iter(record.get("proofs") or ()), "")
        proof = proof.get("contents", "") if isinstance(proof, dict) else proof
        text = "\n\n".join(part for part in (statement, _joined(proof)) if part)
        yield Passage(f"{prefix}-{docid}", text, str(record.get("title") or ""))


# --- files -----------------------------------------------------------------------------------------------------------


def _records(path: str | Path) -> Iterator[tuple[Mapping[str, Any], Place]]:
    """The objects of JSON lines, or of a JSON array (also under `dataset`/`theorems`, `data`, `questions`)."""
    path = Path(path)
    first = next((line.lstrip()[:1] for line in open_text(path) if line.strip()), "")
    if not first:
        raise InputError("the file is empty", path=path, remedy="give JSON lines, or a JSON array of objects")
    if first == "{" and not _is_one_object(path):
        for line, row in read_jsonl(path):
            yield row, (path, line)
        return
    try:
        data = json.loads("\n".join(open_text(path)))
    except ValueError as error:
        raise InputError(
            f"not JSON: {error}", path=path, remedy="give JSON lines, or a JSON array of objects"
        ) from None
    for key in ("dataset", "theorems", "data", "questions"):
        data = data[key] if isinstance(data, dict) and key in data else data
    rows = data if isinstance(data, list) else [data]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f"entry {number} is no object", path=path, remedy="give an array of objects")
        yield row, (path, number)


def _is_one_object(path: Path) -> bool:
    """Whether a file that begins with `{` is one JSON object over many lines, rather than JSON lines."""
    first = next(line for line in open_text(path) if line.strip())
    try:
        row = json.loads(first)
    except ValueError:
        return True
    return isinstance(row, dict) and "dataset" in row


def _object(path: Path) -> Mapping[str, Any]:
    try:
        row = json.loads("\n".join(open_text(path)))
    except ValueError as error:
        raise InputError(f"not JSON: {error}", path=path, remedy="fetch the file again") from None
    if not isinstance(row, dict):
        raise InputError("a JSON object is expected", path=path, remedy="fetch the file again")
    return row


def _first(record: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((record[key] for key in keys if record.get(key) not in (None, "", [], {})), None)


def _joined(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(str(line) for line in value).strip()
    if isinstance(value, dict):
        return str(_first(value, _SOLUTION) or next(iter(value.values()), "")).strip()
    return "" if value is None else str(value).strip()


def _string(record: Mapping[str, Any], keys: Sequence[str], place: Place, what: str) -> str:
    text = _joined(_first(record, keys))
    if not text:
        raise InputError(
            f"a record without {what}; its keys are {', '.join(map(str, record)) or 'none'}",
            path=place[0],
            line=place[1],
            remedy=f"name it one of {', '.join(keys)}",
        )
    return text


def _plain(text: str) -> str:
    return read_html(text)[0] if "</" in text else text.strip()
