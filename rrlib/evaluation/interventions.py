"""Does the list follow from the chain of thought? Give the model another chain, and see whether its list changes.

Each window is asked again behind a chain that is not its own: none, its own words shuffled, the chain of another query.
A model that ranks from what it thought changes its list; one that had made up its mind keeps it. Its own chain, given
back, is the control: a greedy model must give its own list again. The prompt must be known (a tokenizer).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rrlib.continuation import behind_chain
from rrlib.engines.base import Decoding, Engine, Reply, Request
from rrlib.engines.shared import alone
from rrlib.errors import InputError
from rrlib.evaluation.faithfulness import COMPARED, agreement, read_chain
from rrlib.evaluation.significance import bootstrap_interval
from rrlib.metrics import kendall, rbo
from rrlib.records import WindowRecord
from rrlib.rerank import Reranker
from rrlib.responses import Verdict, Word, parse_lenient
from rrlib.types import Candidates, Interval, Passage, Query

if TYPE_CHECKING:
    import pandas as pd


class Chain(Word):
    """The chain that a window is asked behind."""

    OWN = "own"
    """What the model wrote: the control."""
    EMPTY = "empty"
    """Nothing: the block is opened and closed."""
    SHUFFLED = "shuffled"
    """Its own words in a random order."""
    OTHER = "other"
    """The chain of another query, about a window of as many passages."""


@dataclass(frozen=True)
class Intervened:
    """One window behind one chain. query: collection and id. order: the answer, 0-based, None where none could be read.
    tau, rbo: its agreement with the answer that was logged (rrlib.metrics), None where there is no order. follows: its
    agreement with the chain that it was given (rrlib.evaluation.faithfulness), None where that cannot be read."""

    query: tuple[str, str]
    chain: Chain
    order: tuple[int, ...] | None
    tau: float | None = None
    rbo: float | None = None
    follows: float | None = None


def intervene(
    reranker: Reranker,
    candidates: Iterable[Candidates],
    records: Iterable[WindowRecord],
    *,
    chains: Sequence[Chain] = tuple(Chain),
    seed: int = 0,
    on_answer: Callable[[], Any] | None = None,
) -> list[Intervened]:
    """Ask the windows of a finished reranking again, each behind every kind of chain.

    reranker: that made the records, for its prompts, decoding and engine. Windows without a list or a chain are left
    out. seed: of the shuffles and of the choice of other queries' chains; a window without another of its size has no
    `other`. on_answer: called after each answer. Raises InputError for a style without a chain and an answer block,
    where the prompt is not known, and where no window is left.
    """
    style = reranker.style
    if not style.think or style.words is not None or not style.tags or reranker.prompts.tokenizer is None:
        raise InputError(
            f"style {style.name!r} on engine {reranker.engine.name!r}: a chain cannot be given",
            remedy="use a style with a chain and an answer block, and an engine whose tokenizer is known",
        )
    items = {(item.collection, item.query.qid): item for item in candidates}
    windows = [r for r in records if r.reasoning.strip() and not r.unread and (r.collection, r.qid) in items]
    if not windows:
        raise InputError("no window has a chain and a list", remedy="give the records of these candidates' reranking")
    jobs = [(record, kind, chain) for record in windows for kind, chain in _chains(record, windows, chains, seed)]
    prompts = [behind_chain(_prompt(reranker, items[r.collection, r.qid], r), chain) for r, _, chain in jobs]
    replies = answers(reranker.engine, prompts, reranker.decoding, on_answer)
    return [
        _judged(record, kind, chain, reply, style.name)
        for (record, kind, chain), reply in zip(jobs, replies, strict=True)
    ]


def _chains(
    record: WindowRecord, windows: Sequence[WindowRecord], wanted: Sequence[Chain], seed: int
) -> Iterable[tuple[Chain, str]]:
    dice = random.Random(repr((seed, record.key)))
    words = record.reasoning.split()
    dice.shuffle(words)
    query, size = (record.collection, record.qid), len(record.order)
    others = [r for r in windows if len(r.order) == size and (r.collection, r.qid) != query]
    given = {Chain.OWN: record.reasoning, Chain.EMPTY: "", Chain.SHUFFLED: " ".join(words)}
    if others:
        given[Chain.OTHER] = dice.choice(others).reasoning
    return [(kind, given[kind]) for kind in wanted if kind in given]


def _prompt(reranker: Reranker, item: Candidates, record: WindowRecord) -> str:
    passages: Mapping[str, Passage] = {passage.docid: passage for passage in item.passages}
    query: Query = item.query
    return reranker.prompts.render(query.text, [passages[docid] for docid in record.docids])


def answers(
    engine: Engine, prompts: Sequence[str], decoding: Decoding, on_answer: Callable[[], Any] | None = None
) -> list[Reply]:
    """What an engine writes behind each prompt, in their order; the engine is held meanwhile."""
    replies: dict[int, Reply] = {}
    with alone(engine) as turn:
        first = turn.first + 1
        waiting = [Request(first + place, prompt=prompt) for place, prompt in enumerate(prompts)]
        turn.first += len(prompts)
        flight: set[int] = set()
        while waiting or flight:
            room = max(engine.capacity - len(flight), 0)
            batch, waiting = waiting[:room], waiting[room:]
            if batch:
                flight |= {request.id for request in batch}
                engine.submit(batch, decoding)
            for number, reply in engine.collect():
                if number in flight:
                    flight.discard(number)
                    replies[number] = reply
                    if on_answer is not None:
                        on_answer()
        turn.first = 0
    return [replies[first + place] for place in range(len(prompts))]


def _judged(record: WindowRecord, kind: Chain, chain: str, reply: Reply, style: str) -> Intervened:
    query, n = (record.collection, record.qid), len(record.order)
    parsed = parse_lenient(f"<answer>{reply.text}", n, style, reply.finish_reason or None)
    if reply.error is not None or parsed.verdict not in (Verdict.OK, Verdict.REPAIRED):
        return Intervened(query, kind, None)
    reading = read_chain(chain, n)
    return Intervened(
        query,
        kind,
        parsed.order,
        float(kendall(parsed.order, record.order)),
        float(rbo(parsed.order, record.order)),
        agreement(reading.levels, parsed.order) if reading.said in COMPARED else None,
    )


COLUMNS = ("tau", "rbo", "same", "follows")
"""What the table gives a mean and an interval of."""


def table(rows: Iterable[Intervened], seed: int = 0) -> pd.DataFrame:
    """One row a kind of chain: windows, the share answered, and means over queries (of the mean over their answered
    windows) with bootstrap intervals: tau and rbo with the original answer, `same` (the share of equal lists), and
    `follows` (agreement with the chain that was given, where that is readable). Columns end in _low and _high."""
    import pandas as pd

    kinds: dict[Chain, list[Intervened]] = {}
    for row in rows:
        kinds.setdefault(row.chain, []).append(row)
    lines: list[dict[str, Any]] = []
    for kind in (kind for kind in Chain if kind in kinds):
        asked = kinds[kind]
        answered = [row for row in asked if row.order is not None]
        line: dict[str, Any] = {"chain": str(kind), "windows": len(asked), "answered": len(answered) / len(asked)}
        for column in COLUMNS:
            mean = _mean(answered, column, seed)
            line |= {column: mean.mean, f"{column}_low": mean.low, f"{column}_high": mean.high}
        lines.append(line)
    return pd.DataFrame(lines)


def _mean(rows: Sequence[Intervened], column: str, seed: int) -> Interval:
    """nan where no row says anything."""
    queries: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        value = float(row.tau == 1.0) if column == "same" else getattr(row, column)
        if value is not None:
            queries.setdefault(row.query, []).append(value)
    if not queries:
        return Interval(float("nan"), float("nan"), float("nan"))
    return bootstrap_interval([float(np.mean(values)) for values in queries.values()], seed)
