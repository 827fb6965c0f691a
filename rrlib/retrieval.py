"""A first stage made here: BM25 through bm25s, over the whole corpus, with the excluded documents left out.

The query form matters: BRIGHT's first stages retrieve with rewritten queries, while reranking sees the original ones.
The parameters are those of Anserini's runs (k1 = 0.9, b = 0.4); bm25s' English stop words, no stemmer.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from rrlib.errors import InputError
from rrlib.evaluation.benchmarks import BenchmarkData
from rrlib.formats import read_queries, read_run, write_scored_run
from rrlib.formats.fields import few
from rrlib.types import Hit, Query, Run

K1, B = 0.9, 0.4


def retrieval_queries(data: BenchmarkData, form: str = "original") -> dict[str, Query]:
    """The queries as a retriever sees them. form: `original`, or `rewritten` (queries.rewritten.jsonl)."""
    if form == "original":
        if data.queries is None:
            raise InputError(f"{data.name} has no queries", remedy="add queries.jsonl to its folder")
        return data.queries
    if form != "rewritten":
        raise InputError(f"query form {form!r}", remedy="use original or rewritten")
    path = (data.folder or Path(".")) / "queries.rewritten.jsonl"
    rewritten = read_queries(path, data.notes)
    lost = [qid for qid in data.qrels if qid not in rewritten]
    if lost:
        raise InputError(
            f"{len(lost)} queries have no rewritten form: {few(lost)}", path=path, remedy="rewrite them all"
        )
    return rewritten


def bm25_run(data: BenchmarkData, depth: int = 100, form: str = "original", keep: bool = True) -> Run:
    """The best `depth` documents of each judged query; written to runs/bm25s.trec of the folder when `keep`.

    Scores are rounded to 6 decimals; equal scores stand in trec_eval's order (document id, descending), so that rank
    and score tell the same story. Titles are indexed in front of texts. A query without a known word gets no hits.
    """
    stem = "bm25s" if form == "original" else f"bm25s-{form}"
    split = "" if data.split == "test" else f".{data.split}"
    path = None if data.folder is None else data.folder / "runs" / f"{stem}{split}.trec"
    if path is not None and path.is_file():
        return read_run(path, data.notes)
    import bm25s
    import numpy as np

    queries = retrieval_queries(data, form)
    corpus = data.corpus()
    ids = list(corpus)
    texts = [f"{p.title} {p.text}" if p.title else p.text for p in corpus.values()]
    model = bm25s.BM25(k1=K1, b=B)
    model.index(bm25s.tokenize(texts, stopwords="en", show_progress=False, return_ids=False), show_progress=False)
    run: Run = {}
    for qid in data.qrels:
        tokens = bm25s.tokenize(queries[qid].text, stopwords="en", show_progress=False, return_ids=False)[0]
        known = [token for token in tokens if token in model.vocab_dict]
        if not known:
            run[qid] = []
            continue
        scores = np.round(np.asarray(model.get_scores(known), dtype=float), 6)
        banned = data.excluded.get(qid, set())
        top = min(len(ids), depth + len(banned))
        edge = np.partition(scores, -top)[-top] if top < len(ids) else scores.min()
        places = [i for i in np.flatnonzero(scores >= edge) if scores[i] > 0 and ids[i] not in banned]
        best = sorted(places, key=lambda i: (scores[i], ids[i]), reverse=True)[:depth]
        run[qid] = [Hit(ids[i], float(scores[i]), rank) for rank, i in enumerate(best, 1)]
    if silent := [qid for qid, hits in run.items() if not hits]:
        data.notes.append(f"{data.name}: {len(silent)} queries share no word with the corpus: {few(silent)}")
    if path is not None and keep:
        with contextlib.suppress(OSError):  # a local copy may be read-only: then the run is made anew each time
            write_scored_run(path, {qid: hits for qid, hits in run.items() if hits}, "bm25s")
    return run
