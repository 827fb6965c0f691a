"""Faults that a reader of the lesson met: its copies, groups, sentences and tables, the embedded world, the doors."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from scripted_engine import BEST, TEXTS, Scripted, by_gain

from rrlib import Reranker
from rrlib.adapters.shared import question
from rrlib.cli import main
from rrlib.engines import Decoding, Reply, Request
from rrlib.errors import EngineError, InputError
from rrlib.evaluation import Listwise, from_collection
from rrlib.formats import read_collection
from rrlib.lesson import explain, sentences, shown, story, trust
from rrlib.lesson.copies import MARK, build_lesson, lesson_notebooks
from rrlib.lesson.exercises import check_exercise
from rrlib.lesson.pages import export_html
from rrlib.lesson.tables import ablation_view, split_sizes
from rrlib.miniature.generate import build
from rrlib.reward import MultiViewReward
from rrlib.templates import whole_response
from rrlib.training.card import Facts, model_card
from rrlib.types import Passage

SIZES = {"train": 2, "validation": 1, "test": 1, "pool": 6}


# --- copies -----------------------------------------------------------------------------------------------------------
def test_an_older_lesson_is_renamed_and_never_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "class"
    build_lesson(folder)
    for work in ("first", "second"):
        (folder / "00_tour.ipynb").write_text(work)
        assert main(["lesson", str(folder), "--fresh"]) == 0
    assert (tmp_path / "class.1" / "00_tour.ipynb").read_text() == "first"
    assert (tmp_path / "class.2" / "00_tour.ipynb").read_text() == "second"
    assert str(tmp_path / "class.2") in capsys.readouterr().out
    (folder / "00_tour.ipynb").write_text("third")
    monkeypatch.chdir(folder)
    build_lesson(".", fresh=True)
    assert (tmp_path / "class.3" / "00_tour.ipynb").read_text() == "third"
    assert (folder / "00_tour.ipynb").read_text() != "third"


def test_a_lesson_that_was_broken_off_can_be_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("rrlib.lesson.copies.question", broken)
        build_lesson(tmp_path / "class")
    assert len(build_lesson(tmp_path / "class", fresh=True)) == len(lesson_notebooks())
    assert (tmp_path / "class" / MARK).is_file()


# --- groups -----------------------------------------------------------------------------------------------------------
WINDOW = [("why?", [Passage(str(n), text) for n, text in enumerate(TEXTS)])]
INSIDE = "by gain </think> <answer> [1] > [2] > [3] > [4] > [5] > [6] > [7] > [8] </answer>"


class Seeded(Scripted):
    """It answers by the seed of each request, and keeps the requests."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Request] = []

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        assert len({request.id for request in requests}) == len(requests)
        self.asked += requests
        super().submit(requests, decoding)

    def _reply(self, request: Request) -> Reply:
        return Reply(f"<think> {request.seed} </think>")


def test_a_group_is_of_different_answers_and_the_same_seed_gives_it_again() -> None:
    reranker = Reranker(Seeded())
    two = explain.rollouts(reranker, WINDOW * 2, 4, seed=7)
    assert [len(group) for group in two] == [4, 4] and len({text for group in two for text in group}) == 8
    assert explain.rollouts(reranker, WINDOW * 2, 4, seed=7) == two
    assert explain.rollouts(reranker, WINDOW, 4, seed=8) != two[:1]


def test_the_groups_of_transformers_are_drawn_as_before() -> None:
    """It draws a batch from one stream, which the first request's number begins; a seed of its own would change it."""
    engine = Seeded()
    engine.name = "transformers"
    explain.rollouts(Reranker(engine), WINDOW, 3, seed=7)
    assert [(request.id, request.seed) for request in engine.asked] == [(0, None), (1, None), (2, None)]


def test_a_rollout_begins_with_what_its_prompt_began() -> None:
    reranker = by_gain(INSIDE, INSIDE)
    (group,) = explain.rollouts(reranker, WINDOW, 2)
    assert group == ["<think>" + INSIDE] * 2
    labels = [1, *[0] * 7]
    assert MultiViewReward().score(group[0], labels, list(range(8))).level == "valid"


def test_a_rollout_that_fails_leaves_the_engine_free() -> None:
    reranker = by_gain(Reply(error="broken"))
    with pytest.raises(EngineError, match="broken"):
        explain.rollouts(reranker, WINDOW, 2)
    assert reranker.engine.waiting == [] and reranker.rank("q", TEXTS)[0].text == TEXTS[BEST[0]]  # type: ignore[attr-defined]


def test_a_block_that_the_model_opens_again_is_begun_once() -> None:
    assert whole_response("a\n<think>\n", "\n<think> x </think>", True) == "\n<think> x </think>"
    assert whole_response("a\n<think>\n", " x </think>", True) == "<think> x </think>"


# --- trust ------------------------------------------------------------------------------------------------------------
def test_trust_asks_as_the_system_did(tmp_path: Path) -> None:
    data = from_collection(read_collection(build(tmp_path, seed=7, train=0, validation=0, test=2, pool=10)))
    system = Listwise("package:rrlib.miniature/reranker", "numpy", strategy="tournament", passes=2)
    made = trust._reranker(Scripted(), system, data)
    assert (made.strategy.name, made.strategy.passes, made.with_first_stage) == ("tournament", 2, None)
    fits = replace(system, strategy="sliding_window", window=10, stride=5, decoding=Decoding(64))
    fits = replace(fits, context=300, fit="window", with_first_stage=True)
    wanted = fits.fitting_sizes(data, fits.candidates(data))
    made = trust._reranker(Scripted(), fits, data)
    assert (made.strategy.size, made.strategy.stride) == (wanted["window"], wanted["stride"]) != (10, 5)
    assert made.with_first_stage is True


# --- sentences --------------------------------------------------------------------------------------------------------
def test_an_alpha_that_is_not_on_the_grid_is_tried_too() -> None:
    frame = pd.DataFrame({"consistency": [1.0, 0.8, 0.72, 0.3], "first_right": [1, 1, 0, 0], "quality": 1.0})
    said = story.verdict_on(0.75, frame, (0.0, 0.7, 0.9))
    assert said == "best F1 on 4 validation lists: 1.000 at alpha 0.75, which is used"
    assert "at alpha 0.75; used is 0.7, lower by 0.200" in story.verdict_on(0.7, frame, (0.0, 0.75, 0.9))


@pytest.mark.parametrize(
    ("labels", "reward", "words"),
    [
        ([1] * 3 + [0] * 3, MultiViewReward(k=3), "all there is"),
        ([0] * 3 + [1] * 3, MultiViewReward(k=3), "its own labels disagree with it"),
        ([1] * 4 + [0] * 2, MultiViewReward(k=3), "at most: more passages are relevant than the cut-off counts"),
        ([0] * 6, MultiViewReward(k=3), "at most: no passage that counts is relevant"),
        ([1] * 3 + [0] * 3, MultiViewReward(k=3, p=0.9), "at most: its likeness to itself (RBO)"),
    ],
)
def test_why_a_gold_list_earns_less_than_all(labels: list[int], reward: MultiViewReward, words: str) -> None:
    lists = [" > ".join(f"[{n}]" for n in order) for order in (range(1, 7), range(6, 0, -1))]
    texts = [f"<think> a </think> <answer> {order} </answer>" for order in lists]
    scored = reward.score_group(texts, labels, list(range(6)))
    said = sentences.reward_words(scored, reward.weights)
    assert words in said and ("disagree" in said) == ("disagree" in words)


def test_the_cut_off_of_a_consistency_is_named() -> None:
    assert "on top (as far as the cut-off counts), 50% lie below" in sentences.consistency_words([1.0, 0.2], 0.4)


@pytest.mark.parametrize(
    ("form", "words"),
    [(float("nan"), ""), (0.004, ""), (0.3, "Broken form has 30% of all |advantage|."), (0.5, "is about form.")],
)
def test_most_of_the_advantage_is_about_form_from_one_half_on(form: float, words: str) -> None:
    frame = pd.DataFrame({"groups": 1, "share of |advantage|": form}, index=["form", "ndcg", "several", "nothing"])
    said = sentences.by_view_words(frame.assign(**{"their share of |advantage|": 0.3}))
    assert words in said and ("form has" in said) == bool(words) and ("about form" in said) == (form >= 0.5)


def test_a_part_without_updates_has_no_loss() -> None:
    assert sentences.loss_words([{"loss": 2.0}]) == "Loss of the only update: 2.000."
    assert sentences.loss_words([{"other": 2.0}]) == "No loss was logged."


# --- tables, exercises, pages -----------------------------------------------------------------------------------------
def test_what_is_not_zero_is_not_shown_as_zero() -> None:
    column = pd.Series([0.0004, -0.0001, 0.5, 0.0, 1e-17, float("nan"), 0.0007])
    assert shown._alike(column) == ["<0.001", ">-0.001", "0.500", "0.000", "0.000", "", "0.001"]
    parts = {"nDCG@10": 0.5, "seeds": "0.5", "valid": 1.0, "tokens": 9.0, "difference": 0.1, "low": 0.0, "high": 0.2}
    parts |= {"p (Holm)": 0.5, "p (seeds)": 0.00003, "paper": 1.0, "graded in words": ""}
    result = pd.DataFrame([parts], index=["a"])
    assert "&lt;0.001" in shown.table(ablation_view(result))._repr_html_()


def test_a_split_is_left_out_where_nothing_is_there_and_not_where_it_is_broken(tmp_path: Path) -> None:
    folder = build(tmp_path / "world", seed=7, train=2, validation=0, test=1, pool=6)
    assert list(split_sizes(folder).columns) == ["train", "test"]
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nnobody\tm1\t1\n")
    with pytest.raises(InputError, match=r"train\.tsv"):
        split_sizes(folder)
    (folder / "corpus.jsonl").write_text("no json\n")
    for kind in ("qrels", "runs", "graded"):
        for path in (folder / kind).iterdir():
            path.unlink()
    with pytest.raises(InputError, match=r"corpus\.jsonl"):
        split_sizes(folder)
    with pytest.raises(InputError, match="no such collection folder"):
        split_sizes(tmp_path / "nowhere")


class Unsayable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def leave(values: list[int]) -> Any:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (functools.partial(max, default=0), "right: all 2 cases hold"),
        (functools.partial(lambda a, b: a, 1), "not yet: partial([3, 1]) gives 1, too little"),
        (leave, "raises SystemExit: 3"),
        (lambda values: values.sort() or values[-1], "right: all 2 cases hold"),
        (lambda values: values.pop(0), "right: all 2 cases hold"),
        (lambda values: 10**400, "raises OverflowError"),
        (lambda values: Unsayable(), "raises RuntimeError: no"),
        (None, "raises TypeError"),
    ],
)
def test_a_check_never_raises_and_its_cases_stay_as_they_are(function: Any, words: str) -> None:
    shared = [3, 1]
    assert words in check_exercise(function, [((shared,), 3), ((shared,), 3)])
    assert shared == [3, 1]


def test_true_is_no_number() -> None:
    assert "gives True, a number is wanted" in check_exercise(lambda: True, [((), 1)])
    assert check_exercise(lambda: True, [((), True)]).startswith("right")


def test_a_page_keeps_web_links_and_names_no_place(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook()
    text = "see https://github.com/x/rrlib/issues or /home/me/rrlib/a.py or file:///home/me/outputs/b"
    notebook.cells = [nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("stream", text=text)])]
    nbformat.write(notebook, tmp_path / "a.ipynb")
    page = export_html(tmp_path / "a.ipynb", tmp_path).read_text(encoding="utf-8")
    assert "https://github.com/x/rrlib/issues" in page and "or rrlib/a.py" in page and "home" not in page


# --- the embedded world -----------------------------------------------------------------------------------------------
def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_world_that_is_built_again_is_as_a_new_one_and_foreign_files_stay(tmp_path: Path) -> None:
    folder = build(tmp_path / "again", seed=1, **SIZES, hard=3)
    (folder / "runs" / "test.mine.trec").write_text("mine")
    build(folder, seed=2, **{**SIZES, "validation": 0})
    new = build(tmp_path / "new", seed=2, **{**SIZES, "validation": 0})
    assert files_of(folder) == files_of(new) | {"runs/test.mine.trec": b"mine"}


def test_a_world_that_is_half_built_does_not_pass_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(tmp_path, seed=1, **SIZES)

    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rrlib.miniature.generate.write_qrels", broken)
    with pytest.raises(KeyboardInterrupt):
        build(folder, seed=2, **SIZES)
    assert not (folder / "SOURCE.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"relevant": [15, 15], "topics_per_evidence": 1, "pool": 30}, "15 relevant passages of .*, and 6 can be had"),
        ({"domains": ["coding"], "topics_per_evidence": 1, "pool": 96}, "96 candidates for .* can be had"),
        ({"hard": -1}, "hard is -1"),
    ],
)
def test_what_the_world_cannot_give_is_refused_and_nothing_is_touched(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    before = files_of(build(tmp_path, seed=1, **SIZES))
    with pytest.raises(InputError, match=words):
        build(tmp_path, seed=1, **(SIZES | options))
    assert files_of(tmp_path) == before


# --- doors and cards --------------------------------------------------------------------------------------------------
def test_results_with_the_first_stage_are_others_in_mtebs_cache() -> None:
    from rrlib.adapters import mteb

    revisions = [
        mteb.RerankSearch(by_gain(**options)).mteb_model_meta.revision
        for options in ({}, {"with_first_stage": False}, {"with_first_stage": True})
    ]
    assert revisions[0] == revisions[1] != revisions[2]
    assert revisions[0] == mteb.hash_text(json.dumps(by_gain().settings(), sort_keys=True, default=str))[:12]


def test_a_replaced_reranker_is_asked_by_langchain() -> None:
    from rrlib.adapters import langchain as door

    first, second, third = by_gain(), by_gain(), by_gain()
    made = door.RerankCompressor(reranker=first)
    documents = [door.Document(text) for text in TEXTS]
    copy = made.model_copy(update={"reranker": second})
    copy.compress_documents(documents, "q")
    assert (first.engine.calls, second.engine.calls, made.tally.windows, copy.tally.windows) == (0, 1, 0, 1)
    made.reranker = third
    made.compress_documents(documents, "q")
    assert (first.engine.calls, third.engine.calls) == (0, 1)


def test_a_replaced_reranker_is_asked_by_llama_index() -> None:
    from llama_index.core.schema import TextNode

    from rrlib.adapters import llama_index as door

    first, second = by_gain(), by_gain()
    made = door.RerankPostprocessor(first)
    made.reranker = second
    nodes = [door.NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    made.postprocess_nodes(nodes, query_str="q")
    assert (first.engine.calls, second.engine.calls, made.tally.windows) == (0, 1, 1)


def test_a_question_without_texts_is_named() -> None:
    with pytest.raises(InputError, match=r"query q7: .*no document has a text.* -> "):
        question("why?", ["", " "], "q7")
    with pytest.raises(InputError, match="query q8: "):
        question("", ["a"], "q8")
    with pytest.raises(InputError, match=r"^no document has a text"):
        question("why?", ["", " "])


def test_pyterrier_names_the_query_whose_candidates_have_no_text(caplog: pytest.LogCaptureFixture) -> None:
    from rrlib.adapters import pyterrier as door

    caplog.set_level(logging.ERROR)
    frame = pd.DataFrame({"qid": ["q1", "q2"], "query": "why?", "docno": "d", "text": ["gain 1", None], "score": 1.0})
    with pytest.raises(InputError, match="query q2: "):
        door.Reranker(by_gain())(frame.assign(rank=0))


ANSWERS = {
    "reasonrank": "A listwise reasoning reranker: supervised fine-tuning on a teacher's reasoning and ranked lists; "
    "loss on the response alone. Prompt style `reasonrank` of rrlib; the model answers `<think> ... </think> <answer> "
    "[2] > [1] > ... </answer>` to a query and a window of passages (method: ReasonRank, arXiv 2508.07050).",
    "nothink_tags": "model answers `<answer> [2] > [1] > ... </answer>` to a query and a window of passages",
    "nothink": "A listwise reranker: supervised fine-tuning on a teacher's ranked lists; loss",
    "pointwise": "answers `<think> ... </think> true` or `<think> ... </think> false` to a query and one passage.",
    "pointwise_nothink": "A pointwise reranker: supervised fine-tuning on a teacher's judgements; loss",
}


@pytest.mark.parametrize("style", ANSWERS)
def test_a_card_says_what_its_style_answers(style: str) -> None:
    text = model_card(Facts("sft", "org/model", 3, 0, info={"style": style}), [])
    assert ANSWERS[style] in text and ("<think>" in text) == (style in ("reasonrank", "pointwise"))
    assert "base_model: org/model" in text


@pytest.mark.parametrize("model", ["~/secret/me", "/secret/gone/me", "../secret/me", "./secret/me"])
def test_a_card_names_no_place_of_a_machine(model: str) -> None:
    text = model_card(Facts("sft", model, 3, 0), [])
    assert "# me, after SFT" in text and "secret" not in text and "base_model" not in text
    assert "# run, checkpoint, after" in model_card(Facts("sft", "/secret/run/checkpoint", 3, 0), [])
