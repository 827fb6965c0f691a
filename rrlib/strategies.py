"""Strategies are generators of questions: they know no model and do no I/O.

A strategy yields lists of windows that may be asked at the same time, is sent their permutations in the same order,
and returns the final order. So it is tested with an oracle in milliseconds, and its number of calls and its sequential
depth come for free (`plan`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from rrlib.errors import InputError

Permutation = Sequence[int]
"""Where a window's passages go: 0-based positions within the window, best first."""

Answer = Permutation | float | None
"""What a window's question is answered with: a permutation, or (windows with `score`) a number, None if it failed."""


@dataclass(frozen=True, slots=True)
class Window:
    """One question: which passages to rank against each other.

    items: indices into the candidates as first given, in the order shown to the model.
    positions: where in the current list they stand; for a sliding window a contiguous range. A strategy that keeps no
    list as it goes (all but the sliding window) names the places as first given.
    pass_no: 0-based pass over the list; what is one, each strategy says. No two windows of a query have the same
    pass_no and positions: they are the window's key in logs and replays (rrlib.records.Key).
    score: asks for a number, the higher the better, of its one passage.
    sample: which of several samples of the same window, 0-based (rrlib.sampling); None where it is asked once.
    """

    items: tuple[int, ...]
    positions: tuple[int, ...]
    pass_no: int = 0
    score: bool = False
    sample: int | None = None


Strategy = Generator[list[Window], Sequence[Answer], tuple[int, ...]]


def _best_first(items: tuple[int, ...], answer: Answer) -> tuple[int, ...]:
    """The passages of a window, best first: as they are shown where the window failed (None)."""
    if answer is None:
        return items
    if not isinstance(answer, Sequence):
        raise InputError(f"a window of {len(items)} was answered with {answer!r}", remedy="give an order")
    if sorted(answer) != list(range(len(items))):
        raise InputError(f"not a permutation of a window of {len(items)}: {list(answer)[:30]}")
    return tuple(items[source] for source in answer)


def _apply(order: list[int], window: Window, permutation: Answer) -> None:
    for position, item in zip(window.positions, _best_first(window.items, permutation), strict=True):
        order[position] = item


_Groups = Generator[list[Window], Sequence[Answer], list[tuple[int, ...]]]


def _ranked(groups: Sequence[tuple[int, tuple[int, ...]]]) -> _Groups:
    """Ask about (pass_no, passages) at the same time; returns the passages of each, best first. One is not asked."""
    windows = [Window(group, group, pass_no) for pass_no, group in groups if len(group) > 1]
    answers = iter((yield windows) if windows else ())
    return [_best_first(group, next(answers)) if len(group) > 1 else group for _, group in groups]


def _check(n: int, size: int, stride: int) -> None:
    if n < 0:
        raise InputError(f"a list of {n} candidates", remedy="n is 0 or more")
    if size < 2:
        raise InputError(f"window size {size}", remedy="a window holds 2 passages or more")
    if not 1 <= stride <= size:
        raise InputError(f"stride {stride} with window size {size}", remedy="stride lies in 1..size")


def sliding_spans(n: int, size: int, stride: int) -> list[tuple[int, int]]:
    """The (start, end) of each window, 0-based and end exclusive, from the tail of the list to its head.

    Counted from the tail, the last window cut at the head, as the released code does: n=95, size=20, stride=10 gives
    75-95, 65-85, ..., 5-25, 0-15. A window of one passage asks nothing and is left out.
    """
    _check(n, size, stride)
    spans: list[tuple[int, int]] = []
    end = n
    while end > 1:
        start = max(0, end - size)
        spans.append((start, end))
        if start == 0:
            break
        end -= stride
    return spans


def sliding_window(n: int, size: int = 20, stride: int = 10, passes: int = 1) -> Strategy:
    """One pass (or several) of a window from the tail of the list to its head (paper: size 20, stride 10).

    With a perfect ranker the best (size - stride) passages are in order at the head after one pass, and each further
    pass adds min(stride, size - stride). Calls and depth: passes times the number of `sliding_spans`, ceil((n - size) /
    stride) + 1 of them for n > size (one less where the last would hold one passage). pass_no: the pass.
    Raises InputError for size < 2, stride outside 1..size, n < 0, passes < 1.
    """
    _check(n, size, stride)
    if passes < 1:
        raise InputError(f"{passes} passes", remedy="make one pass or more")
    order = list(range(n))
    for pass_no in range(passes):
        for start, end in sliding_spans(n, size, stride):
            window = Window(tuple(order[start:end]), tuple(range(start, end)), pass_no)
            (permutation,) = yield [window]
            _apply(order, window, permutation)
    return tuple(order)


def full_list(n: int) -> Strategy:
    """One question with every candidate in it: one call, for a model that was trained on lists so long."""
    if n < 0:
        raise InputError(f"a list of {n} candidates", remedy="n is 0 or more")
    order = list(range(n))
    if n > 1:
        window = Window(tuple(order), tuple(order))
        (permutation,) = yield [window]
        _apply(order, window, permutation)
    return tuple(order)


def pointwise(n: int) -> Strategy:
    """One question a passage, all of which may be asked at once; the order is by score, ties in input order.

    A passage whose question failed (None) keeps its place; the others fill the places that are left. A list of one is
    not asked about.
    """
    if n < 0:
        raise InputError(f"a list of {n} candidates", remedy="n is 0 or more")
    if n < 2:
        return tuple(range(n))
    answers = yield [Window((i,), (i,), score=True) for i in range(n)]
    scores = {i: float(a) for i, a in enumerate(answers) if isinstance(a, int | float)}
    by_score = iter(sorted(scores, key=lambda i: -scores[i]))
    return tuple(next(by_score) if i in scores else i for i in range(n))


def top_down(n: int, size: int = 20, best: int = 10) -> Strategy:
    """Top-down partitioning (Parry, MacAvaney and Ganguly, arXiv 2405.14589), without its budget.

    The first window ranks the head of the list; its passage at place `best` is the pivot. All others are held against
    the pivot at the same time, size - 1 a window. Who beats it goes on with those above it, to the same question; the
    rest stays behind, in the order of its windows. It ends where nobody beats the pivot, or one window holds all.

    With a perfect ranker the best `best` passages are in order at the head. Calls for m passages that go on: 1 and
    depth 1 for 2 <= m <= size, else 1 + ceil((m - size) / (size - 1)) and depth 2; the next m is at most m - size +
    best - 1. So an order that the model confirms takes two rounds, and a bad one many. pass_no: the round.
    Raises InputError for size < 2, n < 0, best outside 1..size-1.
    """
    _check(n, size, 1)
    if not 1 <= best < size:
        raise InputError(f"the best {best} of windows of {size}", remedy="the pivot's place lies in 1..size-1")
    round_no = 0
    ahead = tuple(range(n))
    behind: tuple[int, ...] = ()
    while len(ahead) > size:
        (head,) = yield from _ranked([(round_no, ahead[:size])])
        above, pivot, below = head[: best - 1], head[best - 1], head[best:]
        parts = [(round_no + 1, (pivot, *ahead[at : at + size - 1])) for at in range(size, len(ahead), size - 1)]
        winners: list[int] = []
        for ranked in (yield from _ranked(parts)):
            place = ranked.index(pivot)
            winners += ranked[:place]
            below += ranked[place + 1 :]
        ahead, behind, round_no = (*above, *winners), (pivot, *below, *behind), round_no + 2
        if not winners:
            return (*ahead, *behind)
    (ahead,) = yield from _ranked([(round_no, ahead)])
    return (*ahead, *behind)


def setwise(n: int, size: int = 20, best: int = 10) -> Strategy:
    """Setwise heapsort (Zhuang et al., arXiv 2310.09497): only a window's first place counts.

    A heap in which each passage stands over size - 1 others. A window asks which of them is best; it then stands
    above. Passages on one level are asked about at the same time, the places of the head one after another. A window
    shows its passages in first-stage order, so that one that failed prefers the first stage's. Behind the best `best`
    the rest keeps its order.

    With a perfect ranker the best `best` passages are in order at the head. With h the height of the heap (1 for n <=
    size): P = ceil((n - 1) / (size - 1)) passages have others below them, and building asks at least P windows, and at
    most the height of each of them in all, in h to h(h + 1)/2 rounds. Each further place takes 1 to h windows, a round
    each. pass_no: the round. Raises InputError for size < 2, n < 0, best < 1.
    """
    _check(n, size, 1)
    if best < 1:
        raise InputError(f"the best {best}", remedy="look for 1 or more")
    heap, round_no = list(range(n)), 0
    levels = [range(0, 1)]
    while levels[-1].stop < n:
        levels.append(range(levels[-1].stop, levels[-1].stop + len(levels[-1]) * (size - 1)))
    for level in reversed(levels):
        round_no = yield from _sift(heap, level, size - 1, round_no)
    head: list[int] = []
    while heap:
        head.append(heap[0])
        last = heap.pop()
        if not heap or len(head) == best:
            break
        heap[0] = last
        round_no = yield from _sift(heap, (0,), size - 1, round_no)
    chosen = set(head)
    return (*head, *(item for item in range(n) if item not in chosen))


def _sift(
    heap: list[int], places: Sequence[int], below: int, round_no: int
) -> Generator[list[Window], Sequence[Answer], int]:
    """Let the passages at some places of a heap sink at the same time until none below is better; the next round."""
    while True:
        places = [place for place in places if place * below + 1 < len(heap)]
        if not places:
            return round_no
        sets = [(place, *range(place * below + 1, min((place + 1) * below + 1, len(heap)))) for place in places]
        groups = [(round_no, tuple(sorted(heap[at] for at in asked))) for asked in sets]
        firsts = [ranked[0] for ranked in (yield from _ranked(groups))]
        places = []
        for asked, first in zip(sets, firsts, strict=True):
            winner, place = next(at for at in asked if heap[at] == first), asked[0]
            if winner != place:
                heap[place], heap[winner] = heap[winner], heap[place]
                places.append(winner)
        round_no += 1


def tournament(n: int, size: int = 20, passes: int = 1) -> Strategy:
    """Tournaments with points (TourRank: Chen et al., arXiv 2406.11678); `passes` of them at the same time.

    Passages are dealt over ceil(m / size) groups so that each has its share of the first stage's best; the better half
    of a group goes on and earns a point, until one window holds all. Its answer is read as further halvings, where the
    paper asks again. Order: points of all tournaments, then places in the last window a passage was in (summed), then
    the first stage's. Later tournaments deal otherwise, by a fixed shuffle. Windows are shown in first-stage order.

    With a perfect ranker the best ceil(size / 4) passages are in order at the head. Calls of a tournament of m: 1 and
    depth 1 for 2 <= m <= size, else its groups of two or more, and those of its halves, one round deeper. pass_no: the
    tournament. Raises InputError for size < 2, n < 0, passes < 1.
    """
    _check(n, size, 1)
    if passes < 1:
        raise InputError(f"{passes} tournaments", remedy="hold one or more")
    points, places = [0] * n, [0] * n
    shuffles = [random.Random(number) if number else None for number in range(passes)]
    fields = [tuple(range(n))] * passes
    while len(fields[0]) > 1:
        final = len(fields[0]) <= size
        groups = [(r, group) for r, field in enumerate(fields) for group in _dealt(field, size, shuffles[r])]
        onward: list[list[int]] = [[] for _ in fields]
        for (number, _), ranked in zip(groups, (yield from _ranked(groups)), strict=True):
            kept = 1 if final else (len(ranked) + 1) // 2
            onward[number] += ranked[:kept]
            for place, item in enumerate(ranked):
                points[item] += _halvings(place, len(ranked)) if final else place < kept
                places[item] += place if final or place >= kept else 0
        fields = [tuple(sorted(field)) for field in onward]
    return tuple(sorted(range(n), key=lambda i: (-points[i], places[i], i)))


def _dealt(field: tuple[int, ...], size: int, shuffle: random.Random | None) -> list[tuple[int, ...]]:
    """As few groups of at most `size` as can be, of nearly the same size; neighbours are spread over all."""
    count = -(-len(field) // size)
    blocks = [list(field[at : at + count]) for at in range(0, len(field), count)]
    for block in blocks if shuffle is not None else ():
        shuffle.shuffle(block)  # type: ignore[union-attr]
    dealt = [item for block in blocks for item in block]
    return [tuple(sorted(dealt[group::count])) for group in range(count)]


def _halvings(place: int, field: int) -> int:
    """How often the place (0-based) is in the better half of a field that is halved until one is left."""
    won = 0
    while field > 1 and place < (field := (field + 1) // 2):
        won += 1
    return won


@dataclass(frozen=True)
class StrategySpec:
    """A strategy with its parameters, ready to be started for lists of any length.

    size, stride: of a window, in passages. passes: of the sliding window, or tournaments. best: how many of the best
    top_down and setwise look for (None: size - stride, as many as one pass of the window finds).
    Raises InputError for a value that is out of range, or that the strategy has no use for.
    """

    name: str
    size: int = 20
    stride: int = 10
    passes: int = 1
    best: int | None = None

    def __post_init__(self) -> None:
        if self.name not in STRATEGIES:
            raise InputError(f"unknown strategy {self.name!r}", remedy=f"use one of {', '.join(STRATEGIES)}")
        for option, usual, users in (("passes", 1, _PASSES), ("best", None, _BEST)):
            if getattr(self, option) != usual and self.name in _WIDEST and self.name not in users:
                raise InputError(
                    f"{option} {getattr(self, option)} with the strategy {self.name}",
                    remedy=f"only {' and '.join(users)} take it: leave it out",
                )
        plan(self.start, 0)  # a generator's own checks run only when it is advanced

    def start(self, n: int) -> Strategy:
        """The strategy for a list of n candidates."""
        return STRATEGIES[self.name](self, n)

    @property
    def sought(self) -> int:
        """How many of the best top_down and setwise look for."""
        if self.best is not None:
            return self.best
        _check(0, self.size, self.stride)
        return max(1, self.size - self.stride)

    @property
    def widest(self) -> int | None:
        """The most passages that a window shows; None: the whole list, or not known."""
        return {"one": 1, "size": self.size}.get(_WIDEST.get(self.name, ""))

    def promised(self, n: int) -> int:
        """How many passages of n are right, from the best on, with a perfect ranker; 0 where nothing is known."""
        step = min(self.stride, self.size - self.stride)
        right = {
            "sliding_window": n if n <= self.size else self.size - self.stride + (self.passes - 1) * step,
            "full_list": n,
            "pointwise": n,
            "tournament": n if n <= self.size else -(-self.size // 4),
            "top_down": n if n <= self.size else self.sought,
            "setwise": self.sought,
        }
        return min(n, right.get(self.name, 0))


_PASSES, _BEST = ("sliding_window", "tournament"), ("top_down", "setwise")
_WIDEST = dict.fromkeys((*_PASSES, *_BEST), "size") | {"full_list": "all", "pointwise": "one"}

STRATEGIES: dict[str, Callable[[StrategySpec, int], Strategy]] = {
    "sliding_window": lambda spec, n: sliding_window(n, spec.size, spec.stride, spec.passes),
    "full_list": lambda spec, n: full_list(n),
    "pointwise": lambda spec, n: pointwise(n),
    "top_down": lambda spec, n: top_down(n, spec.size, spec.sought),
    "setwise": lambda spec, n: setwise(n, spec.size, spec.sought),
    "tournament": lambda spec, n: tournament(n, spec.size, spec.passes),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a strategy costs for a list of n: calls, sequential depth (rounds that must wait for each other), and the
    passages shown in all windows together."""

    calls: int
    depth: int
    shown: int = 0


def plan(start: Callable[[int], Strategy], n: int) -> Plan:
    """The cost where answers change nothing: exact for a strategy whose windows do not depend on the answers."""
    return counted(start(n), lambda window: 0.0 if window.score else range(len(window.items)))[1]


def drive(strategy: Strategy, ask: Callable[[Window], Answer]) -> tuple[int, ...]:
    """Run a strategy to its end with `ask` answering each window; returns the final order."""
    return counted(strategy, ask)[0]


def counted(strategy: Strategy, ask: Callable[[Window], Answer]) -> tuple[tuple[int, ...], Plan]:
    """Run a strategy to its end with `ask` answering each window; the final order, and what it took."""
    calls = depth = shown = 0
    try:
        windows = next(strategy)
        while True:
            calls, depth, shown = calls + len(windows), depth + 1, shown + sum(len(w.items) for w in windows)
            windows = strategy.send([ask(window) for window in windows])
    except StopIteration as stop:
        return stop.value, Plan(calls, depth, shown)
