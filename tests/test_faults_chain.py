"""Faults that a reader of the chain met: budgets and counts of profiles, people's labels, metrics and their tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rrlib.chain.manifest import open_stage
from rrlib.chain.params import load_profile
from rrlib.errors import InputError, ProfileError, StageError
from rrlib.evaluation.metrics import parse_metrics, per_query
from rrlib.evaluation.paired import paired_rows
from rrlib.evaluation.significance import bootstrap_interval
from rrlib.formats import read_collection, read_examples, write_qrels, write_run
from rrlib.synthesis.human import HumanTeacher, ModelTeacher
from rrlib.synthesis.pipeline import synthesize
from rrlib.types import Hit
from tests.test_synthesis import Teacher, make_collection, run


# --- profiles ---------------------------------------------------------------------------------------------------------
def test_a_run_whose_money_is_up_goes_on_with_more_of_it(tmp_path: Path) -> None:
    """What is paid for stays, and nothing else of the stage may be another."""
    asked = {"seed": 7, "alpha": 0.4, "budget": 1.0, "concurrency": 8, "teacher_price": []}
    paid = open_stage(tmp_path, "01_synthesis", asked).path("teacher/paid.jsonl")
    paid.parent.mkdir(exist_ok=True)
    paid.write_text("{}\n")
    again = open_stage(tmp_path, "01_synthesis", asked | {"budget": 5.0, "concurrency": 2, "teacher_price": [1, 2]})
    assert again.resumed and paid.is_file()
    with pytest.raises(StageError, match=r"parameters\.alpha"):
        open_stage(tmp_path, "01_synthesis", asked | {"alpha": 0.5})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("02_sft:\n  sft_examples: -5", "sft_examples is -5.*0 or more"),
        ("01_synthesis:\n  train_queries: 0100", "train_queries is written 0100, which YAML reads as 64"),
        ("01_synthesis:\n  train_queries: 1:30", "written 1:30, which YAML reads as 90"),
        ("stages: [[02_sft]]", "unknown stages"),
        ("02_sft: 5\nshared: {window: 5}", "02_sft"),
        ("description: 2024-13-45", "cannot be read"),
    ],
)
def test_what_a_profile_cannot_mean_is_refused_with_its_file(lines: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nseed: 7\n{lines}\n")
    with pytest.raises(ProfileError, match=message):
        load_profile(path)


def test_numbers_in_plain_decimals_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nseed: 0\n01_synthesis:\n  train_queries: 1_000\n02_sft:\n  sft_examples: 0\n")
    assert load_profile(path).sections["01_synthesis"]["train_queries"] == 1000


def test_a_cut_off_that_is_none_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    teacher = Teacher()
    with pytest.raises(InputError, match="k=0"):
        run(make_collection(2), teacher, tmp_path, k=0)
    assert not teacher.asked


# --- people as the teacher --------------------------------------------------------------------------------------------
def folder_of(path: Path, queries: dict[str, str], texts: dict[str, str], relevant: dict[str, str], run: Any) -> Path:
    path.mkdir()
    (path / "corpus.jsonl").write_text("".join(json.dumps({"_id": d, "text": t}) + "\n" for d, t in texts.items()))
    meta = {"split": "train", "gold_answer": "yes"}
    rows = [{"_id": qid, "text": text, "metadata": meta} for qid, text in queries.items()]
    (path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "qrels").mkdir()
    write_qrels(path / "qrels" / "train.tsv", {qid: {docid: 1} for qid, docid in relevant.items()})
    write_run(path / "runs" / "train.trec", run, "bm25")
    (path / "SOURCE.json").write_text('{"name": "c", "data_kind": "real"}')
    return path


TEXTS = {docid: f"text {docid}" for docid in "abcd"}


def test_two_queries_of_one_text_are_left_out_where_people_judged_them_differently(tmp_path: Path) -> None:
    queries = {"q1": "Why?", "q2": "Why?", "q3": "How?"}
    runs = {qid: list("abcd") for qid in queries}
    folder = folder_of(tmp_path / "c", queries, TEXTS, {"q1": "a", "q2": "b", "q3": "c"}, runs)
    made = synthesize(read_collection(folder, "train"), HumanTeacher(folder), tmp_path / "out", window=4)
    (example,) = read_examples(made.examples)
    labels = {p.docid: label for p, label in zip(example.passages, example.relevance, strict=True)}
    assert example.query.qid == "q3" and labels == {"a": 0, "b": 0, "c": 1, "d": 0}


def test_a_relevant_passage_is_known_by_its_text_whatever_shares_it(tmp_path: Path) -> None:
    texts = {"a": "same words", "b": "same words", "c": "other", "d": "else"}
    folder = folder_of(tmp_path / "c", {"q1": "Why?"}, texts, {"q1": "a"}, {"q1": ["c", "a", "d"]})
    made = synthesize(read_collection(folder, "train"), HumanTeacher(folder), tmp_path / "out", window=4)
    (example,) = read_examples(made.examples)
    assert {p.docid: label for p, label in zip(example.passages, example.relevance, strict=True)}["a"] == 1


def test_one_cache_keeps_teachers_of_other_settings_apart(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "c", {"q1": "Why?"}, TEXTS, {"q1": "a"}, {"q1": list("abcd")})
    chains = []
    for form in ("verdicts", "facts"):
        out, teacher = tmp_path / form, HumanTeacher(folder, form=form)
        made = synthesize(read_collection(folder, "train"), teacher, out, window=4, cache=tmp_path / "cache")
        chains.append(read_examples(made.examples)[0].reasoning)
        assert made.summary["account"]["cached"] == 0
    assert chains[0] != chains[1]


def test_a_checkpoint_of_another_run_is_another_teacher(tmp_path: Path) -> None:
    """Both are called `checkpoint`; what is in them tells them apart."""

    class Engine:
        tokenizer = None

        def __init__(self, model: Path) -> None:
            self.model = str(model)

    folder = folder_of(tmp_path / "c", {"q1": "Why?"}, TEXTS, {"q1": "a"}, {"q1": list("abcd")})
    settings = []
    for number in (1, 2):
        checkpoint = tmp_path / f"run{number}" / "checkpoint"
        checkpoint.mkdir(parents=True)
        (checkpoint / "config.json").write_text(json.dumps({"number": number}))
        (checkpoint / "model.safetensors").write_bytes(bytes([number]) * 10)
        settings.append(ModelTeacher(folder, checkpoint=Engine(checkpoint)).settings)  # type: ignore[arg-type]
    assert settings[0] != settings[1]


# --- metrics and tests ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("names", [("PLAIN-2", "7"), ("a", "ü b"), ("2", "1")])
def test_every_metric_takes_every_query_id(names: tuple[str, str]) -> None:
    """One program that ir-measures starts takes numbers only, and dropped the rest of an id without a word."""
    metrics = ["ERR@5", "nDCG(dcg='exp-log2')@10", "nDCG@10", "RR@10"]
    qrels = {name: {"d": 1, "x": 0, "y": 1} for name in names}
    runs = {names[0]: [Hit(d, 3.0 - i, i + 1) for i, d in enumerate("dey")]}
    runs[names[1]] = [Hit(d, 3.0 - i, i + 1) for i, d in enumerate("xed")]
    found = per_query(qrels, runs, parse_metrics(metrics))
    for values in found.values():
        assert set(values) == set(names) and values[names[0]] > values[names[1]] > 0


def test_the_mean_lies_in_its_interval_however_few_the_resamples() -> None:
    for seed in range(20):
        interval = bootstrap_interval([0.0, 1.0, 0.5], seed, 1)
        assert interval.low <= interval.mean <= interval.high


def test_sums_in_another_order_are_no_difference() -> None:
    a, b = [0.1 + 0.2] * 20, [0.3] * 20
    rows = {row["system"]: row for row in paired_rows({"one": {"": a}, "other": {"": b}}, "other")}
    assert rows["one"]["ties"] == 20 and rows["one"]["p"] == 1.0
