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
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rrlib.engines.base import Decoding
from rrlib.errors import InputError, StageError
from rrlib.formats import Collection
from rrlib.prompts import get_style
from rrlib.synthesis import prompts
from rrlib.synthesis.assemble import Mix
from rrlib.synthesis.export import SynthesisResult, finish
from rrlib.synthesis.filter import ALPHA, check_alpha
from rrlib.synthesis.job import Job, check_texts, train_queries, window_of
from rrlib.synthesis.select import chunks
from rrlib.synthesis.store import Store, StoreLock, check_header
from rrlib.synthesis.teacher import ChatClient, Teacher, Usage, request_hash, run_async
from rrlib.types import Query

Progress = Callable[[int, int, Usage], None]
"""Called after each query with (queries done, queries in all, usage so far)."""


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
    check_texts(collection, queries, depth)
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
            job = Job(collection, teacher, mix, seed, alpha, depth, style, k, dict(domains or {}), select, rank)
            stored = len(select) + len(rank)
            run_async(_ask_all(job, queries, concurrency, progress))
            return finish(job, queries, out, stored)
        finally:
            select.close()
            rank.close()


# --- asking ----------------------------------------------------------------------------------------------------------


async def _ask_all(job: Job, queries: list[Query], concurrency: int, progress: Progress | None) -> None:
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


async def _ask_query(job: Job, query: Query) -> None:
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
    window, _ = window_of(job, query, candidates)
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


async def _ask_once(job: Job, store: Store, key: str, messages: Any, extra: Mapping[str, Any]) -> bool:
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
