"""What every step of a run needs (collection, teacher, settings, stores), and the window that comes of it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from rrlib.errors import InputError
from rrlib.formats import Collection, make_candidates
from rrlib.synthesis.assemble import Mix, Window, assemble
from rrlib.synthesis.domains import Recipe, recipe_for
from rrlib.synthesis.select import chunks, selected_docids
from rrlib.synthesis.store import Store
from rrlib.synthesis.teacher import Teacher
from rrlib.types import Candidates, Query


@dataclass(frozen=True)
class Job:
    """All that the steps need to know; made once a run."""

    collection: Collection
    teacher: Teacher
    mix: Mix
    seed: int
    alpha: float
    depth: int | None
    style: str
    k: int
    domains: Mapping[str, str]
    select: Store
    rank: Store

    def domain(self, qid: str) -> tuple[str, Recipe]:
        name = str(self.collection.metadata.get(qid, {}).get("domain") or "")
        return name, recipe_for(name, self.domains)

    def gold_answer(self, qid: str) -> str:
        return str(self.collection.metadata.get(qid, {}).get("gold_answer") or "").strip()

    def candidates(self, query: Query) -> Candidates | None:
        hits = (self.collection.run or {}).get(query.qid)
        if not hits:
            return None
        made = make_candidates(
            {query.qid: hits},
            {query.qid: query},
            self.collection.corpus,
            depth=self.depth,
            excluded=self.collection.excluded,
            collection=self.collection.name,
            texts_required=True,
        )
        return made[0] if made and len(made[0].passages) > 1 else None


def train_queries(collection: Collection, split: str, seed: int, limit: int | None) -> list[Query]:
    """The queries of a split in a seeded order, the first `limit` of them: a larger limit only adds queries.

    A query whose metadata names another split is left out, whatever the caller read: no test query is trained on.
    """
    same = {"dev": "validation"}

    def split_of(qid: str) -> str:
        name = str(collection.metadata.get(qid, {}).get("split") or split)
        return same.get(name, name)

    queries = [query for qid, query in collection.queries.items() if split_of(qid) == same.get(split, split)]
    random.Random(seed).shuffle(queries)
    return queries if limit is None else queries[:limit]


def check_texts(collection: Collection, queries: list[Query], depth: int | None) -> None:
    """Find a passage without a text now, not after hours of paid calls."""
    run = collection.run or {}
    for query in queries:
        for hit in run.get(query.qid, [])[:depth]:
            if hit.docid not in collection.corpus:
                raise InputError(
                    f"query {query.qid}: candidate {hit.docid!r} is not in the corpus of {collection.name!r}",
                    remedy="use the run that was made on this corpus",
                )


def window_of(job: Job, query: Query, candidates: Candidates) -> tuple[Window | None, str]:
    """The window of a query from what is stored, or None with the reason why there is none."""
    _, recipe = job.domain(query.qid)
    if recipe.labels == "qrels":
        grades = job.collection.qrels.get(query.qid)
        if not grades:
            return None, "no_labels"
        positives = [p.docid for p in candidates.passages if grades.get(p.docid, 0) > 0]
    else:
        if not job.gold_answer(query.qid):
            return None, "no_gold_answer"
        pieces = len(chunks(candidates.passages, job.mix.window))
        records = [job.select.get(f"{query.qid}/{number}") for number in range(pieces)]
        whole = [record for record in records if record is not None]
        if len(whole) < pieces:
            return None, "call_failed"
        positives, fault = selected_docids(whole)
        if fault:
            return None, f"select: {fault}"
    if not positives:
        return None, "nothing_selected"
    window = assemble(candidates.passages, set(positives), job.mix, job.seed, query.qid)
    if all(window.relevance):
        return None, "no_negatives"
    return window, ""
