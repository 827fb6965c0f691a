"""What the lesson shows: numbers of rrlib.lesson.explain, figures of lesson.plots.tour that draw them, widgets."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from rrlib.errors import InputError
from rrlib.lesson import explain, widgets
from rrlib.lesson.plots import tour as lesson_plots
from rrlib.prompts import format_response
from rrlib.records import WindowRecord
from rrlib.reward import MultiViewReward
from rrlib.strategies import STRATEGIES, StrategySpec, drive, plan
from rrlib.types import Passage, Query

SPECS = {"sliding": StrategySpec("sliding_window", 10, 5), "full": StrategySpec("full_list")}
RELEVANCE = [int(i in (11, 17, 27)) for i in range(30)]
TEXTS = [format_response("x", order) for order in ([0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0])]
TEXTS += ["nope", "<think> a </think> <answer> [1] </answer>"]
LABELS, GOLD = [0, 1, 0, 0], [1, 0, 2, 3]
REASONING = "Cue: A. [1] A yes [2] B no [9] out of range [4] C maybe [1] again"
PASSAGES = [Passage(str(i), f"text {i} <b>&") for i in range(4)]
BEFORE = {"q1": ["a", "b", "c"], "q2": ["a", "b", "c"], "q3": ["a", "b", "c"]}
AFTER = {"q1": ["c", "a", "b"], "q2": ["b", "a", "c"], "q3": ["a", "b", "c"]}
QRELS = {"q1": {"c": 1}, "q2": {"a": 1, "gone": 1}, "q3": {"b": 2, "c": 0}}


# --- numbers ---------------------------------------------------------------------------------------------------------
def test_the_example_of_the_paper_places_1_and_11_against_9_and_10() -> None:
    first, second = explain.outlook([11, 1]), explain.outlook([9, 10])
    assert first.places == (1, 11) and first.carried == (1,) and second.carried == (9, 10)
    assert [round(v, 3) for v in first.views[:2]] == [0.613, 0.5]
    assert [round(v, 3) for v in second.views[:2]] == [0.362, 1.0]
    assert round(first.views[0] + 0.2 * first.views[1], 3) == 0.713
    assert round(second.views[0] + 0.2 * second.views[1], 3) == 0.562
    assert first.total > second.total and first.ndcg_after < second.ndcg_after == 1.0
    weight = explain.flip_weight(first, second, weights=(1.0, 0.2, 0.0))
    sums = [o.views[0] + weight * o.views[1] for o in (first, second)]
    assert sums[0] == pytest.approx(sums[1]) and weight == pytest.approx(0.5027, abs=1e-4)
    again = explain.flip_weight(first, second)
    assert np.dot((1, again, 0.1), first.views) == pytest.approx(np.dot((1, again, 0.1), second.views))


@given(st.data())
def test_the_outlook_is_what_a_perfect_ranker_makes_of_the_next_window(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 20))
    stride = data.draw(st.integers(1, size - 1))
    places = data.draw(st.lists(st.integers(1, size), min_size=1, max_size=size, unique=True))
    seen = explain.outlook(places, size, stride)
    # The same by hand: a list of size + stride, whose tail window is already ranked; the head window comes next.
    relevance = [0] * stride + [int(p in places) for p in range(1, size + 1)]
    head = sorted(range(size), key=lambda i: -relevance[i])
    final = [relevance[i] for i in head] + relevance[size:]
    assert tuple(i for i, r in enumerate(final, 1) if r) == seen.after
    assert set(seen.carried) == {p for p in places if p + stride <= size}


@pytest.mark.parametrize("places", [[], [0], [21], [3, 3]])
def test_impossible_places_are_refused(places: list[int]) -> None:
    with pytest.raises(InputError, match="places from 1 to 20"):
        explain.outlook(places)


def test_windows_that_do_not_overlap_and_views_that_do_not_differ_are_refused() -> None:
    with pytest.raises(InputError, match="stride"):
        explain.outlook([1], 10, 10)
    with pytest.raises(InputError, match="same value"):
        explain.flip_weight(explain.outlook([1]), explain.outlook([2]))


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 30])
def test_frames_of_every_strategy_count_calls_and_depth_and_end_where_it_ends(name: str, n: int) -> None:
    spec = StrategySpec(name, 10, 5)
    relevance = [(7 * i) % 5 == 0 for i in range(n)]
    ask = explain.by_labels(relevance)
    frames = explain.play(spec.start(n), n, ask)
    assert frames[0].order == tuple(range(n)) or len(frames) == 1
    assert frames[-1].order == drive(spec.start(n), ask)
    assert all(sorted(frame.order) == list(range(n)) for frame in frames)
    assert [frame.depth for frame in frames] == list(range(len(frames)))
    assert sum(len(frame.windows) for frame in frames) == frames[-1].calls
    if name in ("sliding_window", "full_list"):  # others may ask more or less, by the answers
        cost = plan(spec.start, n)
        assert (frames[-1].calls, frames[-1].depth) == (cost.calls, cost.depth)


def test_a_film_follows_the_log_and_refuses_another_querys_records() -> None:
    first = WindowRecord("q", (1, 2), ("b", "c"), (1, 0))
    second = WindowRecord("q", (0, 1), ("a", "c"), (1, 0))
    orders, spans = explain.film(["a", "b", "c"], [first, second])
    assert orders == [["a", "b", "c"], ["a", "c", "b"], ["c", "a", "b"]] and spans == [(1, 3), (0, 2)]
    with pytest.raises(InputError, match="does not show"):
        explain.film(["a", "b", "c"], [second])


def test_citations_are_numbers_of_the_window_in_reading_order() -> None:
    found = explain.citations(REASONING, 4)
    assert [c.n for c in found] == [1, 2, 4, 1]
    assert all(REASONING[c.start : c.end] == f"[{c.n}]" for c in found)
    assert explain.citations("[0] [99999] [ 1] (2) none", 9) == []


def test_advantages_are_those_of_the_trainer() -> None:
    rewards = [1.3, 0.5, -1.0, 0.0]
    spread = np.std(rewards, ddof=1) + 1e-4
    assert np.allclose(explain.advantages(rewards), (np.array(rewards) - np.mean(rewards)) / spread)
    assert np.allclose(explain.advantages(rewards, "none"), np.array(rewards) - np.mean(rewards))
    assert explain.advantages([0.5] * 8).tolist() == [0.0] * 8
    with pytest.raises(InputError):
        explain.advantages(rewards, "batch")


def test_the_pull_lifts_what_good_rollouts_rank_high() -> None:
    force = explain.pull([[0, 1, 2], [2, 1, 0], None], [1.0, -1.0, 0.0])
    assert force[0] > 0 > force[2] and force[1] == 0 and force.sum() == pytest.approx(0.0)
    with pytest.raises(InputError):
        explain.pull([None], [1.0])


def test_queries_are_compared_in_order_of_their_gain_by_trec_evals_ndcg() -> None:
    scores = lesson_plots.per_query(BEFORE, AFTER, QRELS, 10)
    assert list(scores) == ["q2", "q3", "q1"]
    assert scores["q1"] == pytest.approx((1 / np.log2(4), 1.0))
    ideal = 1 + 1 / np.log2(3)  # the relevant document that no run lists counts in the ideal
    assert scores["q2"] == pytest.approx((1 / ideal, 1 / np.log2(3) / ideal))


# --- figures ---------------------------------------------------------------------------------------------------------
def frames() -> dict[str, list[explain.Frame]]:
    return explain.play_all(RELEVANCE, SPECS)


def film_figure() -> Figure:
    own = frames()["sliding"]
    spans = [(f.windows[0].positions[0], f.windows[0].positions[-1] + 1) for f in own[1:]]
    return lesson_plots.window_film([[f"d{i}" for i in f.order] for f in own], spans, ["d11", "d17", "d27"])


DRAW: dict[str, Callable[[], Figure]] = {
    "reward window": lambda: lesson_plots.reward_window([explain.outlook([1, 11]), explain.outlook([9, 10])]),
    "recall weight": lambda: lesson_plots.recall_weight([explain.outlook([1, 11]), explain.outlook([9, 10])], 0.5),
    "film": film_figure,
    "player": lambda: lesson_plots.player(frames(), 2, RELEVANCE),
    "reading": lambda: lesson_plots.response_reading(TEXTS[0], LABELS, GOLD),
    "reading of no list": lambda: lesson_plots.response_reading(TEXTS[3], LABELS, GOLD),
    "citations": lambda: lesson_plots.citation_map(REASONING, LABELS),
    "citations of nothing": lambda: lesson_plots.citation_map("", LABELS),
    "group": lambda: lesson_plots.group_update(TEXTS, LABELS, GOLD, chosen=1),
    "group without a ranking": lambda: lesson_plots.group_update(["a", "b"], LABELS, GOLD),
    "compare": lambda: lesson_plots.run_compare(BEFORE, AFTER, QRELS),
}


@pytest.mark.parametrize("name", DRAW)
def test_a_figure_is_closed_has_words_and_reads_in_grey(name: str) -> None:
    figure = DRAW[name]()
    assert plt.get_fignums() == []
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100, facecolor="white", bbox_inches="tight")
    grey = np.asarray(Image.open(data).convert("L"))
    assert grey.max() == 255 and grey.min() < 60, "a white ground of its own, and dark ink"
    assert any(axis.get_title() or axis.get_xlabel() or axis.get_ylabel() for axis in figure.axes)
    assert 300 < grey.shape[1] < 1250 and 150 < grey.shape[0] < 750, "at 100% on one screen"


def test_relevant_cells_have_a_star_and_not_only_a_colour() -> None:
    axis = lesson_plots.player(frames(), 0, RELEVANCE).axes[0]
    assert [t.get_text() for t in axis.texts if "★" in t.get_text()] == ["12★", "18★", "28★"]


def test_the_palette_is_told_apart_in_grey() -> None:
    light = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in (lesson_plots.PALETTE[i] for i in (0, 1))]
    assert abs(light[0] - light[1]) > 0.15


def test_bars_of_the_reward_add_up_to_the_total() -> None:
    seen = explain.outlook([2, 5])
    bars = lesson_plots.reward_window(seen).axes[1].patches
    assert sum(bar.get_width() for bar in bars) == pytest.approx(seen.total)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: lesson_plots.window_film([["a"]], [(0, 1)], []),
        lambda: lesson_plots.player({}, 0, []),
        lambda: lesson_plots.run_compare(BEFORE, AFTER, QRELS, "nobody"),
        lambda: lesson_plots.run_compare(BEFORE, AFTER, {}),
        lambda: widgets.run_compare({"one": BEFORE}, QRELS),
    ],
)
def test_what_cannot_be_drawn_is_an_input_error(draw: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        draw()


# --- widgets ---------------------------------------------------------------------------------------------------------
PANELS: dict[str, tuple[Callable[[], widgets.Panel], str, object, str]] = {
    "reward": (widgets.reward_explorer, "place2", 10, "2 of 2 relevant passages are carried"),
    "player": (lambda: widgets.window_player(RELEVANCE, SPECS), "step", 5, "5 calls, depth 5, done"),
    "inspector": (lambda: widgets.response_inspector(TEXTS[0], LABELS, GOLD), "text", "[2] only", "bad_format"),
    "trace": (lambda: widgets.trace_reader(REASONING, PASSAGES, [1, 0, 0, 0]), "step", 2, "2 of 4 citations read"),
    "group": (lambda: widgets.group_explorer(TEXTS, LABELS, GOLD), "rollout", 4, "Rollout 4: bad_format"),
    "compare": (lambda: widgets.run_compare({"old": BEFORE, "new": AFTER}, QRELS), "place", 1, "<b>q2</b>"),
}


def png(panel: widgets.Panel) -> bytes:
    found = re.search(r"base64,([^\"]+)", panel.picture.value)
    assert found
    return base64.b64decode(found[1])


@pytest.mark.parametrize("name", PANELS)
def test_moving_a_control_changes_picture_and_words(name: str) -> None:
    make, control, value, words = PANELS[name]
    panel = make()
    before = png(panel), panel.words.value
    assert before[0].startswith(b"\x89PNG") and words not in before[1]
    panel.controls[control].value = value
    assert png(panel) != before[0] and words in panel.words.value
    assert 'role="status"' in panel.words.value and re.search(r'<img alt="[^"]{20,}"', panel.picture.value)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", PANELS)
def test_every_control_is_labelled_and_stands_in_the_panel(name: str) -> None:
    panel = PANELS[name][0]()
    assert all(len(control.description) >= 4 for control in panel.controls.values())
    assert set(panel.controls.values()) <= set(panel.children)


def test_a_bad_setting_says_why_and_keeps_the_picture() -> None:
    panel = widgets.reward_explorer()
    before = panel.picture.value
    panel.controls["place2"].value = 1
    assert "different places" in panel.words.value and panel.picture.value == before


def test_the_players_buttons_step_and_stop_at_the_ends() -> None:
    panel = widgets.window_player(RELEVANCE, SPECS)
    film, back, forward = panel.children[1].children
    back.click()
    assert panel.controls["step"].value == 0
    for _ in range(9):
        forward.click()
    assert panel.controls["step"].value == panel.controls["step"].max == 5
    back.click()
    assert panel.controls["step"].value == film.value == 4
    film.value = 2  # as it does while it plays
    assert panel.controls["step"].value == 2 and "Step 2." in panel.words.value


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (
            (9, 10),
            "</b>, carries 2 of 2, and leads to 1.000: the reward prefers the first, but the other",
        ),
        ((1, 11), "the reward cannot tell them apart"),
        ((1, 2), "the reward prefers the second, and the list that follows agrees"),
    ],
)
def test_two_rankings_are_compared_now_and_later(others: tuple[int, int], words: str) -> None:
    panel = widgets.reward_explorer(others=others)
    assert words in panel.words.value
    assert f"The second ranking earns <b>{explain.outlook(others).total:.3f}</b>" in panel.words.value
    assert ("but the other is better later" in panel.words.value) == (others == (9, 10))


def test_the_query_is_shown_with_its_comparison() -> None:
    panel = widgets.run_compare({"old": BEFORE, "new": AFTER}, QRELS, queries={"q1": Query("q1", "why <b>?")})
    assert "<q>why &lt;b&gt;?</q>" in panel.words.value  # the best of three is q1
    panel.controls["place"].value = 1
    assert "<b>q2</b>" in panel.words.value and "<q>" not in panel.words.value


def test_a_trace_escapes_texts_and_marks_what_is_cited() -> None:
    text = widgets.trace_html("<script>[1]</script>", PASSAGES, [1, 0, 0, 0])
    assert "<script>" not in text and "&lt;script&gt;" in text and "[1]★</mark>" in text
    assert "&lt;b&gt;&amp;" in text and text.count("<mark") == 1
    none = widgets.trace_html(REASONING, PASSAGES, [1, 0, 0, 0], upto=0)
    assert "<mark" not in none and "again" in none


def test_marks_keep_a_contrast_of_their_own() -> None:
    """Black on each mark's ground: at least 7 to 1, whatever the theme."""
    for ground in (widgets._RELEVANT, widgets._OTHER, widgets._NOW):
        parts = [int(ground[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert (light + 0.05) / 0.05 >= 7


def test_the_group_follows_the_reward_it_is_given() -> None:
    records = MultiViewReward(k=10, weights={"ndcg": 1.0, "recall": 0.0, "rbo": 0.0}).score_group(TEXTS, LABELS, GOLD)
    panel = widgets.group_explorer(TEXTS, LABELS, GOLD)
    panel.controls["recall"].value = 0.0
    panel.controls["rbo"].value = 0.0
    assert f"reward <b>{records[0].total:.3f}</b>" in panel.words.value
