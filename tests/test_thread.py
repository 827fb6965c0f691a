"""What 00 to 03 show of a run: the red thread, the liveliest group, sentences that are computed, texts and tables."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rrlib.chain.params import load_profile
from rrlib.errors import InputError
from rrlib.formats import write_examples
from rrlib.lesson import groups, sentences, shown, thread
from rrlib.lesson.explain import liveliness
from rrlib.lesson.plots.training import group_in_views
from rrlib.lesson.plots.world import world_drawing
from rrlib.miniature.generate import make_corpus, make_queries
from rrlib.miniature.sketch import EXAMPLE, sketch
from rrlib.miniature.teacher import ErrorRates
from rrlib.miniature.world import load_world
from rrlib.prompts import format_response
from rrlib.reward import MultiViewReward, RewardRecord
from rrlib.training.data import Row
from rrlib.training.objective import kl
from rrlib.types import Candidates, Passage, Query, RankingExample

REWARD = MultiViewReward(k=2)
PARAMS = Path(__file__).parent.parent / "params"


def example(qid: str, gold: tuple[int, ...] = (0, 1, 2, 3), **meta: Any) -> RankingExample:
    passages = tuple(Passage(f"{qid}-{i}", f"text {i}") for i in range(4))
    return RankingExample(Query(qid, f"query {qid}"), passages, (0, 0, 1, 1), gold, "A chain.", meta)


def examples_in(folder: Path, *examples: RankingExample) -> Path:
    (folder / "01_synthesis" / "teacher").mkdir(parents=True)
    write_examples(folder / "01_synthesis" / "teacher" / "examples.jsonl", examples)
    return folder


# --- the red thread ---------------------------------------------------------------------------------------------------
def test_the_thread_is_the_kept_list_that_agrees_least_with_its_labels(tmp_path: Path) -> None:
    kept = [example(q, consistency=value) for q, value in (("a", 0.9), ("b", 0.4), ("c", 0.4), ("d", 1.0))]
    run = examples_in(tmp_path, *kept)
    assert [thread.thread_of(run).query.qid for _ in range(2)] == ["b", "b"]  # of equals the first
    assert "b: of the kept lists it agrees least" in thread.chosen_words(kept[1])


def test_without_a_consistency_the_first_is_followed_and_said_to_be(tmp_path: Path) -> None:
    first = thread.thread_of(examples_in(tmp_path, example("a"), example("b")))
    assert first.query.qid == "a" and "none has a consistency" in thread.chosen_words(first)


def test_a_run_without_examples_has_no_thread(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no examples"):
        thread.thread_of(examples_in(tmp_path))


def test_stations_are_scored_by_the_reward_and_begin_with_the_teacher() -> None:
    right = format_response("because", (2, 3, 0, 1), "reasonrank")
    table = thread.stations(example("a"), {"before": "nothing", "after": right}, REWARD)
    assert list(table.index) == ["teacher", "before", "after"]
    assert list(table["relevant at"]) == ["3, 4", "3, 4", "1, 2"]  # what cannot be read keeps the window's order
    assert list(table["reward"]) == [
        round(float(REWARD.score(format_response("x", gold, "reasonrank"), (0, 0, 1, 1), (0, 1, 2, 3)).total), 3)
        if gold
        else -1.0
        for gold in ((0, 1, 2, 3), None, (2, 3, 0, 1))
    ]
    assert table.loc["teacher", "rbo"] == 1.0 and np.isnan(table.loc["before", "rbo"])
    words = thread.in_words(table, "before", "after")
    assert "rises from -1.000" in words and "above the teacher's" in words and "is none and" in words
    assert "Where no list counts (before)" in words and "no list counts" not in thread.in_words(table, "after", "after")
    same = thread.in_words(table, "after", "after")
    assert "stays at" in same and "neither nearer nor further" in same
    likeness = table.assign(rbo=[1.0, 0.9, 0.4])
    assert "(RBO) is 0.900 and 0.400: further from it." in thread.in_words(likeness, "before", "after")
    assert "(RBO) is 0.400 and 0.900: nearer to it." in thread.in_words(likeness, "after", "before")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("<think> a </think> Ranking: [2] > [1]", "<think> a </think> <answer> [2] > [1] </answer>", "form alone"),
        (
            "<think> a </think> [2] > [1]",
            "<think> a </think> <answer> [1] > [2] </answer>",
            "The reasoning is the same",
        ),
        ("<think> a </think> [2]>[1]", "<think> b </think> <answer> [2] > [1] </answer>", "The list is the same"),
        ("nothing", "<think> b </think> <answer> [2] > [1] </answer>", "both other ones"),
    ],
)
def test_what_two_answers_share_is_said(before: str, after: str, said: str) -> None:
    assert said in thread.kept_words({"before": before, "after": after})


def test_the_final_list_names_the_places_of_what_is_relevant() -> None:
    item = Candidates(Query("q", "why"), tuple(Passage(d, d) for d in "abc"))
    table = thread.final_lists(item, ["c"], {"sft": ["a", "c", "b"], "rl": ["c", "a", "b"]})
    assert table["relevant at"].to_dict() == {"first stage": "3", "sft": "2", "rl": "1"} and set(table["of"]) == {3}


def test_the_thread_ends_with_a_sentence_on_the_places() -> None:
    item = Candidates(Query("q", "why"), tuple(Passage(d, d) for d in "abc"))
    table = thread.final_lists(item, ["c"], {"sft": ["a", "c", "b"], "rl": ["c", "a", "b"]})
    assert thread.end_words(table) == (
        "The relevant passages stood at 3 in the first stage's list; they stand at 1 at the end."
    )
    assert "where they stood" in thread.end_words(thread.final_lists(item, ["c"], {"rl": ["a", "b", "c"]}))
    assert thread.end_words(None) == "There is no thread in this run."


def test_the_weight_at_which_the_teachers_list_earns_as_much() -> None:
    """At that weight both earn the same, a little above it the teacher's earns more, a little below it less."""
    followed, right = example("a"), format_response("because", (2, 3, 0, 1), "reasonrank")
    weight = thread.weight_of_likeness(followed, right, REWARD)
    assert weight is not None and weight > REWARD.weights["rbo"]

    def gap(rbo: float) -> float:
        rule = MultiViewReward(k=2, weights={**REWARD.weights, "rbo": rbo})
        texts = thread.teacher_text(followed), right
        teacher, own = (rule.score(text, followed.relevance, followed.gold).total for text in texts)
        return float(teacher - own)

    assert gap(weight) == pytest.approx(0.0, abs=1e-9) and gap(weight - 0.01) < 0 < gap(weight + 0.01)
    assert "would earn more from" in sentences.likeness_words(weight, 0.1)
    assert "so it does here" in sentences.likeness_words(weight, 99.0)
    for none in (thread.teacher_text(followed), "no ranking"):
        assert thread.weight_of_likeness(followed, none, REWARD) is None
    assert "At no weight" in sentences.likeness_words(None, 0.1)


def test_the_kept_thread_is_a_query_of_the_miniatures_training_split() -> None:
    """Its text, passages and labels are those of the world that the profile `miniature` builds with its own seed."""
    kept, profile = thread.stored_thread(), load_profile(PARAMS / "miniature.yaml")
    first = profile.sections["01_synthesis"]
    sizes = {split: int(first[f"{split}_queries"]) for split in ("train", "validation", "test")}
    world = load_world()
    query = next(q for q in make_queries(world, profile.seed, sizes) if q.qid == kept.query.qid)
    assert query.split == "train" and query.text == kept.query.text
    passages = {p.docid: p for p in make_corpus(world, profile.seed)}
    assert all(passages[p.docid].text == p.text for p in kept.passages)
    labels = tuple(int(passages[p.docid].concept == query.concept) for p in kept.passages)
    assert labels == kept.relevance and sorted(kept.gold) == list(range(len(kept.passages)))
    assert all(kept.relevance[item] == 0 for item in kept.gold[:1]), "the teacher's first passage is wrong"


def test_a_run_keeps_its_thread_and_a_run_without_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = examples_in(tmp_path / "run", example("a", consistency=0.9), example("b", consistency=0.4))
    monkeypatch.setattr(thread, "_RESULTS", str(tmp_path))
    assert thread.keep_thread(run).query.qid == "b" and thread.stored_thread() == thread.thread_of(run)


def test_the_reward_prefers_the_model_of_the_tour_to_its_teacher_until_likeness_weighs_more() -> None:
    """What 00 says of the kept thread: the teacher's first passage is irrelevant, a slider turns the order round."""
    kept = thread.stored_thread()
    right = format_response("x", tuple(sorted(range(10), key=lambda i: -kept.relevance[i])), "reasonrank")
    weight = thread.weight_of_likeness(kept, right, MultiViewReward(k=5))
    assert weight is not None and 0.1 < weight < 2.0, "the slider of the explorer ends at 2"


def test_words_that_lead_a_word_counter_are_named() -> None:
    passages = [Passage("a", "A pirate page: the sea."), Passage("b", "Nothing here.")]
    said = sentences.shared_words("At a pirate ball: what is the sea?", passages)
    assert said == "Words of the query, in passage 1: pirate, sea; 2: none."


@pytest.mark.parametrize(
    ("routed", "mean", "said"),
    [(1.0, 0.7, "every query: 0.700, no better than"), (0.25, 0.8, "25% of the queries: 0.800, better than")],
)
def test_what_a_router_did_is_said(routed: float, mean: float, said: str) -> None:
    assert said in sentences.router_words({"threshold": 0.1, "routed": routed, "random_route": 0.7}, mean)


def test_a_group_has_its_mean_and_its_ends() -> None:
    records = [RewardRecord(1.0, 1.0, 1.0, 1.0, "valid"), RewardRecord(-1.0, None, None, None, "bad_format")]
    row = thread.group_means({"SFT": records}).loc["SFT"]
    assert (row["mean reward"], row["lowest"], row["highest"], row["valid"]) == (0.0, -1.0, 1.0, 0.5)


# --- the liveliest group ----------------------------------------------------------------------------------------------
def record(ndcg: float | None, recall: float | None = 1.0, rbo: float | None = 1.0) -> RewardRecord:
    if ndcg is None:
        return RewardRecord(-1.0, None, None, None, "bad_format")
    return RewardRecord(ndcg, ndcg, recall, rbo, "valid")


@pytest.mark.parametrize(
    ("records", "views", "values"),
    [
        ([record(None), record(None)], 0, 0),
        ([record(1.0), record(None)], 0, 1),
        ([record(1.0), record(1.0)], 0, 1),
        ([record(1.0), record(0.5), record(0.2)], 1, 3),
        ([record(1.0, 1.0, 0.5), record(0.5, 0.5, 1.0)], 3, 2),
    ],
)
def test_liveliness_counts_views_and_values_of_valid_rollouts(
    records: list[RewardRecord], views: int, values: int
) -> None:
    assert liveliness(records)[:2] == (views, values)


def completions(*prompts: tuple[int, str, list[RewardRecord]]) -> pd.DataFrame:
    rows = [
        {
            "step": step,
            "prompt": prompt,
            "completion": f"{prompt} {i}",
            "multi_view_reward": r.total,
            "level": r.level,
            "views": json.dumps([r.ndcg, r.recall, r.rbo]),
            "advantage": 0.0,
        }
        for step, prompt, records in prompts
        for i, r in enumerate(records)
    ]
    return pd.DataFrame(rows)


FORM = (2, "form", [record(1.0), record(None)])
ALIKE = (2, "alike", [record(1.0), record(1.0)])
LIVELY = (4, "lively", [record(1.0, 1.0, 0.5), record(0.5, 0.5, 1.0)])


def test_the_group_shown_differs_in_the_views_and_not_in_the_form_alone() -> None:
    frame = completions(FORM, ALIKE, LIVELY, (6, "later", [record(0.9), record(0.8)]))
    group = groups.lively_group_of(frame, 2)
    assert list(group.rollouts["prompt"]) == ["lively", "lively"] and "of update 4" in group.chosen
    assert "1 in all three views, 0 in two views, 1 in one view. 1 differ in form alone, 1 in nothing" in group.chosen
    again = groups.lively_group_of(frame, 2)
    pd.testing.assert_frame_equal(group.rollouts, again.rollouts)
    table = groups.rollout_table(group)
    assert list(table.columns) == ["level", "ndcg", "recall", "rbo", "reward", "advantage"]
    assert list(table["recall"]) == [1.0, 0.5]
    assert len(group_in_views(group.rollouts).axes) == 4


def test_a_run_without_a_lively_group_says_so() -> None:
    group = groups.lively_group_of(completions(ALIKE, FORM), 2)
    assert group.rollouts["prompt"][0] == "form" and "no group shows two rankings" in group.chosen
    with pytest.raises(InputError, match="no prompt has 3"):
        groups.lively_group_of(completions(ALIKE), 3)


def test_a_group_is_led_back_to_its_example() -> None:
    rows = [Row(example("a"), "other", ()), Row(example("b"), "lively", ())]
    frame = completions(LIVELY)
    group = groups.lively_group_of(frame, 2)
    assert groups.example_of(group, rows).query.qid == "b"
    assert "was among the 1 prompts" in groups.was_prompt(rows[1].example, frame, rows)
    assert "was not among" in groups.was_prompt(rows[0].example, frame, rows)
    with pytest.raises(InputError, match="none of these examples"):
        groups.example_of(group, rows[:1])


def test_the_first_broken_answer_is_shown_and_else_the_first() -> None:
    assert sentences.first_broken(pd.DataFrame({"level": ["valid", "bad_list", "bad_format"]})) == 1
    assert sentences.first_broken(pd.DataFrame({"level": ["valid", "valid"]})) == 0


# --- sentences --------------------------------------------------------------------------------------------------------
def climb(ndcg: float, word: str) -> pd.DataFrame:
    rows = {"first steps": [0.5, 0.5], "last steps": [0.5 + ndcg, 0.4], "it": [word, "cannot be told"]}
    return pd.DataFrame(rows, index=["ndcg", "recall"])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (sentences.climb_words(climb(0.1, "climbed")), "largest rise is NDCG (+0.100); a climb can be told of NDCG."),
        (sentences.climb_words(climb(-0.05, "fell")), "No view rose; of no view"),
        (sentences.reward_words([record(1.3), record(0.1)], {"ndcg": 1.3}), "earns 1.300, all there is; backwards it"),
        (sentences.reward_words([record(1.0), record(0.1)], {"ndcg": 1.3}), "of 1.300 at most"),
        (sentences.loss_words([{"loss": 2.0}, {"loss": 1.0}, {"other": 1}, {"loss": 0.5}]), "2.000 in the first 1 up"),
        (
            sentences.agreement_words(example("a")),
            "Passages selected: 2; of these in the first 2 places of the list: 0.",
        ),
        (sentences.agreement_words(example("a", (2, 0, 3, 1))), "of the list: 1."),
        (sentences.agreement_words(None), "No example"),
        (sentences.consistency_words([1.0, 0.2, 0.6, 1.0], 0.4), "50% of 4 lists have"),
        (sentences.consistency_words([], 0.4), "No list"),
        (sentences.alpha_words(pd.DataFrame()), "No labels"),
        (sentences.difference_words(["a b [1] yes", "a b [1] no", "c [2]"], 2), "2 different beginnings"),
        (sentences.belief_words(pd.DataFrame({"before": [1]}, index=["wrong belief"])), "does not say"),
    ],
)
def test_a_sentence_says_what_its_numbers_say(said: str, words: str) -> None:
    assert words in said


def test_the_answer_that_changed_most_is_shown_and_the_changes_are_counted() -> None:
    before = pd.DataFrame({"qid": list("abc"), "ndcg": [0.5, 0.5, 0.9], "text": ["x", "y", "z"]})
    after = before.assign(ndcg=[0.6, 0.5, 0.2], text=["x2", "y2", "z2"])
    row, words = sentences.changed_most(before, after)
    assert row == 2 and "3 of 3 answers differ from before, 1 rank better, 1 worse" in words
    row, words = sentences.changed_most(before, before)
    assert row == 0 and "0 of 3 answers" in words and "Shown is one: a" in words
    words = sentences.gain_words(before, before.assign(ndcg=[0.8, 0.8, 1.2]))
    assert "+0.300 [+0.300, +0.300] over 3 queries: they got better" in words


# --- texts, tables, source --------------------------------------------------------------------------------------------
def test_source_is_the_librarys_own_lines() -> None:
    seen = shown.source(kl)
    assert "log_ratio = reference_BT - logp_BT" in repr(seen) and "rrlib.training.objective.kl" in seen._repr_html_()
    assert "    log_ratio" in repr(seen) and "white-space:pre-wrap" in seen._repr_html_()


def test_texts_wrap_at_words_and_are_escaped() -> None:
    html = shown.texts({"<b>": "a" * 30, "none": ""}, limit=10)._repr_html_()
    assert "&lt;b&gt;" in html and "a" * 10 + " [...]" in html and "(nothing)" in html
    assert "word-break:normal" in html and "break-all" not in html


def test_a_table_fits_the_page_with_texts_on_the_left_and_intervals_on_one_line() -> None:
    frame = pd.DataFrame({"text": ["a < b", "c"], "n": [1.0, 0.25], "gap": ["+0.1 [-0.1, +0.2]", ""]})
    frame.loc[1, "n"] = float("nan")
    html = shown.table(frame)._repr_html_()
    assert f"max-width:{shown.WIDTH}px" in html and "a &lt; b" in html and "nan" not in html
    assert '<td style="text-align:left;overflow-wrap:break-word">a' in html
    assert '<td style="text-align:left;white-space:nowrap">+0.1 [-0.1, +0.2]</td>' in html
    assert '<td style="text-align:right;white-space:nowrap">1.0</td>' in html


def test_counting_counts_and_shows_nothing_outside_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    with shown.Counting("windows", 2, every=0) as count:
        count("anything")
        count()
    assert count.n == 2 and capsys.readouterr().out == ""


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a notebook's line says, each time that it is written."""
    lines: list[str] = []
    line = SimpleNamespace(update=lambda data, raw: lines.append(data["text/plain"]))
    monkeypatch.setattr("rrlib.notebook.in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: line)
    return lines


def test_a_bar_fills_without_being_called_and_closes(written: list[str], tmp_path: Path) -> None:
    with shown.Counting("windows", 4, every=0.01, logs=(tmp_path, "*/w*.jsonl")) as count:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "windows.jsonl").write_text("{}\n{}\n")
        deadline = time.monotonic() + 20
        while count.n < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        (tmp_path / "a" / "windows.jsonl").write_text("{}\n{}\n{}\n")
    assert any(line.startswith("██████████░░░░░░░░░░ 2 of 4 windows, 0 s") for line in written)
    assert written[-1] == "3 windows: 0 s"


def test_a_bar_that_broke_off_says_so(written: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt), shown.Counting("prompts encoded", every=0.01):
        time.sleep(0.05)
        raise KeyboardInterrupt
    assert "prompts encoded, 0 s" in written and written[-1] == "prompts encoded: 0 s, stopped by KeyboardInterrupt"


# --- the drawing of the world -----------------------------------------------------------------------------------------
def words_of(figure: Any) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.axes[0].texts).split())


def test_the_drawing_holds_cues_rivals_evidence_and_the_teachers_rates() -> None:
    drawn, rates = sketch(), ErrorRates()
    words = words_of(world_drawing(drawn))
    for part in (*drawn.cues, *drawn.rivals, drawn.concept, drawn.evidence, f"{rates.systematic:.0%}"):
        assert part in words
    assert f"{rates.wrong_belief:.0%}" in words
    assert "50% of the pairs" in words_of(world_drawing(sketch(EXAMPLE, systematic=0.5)))


def test_another_worlds_query_gets_the_example_and_a_wrong_one_is_refused() -> None:
    assert sketch({"domain": "x"}) == sketch() and sketch().rivals == ("condensation", "evaporation")
    with pytest.raises(InputError, match="no concept of this world"):
        sketch({**EXAMPLE, "concept": "luck"})
