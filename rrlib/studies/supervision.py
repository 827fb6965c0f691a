"""One supervision, two forms: what a listwise and a pointwise model learn from the same judge of the same passages.

Whoever judged (rrlib.studies.recipes.Supervision), the listwise target is its chain and list, the pointwise one what
its chain says of a passage and its word on it. So a difference between the two forms is none of the labels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from rrlib.engines.base import Decoding
from rrlib.errors import EngineError, InputError
from rrlib.synthesis.domains import recipe_for
from rrlib.synthesis.prompts import rank_messages
from rrlib.synthesis.rank import read_ranking
from rrlib.synthesis.teacher.ask import ChatClient, run_async
from rrlib.training.mix import own_chain
from rrlib.types import RankingExample

VERDICTS = {"yes": 1, "maybe": 0, "no": 0}
"""The word that a chain ends its judgement of a passage with -> the pointwise label that it stands for."""


def ranked_by(
    client: ChatClient,
    examples: Sequence[RankingExample],
    decoding: Decoding,
    concurrency: int = 8,
    *,
    drop_faulty: bool = False,
) -> list[RankingExample]:
    """The examples with the chain and the list of another teacher; query, passages and labels stay.

    concurrency: calls in flight, >= 1. drop_faulty: an answer that is no list costs its example. Raises InputError for
    such an answer otherwise, EngineError for a call that failed, and what the client raises.
    """

    async def ask(example: RankingExample, gate: asyncio.Semaphore) -> RankingExample | None:
        messages = rank_messages(recipe_for(str(example.meta.get("domain"))), example.query.text, example.passages)
        async with gate:
            reply = await client.chat(messages, decoding)
        if reply.error:
            raise EngineError(reply.error)
        read = read_ranking(
            reply.text, len(example.passages), reasoning=reply.reasoning, finish_reason=reply.finish_reason
        )
        if read.fault is not None and drop_faulty:
            return None
        if read.fault is not None:
            raise InputError(
                f"query {example.query.qid}: the answer is no list ({read.fault})",
                remedy="name a teacher that makes no errors of form",
            )
        return replace(example, gold=read.gold, reasoning=read.reasoning)

    async def ask_all() -> list[RankingExample]:
        gate = asyncio.Semaphore(concurrency)
        ranked = await asyncio.gather(*(ask(example, gate) for example in examples))
        return [example for example in ranked if example is not None]

    return run_async(ask_all())


def labelled_by_chain(example: RankingExample) -> RankingExample:
    """The example with the labels that its own chain gives each passage: 1 where the last word on it is `yes`.

    Raises InputError where the chain has no such word (VERDICTS) on a passage.
    """
    size = len(example.passages)
    labels = []
    for position in range(size):
        words = own_chain(example.reasoning, position, size).split()
        last = words[-1].strip(".,;:").lower() if words else ""
        if last not in VERDICTS:
            raise InputError(
                f"query {example.query.qid}: the chain says {last!r} of passage {position + 1}",
                remedy=f"pointwise labels need a chain that judges each passage by {', '.join(VERDICTS)}",
            )
        labels.append(VERDICTS[last])
    return replace(example, relevance=tuple(labels))
