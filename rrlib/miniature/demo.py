"""The demonstration: a small part of the embedded world, reranked by the packaged reranker, without torch or training.

Nothing is stored that could be printed: world, first stage, answers and figures are made anew at every call.
"""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from rrlib.engines.light import LightEngine
from rrlib.evaluation.tables import Row, compare
from rrlib.formats import Collection, ranking_to_run, read_collection
from rrlib.miniature.generate import build
from rrlib.prompts import format_ranking
from rrlib.records import WindowRecord
from rrlib.rerank import Reranker

MODEL = "package:rrlib.miniature/reranker"
SEED, POOL = 7, 30
"""Those of the profile `miniature`, on whose training queries the packaged reranker was trained."""
METRIC = "nDCG@10"
WIDTH = 118
"""Characters of the longest line that is printed."""


@dataclass(frozen=True)
class Demo:
    """What a demonstration found. rows: first stage, reranked; rankings: qid -> document ids, best first."""

    collection: Collection
    rankings: dict[str, list[str]]
    records: list[WindowRecord]
    rows: list[Row]
    window: int
    parameters: int

    @property
    def qid(self) -> str:
        """The query that is shown: the first, whatever became of it."""
        return next(iter(self.collection.queries))

    def relevant_ranks(self, docids: list[str]) -> list[int]:
        """The ranks, from 1, at which the relevant passages of the query that is shown stand."""
        judged = self.collection.qrels[self.qid]
        return [rank for rank, docid in enumerate(docids, 1) if judged.get(docid, 0) > 0]

    def before(self) -> list[str]:
        """The document ids of the query that is shown, as the first stage ranked them."""
        return [hit.docid for hit in (self.collection.run or {})[self.qid]]


def run_demo(queries: int = 16, *, progress: bool = False) -> Demo:
    """Build the first test queries of the miniature (1 to 600), and rerank them with the numpy engine.

    They are those that the profile `miniature` ends with: no training saw them. Needs no file and no network.
    """
    with tempfile.TemporaryDirectory() as folder:
        build(folder, seed=SEED, train=0, validation=0, test=queries, pool=POOL)
        collection = read_collection(folder, "test")
        candidates = collection.candidates()
    engine = LightEngine(MODEL, batch_size=queries)
    reranker = Reranker(engine, progress=progress)
    result = reranker.rerank(candidates)
    first_stage, rankings = collection.run or {}, result.run(collection.name)
    runs = {"first stage (BM25)": first_stage, "reranked": ranking_to_run(rankings)}
    rows = compare(collection.qrels, runs, METRIC, seed=SEED, profile="miniature", data_kind=collection.data_kind)
    return Demo(collection, rankings, result.records, rows, reranker.strategy.size, engine.parameters)


def figures(demo: Demo) -> Iterator[str]:
    """The lines that say how good the order was before and after, over all queries."""
    row, millions = demo.rows[0], demo.parameters / 1e6
    yield f"{row.n} test queries of the miniature, {POOL} candidates each; windows of {demo.window}, read by a model of"
    yield f"{millions:.1f} million parameters. Profile {row.profile}, seed {row.seed}, {row.data_kind} data."
    yield ""
    yield f"{METRIC:<20} mean   95% interval     queries"
    for row in demo.rows:
        yield f"{row.system:<20} {row.mean:.3f}  [{row.low:.3f}, {row.high:.3f}]   {row.n}"


def story(demo: Demo) -> Iterator[str]:
    """The lines that follow one query: its last window, what the model wrote, and where the list came out."""
    collection, qid = demo.collection, demo.qid
    record = next(r for r in reversed(demo.records) if r.qid == qid)
    yield f"One query ({qid}, the first), and the last window that it was asked about (* is relevant):"
    yield ""
    yield from _wrapped("query", collection.queries[qid].text)
    for number, docid in enumerate(record.docids, 1):
        star = "*" if collection.qrels[qid].get(docid, 0) > 0 else " "
        yield from _wrapped(f"[{number}]{star}", collection.corpus[docid].text)
    yield ""
    yield from _wrapped("reasoning", record.reasoning)
    yield from _wrapped("answer", format_ranking(record.order))
    yield ""
    before, after = (", ".join(map(str, demo.relevant_ranks(docids))) for docids in (demo.before(), demo.rankings[qid]))
    yield f"Its relevant passages stood at ranks {before} of {POOL}, and stand at {after} now."


def _wrapped(label: str, text: str) -> list[str]:
    """Lines of at most WIDTH characters, the label in front of the first."""
    head = f"{label:<10}"
    return textwrap.wrap(" ".join(text.split()), WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
