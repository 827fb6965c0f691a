"""The teacher as a reranker: the prompt of synthesis, without the gold answer, over the candidates of a split.

It says what SFT imitates. The teacher is any chat client, asked as in step 3 of synthesis (rrlib.synthesis.rank).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from rrlib.engines.base import Decoding, Reply
from rrlib.errors import EngineError
from rrlib.formats import Collection, ranking_to_run
from rrlib.strategies import Strategy, Window, full_list, sliding_window
from rrlib.synthesis.domains import recipe_for
from rrlib.synthesis.prompts import rank_messages
from rrlib.synthesis.rank import read_ranking
from rrlib.synthesis.teacher.ask import ChatClient, run_async
from rrlib.types import Candidates, Run


@dataclass
class TeacherRanking:
    """run: its ranking of every query. answers, readable: how many it gave, and how many are a list. tokens: written in
    all, as its client counts them."""

    run: Run = field(default_factory=dict)
    answers: int = 0
    readable: int = 0
    tokens: int = 0


def teacher_ranking(
    client: ChatClient,
    collection: Collection,
    decoding: Decoding,
    *,
    window: int,
    stride: int,
    depth: int,
    full: bool = False,
    concurrency: int = 8,
) -> TeacherRanking:
    """Every query's candidates as the teacher ranks them. What cannot be read keeps its order, as at inference.

    window, stride: of sliding windows, passages. depth: candidates of a query. full: all of them in one question.
    concurrency: queries that are asked about at a time, >= 1. Raises EngineError for a call that failed, and what the
    client raises.
    """
    made = TeacherRanking()
    orders: dict[str, list[str]] = {}

    async def rank(candidates: Candidates, gate: asyncio.Semaphore) -> None:
        passages, recipe = candidates.passages, recipe_for(str(collection.metadata[candidates.query.qid].get("domain")))

        async def ask(asked: Window) -> tuple[int, ...]:
            shown = [passages[i] for i in asked.items]
            reply = await client.chat(rank_messages(recipe, candidates.query.text, shown), decoding)
            return _read(reply, len(shown), made)

        n = len(passages)
        async with gate:
            order = await _drive(full_list(n) if full else sliding_window(n, window, stride), ask)
        orders[candidates.query.qid] = [passages[i].docid for i in order]

    async def rank_all(asked: Sequence[Candidates]) -> None:
        gate = asyncio.Semaphore(concurrency)
        await asyncio.gather(*(rank(candidates, gate) for candidates in asked))

    asked = collection.candidates(depth)
    run_async(rank_all(asked))
    made.run = ranking_to_run({c.query.qid: orders[c.query.qid] for c in asked})
    return made


def _read(reply: Reply, n: int, made: TeacherRanking) -> tuple[int, ...]:
    """The order of an answer, or that of the question; counted. Raises EngineError where there is none."""
    if reply.error:
        raise EngineError(reply.error)
    ranking = read_ranking(reply.text, n, reasoning=reply.reasoning, finish_reason=reply.finish_reason)
    made.answers, made.tokens = made.answers + 1, made.tokens + reply.tokens_out
    made.readable += ranking.fault is None
    return ranking.gold or tuple(range(n))


async def _drive(strategy: Strategy, ask: Callable[[Window], Awaitable[tuple[int, ...]]]) -> tuple[int, ...]:
    """A strategy to its end, the windows that it yields together asked together."""
    try:
        windows = next(strategy)
        while True:
            windows = strategy.send(await asyncio.gather(*map(ask, windows)))
    except StopIteration as stop:
        order: tuple[int, ...] = stop.value
        return order
