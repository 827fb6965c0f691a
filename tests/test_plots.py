"""Figures: each draws the numbers it is given, says so in its labels, and refuses what it cannot draw."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from rrlib.errors import InputError
from rrlib.lesson.plots import basics as plots

HISTORY: list[dict[str, Any]] = [
    {
        "step": 2 * i,
        "share/valid": 0.5,
        "share/bad_list": 0.3,
        "share/bad_format": 0.2,
    }
    for i in range(1, 9)
]
ROWS = [
    {"system": name, "metric": "nDCG@10", "mean": mean, "low": mean - 0.05, "high": mean + 0.05, "n": 24}
    for name, mean in (("first-stage", 0.3), ("sft", 0.6), ("oracle", 0.9))
]

DRAW: dict[str, Callable[[], Figure]] = {
    "formats": lambda: plots.format_shares(HISTORY),
    "formats of one step": lambda: plots.format_shares(HISTORY[:1]),
    "filter": lambda: plots.consistency_histogram([0.1, 0.4, 0.9, 1.0], 0.4),
    "group": lambda: plots.rollout_group([1.0, -1.0, 0.0], [0.9, -1.1, 0.2], ["valid", "bad_format", "bad_list"]),
    "means": lambda: plots.means_with_intervals(ROWS, "nDCG@10"),
    "movement": lambda: plots.relevant_movement(
        {"q": ["a", "b", "c"]}, {"q": ["c", "b", "a"]}, {"q": {"c": 1, "b": 0}}
    ),
    "verdicts": lambda: plots.verdict_shares({"sft": {"ok": 0.9, "truncated": 0.1}, "new": {"odd": 1.0}}),
}


@pytest.mark.parametrize("name", DRAW)
def test_a_figure_has_labels_can_be_saved_and_is_closed(name: str) -> None:
    figure = DRAW[name]()
    assert all(axis.get_xlabel() for axis in figure.axes)
    assert any(axis.get_ylabel() or axis.get_yticklabels() for axis in figure.axes)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    assert data.getvalue().startswith(b"\x89PNG") and len(data.getvalue()) > 5000
    assert plt.get_fignums() == []  # else a notebook would show it twice


def test_smoothing_keeps_constants_also_at_the_ends() -> None:
    assert np.allclose(plots._smooth([2.0] * 7, 3), 2.0)
    assert np.allclose(plots._smooth([0.0, 3.0, 0.0], 3), [1.5, 1.0, 1.5])


def test_the_filter_counts_what_lies_below_alpha() -> None:
    figure = plots.consistency_histogram([0.1, 0.4, 0.9, 1.0], 0.4)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["kept: 3", "dropped: 1"]
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == 4


def test_shares_stack_to_one() -> None:
    bars = plots.format_shares(HISTORY).axes[0].patches
    tops = [bar.get_y() + bar.get_height() for bar in bars]
    assert np.allclose(tops[-len(HISTORY) :], 1.0)


def test_the_movement_counts_risen_and_fallen_passages() -> None:
    before = {"q": ["a", "b", "c", "d"], "r": ["a", "b"]}
    after = {"q": ["d", "b", "c", "a"], "r": ["a", "b"]}
    qrels = {"q": {"d": 1, "a": 1, "b": 1, "c": 0, "gone": 1}, "r": {"a": 2}}
    axis = plots.relevant_movement(before, after, qrels).axes[0]
    assert axis.get_title() == "Relevant passages: 1 rose, 2 stayed, 1 fell"
    assert sorted(map(tuple, axis.collections[0].get_offsets().tolist())) == [(1, 1), (1, 4), (2, 2), (4, 1)]


def test_means_are_in_the_order_asked_for_best_read_from_above() -> None:
    axis = plots.means_with_intervals(ROWS, "nDCG@10", ["oracle", "sft", "none"]).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["oracle", "sft"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]


def test_a_group_marks_what_is_not_valid() -> None:
    bars = plots.rollout_group([1.0, -1.0], [1.0, -1.0], ["valid", "bad_format"]).axes[0].patches
    assert [bar.get_hatch() for bar in bars] == ["", "//"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.format_shares([{"step": 1, "share/valid": 1.0}]),
        lambda: plots.consistency_histogram([], 0.4),
        lambda: plots.means_with_intervals(ROWS, "AP"),
        lambda: plots.relevant_movement({"q": ["a"]}, {"q": ["a"]}, {"q": {"b": 1}}),
        lambda: plots.verdict_shares({}),
    ],
)
def test_nothing_to_draw_is_an_input_error(draw: Callable[[], Figure]) -> None:
    with pytest.raises(InputError):
        draw()
