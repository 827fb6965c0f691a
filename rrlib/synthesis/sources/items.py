"""What synthesis works on: one item a query, streamed from a source.

A source is anything that can be gone through more than once: a collection in memory (`CollectionSource`), a folder
with `items.jsonl` that is read line by line (`ItemFolder`, made by `rrlib data prepare`), or your own. Items are never
held all at once, so a source may be as long as you like.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from rrlib.errors import InputError, MissingFileError
from rrlib.formats import Collection, make_candidates, read_jsonl, write_jsonl, write_lines
from rrlib.formats.collection import DATA_KINDS
from rrlib.formats.fields import as_id, record_passage
from rrlib.synthesis.sources.windows import Windowing, windows_of
from rrlib.types import Passage, Query, Run

UNKNOWN_LICENCE = "unknown"


@dataclass(frozen=True, slots=True)
class Item:
    """A query with everything the steps need.

    candidates: passages in first-stage order (best first), each document once. hard_pool: passages among which the
    teacher looks for hard negatives (web results); empty = the top of the candidates serves. labels: human judgements
    by document id, where there are any. gold_answer: the accepted answer, or the solution of a problem. listed: the
    candidates are the list to rank as they stand; nothing is drawn, added or shuffled.
    """

    query: Query
    candidates: tuple[Passage, ...] = ()
    domain: str = ""
    gold_answer: str = ""
    hard_pool: tuple[Passage, ...] = ()
    labels: Mapping[str, int] | None = None
    licence: str = UNKNOWN_LICENCE
    listed: bool = False


class Source(Protocol):
    """Items with a name; iterating again gives the same items in the same order."""

    name: str
    data_kind: str

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Item]: ...


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count` (1-based): the queries whose id hashes there. `Shard()` is the whole."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(f"shard {self.number}/{self.count}", remedy="write 1/8, 2/8, ..., 8/8")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`3/8` -> Shard(3, 8)."""
        number, slash, count = text.partition("/")
        if not slash or not (number.isdigit() and count.isdigit()):
            raise InputError(f"shard {text!r}", remedy="write 3/8 for the third of eight")
        return cls(int(number), int(count))

    def __contains__(self, qid: str) -> bool:
        return self.count == 1 or qid_hash(qid) % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def numbered(source: Source, limit: int | None, shard: Shard) -> Iterator[tuple[int, Item]]:
    """(position in the source, item) of the first `limit` items (None = all), those of the shard alone."""
    for position, item in enumerate(islice(iter(source), limit)):
        if item.query.qid in shard:
            yield position, item


def qid_hash(qid: str) -> int:
    """64 bits of a query id, the same on every machine."""
    return int.from_bytes(hashlib.sha256(qid.encode("utf-8", "surrogatepass")).digest()[:8], "big")


class CollectionSource:
    """One split of a collection in memory; candidates are those of its first-stage run, excluded documents removed.

    seed, limit: the queries come in a seeded order, the first `limit` of them, so a larger limit only adds queries. A
    query whose metadata names another split is left out, whatever the caller read: no test query is trained on.
    windowing: instead of an item a query, one for each window of its list as retrieved, with the id `<qid>/<number>`;
    None = as `windows` in the collection's SOURCE.json says. It needs human labels.
    Raises InputError, before anything is asked, for a collection without run, queries, or a candidate's text.
    """

    def __init__(
        self,
        collection: Collection,
        split: str = "train",
        seed: int = 0,
        limit: int | None = None,
        depth: int | None = None,
        windowing: Windowing | None = None,
    ) -> None:
        if collection.run is None:
            raise InputError(
                f"collection {collection.name!r} has no first-stage run for split {split!r}",
                remedy=f"add runs/{split}.trec, or read the collection with split={split!r}",
            )
        self.collection, self.depth, self.seed = collection, depth, seed
        settings = collection.source.get("windows")
        self.windowing = windowing if settings is None or windowing is not None else Windowing.of(settings)
        self.name, self.data_kind = collection.name, collection.data_kind
        self.licence = str(collection.source.get("licence") or UNKNOWN_LICENCE)
        self.queries = _of_split(collection, split, seed, limit)
        if not self.queries:
            raise InputError(f"collection {collection.name!r} has no queries of split {split!r}")
        for query in self.queries:
            for hit in collection.run.get(query.qid, [])[:depth]:
                if hit.docid not in collection.corpus:
                    raise InputError(
                        f"query {query.qid}: candidate {hit.docid!r} is not in the corpus of {collection.name!r}",
                        remedy="use the run that was made on this corpus",
                    )

    def __len__(self) -> int:
        return len(self.queries) if self.windowing is None else sum(1 for _ in self)

    def __iter__(self) -> Iterator[Item]:
        for item in map(self._item, self.queries):
            if self.windowing is None:
                yield item
                continue
            qid, labels = item.query.qid, item.labels or {}
            relevant = {docid for docid, grade in labels.items() if grade > 0}
            for number, passages in enumerate(windows_of(item.candidates, relevant, self.windowing, self.seed, qid)):
                query = Query(f"{qid}/{number}", item.query.text)
                yield replace(item, query=query, candidates=passages, listed=True)

    def _item(self, query: Query) -> Item:
        metadata = self.collection.metadata.get(query.qid, {})
        return Item(
            query,
            self._passages(query, self.collection.run),
            hard_pool=self._passages(query, self.collection.hard),
            domain=str(metadata.get("domain") or ""),
            gold_answer=str(metadata.get("gold_answer") or "").strip(),
            labels=self.collection.qrels.get(query.qid),
            licence=str(metadata.get("licence") or self.licence),
        )

    def _passages(self, query: Query, run: Run | None) -> tuple[Passage, ...]:
        hits = (run or {}).get(query.qid)
        if not hits:
            return ()
        (made,) = make_candidates(
            {query.qid: hits}, {query.qid: query}, self.collection.corpus, self.depth, self.collection.excluded
        )
        return made.passages


def _of_split(collection: Collection, split: str, seed: int, limit: int | None) -> list[Query]:
    same = {"dev": "validation"}

    def split_of(qid: str) -> str:
        name = str(collection.metadata.get(qid, {}).get("split") or split)
        return same.get(name, name)

    queries = [query for qid, query in collection.queries.items() if split_of(qid) == same.get(split, split)]
    random.Random(seed).shuffle(queries)
    return queries if limit is None else queries[:limit]


class ItemFolder:
    """A folder with `items.jsonl[.gz]` and SOURCE.json, streamed: one line is in memory at a time.

    Raises InputError with file and line for a bad line, when it is reached.
    """

    def __init__(self, folder: str | Path, limit: int | None = None) -> None:
        root = Path(folder)
        self.path = next((p for p in (root / "items.jsonl", root / "items.jsonl.gz") if p.is_file()), None)
        if self.path is None:
            raise MissingFileError("no items.jsonl in this folder", path=root, remedy="make it with rrlib data prepare")
        self.limit = limit
        source = _source(root / "SOURCE.json")
        self.name, self.data_kind = str(source.get("name") or root.resolve().name), str(source["data_kind"])
        self._length: int | None = source.get("items") if isinstance(source.get("items"), int) else None

    def __len__(self) -> int:
        if self._length is None:
            assert self.path is not None
            self._length = sum(1 for _ in read_jsonl(self.path))
        return self._length if self.limit is None else min(self._length, self.limit)

    def __iter__(self) -> Iterator[Item]:
        assert self.path is not None
        for count, (line, row) in enumerate(read_jsonl(self.path)):
            if self.limit is not None and count >= self.limit:
                return
            yield item_from_json(row, self.path, line)


def _source(path: Path) -> dict[str, Any]:
    try:
        source: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = source["data_kind"]
    except FileNotFoundError:
        raise MissingFileError(
            "no SOURCE.json beside the items", path=path, remedy='write {"name": ..., "data_kind": "real"}'
        ) from None
    except (ValueError, KeyError, TypeError):
        raise InputError("no data_kind in this file", path=path, remedy='write {"data_kind": "real"}') from None
    if kind not in DATA_KINDS:
        raise InputError(f"the data_kind is {kind!r}", path=path, remedy=f"it is one of {', '.join(DATA_KINDS)}")
    return source


def item_from_json(row: Mapping[str, Any], path: Path | None = None, line: int | None = None) -> Item:
    """An item from its JSON object; InputError with file and line for what is missing or of a wrong type."""

    def passages(key: str) -> tuple[Passage, ...]:
        rows = row.get(key) or []
        if not isinstance(rows, list) or not all(isinstance(passage, dict) for passage in rows):
            raise InputError(f"`{key}` is not a list of objects", path=path, line=line, remedy="see rrlib data prepare")
        return tuple(record_passage(passage, path or "items", line or 0) for passage in rows)

    labels = row.get("labels")
    if labels is not None and not (isinstance(labels, dict) and all(isinstance(v, int) for v in labels.values())):
        raise InputError("`labels` is not an object of integers", path=path, line=line, remedy="write docid: grade")
    texts = {key: row.get(key, "") for key in ("query", "domain", "gold_answer", "licence")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise InputError(f"`{key}` is not a string", path=path, line=line, remedy="mend this line")
    query = Query(as_id(row.get("qid"), "the query id (qid)", path, line), texts["query"])
    return Item(
        query,
        passages("candidates"),
        texts["domain"],
        texts["gold_answer"],
        passages("hard_pool"),
        labels,
        texts["licence"] or UNKNOWN_LICENCE,
        row.get("listed") is True,
    )


def item_to_json(item: Item) -> dict[str, Any]:
    """The JSON object of an item; `item_from_json` gives an equal item back."""

    def rows(passages: tuple[Passage, ...]) -> list[dict[str, str]]:
        return [{"docid": p.docid, "title": p.title, "text": p.text} for p in passages]

    return {
        "qid": item.query.qid,
        "query": item.query.text,
        "domain": item.domain,
        "gold_answer": item.gold_answer,
        "candidates": rows(item.candidates),
        "hard_pool": rows(item.hard_pool),
        "labels": None if item.labels is None else dict(item.labels),
        "licence": item.licence,
    } | ({"listed": True} if item.listed else {})


def write_items(folder: str | Path, items: Iterable[Item], *, name: str, data_kind: str, **origin: Any) -> Path:
    """Write an item folder, streaming; SOURCE.json comes last, so a folder that has one is whole."""
    root, count = Path(folder), 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal count
        for item in items:
            count += 1
            yield item_to_json(item)

    (root / "SOURCE.json").unlink(missing_ok=True)
    write_jsonl(root / "items.jsonl", rows())
    source = {"name": name, "data_kind": data_kind, "items": count, **origin}
    write_lines(root / "SOURCE.json", [json.dumps(source, indent=1, ensure_ascii=False)])
    return root
