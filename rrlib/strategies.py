"""Strategies are generators of questions: they know no model and do no I/O.

A strategy yields lists of windows that may be asked at the same time, is sent their permutations in the same order,
and returns the final order. So it is tested with an oracle in milliseconds, and its number of calls and its sequential
depth come for free (`plan`).
"""

from __future__ import annotations

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
    positions: where in the current list they stand; for a sliding window a contiguous range.
    pass_no: 0-based pass over the list. score: asks for a number, the higher the better, of its one passage.
    """

    items: tuple[int, ...]
    positions: tuple[int, ...]
    pass_no: int = 0
    score: bool = False


Strategy = Generator[list[Window], Sequence[Answer], tuple[int, ...]]


def _apply(order: list[int], window: Window, permutation: Answer) -> None:
    if not isinstance(permutation, Sequence):
        raise InputError(f"a window of {len(window.items)} was answered with {permutation!r}", remedy="give an order")
    if sorted(permutation) != list(range(len(window.items))):
        raise InputError(f"not a permutation of a window of {len(window.items)}: {list(permutation)[:30]}")
    for position, source in zip(window.positions, permutation, strict=True):
        order[position] = window.items[source]


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

    With a perfect ranker the best (size - stride) passages are in order at the head after one pass.
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
    """One question with every candidate in it."""
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


@dataclass(frozen=True)
class StrategySpec:
    """A strategy with its parameters, ready to be started for lists of any length."""

    name: str
    size: int = 20
    stride: int = 10
    passes: int = 1

    def __post_init__(self) -> None:
        if self.name not in STRATEGIES:
            raise InputError(f"unknown strategy {self.name!r}", remedy=f"use one of {', '.join(STRATEGIES)}")
        plan(self.start, 0)  # a generator's own checks run only when it is advanced

    def start(self, n: int) -> Strategy:
        """The strategy for a list of n candidates."""
        return STRATEGIES[self.name](self, n)


STRATEGIES: dict[str, Callable[[StrategySpec, int], Strategy]] = {
    "sliding_window": lambda spec, n: sliding_window(n, spec.size, spec.stride, spec.passes),
    "full_list": lambda spec, n: full_list(n),
    "pointwise": lambda spec, n: pointwise(n),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a strategy costs for a list of n: calls, and sequential depth (rounds that must wait for each other)."""

    calls: int
    depth: int


def plan(start: Callable[[int], Strategy], n: int) -> Plan:
    """Count calls and depth by driving the strategy with answers that change nothing."""
    calls = depth = 0
    strategy = start(n)
    try:
        windows = next(strategy)
        while True:
            calls, depth = calls + len(windows), depth + 1
            windows = strategy.send([0.0 if w.score else range(len(w.items)) for w in windows])
    except StopIteration:
        return Plan(calls, depth)


def drive(strategy: Strategy, ask: Callable[[Window], Answer]) -> tuple[int, ...]:
    """Run a strategy to its end with `ask` answering each window; returns the final order."""
    try:
        windows = next(strategy)
        while True:
            windows = strategy.send([ask(window) for window in windows])
    except StopIteration as stop:
        order: tuple[int, ...] = stop.value
        return order
