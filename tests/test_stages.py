"""What the notebooks call between the big pieces: references become things, tables say what they were given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rrlib.chain.from_profile import (
    launch_of,
    listwise_of,
    open_teacher,
    pointwise_of,
    sft_settings,
    sizes_of,
    teacher_of,
)
from rrlib.chain.manifest import open_stage
from rrlib.chain.params import Config, declared_parameters, notebook_path
from rrlib.chain.stages import collection_of, evaluation_data, examples_of, open_corpus, synthesis
from rrlib.disk import read_json
from rrlib.engines.base import Decoding
from rrlib.errors import InputError, StageError
from rrlib.evaluation.audition import audition
from rrlib.formats import read_collection, write_examples, write_jsonl
from rrlib.lesson.exercises import check_exercise
from rrlib.lesson.tables import (
    audition_table,
    consistencies,
    kept_and_dropped,
    passages_table,
    split_sizes,
    verdicts_of,
)
from rrlib.records import WindowRecord
from rrlib.training.launch import Launch
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
    for limit, qids in ((0, ["a", "b"]), (1, ["a"])):
        for config in (Config("02_sft", {"sft_examples": limit}), Config("03_rl", {"rl_examples": limit})):
            assert [e.query.qid for e in examples_of(stage.run_dir, config)] == qids
    with pytest.raises(StageError, match="does not read"):
        stage.input("03_rl")


def config_of(stage: str, **changes: Any) -> Config:
    return Config(stage, {n: p.default for n, p in declared_parameters(notebook_path(stage)).items()} | changes)


def test_a_system_is_what_its_config_says() -> None:
    config = config_of("04_evaluation", engine="vllm", engine_options={"x": 1}, max_new_tokens=9, temperature=0.5)
    model = listwise_of(config, Path("a/b"), budget=3)
    assert (model.model, model.engine, model.engine_options, model.budget) == ("a/b", "vllm", {"x": 1}, 3)
    assert (model.style, model.decoding) == ("reasonrank", Decoding(9, 0.5, seed=config.seed))
    other = config_of("06_efficiency")
    assert pointwise_of(other, "m").style == "pointwise" and listwise_of(other, "m", style="nothink").style == "nothink"
    assert sizes_of(config_of("04_evaluation", stride=0)) == {"window": 10, "depth": 30, "max_passage_tokens": 512}


def test_notebook_06_trains_with_its_own_parameters_and_in_one_process() -> None:
    config = config_of("06_efficiency", epochs=2.0, seed=3)
    settings = sft_settings(config)
    assert (settings.epochs, settings.seed, settings.accumulation, settings.gradient_checkpointing) == (
        2.0,
        3,
        1,
        False,
    )
    assert launch_of(config) == Launch()


def test_the_data_of_an_evaluation_is_the_test_split_with_its_validation_split_beside_it(made: Path) -> None:
    (data,) = evaluation_data(later(made), config_of("04_evaluation", queries=3, depth=9))
    assert (data.name, len(data.qrels), data.spec.depth, data.data_kind) == ("miniature", 3, 9, "synthetic")
    assert data.validation is not None and data.validation.split == "validation"


def test_synthesis_imports_what_the_config_names_and_asks_nobody(made: Path, tmp_path: Path) -> None:
    source = made / "01_synthesis" / "teacher" / "examples.jsonl"
    config = config_of("01_synthesis", import_from=str(source), import_limit=2)
    folder = made / "01_synthesis" / "collection"
    assert teacher_of(config, folder) is None
    for limit, count in ((1, 1), (0, 2)):
        result = synthesis(config, read_collection(folder, "train"), None, tmp_path / str(limit), limit=limit)
        assert result.summary["examples"] == count and result.summary["alpha"] == 0.4


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


def test_verdicts_are_shares_of_windows() -> None:
    ok, cut = WindowRecord("q", (0, 1)), WindowRecord("q", (0, 1), verdict="truncated")
    records = {"sft": [ok, cut], "rl": [ok]}
    assert verdicts_of(records) == {"sft": {"ok": 0.5, "truncated": 0.5}, "rl": {"ok": 1.0, "truncated": 0.0}}


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda a, b: a + b, "right: all 2 cases hold"),
        (lambda a, b: None, "not solved yet"),
        (lambda a, b: a - b, "gives -1, too little"),
        (lambda a, b: [a, b], "a number is wanted"),
        (lambda a, b: a / 0, "raises ZeroDivisionError"),
        (lambda a: a, "raises TypeError"),
    ],
)
def test_exercises_are_checked_and_never_stop_a_notebook(function: Any, words: str) -> None:
    import re

    assert re.search(words, check_exercise(function, [((1, 2), 3.0), ((2, 2), 4.0)]))
