"""What the lesson's figures are made of: a strategy as frames, the fate of a window's passages, what a group favours.

Plain functions from the library's own objects to small records, without a model and without drawing:
lesson.plots.tour draws them, lesson.widgets lets a person move them, and both are tested against these numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rrlib.engines.base import Request
from rrlib.engines.shared import alone
from rrlib.errors import EngineError, InputError
from rrlib.metrics import Floats, ndcg
from rrlib.records import WindowRecord
from rrlib.responses import parse_strict
from rrlib.reward import PAPER_WEIGHTS, VIEWS, MultiViewReward, RewardRecord
from rrlib.sampling import seed_of
from rrlib.strategies import Permutation, Strategy, StrategySpec, Window
from rrlib.templates import whole_response
from rrlib.training import objective

if TYPE_CHECKING:
    from rrlib.formats import Collection
    from rrlib.rerank import Reranker
    from rrlib.types import Passage

Ask = Callable[[Window], Any]
"""Answers a window: a permutation of it, or a number where the window asks for the score of its one passage."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One round of a strategy: the windows that were asked at the same time, and what was known afterwards.

    order: the list after the round, as indices into the candidates as first given. calls, depth: so far.
    """

    order: tuple[int, ...]
    windows: tuple[Window, ...]
    calls: int
    depth: int


def by_labels(relevance: Sequence[int]) -> Ask:
    """A perfect ranker: sorts a window by the labels of its passages, equal ones in the order they are shown.

    A window that asks for a score (pointwise strategies) is answered with the label of its passage.
    """

    def ask(window: Window) -> Permutation | float:
        if getattr(window, "score", False):
            return float(relevance[window.items[0]])
        return sorted(range(len(window.items)), key=lambda i: -relevance[window.items[i]])

    return ask


def play(strategy: Strategy, n: int, ask: Ask) -> list[Frame]:
    """Drive a strategy over n candidates and keep a frame a round: the first is the input, the last the final order.

    A strategy that keeps its books in another way than a list (a heap, a tournament) shows its order at the end.
    """
    order, frames, calls = list(range(n)), [Frame(tuple(range(n)), (), 0, 0)], 0
    try:
        windows = next(strategy)
        while True:
            answers = [ask(window) for window in windows]
            calls += len(windows)
            for window, answer in zip(windows, answers, strict=True):
                listed = isinstance(answer, Sequence | range)
                if listed and sorted(order[p] for p in window.positions) == sorted(window.items):
                    for position, source in zip(window.positions, answer, strict=True):
                        order[position] = window.items[source]
            frames.append(Frame(tuple(order), tuple(windows), calls, len(frames)))
            windows = strategy.send(answers)
    except StopIteration as stop:
        final: tuple[int, ...] = stop.value
    last = frames[-1]
    frames[-1] = Frame(final, last.windows, last.calls, last.depth)
    return frames


def play_all(
    relevance: Sequence[int], specs: Mapping[str, StrategySpec], ask: Ask | None = None
) -> dict[str, list[Frame]]:
    """The frames of several strategies over one list with one ranker (default: a perfect one)."""
    return {
        name: play(spec.start(len(relevance)), len(relevance), ask or by_labels(relevance))
        for name, spec in specs.items()
    }


def film(docids: Sequence[str], records: Sequence[WindowRecord]) -> tuple[list[list[str]], list[tuple[int, int]]]:
    """The list before and after every window of one query's log records, and the (start, end) of each window.

    docids: the candidates in first-stage order. records: window records of a sliding window, in the order asked.
    Raises InputError where a record holds other passages than stand at its places.
    """
    now = list(docids)
    orders, spans = [list(now)], []
    for record in records:
        if now[record.start : record.end] != list(record.docids):
            raise InputError(
                f"query {record.qid}: window {record.start}-{record.end} does not show what stands there",
                remedy="give all records of one query, in the order in which they were asked",
            )
        record.replay_onto(now)
        orders.append(list(now))
        spans.append((record.start, record.end))
    return orders, spans


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a ranking of one window earns, and what becomes of its relevant passages after the next window.

    places: 1-based places of the relevant passages in the window. views: NDCG, Recall (both at size - stride), RBO.
    carried: the places that meet the next window. after: places in the final list if the next windows rank perfectly,
    counted from the head of the next window: carried ones lead, the others stay where they were left.
    """

    places: tuple[int, ...]
    size: int
    stride: int
    views: tuple[float, float, float]
    total: float
    carried: tuple[int, ...]
    after: tuple[int, ...]
    ndcg_after: float


def outlook(
    places: Sequence[int],
    size: int = 20,
    stride: int = 10,
    weights: Mapping[str, float] | None = None,
    p: float = 1.0,
    k: int | None = None,
) -> Outlook:
    """Score a window whose relevant passages stand at `places` (1-based), and look one window ahead.

    The gold list is the window with the relevant passages first. k: cut-off of NDCG and Recall, size - stride if None.
    Raises InputError for places outside the window or twice, and for windows that do not overlap.
    """
    relevant = sorted(places)
    if not relevant or len(set(relevant)) < len(relevant) or relevant[0] < 1 or relevant[-1] > size:
        raise InputError(f"relevant passages at {list(places)}", remedy=f"give different places from 1 to {size}")
    if not 1 <= stride < size:
        raise InputError(f"stride {stride} with window size {size}", remedy="stride lies in 1..size-1")
    labels = [int(place in relevant) for place in range(1, size + 1)]
    gold = sorted(range(size), key=lambda i: -labels[i])
    reward = MultiViewReward(k=k or size - stride, p=p, weights=dict(PAPER_WEIGHTS if weights is None else weights))
    views = reward.views(np.arange(size)[None, :], labels, gold)
    carried = tuple(place for place in relevant if place <= size - stride)
    # The next window begins `stride` places higher, so what is left behind stands `stride` places lower in its count.
    after = tuple(range(1, len(carried) + 1)) + tuple(place + stride for place in relevant if place not in carried)
    final = [int(place in after) for place in range(1, size + stride + 1)]
    gain = float(ndcg(range(len(final)), final, 10))  # type: ignore[arg-type]
    ndcg_now, recall_now, rbo_now = (float(value) for value in views[0])
    total = float(reward.combine(views)[0])
    return Outlook(tuple(relevant), size, stride, (ndcg_now, recall_now, rbo_now), total, carried, after, gain)


def flip_weight(first: Outlook, second: Outlook, view: int = 1, weights: Sequence[float] = (1.0, 0.2, 0.1)) -> float:
    """The weight of one view (1 = Recall) at which two windows earn the same, the other weights as given.

    Raises InputError where that view does not tell them apart.
    """
    gap = first.views[view] - second.views[view]
    if gap == 0:
        raise InputError("both windows have the same value of that view", remedy="compare windows that differ in it")
    others = sum(
        w * (a - b) for i, (w, a, b) in enumerate(zip(weights, first.views, second.views, strict=True)) if i != view
    )
    return -others / gap


@dataclass(frozen=True, slots=True)
class Citation:
    """One `[n]` in a chain of thought: characters start..end of the text, and n (1-based, within the window)."""

    start: int
    end: int
    n: int


def citations(reasoning: str, size: int) -> list[Citation]:
    """Where reasoning cites passages of its window, in reading order; numbers outside 1..size are no citations."""
    brackets = (Citation(m.start(), m.end(), int(m[1])) for m in re.finditer(r"\[([0-9]{1,4})\]", reasoning))
    return [citation for citation in brackets if 1 <= citation.n <= size]


_ENDS = re.compile(r"(?:\s*(?:<\|[^<>|\s]{1,40}\|>|</s>|<eos>|<end_of_turn>))+\s*$")


def without_end(text: str) -> str:
    """An answer without the special tokens that end it (`<|im_end|>`), as an engine hands it back."""
    return _ENDS.sub("", text)


def advantages(rewards: Sequence[float], scale: str = "group") -> Floats:
    """GRPO's advantages of one group (section 4.2): reward minus the group's mean, over its standard deviation.

    scale: "group" divides (standard deviation with n - 1, plus 1e-4, as TRL does), "none" does not. Shape (G,).
    """
    if scale not in ("group", "none"):
        raise InputError(f"scale {scale!r}", remedy="use group or none")
    values = np.asarray(rewards, dtype=np.float64)
    return np.asarray(objective.advantages(values, divide=scale == "group" and len(values) > 1))


def pull(orders: Sequence[Sequence[int] | None], weights: Sequence[float]) -> Floats:
    """Which passages the update favours: advantage-weighted mean of how far above the middle each stands.

    orders: 0-based rankings of a group, None where a rollout has none. weights: advantages, one a rollout. Shape (P,),
    in places: positive means that rollouts which rank the passage high are made more likely.
    """
    valid = [(order, weight) for order, weight in zip(orders, weights, strict=True) if order is not None]
    if not valid:
        raise InputError("no rollout of the group is a ranking", remedy="choose another group")
    size = len(valid[0][0])
    total = np.zeros(size)
    for order, weight in valid:
        place = np.empty(size)
        place[np.asarray(order)] = np.arange(size)
        total += weight * ((size - 1) / 2 - place)
    return total / len(orders)


def group_pull(
    texts: Sequence[str], relevance: Sequence[int], gold: Sequence[int], reward: MultiViewReward, scale: str = "group"
) -> Floats:
    """`pull` of one group's answers, weighted by the advantages of their rewards; zeros where none is a ranking.

    scale: of `advantages`. Shape (P,).
    """
    orders = [parse_strict(text, len(relevance), reward.think).order for text in texts]
    if all(order is None for order in orders):
        return np.zeros(len(relevance))
    earned = [record.total for record in reward.score_group(texts, relevance, gold)]
    return pull(orders, advantages(earned, scale).tolist())


def labels_of(docids: Sequence[str], grades: Mapping[str, int]) -> list[int]:
    """The pointwise labels of a window's documents: their grade where it is positive, else 0."""
    return [max(0, grades.get(docid, 0)) for docid in docids]


@dataclass(frozen=True)
class Group:
    """Rollouts of one window: its query's text, the labels and gold list of its passages, and the answers."""

    query: str
    relevance: list[int]
    gold: list[int]
    texts: list[str]


def liveliness(records: Sequence[RewardRecord]) -> tuple[int, int, float]:
    """How much a group has to show: the views in which its valid rollouts differ, how many different values of all
    views there are, and the sum of the views' deviations.

    A group that differs in its format alone has (0, 1, 0.0): there is no ranking in it to prefer to another.
    """
    valid = [record for record in records if record.level == "valid"]
    if not valid:
        return 0, 0, 0.0
    views_GV = np.array([[getattr(record, view) for view in VIEWS] for record in valid], dtype=float).round(6)  # (G, V)
    deviations = views_GV.std(axis=0)  # (V,)
    return int((deviations > 1e-6).sum()), len({*map(tuple, views_GV.tolist())}), round(float(deviations.sum()), 9)


def lively_group(
    reranker: Reranker,
    collection: Collection,
    records: Sequence[WindowRecord],
    reward: MultiViewReward,
    count: int = 8,
    seed: int = 0,
    tries: int = 6,
    on_answer: Callable[[], Any] | None = None,
) -> Group:
    """The liveliest group of `tries` windows, one a query: those whose greedy answer earned least, as far as they show
    a relevant passage. A trained model answers most prompts alike, and such a group has nothing to show.

    The same records and seed give the same group. on_answer: called after each of tries * count answers. Raises
    InputError where no window shows a relevant passage.
    """
    worst: dict[str, tuple[float, int, WindowRecord]] = {}  # qid -> reward, place in the log, window
    for place, record in enumerate(records):
        labels = labels_of(record.docids, collection.qrels.get(record.qid, {}))
        if any(labels):
            earned = reward.score(record.text or "", labels, gold_of(labels)).total
            worst[record.qid] = min(worst.get(record.qid, (math.inf, place, record)), (earned, place, record))
    if not worst:
        raise InputError("no window shows a relevant passage", remedy="rerank more queries first")
    chosen = [record for _, _, record in sorted(worst.values(), key=lambda window: window[:2])[:tries]]
    windows = [(collection.queries[r.qid].text, [collection.corpus[d] for d in r.docids]) for r in chosen]
    groups = []
    drawn = rollouts(reranker, windows, count, seed, on_answer=on_answer)
    for record, (query, _), texts in zip(chosen, windows, drawn, strict=True):
        relevance = labels_of(record.docids, collection.qrels[record.qid])
        groups.append(Group(query, relevance, gold_of(relevance), texts))
    return max(groups, key=lambda group: liveliness(reward.score_group(group.texts, group.relevance, group.gold)))


def gold_of(relevance: Sequence[int]) -> list[int]:
    """A gold list where no teacher wrote one: by label, equal ones in the order shown. 0-based positions."""
    return sorted(range(len(relevance)), key=lambda i: -relevance[i])


def busiest(records: Sequence[WindowRecord], grades: Mapping[str, int]) -> WindowRecord:
    """The window record that shows the most relevant passages; of several, the one asked first."""
    if not records:
        raise InputError("no window records", remedy="rerank a query first")
    return max(records, key=lambda record: sum(label > 0 for label in labels_of(record.docids, grades)))


def rollouts(
    reranker: Reranker,
    windows: Sequence[tuple[str, Sequence[Passage]]],
    count: int = 8,
    seed: int = 0,
    temperature: float = 1.0,
    on_answer: Callable[[], Any] | None = None,
) -> list[list[str]]:
    """Answers of a reranker's model to windows (query, passages): `count` for each, drawn as GRPO draws a group.

    temperature: 0 is greedy. Windows are asked together, which costs far less; the engine is held meanwhile. What a
    prompt has begun (`<think>`) stands in front of the answer. on_answer: called after each. Raises EngineError when a
    call fails.
    """
    decoding = replace(reranker.decoding, temperature=temperature, seed=seed)
    engine, style = reranker.engine, reranker.style
    # `transformers` draws a whole batch from one stream; where each request is seeded, equal seeds are equal answers.
    apart = engine.name != "transformers"
    requests: list[Request] = []
    answers: dict[int, str] = {}
    with alone(engine) as turn:
        before = turn.first
        first = before + 1 if before else 0  # `transformers` seeds its stream by these numbers
        for w, (query, passages) in enumerate(windows):
            messages = reranker.prompts.messages(query, passages)
            prompt = reranker.prompts.render(query, passages) if reranker.prompts.tokenizer is not None else None
            for i in range(count):
                own = seed_of(seed, (w, i)) if apart else None
                requests.append(Request(first + len(requests), messages, prompt, seed=own))
        sent = {request.id: request for request in requests}
        turn.first = first + len(requests)  # if this breaks off
        engine.submit(requests, decoding)
        while len(answers) < len(requests):
            for number, reply in engine.collect():
                if number not in sent:
                    continue  # of a reranking that broke off
                if reply.error is not None:
                    raise EngineError(f"a rollout failed: {reply.error}")
                text = reply.text
                answers[number] = text if style.prefill else whole_response(sent[number].prompt, text, style.think)
                if on_answer is not None:
                    on_answer()
        turn.first = before
    texts = [answers[request.id] for request in requests]
    return [texts[w * count : (w + 1) * count] for w in range(len(windows))]
