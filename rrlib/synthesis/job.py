"""What every step of a run needs (source, teacher, settings, stores), and the window that comes of what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rrlib.synthesis.assemble import Mix, Window, as_listed, assemble
from rrlib.synthesis.domains import Recipe, recipe_for
from rrlib.synthesis.select import chunks, selected_docids
from rrlib.synthesis.sources.items import Item, Shard, Source
from rrlib.synthesis.teacher.ask import Teacher
from rrlib.synthesis.teacher.store import Store
from rrlib.types import Passage


@dataclass(frozen=True)
class Job:
    """All that the steps need to know; made once a run."""

    source: Source
    teacher: Teacher
    mix: Mix
    seed: int
    alpha: float
    depth: int | None
    limit: int | None
    shard: Shard
    style: str
    k: int
    domains: Mapping[str, str]
    select: Store
    hard: Store
    rank: Store

    @property
    def stores(self) -> dict[str, Store]:
        """Step -> store."""
        return {"select": self.select, "hard": self.hard, "rank": self.rank}

    def recipe(self, item: Item) -> Recipe:
        return recipe_for(item.domain, self.domains)

    def candidates(self, item: Item) -> Sequence[Passage]:
        return item.candidates[: self.depth]

    def stored_tokens(self, call: str) -> tuple[int, int] | None:
        """(tokens in, tokens out) of the stored answer of a call `step/key`, or None."""
        step, _, key = call.partition("/")
        record = self.stores[step].get(key) if step in self.stores else None
        return None if record is None else (record["tokens_in"], record["tokens_out"])


def pieces(job: Job, item: Item, step: str) -> list[tuple[str, Sequence[Passage]]]:
    """The questions of a selecting step (`select`, `hard`) about one query: (key, passages), a window or less each."""
    passages = job.candidates(item) if step == "select" else item.hard_pool
    return [(f"{item.query.qid}/{n}", piece) for n, piece in enumerate(chunks(passages, job.mix.window))]


def _chosen(job: Job, item: Item, step: str) -> tuple[list[str], str | None]:
    """The documents chosen in a selecting step, or why there are none to be had."""
    records: list[dict[str, Any]] = []
    for key, _ in pieces(job, item, step):
        record = job.stores[step].get(key)
        if record is None:
            return [], "call_failed"
        records.append(record)
    chosen, fault = selected_docids(records)
    return chosen, f"{step}: {fault}" if fault else None


def window_of(job: Job, item: Item) -> tuple[Window | None, str]:
    """The window of a query from what is stored, or None with the reason why there is none."""
    candidates = job.candidates(item)
    if not candidates or len(candidates) + len(item.hard_pool) < 2:
        return None, "no_candidates"
    found: list[Passage] = []
    if job.recipe(item).labels == "qrels":
        if not item.labels:
            return None, "no_labels"
        positives = [p.docid for p in candidates if item.labels.get(p.docid, 0) > 0]
    else:
        if not item.gold_answer:
            return None, "no_gold_answer"
        positives, reason = _chosen(job, item, "select")
        if reason is None and positives and item.hard_pool:
            hard, reason = _chosen(job, item, "hard")
            by_id = {p.docid: p for p in item.hard_pool}
            found = [by_id[docid] for docid in hard]
        if reason is not None:
            return None, reason
    if item.listed:
        return as_listed(candidates, set(positives)), ""
    if not positives:
        return None, "nothing_selected"
    window = assemble(candidates, set(positives), job.mix, job.seed, item.query.qid, found)
    if all(window.relevance):
        return None, "no_negatives"
    return window, ""
