"""The whole of synthesis over one source and one teacher (paper sections 4.1, B.1).

Two halves. Asking fills three stores, `select.jsonl`, `hard.jsonl` and `rank.jsonl`, with raw answers, and the books,
`calls.jsonl`; it is all that costs money and all that can be killed. Finishing is a pure function of the stores: it
reads every answer, assembles, filters, and writes `examples.jsonl`, `dropped.jsonl` (one line a lost query, with its
reason), `fates.jsonl` (one line a query, kept or lost) and `summary.json`; beside them `account.json`, which says how
the runs went. So another alpha, or a better reader, asks nothing again. Queries are streamed in both halves.

Simplified against the paper: random negatives come from the candidates of the same query.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rrlib.disk import check_output
from rrlib.engines.base import Decoding
from rrlib.errors import InputError
from rrlib.formats import Collection
from rrlib.prompts import WINDOW_STYLES, get_style
from rrlib.synthesis import prompts
from rrlib.synthesis.assemble import Mix
from rrlib.synthesis.fates import Fate
from rrlib.synthesis.filter import ALPHA, check_alpha, check_cut
from rrlib.synthesis.flow import STEPS, Flow
from rrlib.synthesis.job import Job
from rrlib.synthesis.results import RESULTS, SUMMARY, SynthesisResult, finish
from rrlib.synthesis.sources.items import CollectionSource, Item, Shard, Source, numbered
from rrlib.synthesis.teacher.ask import ChatClient, Teacher, Usage, model_name, run_async
from rrlib.synthesis.teacher.cache import ResponseCache
from rrlib.synthesis.teacher.ledger import BudgetError, Ledger
from rrlib.synthesis.teacher.prices import Price, price_of
from rrlib.synthesis.teacher.store import Store, StoreLock, check_header

Progress = Callable[[int, int, Usage], None]
"""Called after each query with (queries done, queries in all, usage so far)."""


def synthesize(
    source: Collection | Source,
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
    shard: Shard | None = None,
    price: Price | None = None,
    budget: float | None = None,
    cache: str | Path | None = None,
) -> SynthesisResult:
    """Make training examples for the queries of a source.

    Parameters
    ----------
    source: a collection (metadata: split, domain, gold_answer; with the first-stage run of the split), or a source of
        items (rrlib.synthesis.sources.items), which is streamed.
    client: a chat client; its `model` attribute is written into every record.
    out_dir: stores and results; a second call with the same settings continues there and asks only what is missing.
    split: which queries of a collection; those without a split in their metadata belong to it too.
    window: passages in a list (paper: 20); also the size of a selection question.
    seed: of the query order of a collection, the negatives, the shuffle and the teacher's sampling.
    limit: at most so many queries; None = all.
    alpha: lists with NDCG@k below it are dropped, in [0, 1] (paper: 0.4, k = 10).
    decoding: settings of the teacher; its seed is derived for each call. Default: Decoding(temperature=0.6).
    concurrency: calls in flight, >= 1.
    style: prompt style the examples are for; styles without a think block need no reasoning.
    depth: candidates looked at per query; None = all there are.
    max_positives, hard_negatives: see rrlib.synthesis.assemble.Mix.
    domains: the source's domain names -> recipe names of rrlib.synthesis.domains.
    patience: calls that may fail in a row before the run stops.
    progress: called after each query.
    shard: only this part of the queries; `rrlib.synthesis.merge` joins the folders of all parts.
    price: dollars a million tokens; None = that of the model in rrlib.synthesis.teacher.prices, if it is known.
    budget: dollars; no call is begun that could overrun it, over all runs of this folder. Needs a price.
    cache: a folder of answers shared between runs, keyed by the whole request; None = none.

    Raises InputError for bad parameters, StageError when the folder is in use, unwritable, or holds answers made with
    other settings, EngineError when the teacher keeps failing, BudgetError (after finishing what there is) when the
    money is up. Whatever is raised, calls in flight are waited for, and stored answers stay stored.
    """
    check_asked(style, alpha, concurrency, limit, k)
    flow = Flow(Mix(window, max_positives, hard_negatives), seed, depth, domains or {})
    if isinstance(source, Collection):
        source, limit = CollectionSource(source, split, seed, limit, depth), None  # of queries, not of their windows
    out, shard, decoding = Path(out_dir), shard or Shard(), decoding or Decoding(temperature=0.6)
    model = model_name(client)
    price = price if price is not None else price_of(model)
    with ExitStack() as stack:
        stack.enter_context(StoreLock(out))
        for name in (*RESULTS, *SUMMARY):  # known before it is paid for
            check_output(out / name, "result")
        if cache is not None:
            check_output(Path(cache) / "answer", "cache of answers")
        check_header(out / "store.json", _header(source, flow, client, decoding, shard))
        stores = {step: stack.enter_context(closing(Store(out / f"{step}.jsonl"))) for step in STEPS}
        ledger = stack.enter_context(closing(Ledger(out / "calls.jsonl", price, budget)))
        answers = None if cache is None else ResponseCache(cache)
        teacher = Teacher(client, decoding, seed, ledger, patience, answers)
        job = Job(source, flow, teacher, stores, alpha, k, style, limit, shard)
        ledger.recover(job.stored_tokens)
        stored = sum(map(len, stores.values()))
        try:
            run_async(_ask_all(job, concurrency, progress))
        except BudgetError as error:
            result = finish(job, out, stored)
            done = result.summary["queries"] - result.summary["dropped"].get(Fate.CALL_FAILED, 0)
            raise BudgetError(
                f"{error}; {done} of {result.summary['queries']} queries are done, their examples are in "
                f"{result.examples} -> raise the budget and run the same again to go on"
            ) from None
        return finish(job, out, stored)


def check_asked(style: str, alpha: float, concurrency: int, limit: int | None, k: int = 10) -> None:
    """Raise InputError for parameters of `synthesize` that would spoil every example after it was paid for, or fail."""
    get_style(style)
    if style not in WINDOW_STYLES:
        remedy = f"use one of {', '.join(WINDOW_STYLES)}"
        raise InputError(f"the style {style!r} judges one passage, and an example is a list", remedy=remedy)
    check_alpha(alpha)
    check_cut(k)
    if concurrency < 1:
        raise InputError(f"concurrency is {concurrency}", remedy="ask at least one call at a time")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}", remedy="give the number of queries, or leave it out for all")


def _header(source: Source, flow: Flow, client: Any, decoding: Decoding, shard: Shard) -> dict[str, Any]:
    """What the stored answers depend on: a store that was begun with something else is not gone on with."""
    return {
        "collection": source.name,
        "prompt_version": prompts.VERSION,
        "model": model_name(client),
        "decoding": asdict(decoding),
        "seed": flow.seed,
        "depth": flow.depth,
        "shard": str(shard),
        **asdict(flow.mix),
        **({"teacher": settings} if (settings := getattr(client, "settings", None)) else {}),
    }


# --- asking ----------------------------------------------------------------------------------------------------------


async def _ask_all(job: Job, concurrency: int, progress: Progress | None) -> None:
    """As many workers as calls may be in flight; each takes the next query, so memory does not grow with queries.

    The first error stops the taking; what is in flight is waited for and stored, and then the error is raised.
    """
    queries = len(job.source) if job.limit is None else min(job.limit, len(job.source))
    total = queries if job.shard.count == 1 else round(queries / job.shard.count)
    waiting, done = (item for _, item in numbered(job.source, job.limit, job.shard)), 0
    errors: list[BaseException] = []

    async def worker() -> None:
        nonlocal done
        try:
            while not job.teacher.halted and (item := next(waiting, None)) is not None:
                await _ask_query(job, item)
                done += 1
                if progress is not None:
                    progress(done, max(total, done), job.teacher.usage)
                await asyncio.sleep(0)
        except Exception as error:
            job.teacher.halted = True
            errors.append(error)

    tasks = [asyncio.create_task(worker()) for _ in range(min(concurrency, max(total, 1)))]
    try:
        await asyncio.gather(*tasks)
    finally:  # interrupted: calls in flight are given up, and the books say so
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        close = getattr(job.teacher.client, "close", None)
        if inspect.iscoroutinefunction(close):  # connections do not outlive their event loop
            await close()
    if errors:
        raise errors[0]


async def _ask_query(job: Job, item: Item) -> None:
    """Every question about one query whose answer is not stored yet, one after another."""
    questions = job.flow.questions(item)
    try:
        question = next(questions)
        while True:
            question = questions.send(await job.ask(question))
    except StopIteration:
        return


def follow(out_dir: str | Path, qid: str) -> dict[str, list[dict[str, Any]]]:
    """Every stored answer of one query, by step, with the prompt that was sent: for a notebook that follows it."""
    answers: dict[str, list[dict[str, Any]]] = {step: [] for step in STEPS}
    for step in STEPS:
        path = Path(out_dir) / f"{step}.jsonl"
        if not path.exists() and (Path(out_dir) / "summary.json").exists():
            continue  # imported: nobody was asked
        if not path.exists():
            raise InputError(f"no store {path.name} here", path=out_dir, remedy="run synthesize first")
        with open(path, encoding="utf-8") as lines:
            records = (json.loads(line) for line in lines)
            answers[step] = [record for record in records if record["qid"] == qid]
    return answers
