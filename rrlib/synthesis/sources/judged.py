"""Queries that people have judged: MS MARCO (qrels or triples), BRIGHT's parquet files, any BEIR folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, MissingFileError
from rrlib.formats import open_text, read_collection, read_qrels, read_queries
from rrlib.synthesis.sources import SourceQuery
from rrlib.types import Passage

MSMARCO_LICENCE = "MS MARCO, non-commercial research"
BRIGHT_LICENCE = "CC BY 4.0"


def read_msmarco(
    queries: str | Path,
    *,
    qrels: str | Path | None = None,
    triples: str | Path | None = None,
    domain: str = "ms-marco",
    notes: list[str] | None = None,
) -> Iterator[SourceQuery]:
    """MS MARCO queries with their labels, those that have any, in the order of the queries file.

    queries: `qid<TAB>text`. qrels: `qid 0 pid 1`. triples: lines of ids `qid<TAB>positive<TAB>negative`
    (qidpidtriples): the positives get 1, the negatives 0. One of the two is needed. Raises InputError otherwise.
    """
    if (qrels is None) == (triples is None):
        raise InputError("give qrels or triples, one of them", remedy="qrels.train.tsv is the smaller one")
    labels = read_qrels(qrels, notes) if qrels is not None else read_triples(triples or "")
    for qid, query in read_queries(queries, notes).items():
        if labels.get(qid):
            yield SourceQuery(qid, query.text, domain=domain, labels=labels[qid], licence=MSMARCO_LICENCE)


def read_triples(path: str | Path) -> dict[str, dict[str, int]]:
    """Id triples `qid positive negative` -> labels by query. Raises InputError with file and line for another shape."""
    labels: dict[str, dict[str, int]] = {}
    with open_text(path) as lines:
        for line in lines:
            cells = line.split()
            if not cells:
                continue
            if len(cells) != 3:
                raise InputError(
                    f"{len(cells)} fields, 3 are expected",
                    path=path,
                    line=lines.lineno,
                    remedy="a line reads: qid positive negative (ids, not texts: qidpidtriples.*.tsv)",
                )
            grades = labels.setdefault(cells[0], {})
            grades[cells[1]] = 1
            grades.setdefault(cells[2], 0)
    if not labels:
        raise InputError("there are no triples", path=path, remedy="a line reads: qid positive negative")
    return labels


def read_tsv_passages(path: str | Path, prefix: str = "") -> Iterator[Passage]:
    """MS MARCO's collection.tsv, `pid<TAB>text`, streamed."""
    with open_text(path) as lines:
        for line in lines:
            docid, tab, text = line.partition("\t")
            if not tab or not docid:
                raise InputError("no tab", path=path, line=lines.lineno, remedy="a line reads: pid<TAB>text")
            yield Passage(prefix + docid, text)


def read_bright(examples: str | Path, domain: str, notes: list[str] | None = None) -> Iterator[SourceQuery]:
    """BRIGHT's examples of one set: a parquet file, or a folder with `<domain>*.parquet`.

    Columns: id, query, gold_ids (labels of 1), excluded_ids, gold_answer. `N/A` among the excluded ids means none.
    """
    for row in _parquet(examples, domain, ("id", "query", "gold_ids")):
        excluded = {str(docid) for docid in row.get("excluded_ids") or () if docid != "N/A"}
        gold = [str(docid) for docid in row["gold_ids"] or ()]
        answer = str(row.get("gold_answer") or "")
        yield SourceQuery(
            f"{domain}-{row['id']}",
            str(row["query"]),
            "" if answer == "N/A" else answer,
            domain,
            labels=dict.fromkeys(gold, 1),
            excluded=frozenset(excluded),
            licence=BRIGHT_LICENCE,
        )


def read_bright_corpus(documents: str | Path, domain: str) -> Iterator[Passage]:
    """BRIGHT's documents of one set (columns id, content), streamed batch by batch."""
    for row in _parquet(documents, domain, ("id", "content")):
        yield Passage(str(row["id"]), str(row["content"] or ""))


def _parquet(path: str | Path, domain: str, wanted: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet as pq

    root = Path(path)
    files = sorted(root.glob(f"{domain}[-.]*parquet")) if root.is_dir() else [root]
    if not files or not files[0].is_file():
        raise MissingFileError(f"no parquet file of {domain!r}", path=root, remedy=f"expected {domain}-*.parquet here")
    for file in files:
        try:
            with pq.ParquetFile(file) as table:
                lacking = [name for name in wanted if name not in table.schema_arrow.names]
                if lacking:
                    raise InputError(
                        f"no column {lacking[0]!r}; there are {', '.join(table.schema_arrow.names)}",
                        path=file,
                        remedy="give the files of BRIGHT as they are published",
                    )
                for batch in table.iter_batches(batch_size=512):
                    yield from batch.to_pylist()
        except pyarrow.ArrowInvalid as error:
            raise InputError(f"not a parquet file: {error}", path=file, remedy="fetch the file again") from None


def read_beir(folder: str | Path, split: str = "train", domain: str = "") -> Iterator[SourceQuery]:
    """The queries of one split of a BEIR folder (see rrlib.formats.collection), with labels, answer and domain.

    domain: for queries whose metadata name none.
    """
    collection = read_collection(folder, split)
    for qid, query in collection.queries.items():
        metadata = collection.metadata.get(qid, {})
        yield SourceQuery(
            qid,
            query.text,
            str(metadata.get("gold_answer") or ""),
            str(metadata.get("domain") or domain),
            labels=collection.qrels.get(qid, {}),
            excluded=frozenset(collection.excluded.get(qid, ())),
            licence=str(metadata.get("licence") or collection.source.get("licence") or "unknown"),
        )
