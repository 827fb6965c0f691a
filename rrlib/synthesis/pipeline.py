"""The whole of synthesis over one collection and one teacher (paper sections 4.1, B.1).

Two halves. Asking fills two stores, `select.jsonl` and `rank.jsonl`, with raw answers; it is all that costs money and
all that can be killed. Finishing is a pure function of the stores: it reads every answer, assembles, filters, and
writes `examples.jsonl`, `dropped.jsonl` (one line a query, with its reason) and `summary.json`. So another alpha, or a
better reader, asks nothing again.

Simplified against the paper: candidates come from the collection's first stage (no linked pages, no web search), and
random negatives come from the same list.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rrlib.engines.base import Decoding
from rrlib.errors import InputError, StageError
from rrlib.formats import Collection, make_candidates, write_examples, write_jsonl
from rrlib.prompts import get_style
from rrlib.synthesis import prompts
from rrlib.synthesis.assemble import Mix, Window, assemble
from rrlib.synthesis.domains import Recipe, recipe_for
from rrlib.synthesis.filter import ALPHA, check_alpha, keeps, self_consistency
from rrlib.synthesis.rank import read_ranking
from rrlib.synthesis.select import chunks, selected_docids
from rrlib.synthesis.store import Store, StoreLock, check_header
from rrlib.synthesis.teacher import ChatClient, Teacher, Usage, request_hash, run_async
from rrlib.types import Candidates, Query, RankingExample


@dataclass(frozen=True)
class SynthesisResult:
    """Where the results lie, and the counts. `summary` is what `summary.json` holds."""

    examples: Path
    dropped: Path
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_examples(self) -> int:
        """How many examples were kept."""
        return int(self.summary["examples"])


Progress = Callable[[int, int, Usage], None]
"""Called after each query with (queries done, queries in all, usage so far)."""


@dataclass(frozen=True)
class _Job:
    """All that the steps need to know; made once."""

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


def synthesize(
    collection: Collection,
    client: ChatClient,
    out_dir: str | Path,
    *,
    split: str = "train",
    window: int = 20,
    seed: int = 0,
    limit: int | None = None,
    alpha: float = ALPHA,
    decoding: Decoding | None = None,
    concurrency: int = 16,
    style: str = "reasonrank",
    depth: int | None = None,
    max_positives: int = 0,
    hard_negatives: float = 0.5,
    k: int = 10,
    domains: Mapping[str, str] | None = None,
    patience: int = 20,
    progress: Progress | None = None,
) -> SynthesisResult:
    """Make training examples for the queries of one split.

    Parameters
    ----------
    collection: queries (metadata: split, domain, gold_answer), corpus and the first-stage run of the split.
    client: a chat client; its `model` attribute is written into every record.
    out_dir: stores and results; a second call with the same settings continues there and asks only what is missing.
    split: which queries; those without a split in their metadata belong to it too.
    window: passages in a list (paper: 20); also the size of a selection question.
    seed: of the query order, the negatives, the shuffle and the teacher's sampling.
    limit: at most so many queries; None = all.
    alpha: lists with NDCG@k below it are dropped, in [0, 1] (paper: 0.4, k = 10).
    decoding: settings of the teacher; its seed is derived for each call. Default: Decoding(temperature=0.6).
    concurrency: calls in flight, >= 1.
    style: prompt style the examples are for; styles without a think block need no reasoning.
    depth: candidates looked at per query; None = all the run has.
    max_positives, hard_negatives: see rrlib.synthesis.assemble.Mix.
    domains: the collection's domain names -> recipe names of rrlib.synthesis.domains.
    patience: calls that may fail in a row before the run stops.
    progress: called after each query.

    Raises InputError for bad parameters, StageError when the folder is in use, unwritable, or holds answers made with
    other settings, EngineError when the teacher keeps failing. Whatever is raised, stored answers stay stored.
    """
    get_style(style)
    check_alpha(alpha)
    mix = Mix(window, max_positives, hard_negatives)
    if concurrency < 1:
        raise InputError(f"concurrency is {concurrency}", remedy="ask at least one call at a time")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}", remedy="give the number of queries, or leave it out for all")
    if collection.run is None:
        raise InputError(
            f"collection {collection.name!r} has no first-stage run for split {split!r}",
            remedy=f"add runs/{split}.trec, or read the collection with split={split!r}",
        )
    queries = train_queries(collection, split, seed, limit)
    if not queries:
        raise InputError(f"collection {collection.name!r} has no queries of split {split!r}")
    _check_texts(collection, queries, depth)
    out = Path(out_dir)
    teacher = Teacher(client, decoding or Decoding(temperature=0.6), seed, patience)
    with StoreLock(out):
        check_header(
            out / "store.json",
            {
                "collection": collection.name,
                "prompt_version": prompts.VERSION,
                "model": teacher.model,
                "decoding": asdict(teacher.decoding),
                "seed": seed,
                "depth": depth,
                **asdict(mix),
            },
        )
        select, rank = Store(out / "select.jsonl"), Store(out / "rank.jsonl")
        try:
            job = _Job(collection, teacher, mix, seed, alpha, depth, style, k, dict(domains or {}), select, rank)
            stored = len(select) + len(rank)
            run_async(_ask_all(job, queries, concurrency, progress))
            return _finish(job, queries, out, stored)
        finally:
            select.close()
            rank.close()


def _check_texts(collection: Collection, queries: list[Query], depth: int | None) -> None:
    """Find a passage without a text now, not after hours of paid calls."""
    run = collection.run or {}
    for query in queries:
        for hit in run.get(query.qid, [])[:depth]:
            if hit.docid not in collection.corpus:
                raise InputError(
                    f"query {query.qid}: candidate {hit.docid!r} is not in the corpus of {collection.name!r}",
                    remedy="use the run that was made on this corpus",
                )


# --- asking ----------------------------------------------------------------------------------------------------------


async def _ask_all(job: _Job, queries: list[Query], concurrency: int, progress: Progress | None) -> None:
    """As many workers as calls may be in flight; each takes the next query, so memory does not grow with queries."""
    waiting = iter(queries)
    done = 0

    async def worker() -> None:
        nonlocal done
        for query in waiting:
            await _ask_query(job, query)
            done += 1
            if progress is not None:
                progress(done, len(queries), job.teacher.usage)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(worker()) for _ in range(min(concurrency, len(queries)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask_query(job: _Job, query: Query) -> None:
    _, recipe = job.domain(query.qid)
    candidates = job.candidates(query)
    gold_answer = job.gold_answer(query.qid)
    if candidates is None:
        return
    if recipe.labels == "teacher":
        if not gold_answer:
            return
        for number, piece in enumerate(chunks(candidates.passages, job.mix.window)):
            messages = prompts.select_messages(recipe, query.text, gold_answer, piece)
            asked = {"step": "select", "qid": query.qid, "docids": [p.docid for p in piece]}
            if not await _ask_once(job, job.select, f"{query.qid}/{number}", messages, asked):
                return
    window, _ = _window(job, query, candidates)
    if window is None:
        return
    messages = prompts.rank_messages(recipe, query.text, window.passages)
    extra: dict[str, Any] = {
        "step": "rank",
        "qid": query.qid,
        "docids": [p.docid for p in window.passages],
        "relevance": list(window.relevance),
        "roles": list(window.roles),
    }
    await _ask_once(job, job.rank, query.qid, messages, extra)


async def _ask_once(job: _Job, store: Store, key: str, messages: Any, extra: Mapping[str, Any]) -> bool:
    """Whether the answer to this question is in the store afterwards. A stored question is not asked again."""
    known = store.get(key)
    if known is not None:
        if known["request"] != request_hash(messages):
            raise StageError(
                f"{store.path}: the stored answer {key!r} belongs to another question (the collection has changed) -> "
                "use another folder, or start it afresh"
            )
        return True
    record = await job.teacher.ask(f"{extra['step']}/{key}", messages)
    if record is None:
        return False
    store.append({**record, **extra, "id": key, "seed": job.seed, "prompt": [dict(m) for m in messages]})
    return True


def _window(job: _Job, query: Query, candidates: Candidates) -> tuple[Window | None, str]:
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


# --- finishing -------------------------------------------------------------------------------------------------------


def _finish(job: _Job, queries: list[Query], out: Path, stored: int) -> SynthesisResult:
    """Stores -> examples, dropped, summary. Nothing is asked here."""
    reasons: Counter[str] = Counter()
    domains: Counter[str] = Counter()
    general: Counter[str] = Counter()
    drops: list[dict[str, Any]] = []

    def examples() -> Iterator[RankingExample]:
        for query in queries:
            domain, recipe = job.domain(query.qid)
            if recipe.name == "general":
                general[domain] += 1
            example, reason, value = _example(job, query)
            if example is None:
                reasons[reason] += 1
                row = {"qid": query.qid, "domain": domain, "reason": reason}
                drops.append(row if value is None else {**row, "consistency": value})
            else:
                domains[domain] += 1
                yield example

    paths = out / "examples.jsonl", out / "dropped.jsonl"
    write_examples(paths[0], examples())
    write_jsonl(paths[1], drops)
    summary = {
        "queries": len(queries),
        "examples": sum(domains.values()),
        "dropped": dict(sorted(reasons.items())),
        "by_domain": dict(sorted(domains.items())),
        "general_recipe": dict(sorted(general.items())),
        "alpha": job.alpha,
        "stored_before": stored,
        "torn_lines": job.select.torn + job.rank.torn,
        "answers": {"select": len(job.select), "rank": len(job.rank)},
        "this_run": {k: round(v, 3) for k, v in asdict(job.teacher.usage).items() if k != "in_a_row"},
        "model": job.teacher.model,
        "prompt_version": prompts.VERSION,
        "decoding": asdict(job.teacher.decoding),
        "seed": job.seed,
        "data_kind": job.collection.data_kind,
    }
    scratch = out / "summary.tmp"
    scratch.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(scratch, out / "summary.json")
    return SynthesisResult(*paths, summary)


def _example(job: _Job, query: Query) -> tuple[RankingExample | None, str, float | None]:
    """The example of a query, or the reason why there is none (and its consistency, when that is the reason)."""
    candidates = job.candidates(query)
    if candidates is None:
        return None, "no_candidates", None
    window, reason = _window(job, query, candidates)
    if window is None:
        return None, reason, None
    record = job.rank.get(query.qid)
    if record is None:
        return None, "call_failed", None
    read = read_ranking(
        record["text"],
        len(window.passages),
        reasoning=record["reasoning"],
        finish_reason=record["finish_reason"],
        style=job.style,
    )
    if read.fault:
        return None, f"rank: {read.fault}", None
    value = self_consistency(read.gold, window.relevance, job.k)
    if not keeps(value, job.alpha):
        return None, "below_alpha", value
    domain, recipe = job.domain(query.qid)
    meta = {
        "domain": domain,
        "recipe": recipe.name,
        "collection": job.collection.name,
        "data_kind": job.collection.data_kind,
        "teacher": record["model"],
        "teacher_kind": record["teacher_kind"],
        "prompt_version": record["prompt_version"],
        "decoding": record["decoding"],
        "seed": job.seed,
        "consistency": value,
        "roles": list(window.roles),
    }
    return RankingExample(query, window.passages, window.relevance, read.gold, read.reasoning, meta), "", value


def follow(out_dir: str | Path, qid: str) -> dict[str, list[dict[str, Any]]]:
    """Every stored answer of one query, by step, with the prompt that was sent: for a notebook that follows it."""
    found: dict[str, list[dict[str, Any]]] = {}
    for step in ("select", "rank"):
        path = Path(out_dir) / f"{step}.jsonl"
        if not path.exists():
            raise InputError(f"no store {path.name} here", path=out_dir, remedy="run synthesize first")
        with open(path, encoding="utf-8") as lines:
            records = (json.loads(line) for line in lines)
            found[step] = [record for record in records if record["qid"] == qid]
    return found
