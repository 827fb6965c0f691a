"""Strategies: exact windows, permutations always, an oracle's guarantee, and the counts that the plan promises."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrlib.errors import InputError
from rrlib.strategies import (
    STRATEGIES,
    Answer,
    Plan,
    StrategySpec,
    Window,
    counted,
    drive,
    full_list,
    plan,
    sliding_spans,
    sliding_window,
)


def test_paper_windows() -> None:
    """Section 3: windows 80-100, 70-90, ..., 0-20: nine calls."""
    assert sliding_spans(100, 20, 10) == [(s, s + 20) for s in range(80, -1, -10)]
    assert sliding_spans(95, 20, 10) == [(s, s + 20) for s in range(75, 0, -10)] + [(0, 15)]


@pytest.mark.parametrize(
    ("n", "size", "stride", "spans"),
    [
        (0, 20, 10, []),
        (1, 20, 10, []),
        (2, 20, 10, [(0, 2)]),
        (10, 20, 10, [(0, 10)]),  # the released loop asks nothing here: start + stride is 0
        (15, 20, 10, [(0, 15)]),
        (20, 20, 10, [(0, 20)]),
        (21, 20, 10, [(1, 21), (0, 11)]),
        (98, 20, 10, [(78, 98), (68, 88), (58, 78), (48, 68), (38, 58), (28, 48), (18, 38), (8, 28), (0, 18)]),
        (40, 20, 20, [(20, 40), (0, 20)]),
        (41, 20, 20, [(21, 41), (1, 21)]),  # a window of one passage asks nothing
        (42, 20, 20, [(22, 42), (2, 22), (0, 2)]),
        (30, 10, 5, [(20, 30), (15, 25), (10, 20), (5, 15), (0, 10)]),
        (3, 2, 1, [(1, 3), (0, 2)]),
    ],
)
def test_spans(n: int, size: int, stride: int, spans: list[tuple[int, int]]) -> None:
    assert sliding_spans(n, size, stride) == spans


def released_spans(n: int, size: int, stride: int) -> list[tuple[int, int]]:
    """The released loop, in slow form, as the specification for lists longer than a window."""
    spans, end, start = [], n, n - size
    while end > 0 and start + stride != 0:
        start = max(start, 0)
        spans.append((start, end))
        end, start = end - stride, start - stride
    return [s for s in spans if s[1] - s[0] > 1]


@given(st.integers(2, 40), st.data())
def test_spans_equal_the_released_loop(size: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, size))
    n = data.draw(st.integers(size, 200))
    expected = released_spans(n, size, stride)
    got = sliding_spans(n, size, stride)
    # The released loop may go on after the head was reached once; the windows up to there are the same.
    assert got == expected[: len(got)]
    assert got[-1][0] == 0 or got[-1] == (1, 1 + size)


@pytest.mark.parametrize(
    ("n", "size", "stride", "word"),
    [(5, 1, 1, "size"), (5, 10, 11, "stride"), (5, 10, 0, "stride"), (-1, 10, 5, "candidates")],
)
def test_bad_parameters(n: int, size: int, stride: int, word: str) -> None:
    with pytest.raises(InputError, match=word):
        drive(sliding_window(n, size, stride), lambda w: range(len(w.items)))
    if n >= 0:
        with pytest.raises(InputError, match=word):
            StrategySpec("sliding_window", size, stride)


def test_unknown_strategy() -> None:
    with pytest.raises(InputError, match="sliding_window"):
        StrategySpec("bubble")


shapes = st.integers(0, 60).flatmap(
    lambda n: st.integers(2, 25).flatmap(lambda size: st.tuples(st.just(n), st.just(size), st.integers(1, size)))
)


@settings(max_examples=200)
@given(shapes, st.randoms(use_true_random=False), st.integers(1, 3))
def test_always_a_permutation(shape: tuple[int, int, int], random: object, passes: int) -> None:
    n, size, stride = shape

    def ask(window: Window) -> list[int]:
        answer = list(range(len(window.items)))
        random.shuffle(answer)  # type: ignore[attr-defined]
        return answer

    assert sorted(drive(sliding_window(n, size, stride, passes), ask)) == list(range(n))
    assert sorted(drive(full_list(n), ask)) == list(range(n))


@settings(max_examples=200)
@given(shapes, st.randoms(use_true_random=False))
def test_oracle_puts_the_best_at_the_head(shape: tuple[int, int, int], random: object) -> None:
    """One pass of a perfect ranker: the first size - stride are right (all of them, where one window holds all)."""
    n, size, stride = shape
    gains = list(range(n))
    random.shuffle(gains)  # type: ignore[attr-defined]

    def oracle(window: Window) -> list[int]:
        return sorted(range(len(window.items)), key=lambda i: -gains[window.items[i]])

    ideal = sorted(range(n), key=lambda i: -gains[i])
    order = drive(sliding_window(n, size, stride), oracle)
    right = n if n <= size else size - stride
    assert list(order[:right]) == ideal[:right]
    assert list(drive(full_list(n), oracle)) == ideal


@given(shapes, st.integers(1, 3))
def test_plan_counts_calls_and_depth(shape: tuple[int, int, int], passes: int) -> None:
    n, size, stride = shape
    spec = StrategySpec("sliding_window", size, stride, passes)
    if n <= 1:
        calls = 0
    elif n <= size:
        calls = 1
    else:
        calls = math.ceil((n - size) / stride) + 1
        calls -= sliding_spans(n, size, stride)[-1][0] != 0  # the head window would have held one passage
    cost = plan(spec.start, n)
    assert (cost.calls, cost.depth) == (calls * passes, calls * passes)


def test_windows_show_the_current_order() -> None:
    """What a window puts first meets the next window: positions move, items follow."""
    seen: list[Window] = []

    def reverse(window: Window) -> list[int]:
        seen.append(window)
        return list(range(len(window.items)))[::-1]

    order = drive(sliding_window(6, 4, 2), reverse)
    assert seen[0].positions == (2, 3, 4, 5) and seen[0].items == (2, 3, 4, 5)
    assert seen[1].positions == (0, 1, 2, 3) and seen[1].items == (0, 1, 5, 4)
    assert order == (4, 5, 1, 0, 3, 2)


def test_answer_that_is_no_permutation_is_refused() -> None:
    with pytest.raises(InputError, match="permutation"):
        drive(sliding_window(4, 4, 2), lambda w: [0, 0, 1, 2])


# --- every strategy ---------------------------------------------------------------------------------------------------
NAMES = ("sliding_window", "full_list", "pointwise", "top_down", "setwise", "tournament")


@st.composite
def specs(draw: st.DrawFn, names: tuple[str, ...] = NAMES) -> StrategySpec:
    name, size = draw(st.sampled_from(names)), draw(st.integers(2, 25))
    stride = draw(st.integers(1, size if name == "sliding_window" else size - 1))
    passes = draw(st.integers(1, 3)) if name in ("sliding_window", "tournament") else 1
    best = {"top_down": st.integers(1, size - 1), "setwise": st.integers(1, 30)}.get(name, st.none())
    return StrategySpec(name, size, stride, passes, draw(st.none() | best))


lengths = st.integers(0, 120)


def oracle(gains: list[int]) -> Callable[[Window], Answer]:
    """A perfect ranker; gains are all different."""

    def ask(window: Window) -> Answer:
        if window.score:
            return float(gains[window.items[0]])
        return sorted(range(len(window.items)), key=lambda i: -gains[window.items[i]])

    return ask


def shuffled(n: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(n), n)


def test_every_strategy_is_tested_here() -> None:
    assert set(NAMES) == set(STRATEGIES)


@settings(max_examples=300, deadline=None)
@given(specs(), lengths, st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 1.0]))
def test_any_answers_and_failures_lose_and_double_nothing(
    spec: StrategySpec, n: int, seed: int, failing: float
) -> None:
    """Random orders, and windows that fail: all passages, each once; no window asked twice, none wider than told."""
    dice, keys = random.Random(seed), set()

    def ask(window: Window) -> Answer:
        assert len(set(window.items)) == len(window.items) == len(window.positions) == len(set(window.positions))
        assert spec.widest is None or len(window.items) <= spec.widest
        assert len(window.items) > 1 or window.score
        assert (window.pass_no, window.positions) not in keys
        keys.add((window.pass_no, window.positions))
        if dice.random() < failing:
            return None
        return dice.random() if window.score else dice.sample(range(len(window.items)), len(window.items))

    order = drive(spec.start(n), ask)
    assert sorted(order) == list(range(n))
    if failing == 1.0 and (spec.name, spec.passes > 1) != ("tournament", True):  # later tournaments deal at random
        assert order == tuple(range(n)), "where every window failed, the order is the first stage's"


@settings(max_examples=300, deadline=None)
@given(specs(), lengths, st.integers(0, 10**6))
def test_a_perfect_ranker_gets_what_is_promised(spec: StrategySpec, n: int, seed: int) -> None:
    gains = shuffled(n, seed)
    ideal = sorted(range(n), key=lambda i: -gains[i])
    right = spec.promised(n)
    assert n == 0 or right > 0 or spec.size == spec.stride
    assert list(drive(spec.start(n), oracle(gains))[:right]) == ideal[:right]


@settings(max_examples=150, deadline=None)
@given(specs(), lengths)
def test_a_confirmed_order_stays_and_costs_what_the_plan_says(spec: StrategySpec, n: int) -> None:
    best_first = list(range(n, 0, -1))
    order, cost = counted(spec.start(n), oracle(best_first))
    assert cost == plan(spec.start, n)
    assert order == tuple(range(n)) or (spec.name == "tournament" and spec.passes > 1)  # shuffled deals, points alike
    assert (cost.calls > 0) == (cost.depth > 0) == (cost.shown > 0) == (n > 1)


@settings(max_examples=200, deadline=None)
@given(specs(("top_down",)), lengths, st.integers(0, 10**6))
def test_top_down_asks_as_many_windows_as_its_formula_says(spec: StrategySpec, n: int, seed: int) -> None:
    rounds: dict[int, list[Window]] = {}
    ask = oracle(shuffled(n, seed))

    def seen(window: Window) -> Answer:
        rounds.setdefault(window.pass_no, []).append(window)
        return ask(window)

    _, cost = counted(spec.start(n), seen)
    m, left = n, spec.size - spec.sought
    assert sorted(rounds) == list(range(cost.depth))
    for number in range(0, cost.depth, 2):
        assert len(rounds[number]) == 1 and len(rounds[number][0].items) == min(m, spec.size)
        if m <= spec.size:
            assert cost.depth == number + 1
            break
        assert len(rounds[number + 1]) == math.ceil((m - spec.size) / (spec.size - 1))
        following = rounds.get(number + 2, [])
        bound = m - left - 1
        m = len({i for w in following + rounds.get(number + 3, []) for i in w.items})
        assert m <= bound
    if n > spec.size:
        expected = Plan(1 + math.ceil((n - spec.size) / (spec.size - 1)), 2)
        confirmed = plan(spec.start, n)
        assert (confirmed.calls, confirmed.depth) == (expected.calls, expected.depth)


def plain_heapsort(gains: list[int], below: int, best: int) -> tuple[list[int], int]:
    """The textbook's heapsort, one passage after another: the best, and how often a set was looked at."""
    heap, looks = list(range(len(gains))), 0

    def sink(place: int) -> None:
        nonlocal looks
        under = [c for c in range(place * below + 1, place * below + below + 1) if c < len(heap)]
        if under:
            looks += 1
            top = max([place, *under], key=lambda at: gains[heap[at]])
            if top != place:
                heap[place], heap[top] = heap[top], heap[place]
                sink(top)

    for place in range(len(heap) - 1, -1, -1):
        sink(place)
    out = []
    while heap:
        out.append(heap[0])
        last = heap.pop()
        if not heap or len(out) == best:
            break
        heap[0] = last
        sink(0)
    return out, looks


@settings(max_examples=200, deadline=None)
@given(specs(("setwise",)), lengths, st.integers(0, 10**6))
def test_setwise_is_heapsort_with_its_calls_and_bounds(spec: StrategySpec, n: int, seed: int) -> None:
    gains = shuffled(n, seed)
    order, cost = counted(spec.start(n), oracle(gains))
    head, looks = plain_heapsort(gains, spec.size - 1, spec.sought)
    assert list(order[: len(head)]) == head and cost.calls == looks
    assert list(order[len(head) :]) == sorted(order[len(head) :]), "the rest keeps its order"
    heights = [0] * n  # of each place: the longest way down
    for place in range(n - 1, 0, -1):
        parent = (place - 1) // (spec.size - 1)
        heights[parent] = max(heights[parent], heights[place] + 1)
    height = max(heights, default=0)
    built = math.ceil((n - 1) / (spec.size - 1)) if n else 0
    further = max(0, min(spec.sought, n) - 1)
    asked = min(further, max(0, n - 2))  # the last of all is not asked about
    assert built + asked <= cost.calls <= sum(heights) + further * height
    assert height + asked <= cost.depth <= height * (height + 1) // 2 + further * height


def tournament_cost(m: int, size: int) -> tuple[int, int, int]:
    """Calls, rounds and passages shown of a tournament of m, in slow form."""
    if m <= size:
        return (m > 1), (m > 1), m if m > 1 else 0
    groups = [len(range(j, m, math.ceil(m / size))) for j in range(math.ceil(m / size))]
    calls, rounds, shown = tournament_cost(sum(math.ceil(g / 2) for g in groups), size)
    asked = [g for g in groups if g > 1]
    return calls + len(asked), rounds + 1, shown + sum(asked)


@settings(max_examples=200, deadline=None)
@given(specs(("tournament",)), lengths, st.integers(0, 10**6))
def test_a_tournament_costs_what_its_formula_says(spec: StrategySpec, n: int, seed: int) -> None:
    cost = counted(spec.start(n), oracle(shuffled(n, seed)))[1]
    calls, rounds, shown = tournament_cost(n, spec.size)
    assert cost == Plan(calls * spec.passes, rounds, shown * spec.passes) == plan(spec.start, n)


def test_later_tournaments_deal_otherwise_and_repeat_themselves() -> None:
    dealt: dict[int, set[tuple[int, ...]]] = {}

    def ask(window: Window) -> Answer:
        dealt.setdefault(window.pass_no, set()).add(window.items)
        assert list(window.items) == sorted(window.items), "shown in first-stage order"
        return None

    order = drive(StrategySpec("tournament", passes=3).start(100), ask)
    again = dict(dealt)
    assert order == drive(StrategySpec("tournament", passes=3).start(100), ask) and dealt == again
    first = [{group for group in dealt[number] if group[-1] > 60} for number in range(3)]
    assert [len(groups) for groups in first] == [5, 5, 5]
    assert not (first[0] & first[1] or first[1] & first[2] or first[0] & first[2])


def test_points_of_several_tournaments_outvote_one_wrong_answer() -> None:
    """The best passage loses its first window of the first tournament by mistake: two more tournaments repair it."""
    gains = shuffled(60, 5)
    best, right = gains.index(59), oracle(gains)

    def ask(window: Window) -> Answer:
        answer = right(window)
        assert isinstance(answer, list)
        return answer[::-1] if window.pass_no == 0 and best in window.items else answer

    assert drive(StrategySpec("tournament").start(60), ask)[0] != best
    assert best in drive(StrategySpec("tournament", passes=3).start(60), ask)[:3]


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("top_down", {"best": 20}, "pivot"),
        ("top_down", {"best": 0}, "pivot"),
        ("setwise", {"best": 0}, "best 0"),
        ("tournament", {"passes": 0}, "tournaments"),
        ("tournament", {"size": 1}, "size"),
        ("setwise", {"size": 1}, "size"),
        ("top_down", {"stride": 30}, "stride"),
        ("sliding_window", {"best": 5}, "top_down and setwise"),
        ("top_down", {"passes": 2}, "sliding_window and tournament"),
        ("full_list", {"passes": 2}, "sliding_window and tournament"),
    ],
)
def test_values_out_of_range_or_without_use_are_refused(name: str, options: dict[str, int], word: str) -> None:
    with pytest.raises(InputError, match=word):
        StrategySpec(name, **options)


def test_the_paper_of_top_down_partitioning_counts_six_windows_instead_of_nine() -> None:
    assert plan(StrategySpec("top_down").start, 100) == Plan(6, 2, 105)
    assert plan(StrategySpec("sliding_window").start, 100) == Plan(9, 9, 180)
