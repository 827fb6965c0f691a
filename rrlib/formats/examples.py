"""Training examples as JSON lines: what synthesis writes and training reads.

`{"qid", "query", "passages": [{"docid", "title", "text"}], "relevance": [...], "gold": [...], "reasoning", "meta"}`;
`gold` holds 0-based positions into `passages`, best first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rrlib.errors import InputError
from rrlib.formats.fields import as_id, record_passage
from rrlib.formats.textio import read_jsonl, write_jsonl
from rrlib.types import Query, RankingExample


def example_to_json(example: RankingExample) -> dict[str, Any]:
    """The JSON object of an example; `example_from_json` gives an equal example back."""
    return {
        "qid": example.query.qid,
        "query": example.query.text,
        "passages": [{"docid": p.docid, "title": p.title, "text": p.text} for p in example.passages],
        "relevance": list(example.relevance),
        "gold": list(example.gold),
        "reasoning": example.reasoning,
        "meta": dict(example.meta),
    }


def example_from_json(
    row: Mapping[str, Any], path: str | Path | None = None, line: int | None = None
) -> RankingExample:
    """An example from its JSON object. Raises `InputError` with file and line for missing or wrong fields."""

    def wrong(message: str) -> InputError:
        return InputError(
            message, path=path, line=line, remedy="write examples with rrlib, or mend this line after its example"
        )

    query, passages = row.get("query"), row.get("passages")
    reasoning, meta = row.get("reasoning", ""), row.get("meta", {})
    if not isinstance(query, str):
        raise wrong("`query` is not a string")
    if not isinstance(passages, list) or not all(isinstance(item, dict) for item in passages):
        raise wrong("`passages` is not a list of objects")
    if not isinstance(reasoning, str):
        raise wrong("`reasoning` is not a string")
    if not isinstance(meta, dict):
        raise wrong("`meta` is not an object")
    numbers: dict[str, tuple[int, ...]] = {}
    for key in ("relevance", "gold"):
        value = row.get(key)
        if not isinstance(value, list) or not all(type(number) is int for number in value):
            raise wrong(f"`{key}` is not a list of integers")
        numbers[key] = tuple(value)
    qid = as_id(row.get("qid"), "the query id (qid)", path, line)
    try:
        return RankingExample(
            query=Query(qid, query),
            passages=tuple(record_passage(item, path, line) for item in passages),
            relevance=numbers["relevance"],
            gold=numbers["gold"],
            reasoning=reasoning,
            meta=meta,
        )
    except InputError as error:
        raise InputError(error.message, path=path, line=line, remedy=error.remedy) from None


def write_examples(path: str | Path, examples: Iterable[RankingExample]) -> Path:
    """Write examples as JSON lines, atomically; gzip where the name ends in `.gz`."""
    return write_jsonl(path, (example_to_json(example) for example in examples))


def read_examples(path: str | Path) -> list[RankingExample]:
    """Read examples in file order. Raises `InputError` for a bad line and for a file without examples."""
    examples = [example_from_json(row, path, line) for line, row in read_jsonl(path)]
    if not examples:
        raise InputError("there are no examples", path=path, remedy="check the stage that wrote it")
    return examples
