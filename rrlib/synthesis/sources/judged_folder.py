"""Collection folders made here: from the files of a release, or a part of another folder for one run of the chain.

The first stages are part of a folder, so that all systems are compared on the same lists.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, MissingPackageError
from rrlib.formats import read_collection, write_jsonl, write_lines, write_qrels, write_scored_run
from rrlib.synthesis.sources.windows import Windowing
from rrlib.types import Hit, Passage, Qrels, Query, Run

SPLITS = ("train", "dev", "test")
DEPTH = 100
"""Passages a query in the first stages written here."""


@dataclass
class Judged:
    """A judged collection in memory. metadata: by query id, each with its `split`. runs: first stage -> split -> run;
    the first stage `` is BM25 without a stemmer. source: what SOURCE.json says beside its name."""

    name: str
    source: dict[str, Any]
    corpus: dict[str, Passage] = field(default_factory=dict)
    queries: dict[str, Query] = field(default_factory=dict)
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    qrels: Qrels = field(default_factory=dict)
    runs: dict[str, dict[str, Run]] = field(default_factory=dict)

    def of_split(self, split: str) -> dict[str, Query]:
        """The queries of a split."""
        return {qid: query for qid, query in self.queries.items() if self.metadata[qid]["split"] == split}


def write_judged(folder: str | Path, judged: Judged) -> Path:
    """Write a collection folder (layout: rrlib.formats.collection); SOURCE.json comes last."""
    root = Path(folder)
    (root / "SOURCE.json").unlink(missing_ok=True)
    write_jsonl(
        root / "corpus.jsonl", ({"_id": p.docid, "title": p.title, "text": p.text} for p in judged.corpus.values())
    )
    rows = ({"_id": qid, "text": q.text, "metadata": judged.metadata[qid]} for qid, q in judged.queries.items())
    write_jsonl(root / "queries.jsonl", rows)
    for split in dict.fromkeys(metadata["split"] for metadata in judged.metadata.values()):
        qids = judged.of_split(split)
        write_qrels(root / "qrels" / f"{split}.tsv", {qid: judged.qrels[qid] for qid in qids if qid in judged.qrels})
    for first_stage, runs in judged.runs.items():
        for split, run in runs.items():
            ending = f".{first_stage}.trec" if first_stage else ".trec"
            write_scored_run(root / "runs" / f"{split}{ending}", run, first_stage or "bm25s")
    source = {"name": judged.name, **judged.source}
    write_lines(root / "SOURCE.json", [json.dumps(source, indent=1, ensure_ascii=False)])
    return root


def add_first_stages(judged: Judged, lists: Mapping[str, Mapping[str, list[str]]]) -> None:
    """Give a collection its runs: BM25, with a stemmer too (`stem`), and lists of others.

    lists: name -> query id -> document ids, an unordered set of candidates; they are put in the order of BM25.
    """
    for split in SPLITS:
        queries = judged.of_split(split)
        if not queries:
            continue
        deep = bm25(judged.corpus, queries, 10 * DEPTH)
        judged.runs.setdefault("", {})[split] = {qid: hits[:DEPTH] for qid, hits in deep.items() if hits}
        run = bm25(*stemmed(judged.corpus, queries), DEPTH)
        judged.runs.setdefault("stem", {})[split] = {qid: hits for qid, hits in run.items() if hits}
        for name, by_query in lists.items():
            judged.runs.setdefault(name, {})[split] = {
                qid: _ordered(by_query[qid], deep.get(qid, [])) for qid in queries if by_query.get(qid)
            }


def _ordered(docids: Iterable[str], hits: Iterable[Hit]) -> list[Hit]:
    """The documents in the order of the hits, those without a hit last, as given; scores n..1."""
    places = {hit.docid: hit.rank for hit in hits}
    order = sorted(dict.fromkeys(docids), key=lambda docid: places.get(docid, len(places) + 1))
    return [Hit(docid, float(len(order) - rank), rank + 1) for rank, docid in enumerate(order)]


def bm25(corpus: Mapping[str, Passage], queries: Mapping[str, Query], depth: int) -> Run:
    """The first stage of rrlib.retrieval over a corpus in memory."""
    from rrlib.retrieval import bm25_run

    return bm25_run(corpus, queries, {}, depth)


def stemmed(corpus: Mapping[str, Passage], queries: Mapping[str, Query]) -> tuple[dict[str, Passage], dict[str, Query]]:
    """Corpus and queries with their words stemmed (Snowball, English), stop words left out. Raises MissingPackageError
    without PyStemmer, which pip installs with rrlib."""
    import bm25s

    try:
        import Stemmer
    except ImportError as error:
        raise MissingPackageError(
            "the first stage `stem` needs the package PyStemmer, which is not installed -> pip install PyStemmer"
        ) from error

    stemmer = Stemmer.Stemmer("english")

    def stem(texts: list[str]) -> list[str]:
        words = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False)
        return [" ".join(f"{word}_" for word in line) for line in words]  # `_`: no stem is a stop word or too short

    texts = stem([f"{p.title} {p.text}".strip() for p in corpus.values()])
    asked = stem([query.text for query in queries.values()])
    return (
        {docid: Passage(docid, text) for docid, text in zip(corpus, texts, strict=True)},
        {qid: Query(qid, text) for qid, text in zip(queries, asked, strict=True)},
    )


def build(
    folder: str | Path,
    *,
    source: str,
    seed: int = 0,
    train: int = 0,
    validation: int = 0,
    test: int = 0,
    pool: int = 0,
    first_stage: str = "",
    windows: Mapping[str, Any] | None = None,
) -> Path:
    """Write a part of a judged collection as a folder of its own: what `corpus` in a profile calls.

    source: a collection folder; environment variables in it are filled in. train, validation, test: queries of each
    split, drawn by seed (0 = all; a split that is not there is left out). pool: candidates a query (0 = all).
    first_stage: the run that the lists come from. windows: settings of Windowing; with them every training list is a
    window as retrieved, without them lists are assembled from positives and negatives. Raises InputError where a
    setting, the first stage or the training queries are missing.
    """
    root, settings = Path(os.path.expandvars(source)), None if windows is None else dict(windows)
    if settings is not None:
        Windowing.of(settings)
    judged: Judged | None = None
    for split, limit in (("train", train), ("validation", validation), ("test", test)):
        try:
            collection = read_collection(root, split, first_stage=first_stage)
        except InputError:
            if split == "train":
                raise
            continue
        if judged is None:
            origin = {key: value for key, value in collection.source.items() if key != "name"}
            part = {"first_stage": first_stage or "bm25s", "pool": pool, "seed": seed}
            origin |= {"data_kind": collection.data_kind, "part": part}
            judged = Judged(collection.name, origin | ({} if settings is None else {"windows": settings}))
            judged.corpus, judged.runs[""] = dict(collection.corpus), {}
        qids = list(collection.queries)
        if limit and limit < len(qids):
            drawn = set(random.Random(f"{seed}/{split}").sample(qids, limit))
            qids = [qid for qid in qids if qid in drawn]
        judged.queries |= {qid: collection.queries[qid] for qid in qids}
        judged.metadata |= {qid: {**collection.metadata[qid], "split": split} for qid in qids}
        judged.qrels |= {qid: collection.qrels[qid] for qid in qids if qid in collection.qrels}
        run = collection.run or {}
        judged.runs[""][split] = {qid: run[qid][: pool or None] for qid in qids if run.get(qid)}
    assert judged is not None
    return write_judged(folder, judged)
