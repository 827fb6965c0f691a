"""A judge of single passages as teacher, and what the self-consistency filter drops of its lists."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rrlib.chain.from_profile import open_teacher
from rrlib.engines.base import Decoding, Reply, Request
from rrlib.errors import InputError, StageError
from rrlib.evaluation.faithfulness import agreement, read_chain
from rrlib.formats import Collection, read_collection, read_examples, read_jsonl
from rrlib.studies import filtered
from rrlib.synthesis.domains import recipe_for
from rrlib.synthesis.judge import JudgeTeacher, grade_of
from rrlib.synthesis.pipeline import synthesize
from rrlib.synthesis.prompts import rank_messages, select_messages
from rrlib.synthesis.results import SynthesisResult
from rrlib.synthesis.sources.judged_folder import Judged, write_judged
from rrlib.types import Hit, Passage, Query

POOL = 20  # one window holds all, so that the place of the relevant passage is known
PLACES = {"q0": 1, "q1": 2, "q2": 4, "q3": 5, "q4": 20}
"""Where the judge puts the relevant passage of each query, 1 the first."""
RETRIEVED = {"q0": 1, "q1": 3, "q2": 2, "q3": 8, "q4": 1}
WORTH = {1: 1.0, 2: 0.6309, 4: 0.4307, 5: 0.3869, 20: 0.0}
"""NDCG@10 of a list with one relevant passage at that place."""


def relevant_of(qid: str) -> int:
    return int(qid[1]) + 2


def with_relevant_at(qid: str, place: int) -> list[int]:
    """Passages in the order of their numbers, the relevant one at a place of its own."""
    others = [i for i in range(POOL) if i != relevant_of(qid)]
    return [*others[: place - 1], relevant_of(qid), *others[place - 1 :]]


def make_folder(root: Path) -> Path:
    """Queries q0 to q4 with a relevant passage, and q5, of whose candidates none is. Point 0 was asked about with the
    argument q0, of the same topic and stance as q3, and left undecided for q3; point 1 was judged for q4, and
    does not match."""
    judged = Judged("argkp", {"data_kind": "real", "licence": "ours"})
    judged.corpus = {f"d{i}": Passage(f"d{i}", f"point {i}.") for i in range(POOL)} | {"far": Passage("far", "far off")}
    run = {}
    for qid in ("q0", "q1", "q2", "q3", "q4", "q5"):
        judged.queries[qid] = Query(qid, f"argument {qid}")
        relevant = "far" if qid == "q5" else f"d{relevant_of(qid)}"
        judged.qrels[qid] = {relevant: 1} | {"q0": {"d0": 0}, "q4": {"d1": 0}}.get(qid, {})
        judged.metadata[qid] = {
            "split": "train", "domain": "argument", "gold_answer": "so",
            "topic": "nails" if qid in ("q0", "q3") else qid, "stance": "1",
        }  # fmt: skip
        order = with_relevant_at(qid, RETRIEVED.get(qid, 1))
        run[qid] = [Hit(f"d{i}", float(POOL - rank), rank + 1) for rank, i in enumerate(order)]
    judged.runs = {"": {"train": run}, "stem": {"train": run}}
    return write_judged(root, judged)


class Judge:
    """Gives the relevant passage the place that it is told to; a passage in `broken` gets that reply instead."""

    name, model, capacity = "stub", "runs/judge", 8

    def __init__(self, places: dict[str, int] | None = None, broken: dict[tuple[str, int], Reply] | None = None):
        self.places, self.broken = places or PLACES, broken or {}
        self.calls = 0
        self._waiting: list[Request] = []

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self.calls += len(requests)
        self._waiting += requests

    def collect(self) -> list[tuple[int, Reply]]:
        waiting, self._waiting = self._waiting, []
        return [(request.id, self._reply(request)) for request in waiting]

    def _reply(self, request: Request) -> Reply:
        text = request.messages[-1]["content"]
        assert "Gold answer" not in text, "the teacher ranks without it"
        (qid,), (point,) = re.findall(r"argument (q\d)", text), re.findall(r"point (\d+)", text)
        place = with_relevant_at(qid, self.places[qid]).index(int(point))
        chance = 0.9 - place / 100
        yes, no = request.choices
        scored = Reply(logprobs={yes: math.log(chance), no: math.log(1 - chance)}, tokens_in=3)
        return self.broken.get((qid, int(point)), scored)

    def cancel(self) -> None:
        self._waiting = []

    def close(self) -> None:
        pass


def teacher_of(folder: Path, engine: Judge, **options: Any) -> JudgeTeacher:
    return JudgeTeacher(folder, checkpoint=engine, style="pointwise_nothink", **options)


def made(folder: Path, engine: Judge, output: Path, **options: Any) -> SynthesisResult:
    collection = read_collection(folder, "train", first_stage="stem")
    return synthesize(collection, teacher_of(folder, engine), output, style="nothink", seed=7, **options)


# --- the teacher -----------------------------------------------------------------------------------------------------


def test_people_select_and_the_judge_ranks(tmp_path: Path) -> None:
    folder, engine = make_folder(tmp_path / "argkp"), Judge()
    options = {"checkpoint": engine, "style": "pointwise_nothink", "max_passage_tokens": 48}
    teacher = open_teacher("rrlib.synthesis.judge:JudgeTeacher", folder, seed=7, options=options)  # as a profile does
    assert isinstance(teacher, JudgeTeacher) and teacher.model == "judge, human labels"
    assert teacher.settings["max_passage_tokens"] == 48 and teacher.settings["style"] == "pointwise_nothink"
    shown, recipe = [Passage(f"d{i}", f"point {i}.") for i in (9, 3, 0)], recipe_for("argument")

    def ask(messages: Any) -> Reply:
        return asyncio.run(teacher.chat(messages, Decoding()))

    chosen = ask(select_messages(recipe, "argument q1", "so", shown))
    assert chosen.text == "[2]" and chosen.extra["data_kind"] == "human" and engine.calls == 0
    ranked = ask(rank_messages(recipe, "argument q1", shown))
    assert ranked.text == "[3] > [2] > [1]" and ranked.reasoning == "" and engine.calls == 3  # each passage alone
    assert ranked.tokens_in == 9 and ranked.extra.get("data_kind", "real") == "real"
    assert ask([{"role": "user", "content": "hello"}]).error


@pytest.mark.parametrize(("chance", "grade"), [(0.0, 0), (0.0999, 0), (0.1, 1), (0.55, 5), (0.9999, 9), (1.0, 9)])
def test_a_grade_is_a_tenth_of_a_probability(chance: float, grade: int) -> None:
    assert grade_of(chance) == grade


def test_a_graded_chain_and_its_list_say_the_same(tmp_path: Path) -> None:
    folder, engine = make_folder(tmp_path / "argkp"), Judge()
    teacher = teacher_of(folder, engine, form="graded", words=1)
    shown, recipe = [Passage(f"d{i}", f"point {i}.") for i in (9, 3, 0, 1)], recipe_for("argument")

    def ask(passages: list[Passage]) -> Reply:
        return asyncio.run(teacher.chat(rank_messages(recipe, "argument q1", passages), Decoding()))

    first = ask(shown)  # chances 0.81, 0.88, 0.90, 0.89: places 9, 2, 0 and 1 of the judge's order
    assert first.reasoning == "[1] point: 8\n[2] point: 8\n[3] point: 9\n[4] point: 8"
    assert first.text == "[3] > [1] > [2] > [4]"  # equal grades as shown
    reading = read_chain(first.reasoning, 4)
    assert reading.said == "grades" and agreement(reading.levels, (2, 0, 1, 3)) == 1.0
    calls = engine.calls
    again = ask(shown[1:3])
    assert again.text == "[2] > [1]" and engine.calls == calls and again.tokens_in == 0  # judged before
    assert ask([shown[0], Passage("d7", "point 7.")]).text == "[1] > [2]" and engine.calls == calls + 2


def test_graded_lists_make_examples_that_reason(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "argkp")
    collection = read_collection(folder, "train", first_stage="stem")
    made = synthesize(collection, teacher_of(folder, Judge(), form="graded"), tmp_path / "out", seed=7, alpha=0.0)
    examples = read_examples(made.examples)
    assert sorted(example.query.qid for example in examples) == ["q0", "q1", "q2", "q3", "q4"]
    for example in examples:
        levels = read_chain(example.reasoning, len(example.passages)).levels
        assert set(levels.values()) == {7, 8, 9} and agreement(levels, example.gold) == 1.0
    with pytest.raises(StageError, match=r"teacher.form"):
        synthesize(collection, teacher_of(folder, Judge()), tmp_path / "out", seed=7, style="nothink")
    with pytest.raises(InputError, match="form 'tree'"):
        teacher_of(folder, Judge(), form="tree")


def test_the_filter_drops_what_people_contradict(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "argkp")
    result = made(folder, Judge(), tmp_path / "out")
    assert result.summary["dropped"] == {"below_alpha": 2, "nothing_selected": 1}
    kept = {example.query.qid: example for example in read_examples(result.examples)}
    assert sorted(kept) == ["q0", "q1", "q2"]
    for qid, example in kept.items():
        assert example.reasoning == "" and example.meta["teacher_kind"] == example.meta["data_kind"] == "real"
        assert example.meta["consistency"] == pytest.approx(WORTH[PLACES[qid]], abs=1e-4)
        docids = [example.passages[i].docid for i in example.gold]
        assert docids == [f"d{i}" for i in with_relevant_at(qid, PLACES[qid])]
    dropped = {row["qid"]: row.get("consistency") for _, row in read_jsonl(result.dropped)}
    assert dropped == {"q3": pytest.approx(WORTH[5], abs=1e-4), "q4": 0.0, "q5": None}


def test_it_goes_on_and_another_alpha_asks_nothing(tmp_path: Path) -> None:
    folder, first, second = make_folder(tmp_path / "argkp"), Judge(), Judge()
    made(folder, first, tmp_path / "out", limit=2)
    result = made(folder, second, tmp_path / "out")
    assert first.calls + second.calls == POOL * len(PLACES) and min(first.calls, second.calls) > 0
    third = Judge()
    assert made(folder, third, tmp_path / "out", alpha=0.6).summary["examples"] == 2 and third.calls == 0
    assert result.summary["examples"] == 3
    changed = teacher_of(folder, Judge(), max_passage_tokens=9)
    with pytest.raises(StageError, match=r"teacher.max_passage_tokens"):
        synthesize(read_collection(folder, "train"), changed, tmp_path / "out", style="nothink", seed=7)


@pytest.mark.parametrize("reply", [Reply(error="out of order"), Reply("true")])
def test_a_list_with_a_passage_that_was_not_judged_is_no_label(tmp_path: Path, reply: Reply) -> None:
    """At inference such a passage keeps its place; here that place would stand under the teacher's name."""
    folder = make_folder(tmp_path / "argkp")
    result = made(folder, Judge(broken={("q1", 7): reply}), tmp_path / "out")
    assert result.summary["dropped"] == {"below_alpha": 2, "call_failed": 1, "nothing_selected": 1}
    assert {row["qid"] for _, row in read_jsonl(tmp_path / "out" / "rank.jsonl")} == {"q0", "q2", "q3", "q4"}
    assert made(folder, Judge(), tmp_path / "out").summary["dropped"] == {"below_alpha": 2, "nothing_selected": 1}


def test_a_style_of_lists_is_no_judge(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pointwise"):
        JudgeTeacher(make_folder(tmp_path / "argkp"), checkpoint=Judge(), style="reasonrank")


# --- the study -------------------------------------------------------------------------------------------------------


def lists_of(folder: Path, output: Path) -> tuple[Collection, list[filtered.Listed]]:
    collection = read_collection(folder, "train", first_stage="stem")
    return collection, filtered.read_lists(output, collection, 7)


def test_what_the_filter_drops(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "argkp")
    made(folder, Judge(), tmp_path / "out")
    _, lists = lists_of(folder, tmp_path / "out")
    by_qid = {row.qid: row for row in lists}
    assert {qid: round(row.judge, 4) for qid, row in by_qid.items()} == {q: WORTH[p] for q, p in PLACES.items()}
    expected = {qid: 1 / math.log2(place + 1) for qid, place in RETRIEVED.items()}
    assert {qid: row.retrieved for qid, row in by_qid.items()} == pytest.approx(expected)
    assert [qid for qid, row in by_qid.items() if row.first_right] == ["q0"]
    assert [qid for qid, row in by_qid.items() if row.undecided] == ["q3"]
    assert all(len(set(row.shuffled)) > 1 for row in lists)

    found = filtered.report(lists, (0.0, 0.4, 0.6), seed=7)
    assert found["lists"] == 5 and found["judge"] == pytest.approx(sum(WORTH.values()) / 5, abs=1e-4)
    assert (found["distribution"]["kept"]["n"], found["distribution"]["dropped"]["n"]) == (3, 2)
    assert found["distribution"]["dropped"]["zero"] == 0.5 and found["distribution"]["kept"]["one"] == 1 / 3
    none, paper, high = found["alphas"]
    assert (none["kept"], none["dropped"], none["ndcg dropped"], none["better"]) == (5, 0, None, None)
    assert (paper["kept"], paper["share"][0], paper["precision"], paper["recall"]) == (3, 0.6, 1 / 3, 1.0)
    assert paper["ndcg dropped"] == pytest.approx(WORTH[5] / 2, abs=1e-4)
    assert (paper["better"], paper["worse"]) == (0.5, 0.5)  # q3, q4
    assert (paper["undecided kept"], paper["undecided dropped"]) == (0.0, 0.5)  # q3
    assert found["topics"] == [[0, 1], [1, 2], [1, 1], [1, 1]]  # of q4; of q0 and q3; of q1; of q2
    assert paper["by retrieval"] == 0.8 and 0 < paper["by chance"] < 0.5
    assert paper["retrieved dropped"] == pytest.approx((1 / math.log2(9) + 1) / 2)
    assert (high["kept"], high["precision"]) == (2, 0.5)
    assert (high["better"], high["worse"]) == (1 / 3, 2 / 3)  # q3; q2 and q4
    with pytest.raises(InputError, match="no list"):
        filtered.report([], (0.4,), seed=7)


def test_right_lists_are_kept_and_reversed_ones_dropped(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "argkp")
    for name, place, kept in (("right", 1, 5), ("reversed", POOL, 0)):
        made(folder, Judge(dict.fromkeys(PLACES, place)), tmp_path / name)
        (row,) = filtered.report(lists_of(folder, tmp_path / name)[1], (0.4,), seed=7)["alphas"]
        assert row["kept"] == kept and row["dropped"] == 5 - kept


def test_the_command_makes_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path / "data" / "argkp")
    engine = Judge()

    def fake(folder: Path, *, checkpoint: str, engine_: Judge = engine, **options: Any) -> JudgeTeacher:
        assert checkpoint == "a judge" and options == {"seed": 7, "engine": "transformers"}
        return teacher_of(folder, engine_, seed=7)

    monkeypatch.setattr(filtered, "JudgeTeacher", fake)
    arguments = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--checkpoint", "a judge"]
    assert filtered.main([*arguments, "--stored"]) == 2 and "run without --stored" in capsys.readouterr().err
    assert filtered.main(arguments) == 0
    told, calls = capsys.readouterr().out, engine.calls
    assert "6 queries of argkp (real), seed 7, teacher judge, human labels: 3 examples at alpha 0.4" in told
    assert "lost: 2 below_alpha, 1 nothing_selected" in told and "NDCG@10 of 5 lists: judge 0.490" in told
    assert [line.split(" | ")[1:3] for line in told.splitlines()[-3:]] == [["4", "1"], ["3", "2"], ["2", "3"]]
    assert filtered.main([*arguments, "--stored", "--alpha", "0.5"]) == 0 and engine.calls == calls
    assert [row["kept"] for row in json.loads((tmp_path / "out" / "report.json").read_text())["alphas"]] == [2]
