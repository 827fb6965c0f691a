"""The authors' released data, in and out: the 13k set with its texts, the SFT file, the RL rows (paper section 4.1).

| format | files | fields |
|---|---|---|
| 13k | training_data_all.jsonl, id_query/, id_doc/ | dataset, qid, initial_list, final_list, reasoning, ... |
| sft | one JSON array or JSON lines | instruction, output, system |
| rl | parquet or JSON lines | prompt, initial_list, final_list, relevant_docids, ground truth |

The SFT file has no pointwise labels: its examples carry zeros, and `meta["labels"]` says `none`. A row that cannot be
read as a ranking is left out and counted, since published data is not ours to mend.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, MissingFileError
from rrlib.formats import example_from_json, open_text, read_jsonl
from rrlib.formats.textio import add_note
from rrlib.prompts import PREFIX, SUFFIX, fill
from rrlib.responses import parse_strict
from rrlib.types import Passage, Query, RankingExample

ALL = "training_data_all.jsonl"
SOURCE = {"teacher": "DeepSeek-R1", "teacher_kind": "real", "data_kind": "real", "licence": "MIT"}
"""What the authors' data is. Rows that say it themselves (rrlib.synthesis.export writes such) are what they say."""
_LIST = re.compile(r"\[(\d+)\]")


class _Unusable(Exception):
    """A row that is no ranking; its words are the reason."""


def read_released(path: str | Path, notes: list[str] | None = None) -> Iterator[RankingExample]:
    """Examples of any of the three formats, or of our own (JSON lines, parquet), told apart by what is there.

    path: a folder with training_data_all.jsonl, id_query/ and id_doc/, or a file. Counts rows that were left out, by
    reason, in `notes`. Raises InputError for missing files and for formats that are none of these.
    """
    path = Path(path)
    if path.is_dir() or path.name == ALL:
        yield from _read_13k(path if path.is_dir() else path.parent, notes)
        return
    if not path.is_file():
        raise MissingFileError("no such data", path=path, remedy=f"name a folder with {ALL}, or a file")
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    yield from _counted(rows, _reader_of(path, next(iter(_peek(path)), {})), path, notes)


def _reader_of(path: Path, row: Mapping[str, Any]) -> Callable[[Mapping[str, Any], int], RankingExample]:
    if "instruction" in row and "output" in row:
        return lambda row, line: _from_sft(row, line)
    if "prompt" in row and ("initial_list" in row or "reward_model" in row or "extra_info" in row):
        return lambda row, line: _from_rl(row, line)
    if "passages" in row and "gold" in row:
        return lambda row, line: example_from_json(_own(row), path, line)
    raise InputError(
        f"none of the known formats; the first row has {', '.join(map(str, row)) or 'nothing'}",
        path=path,
        remedy=f"give the folder of {ALL}, an SFT file (instruction, output), RL rows (prompt, ...) or our examples",
    )


def _counted(
    rows: Iterator[tuple[int, Mapping[str, Any]]],
    read: Callable[[Mapping[str, Any], int], RankingExample],
    path: Path,
    notes: list[str] | None,
) -> Iterator[RankingExample]:
    left: dict[str, int] = {}
    for line, row in rows:
        try:
            yield read(row, line)
        except _Unusable as reason:
            left[str(reason)] = left.get(str(reason), 0) + 1
    for why, count in left.items():
        add_note(notes, path, f"{count} rows left out: {why}")


# --- the 13k set -----------------------------------------------------------------------------------------------------


def _read_13k(folder: Path, notes: list[str] | None) -> Iterator[RankingExample]:
    if not (folder / ALL).is_file():
        raise MissingFileError(f"no {ALL} in this folder", path=folder, remedy="give a local copy of the data set")
    queries, docs = Texts(folder / "id_query"), Texts(folder / "id_doc")

    def read(row: Mapping[str, Any], line: int) -> RankingExample:
        return _from_13k(row, line, folder / ALL, queries, docs)

    yield from _counted(iter(read_jsonl(folder / ALL)), read, folder / ALL, notes)


class Texts:
    """Texts by id, of the JSON files of a folder: one file a data set, so that ids may repeat between sets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = sorted(p for p in folder.glob("*.json*") if p.is_file()) if folder.is_dir() else []
        if not self.files:
            raise MissingFileError("no JSON files in this folder", path=folder, remedy="copy the whole data set")
        self._read: dict[Path, dict[str, Any]] = {}

    def get(self, dataset: str, key: str) -> str:
        """The text of an id: from the file that bears the data set's name, then from any other.

        Raises InputError when no file has it.
        """
        own = [p for p in self.files if _plain(p.name.split(".")[0]).startswith(_plain(dataset))]
        for path in (*sorted(own, key=lambda p: len(p.name)), *(p for p in self.files if p not in own)):
            if key in (texts := self._texts(path)):
                value = texts[key]
                if isinstance(value, Mapping):
                    value = value.get("text") or value.get("contents") or value.get("content") or ""
                return str(value)
        raise InputError(f"no text of {key!r} ({dataset})", path=self.folder, remedy="copy the whole data set")

    def _texts(self, path: Path) -> dict[str, Any]:
        if path not in self._read:
            texts: dict[str, Any] = {}
            for _, row in _json_rows(path):
                if "id" in row and ("text" in row or "contents" in row):
                    texts[str(row["id"])] = row.get("text", row.get("contents"))
                else:
                    texts.update((str(key), value) for key, value in row.items())
            self._read[path] = texts
        return self._read[path]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _from_13k(row: Mapping[str, Any], line: int, path: Path, queries: Texts, docs: Texts) -> RankingExample:
    dataset, qid = str(row.get("dataset") or ""), str(row.get("qid") or "")
    initial, final = _ids(row, "initial_list", path, line), _ids(row, "final_list", path, line)
    relevant = _ids(row, "relevant_docids", path, line)
    if not dataset or not qid:
        raise InputError("`dataset` or `qid` is missing", path=path, line=line, remedy="fetch the file again")
    passages = tuple(Passage(docid, docs.get(dataset, docid)) for docid in initial)
    meta = {"domain": dataset, "collection": "reasonrank_data_13k", "labels": "teacher", **_said(row)}
    return RankingExample(
        Query(f"{dataset}-{qid}", queries.get(dataset, qid)),
        passages,
        _labels(initial, relevant),
        _order(initial, final),
        str(row.get("reasoning") or "").strip(),
        meta,
    )


def _said(row: Mapping[str, Any]) -> dict[str, str]:
    """What a row says it is, else what the authors' data is."""
    return {key: str(row.get(key) or value) for key, value in SOURCE.items()}


def _ids(row: Mapping[str, Any], key: str, path: Path, line: int) -> list[str]:
    value = row.get(key)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InputError(f"`{key}` is not a list", path=path, line=line, remedy="fetch the file again")
    return [str(docid) for docid in value]


def _labels(initial: Sequence[str], relevant: Sequence[str]) -> tuple[int, ...]:
    return tuple(int(docid in set(relevant)) for docid in initial)


def _order(initial: Sequence[str], final: Sequence[str]) -> tuple[int, ...]:
    if len(set(initial)) != len(initial) or sorted(initial) != sorted(final):
        raise _Unusable("final_list is not a permutation of initial_list")
    place = {docid: i for i, docid in enumerate(initial)}
    return tuple(place[docid] for docid in final)


# --- prompts: the SFT file and the RL rows ----------------------------------------------------------------------------


def read_prompt(text: str) -> tuple[str, list[str]]:
    """(query, passages) of a prompt in the wire format (section B.2, rrlib.prompts). Raises ValueError for others.

    The shape is known to the letter, so texts cannot mislead: the first and last lines hold the same query, and passage
    i begins at the first line `[i] ` behind passage i - 1 (identifiers inside texts are in round brackets).
    """
    opening, closing = PREFIX.partition("{query}")[::2]
    first = re.match(re.escape(opening).replace(r"\{num\}", r"(\d+)"), text)
    if first is None:
        raise ValueError("not a prompt of the wire format")
    count, at, tail, query = int(first.group(1)), first.end(), -1, ""
    while tail < 0:  # a query may hold what ends a query: the one that the last lines repeat is meant
        at = text.find(closing, at + 1)
        if at < 0:
            raise ValueError("not a prompt of the wire format")
        query = text[first.end() : at]
        tail = text.rfind("\n" + fill(SUFFIX, query=query, num=str(count)).strip()) + 1 or -1
    body, starts, at = text[at + len(closing) : tail], [], 0
    for i in range(1, count + 1):
        mark = f"[{i}] "
        at = body.find(mark, at) if i == 1 else body.find(f"\n{mark}", at) + 1
        if at < 0 or (i > 1 and at == 0):
            raise ValueError(f"passage {i} of {count} is not there")
        starts.append(at + len(mark))
    ends = [start - len(f"[{i}] ") for i, start in enumerate(starts[1:], 2)]
    return query, [body[start:end].strip() for start, end in zip(starts, [*ends, len(body)], strict=True)]


def _from_sft(row: Mapping[str, Any], line: int) -> RankingExample:
    try:
        query, texts = read_prompt(str(row.get("instruction") or "") + str(row.get("input") or ""))
    except ValueError as error:
        raise _Unusable(str(error)) from None
    output = str(row.get("output") or "")
    read = parse_strict(output, len(texts), think="<think>" in output)
    if read.order is None:
        raise _Unusable(f"the output is no ranking ({read.why})")
    reasoning = output.partition("</think>")[0].partition("<think>")[2].strip()
    meta = {"domain": "", "collection": "reasonrank_data_sft", "labels": "none", **_said(row)}
    passages = tuple(Passage(f"sft-{line}#{i}", text) for i, text in enumerate(texts, 1))
    return RankingExample(Query(f"sft-{line}", query), passages, (0,) * len(texts), read.order, reasoning, meta)


def _from_rl(row: Mapping[str, Any], line: int) -> RankingExample:
    def find(key: str) -> Any:
        for place in (row, row.get("extra_info"), row.get("reward_model")):
            value = place.get(key) if isinstance(place, Mapping) else None
            if value is not None:
                return json.loads(value) if isinstance(value, str) and value.startswith(("{", '["')) else value
        return None

    prompt = row["prompt"]
    user = prompt if isinstance(prompt, str) else next((m["content"] for m in prompt if m["role"] == "user"), "")
    try:
        query, texts = read_prompt(user)
    except ValueError as error:
        raise _Unusable(str(error)) from None
    truth = find("ground_truth")
    held = truth if isinstance(truth, Mapping) else {}
    initial, final, relevant = (held.get(k, find(k)) for k in ("initial_list", "final_list", "relevant_docids"))
    docids = [str(docid) for docid in initial] if initial is not None else [f"rl-{line}#{i}" for i in range(len(texts))]
    if len(docids) != len(texts):
        raise _Unusable("initial_list and the prompt differ in length")
    if final is not None:
        gold = _order(docids, [str(docid) for docid in final])
    else:
        gold = tuple(int(n) - 1 for n in _LIST.findall(str(truth or "")))
        if sorted(gold) != list(range(len(texts))):
            raise _Unusable("the ground truth is not a permutation")
    meta = {
        "domain": str(find("dataset") or row.get("data_source") or ""),
        "collection": "reasonrank_data_rl",
        "labels": "none" if relevant is None else "teacher",
        **_said(row),
    }
    passages = tuple(Passage(docid, text) for docid, text in zip(docids, texts, strict=True))
    labels = _labels(docids, [str(docid) for docid in relevant if docid is not None] if relevant is not None else [])
    qid = str(find("qid") or f"rl-{line}")
    return RankingExample(Query(qid, query), passages, labels, gold, str(row.get("reasoning") or ""), meta)


# --- rows of files ---------------------------------------------------------------------------------------------------


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSON array, of one object, or of JSON lines, with their number or line."""
    first = next((line.strip() for line in open_text(path) if line.strip()), "")
    if first.startswith("[") or (first.startswith("{") and not first.endswith("}")):
        try:
            data = json.loads("\n".join(open_text(path)))
        except ValueError as error:
            raise InputError(f"not JSON: {error}", path=path, remedy="fetch the file again") from None
        for number, row in enumerate(data if isinstance(data, list) else [data], 1):
            if not isinstance(row, dict):
                raise InputError(f"entry {number} is no object", path=path, remedy="fetch the file again")
            yield number, row
    else:
        yield from read_jsonl(path)


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            number = 0
            for batch in table.iter_batches(batch_size=128):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"not a parquet file: {error}", path=path, remedy="fetch the file again") from None


def _peek(path: Path) -> Iterator[dict[str, Any]]:
    for _, row in _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path):
        yield row
        return


def _own(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of ours out of parquet, where `meta` is a JSON string."""
    meta = row.get("meta")
    return {**row, "meta": json.loads(meta) if isinstance(meta, str) else meta or {}}
