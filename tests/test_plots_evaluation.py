"""Figures of the evaluation: what is drawn is what was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from rrlib.errors import InputError
from rrlib.lesson.plots import evaluation as figures
from rrlib.lesson.tables import window_traces
from rrlib.records import WindowRecord


def test_differences_are_sorted_and_counted() -> None:
    figure = figures.sorted_differences({"a": [0.0, -0.5, 1.0], "b": [0.1, 0.2, 0.3]}, "base", "nDCG@10")
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert sorted(heights, reverse=True) == [1.0, 0.0, -0.5] and len(figure.axes) == 2
    assert figure.axes[0].get_title() == "a: 1 gain, 1 lose" and figure.axes[1].get_title() == "b: 3 gain, 0 lose"


def test_length_and_quality_draws_every_query() -> None:
    table = pd.DataFrame({"system": ["x"] * 10, "tokens": range(10), "value": [i / 10 for i in range(10)]})
    axis = figures.length_and_quality(table, "RR", bins=5).axes[0]
    assert len(axis.collections[0].get_offsets()) == 10
    assert list(axis.lines[0].get_xdata()) == [0.5, 2.5, 4.5, 6.5, 8.5]


def test_windows_move_passages() -> None:
    records = [
        WindowRecord("q", (2, 3), ("c", "d"), (1, 0)),
        WindowRecord("q", (0, 1, 2), ("a", "b", "d"), (2, 0, 1)),
    ]
    traces = window_traces(list(reversed(records)), {"q": ["a", "b", "c", "d"]}, {"q": {"d": 1, "a": 0, "z": 1}})
    assert traces == [[4, 3, 1]]
    figure = figures.window_movement(traces)
    assert list(figure.axes[0].lines[-1].get_ydata()) == [4, 3, 1]
    assert figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]  # rank 1 on top


def test_ceiling_and_budget() -> None:
    rows = [
        {
            "system": "a",
            "metric": "RR",
            "mean": 0.4,
            "low": 0.3,
            "high": 0.5,
            "ceiling": 0.8,
            "gap_closed": float("nan"),
        },
        {"system": "b", "metric": "RR", "mean": 0.6, "low": 0.5, "high": 0.7, "ceiling": 0.8, "gap_closed": 0.5},
    ]
    figure = figures.ceiling_and_gap(rows, "RR")
    assert [t.get_text() for t in figure.axes[0].texts] == ["", "50% of the gap"]
    points = [
        {"budget": 64, "mean": 0.6, "low": 0.5, "high": 0.7, "tokens_out": 300},
        {"budget": 0, "mean": 0.2, "low": 0.1, "high": 0.3, "tokens_out": 100},
    ]
    curve = figures.budget_curve(points, "RR", {"no limit": 0.65})
    assert list(curve.axes[1].lines[0].get_xdata()) == [0, 64] and list(curve.axes[1].lines[0].get_ydata()) == [
        100,
        300,
    ]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.sorted_differences({}, "a", "RR"),
        lambda: figures.sorted_differences({"a": []}, "a", "RR"),
        lambda: figures.length_and_quality(pd.DataFrame(columns=["system", "tokens", "value"]), "RR"),
        lambda: figures.window_movement([]),
        lambda: figures.ceiling_and_gap([], "RR"),
        lambda: figures.budget_curve([], "RR"),
    ],
)
def test_nothing_to_draw_is_said(draw: Callable[[], Any]) -> None:
    with pytest.raises(InputError):
        draw()
