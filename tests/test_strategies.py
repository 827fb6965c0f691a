"""Strategies: exact windows, permutations always, an oracle's guarantee, and the counts that the plan promises."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrlib.errors import InputError
from rrlib.strategies import StrategySpec, Window, drive, full_list, plan, sliding_spans, sliding_window


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
