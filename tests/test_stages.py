"""What the notebooks call between the big pieces: references become things, tables say what they were given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from rrlib.chain.manifest import open_stage
from rrlib.chain.stages import (
    audition,
    audition_table,
    check_exercise,
    collection_of,
    comparison,
    consistencies,
    examples_for,
    kept_and_dropped,
    one_group,
    open_corpus,
    open_teacher,
    passages_table,
    split_sizes,
    verdicts_of,
)
from rrlib.disk import read_json
from rrlib.errors import InputError, StageError
from rrlib.evaluation.tables import compare, oracle_run
from rrlib.formats import read_collection, write_examples, write_jsonl
from rrlib.records import WindowRecord
from rrlib.types import Passage, Query, RankingExample

BUILD = "rrlib.miniature:build"
SIZES = {"train": 8, "validation": 4, "test": 4, "pool": 12}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose 01_synthesis is finished: a small collection and two examples."""
    run = tmp_path_factory.mktemp("outputs") / "r"
    with open_stage(run, "01_synthesis", {"run": "r", "seed": 5}) as stage:
        folder = open_corpus(stage, BUILD, {}, **SIZES)
        stage.data_kind = read_collection(folder, "train").data_kind
        write_examples(stage.path("teacher", "examples.jsonl"), [example("a"), example("b")])
    return run


def example(qid: str, consistency: float = 1.0) -> RankingExample:
    passages = (Passage("1", "one"), Passage("2", "two"))
    return RankingExample(Query(qid, "text"), passages, (0, 1), (1, 0), "because", {"consistency": consistency})


def later(run: Path) -> Any:
    return open_stage(run, "02_sft", {"run": "r", "seed": 5}, ["01_synthesis"], fresh=True)


def test_a_callable_writes_the_corpus_once_and_later_stages_find_it(made: Path) -> None:
    pointer = read_json(made / "01_synthesis" / "collection.json")
    assert pointer == {"reference": BUILD, "folder": "collection"}  # the run may be moved
    test = collection_of(later(made), "test")
    assert (test.name, len(test.queries), test.data_kind) == ("miniature", 4, "synthetic")
    source = made / "01_synthesis" / "collection" / "SOURCE.json"
    before = source.stat().st_mtime_ns
    stage = open_stage(made, "01_synthesis", {"run": "r", "seed": 5})
    assert stage.reopened and open_corpus(stage, BUILD, {}, **SIZES) == source.parent
    assert source.stat().st_mtime_ns == before


def test_a_folder_is_a_corpus_too(made: Path, tmp_path: Path) -> None:
    stage = open_stage(tmp_path / "r", "01_synthesis", {"seed": 1})
    folder = made / "01_synthesis" / "collection"
    assert open_corpus(stage, str(folder), train=3) == folder
    assert read_json(stage.path("collection.json"))["folder"] == str(folder)


@pytest.mark.parametrize("ref", ["rrlib.miniature:none", "no_such_module:build", "rrlib.miniature:"])
def test_a_corpus_that_is_none(ref: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        open_corpus(open_stage(tmp_path / "r", "01_synthesis", {"seed": 1}), ref)


def test_teachers_by_callable_and_by_url(made: Path) -> None:
    folder = made / "01_synthesis" / "collection"
    simulated = open_teacher("rrlib.miniature:SimulatedTeacher", folder, seed=1, options={"refusal": 0.5})
    assert simulated.rates.refusal == 0.5
    server = open_teacher("http://localhost:1/v1", folder, seed=1, model="some-model", options={"timeout": 3.0})
    assert server.model == "some-model"
    with pytest.raises(InputError, match="teacher_model"):
        open_teacher("http://localhost:1/v1", folder, seed=1)
    with pytest.raises(InputError, match="error rate"):
        open_teacher("rrlib.miniature:SimulatedTeacher", folder, seed=1, options={"refusal": 2.0})


def test_examples_are_read_from_the_first_stage(made: Path, tmp_path: Path) -> None:
    stage = later(made)
    assert [e.query.qid for e in examples_for(stage)] == ["a", "b"]
    assert [e.query.qid for e in examples_for(stage, 0)] == ["a", "b"]
    assert [e.query.qid for e in examples_for(stage, 1)] == ["a"]
    with pytest.raises(StageError, match="does not read"):
        stage.input("03_rl")


def test_split_sizes_count_queries(made: Path) -> None:
    table = split_sizes(made / "01_synthesis" / "collection")
    assert list(table.columns) == ["train", "validation", "test"]
    assert table.sum().to_dict() == {"train": 8, "validation": 4, "test": 4}


def test_passages_are_numbered_from_one_and_cut() -> None:
    table = passages_table([Passage("a", "x" * 50), Passage("b", "two\nlines")], [0, 1], [1, 0], width=20)
    assert list(table.index) == [1, 2]
    assert table["text"].tolist() == ["x" * 17 + "...", "two lines"]
    assert table["relevant"].tolist() == ["", "yes"] and table["gold place"].tolist() == [2, 1]


def test_the_fate_of_every_query(tmp_path: Path) -> None:
    write_examples(tmp_path / "examples.jsonl", [example("a", 0.9)])
    rows = [{"qid": "b", "reason": "below_alpha", "consistency": 0.2}, {"qid": "c", "reason": "rank: refusal"}]
    write_jsonl(tmp_path / "dropped.jsonl", rows)
    summary = {"queries": 3, "examples": 1, "dropped": {"below_alpha": 1, "rank: refusal": 1}}
    result = SimpleNamespace(examples=tmp_path / "examples.jsonl", dropped=tmp_path / "dropped.jsonl", summary=summary)
    assert consistencies(result) == [0.9, 0.2]
    assert kept_and_dropped(result)["queries"].to_dict() == {"kept": 1, "below_alpha": 1, "rank: refusal": 1}


def test_an_audition_judges_one_window_a_query_by_the_qrels(made: Path) -> None:
    collection = collection_of(later(made), "validation")
    frame = audition("package:rrlib.miniature/backbone", collection, window=6, max_new_tokens=8, limit=3, k=3)
    assert len(frame) == 3 and set(frame["level"]) <= {"valid", "bad_list", "bad_format"}
    for row in frame.itertuples():
        shown = [p.docid for p in row.passages]
        assert sorted(row.order) == sorted(shown) and len(shown) == 6
        if row.verdict in ("truncated", "no_answer", "empty"):
            assert row.order == shown  # nothing could be read, so the order stays
    table = audition_table({"backbone": frame})
    assert table.loc["backbone", "windows"] == 3 and 0.0 <= table.loc["backbone", "NDCG"] <= 1.0
    assert table.loc["backbone", "tokens"] <= 8


def test_verdicts_that_never_came_are_left_out() -> None:
    records = {
        "sft": [WindowRecord("q", (0,)), WindowRecord("q", (1,), verdict="truncated")],
        "rl": [WindowRecord("q", (0,))],
    }
    assert verdicts_of(records) == {"sft": {"ok": 0.5, "truncated": 0.5}, "rl": {"ok": 1.0, "truncated": 0.0}}


def test_a_comparison_shows_differences_against_the_first(made: Path) -> None:
    test = collection_of(later(made), "test")
    assert test.run is not None
    runs = {"first-stage": test.run, "oracle": oracle_run(test.qrels, test.candidates())}
    table = comparison(compare(test.qrels, runs, ["nDCG@10", "R@5"], resamples=200), "nDCG@10")
    assert list(table.index) == ["first-stage", "oracle"]
    assert table.loc["first-stage", "difference"] == "" and table.loc["oracle", "difference"].startswith("+")
    assert table["n"].tolist() == [4, 4]


def test_the_group_shown_is_of_the_last_step_and_spreads_most() -> None:
    rows = [(1, "a", 1.0), (1, "a", -1.0), (2, "a", 0.5), (2, "a", 0.5), (2, "b", 0.0), (2, "b", 1.3), (2, "c", 9.0)]
    frame = pd.DataFrame(rows, columns=["step", "prompt", "multi_view_reward"])
    group = one_group(frame, 2)
    assert group["prompt"].tolist() == ["b", "b"] and group["reward"].tolist() == [0.0, 1.3]
    with pytest.raises(InputError, match="no prompt has 3"):
        one_group(frame, 3)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda a, b: a + b, "right: all 2 cases hold"),
        (lambda a, b: None, "not solved yet"),
        (lambda a, b: a - b, "gives -1.0000, 3.0000 is wanted"),
        (lambda a, b: [a, b], "a number is wanted"),
        (lambda a, b: a / 0, "raises ZeroDivisionError"),
        (lambda a: a, "raises TypeError"),
    ],
)
def test_exercises_are_checked_and_never_stop_a_notebook(function: Any, words: str) -> None:
    import re

    assert re.search(words, check_exercise(function, [((1, 2), 3.0), ((2, 2), 4.0)]))
