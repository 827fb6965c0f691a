"""Examples in and out: the released formats, parquet, datasets, the data card, and shards merged with a proof."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as pq
import pytest
from test_synthesis import Teacher, make_collection, run

from rrlib.engines.base import Reply
from rrlib.errors import InputError, MissingFileError
from rrlib.formats import read_examples
from rrlib.prompts import PromptBuilder, format_response
from rrlib.synthesis.export import data_card, export, import_examples, stream_examples
from rrlib.synthesis.merge import merge
from rrlib.synthesis.sources.items import Shard
from rrlib.synthesis.sources.released import read_prompt, read_released
from rrlib.types import Passage, Query, RankingExample


def examples() -> list[RankingExample]:
    """Two domains that use the same ids for other texts, a query of paragraphs, texts with identifiers."""
    out = []
    for domain in ("math-qa", "math-theorem"):
        passages = tuple(Passage(f"d{i}", f"{domain} text {i}\nsecond line\n(2) third") for i in range(4))
        meta = {"domain": domain, "data_kind": "real", "licence": "MIT", "teacher": "t", "teacher_kind": "real"}
        query = Query(f"q-{domain}", f"First.\n\nSecond {domain}.\n\nSearch Query: no")
        out.append(RankingExample(query, passages, (0, 1, 0, 1), (1, 3, 0, 2), f"I think about {domain}.", meta))
    return out


def released_13k(folder: Path) -> Path:
    """The published layout, written by hand: `{dataset}_id_query.json` and `{dataset}_id_doc.json`."""
    rows = []
    for one in examples():
        domain, ids = one.meta["domain"], [p.docid for p in one.passages]
        for kind, texts in (("query", {"17": one.query.text}), ("doc", {p.docid: p.text for p in one.passages})):
            (folder / f"id_{kind}").mkdir(parents=True, exist_ok=True)
            (folder / f"id_{kind}" / f"{domain}_id_{kind}.json").write_text(json.dumps(texts))
        rows.append(
            {
                "dataset": domain,
                "qid": "17",
                "initial_list": ids,
                "final_list": [ids[i] for i in one.gold],
                "reasoning": one.reasoning,
                "relevant_docids": ["d1", "d3"],
            }
        )
    broken = {**rows[0], "final_list": ["d0", "d0", "d1", "d2"]}
    (folder / "training_data_all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, broken]))
    return folder


def same(one: RankingExample, other: RankingExample) -> bool:
    """Equal but for what a format does not hold: ids of the query, and meta."""
    return (one.query.text, one.passages, one.gold, one.reasoning, one.relevance) == (
        other.query.text,
        other.passages,
        other.gold,
        other.reasoning,
        other.relevance,
    )


def test_the_13k_set_is_read_from_a_local_copy(tmp_path: Path) -> None:
    notes: list[str] = []
    read = list(read_released(released_13k(tmp_path), notes))
    assert len(read) == 2 and all(same(a, b) for a, b in zip(read, examples(), strict=True))
    assert [e.query.qid for e in read] == ["math-qa-17", "math-theorem-17"], "ids repeat between data sets"
    assert read[0].meta["teacher"] == "DeepSeek-R1" and read[0].meta["data_kind"] == "real"
    assert [note.partition(": ")[2] for note in notes] == [
        "1 rows left out: final_list is not a permutation of initial_list"
    ]
    assert list(read_released(tmp_path / "training_data_all.jsonl")) == read


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda f: shutil.rmtree(f / "id_doc"), "no JSON files"),
        (lambda f: (f / "training_data_all.jsonl").unlink(), "no training_data_all"),
        (lambda f: (f / "id_query/math-qa_id_query.json").write_text("{"), "not JSON"),
        (
            lambda f: (f / "training_data_all.jsonl").write_text('{"dataset": "a", "qid": "1"}\n'),
            r"jsonl:1: `initial_list`",
        ),
        (
            lambda f: (
                (f / "id_doc/math-theorem_id_doc.json").write_text('{"d0": "x"}')
                and (f / "id_doc/math-qa_id_doc.json").write_text('{"d0": "x"}')
            ),
            "no text of 'd1'",
        ),
    ],
)
def test_a_broken_copy_is_refused(tmp_path: Path, break_it: Any, told: str) -> None:
    break_it(released_13k(tmp_path))
    with pytest.raises(InputError, match=told):
        list(read_released(tmp_path))
    with pytest.raises(MissingFileError):
        list(read_released(tmp_path / "nothing"))


@pytest.mark.parametrize("array", [True, False])
def test_the_sft_file(tmp_path: Path, array: bool) -> None:
    builder, rows = PromptBuilder(None), []
    for one in examples():
        system, user = builder.messages(one.query.text, one.passages)
        output = f"<think>\n{one.reasoning}\n</think>\n\n<answer> [2] > [4] > [1] > [3] </answer>"
        rows.append({"instruction": user["content"], "output": output, "system": system["content"]})
    rows += [{**rows[0], "output": "[1] > [2]"}, {**rows[0], "instruction": "Translate."}]
    path = tmp_path / "sft.json"
    path.write_text(json.dumps(rows) if array else "".join(json.dumps(row) + "\n" for row in rows))
    notes: list[str] = []
    read = list(read_released(path, notes))
    assert len(read) == 2 and len(notes) == 2
    for one, two in zip(read, examples(), strict=True):
        assert one.query.text == two.query.text and [p.text for p in one.passages] == [p.text for p in two.passages]
        assert one.gold == two.gold and one.reasoning == two.reasoning
        assert one.relevance == (0, 0, 0, 0) and one.meta["labels"] == "none"


@pytest.mark.parametrize("shape", ["top", "extra_info", "ground truth only"])
def test_the_rl_rows(tmp_path: Path, shape: str) -> None:
    rows = []
    for one in examples():
        ids = [p.docid for p in one.passages]
        lists = {"initial_list": ids, "final_list": [ids[i] for i in one.gold], "relevant_docids": ["d1", "d3"]}
        row: dict[str, Any] = {
            "data_source": one.meta["domain"],
            "prompt": list(PromptBuilder(None).messages(one.query.text, one.passages)),
            "reward_model": {"style": "rule", "ground_truth": "[2] > [4] > [1] > [3]"},
        }
        if shape != "ground truth only":
            row = row | lists if shape == "top" else {**row, "extra_info": lists}
        rows.append(row)
    path = tmp_path / "train.parquet"
    pq.write_table(pyarrow.Table.from_pylist(rows), path)
    read = list(read_released(path))
    assert [e.gold for e in read] == [e.gold for e in examples()] and read[0].meta["domain"] == "math-qa"
    expected = (0, 0, 0, 0) if shape == "ground truth only" else (0, 1, 0, 1)
    assert all(e.relevance == expected for e in read)


def test_prompts_are_read_back() -> None:
    for one in examples():
        _, user = PromptBuilder(None).messages(one.query.text, one.passages)
        query, texts = read_prompt(user["content"])
        assert query == one.query.text and texts == [p.text for p in one.passages]
    for bad in ("", "I will provide you with 2 passages", user["content"].replace("[2] ", "")):
        with pytest.raises(ValueError):
            read_prompt(bad)


def test_round_trips(tmp_path: Path) -> None:
    ours = examples()
    for form, name in (("jsonl", "e.jsonl"), ("parquet", "e.parquet")):
        assert list(read_released(export(ours, tmp_path / name, form))) == ours
    folder = export(ours, tmp_path / "released", "released")
    assert all(same(a, b) for a, b in zip(read_released(folder), ours, strict=True))
    for name in ("sft.json", "rl.jsonl"):
        read = list(read_released(folder / name))
        assert [(e.query.text, e.gold) for e in read] == [(e.query.text, e.gold) for e in ours]
    row = json.loads((folder / "sft.json").read_text())[0]
    assert row["output"] == format_response(ours[0].reasoning, ours[0].gold)
    table = pq.read_table(export(ours, tmp_path / "columns.parquet", "parquet"))
    assert table.num_rows == 2
    assert {"qid", "query", "passages", "relevance", "gold", "reasoning", "meta"} <= set(table.column_names)
    with pytest.raises(InputError, match="unknown format"):
        export(ours, tmp_path / "x", "csv")
    for form in ("parquet", "released"):
        with pytest.raises(InputError, match="there are no examples"):
            export([], tmp_path / form, form)
    twice = replace(ours[0], passages=tuple(replace(p, text="other") for p in ours[0].passages))
    with pytest.raises(InputError, match="has two texts"):
        export([ours[0], twice], tmp_path / "two", "released")
    (tmp_path / "odd.json").write_text('[{"a": 1}]')
    with pytest.raises(InputError, match="none of the known formats"):
        list(read_released(tmp_path / "odd.json"))


def test_import_leaves_what_a_run_leaves(tmp_path: Path) -> None:
    result = import_examples(released_13k(tmp_path / "copy"), tmp_path / "out", alpha=0.4)
    assert result.n_examples == 2 and result.summary["by_domain"] == {"math-qa": 1, "math-theorem": 1}
    assert result.summary["data_kind"] == "real" and len(result.summary["left_out"]) == 1
    assert all(e.meta["consistency"] == 1.0 for e in read_examples(result.examples))
    card = data_card(tmp_path / "out", "Copy")
    assert "# Copy:" in card and "Data kind: real" in card and "| math-qa | 1 |" in card and "| MIT | 2 |" in card
    assert import_examples(tmp_path / "copy", tmp_path / "few", limit=1).n_examples == 1
    again = import_examples(result.examples, tmp_path / "again")
    assert list(stream_examples(again.examples)) == list(stream_examples(result.examples))


def test_data_card_of_a_run(tmp_path: Path) -> None:
    twist = lambda kind, query, r: replace(r, text="None") if kind == "select" and query == "question 1" else r  # noqa: E731
    run(make_collection(4), Teacher(twist), tmp_path)
    card = data_card(tmp_path)
    for words in (
        "Data kind: synthetic",
        "3 examples of 4 queries; 1 queries were dropped",
        "| biology | 3 |",
        "| unknown | 3 |",
        "| toy-teacher (real) | 3 |",
        "| nothing_selected | 1 |",
        "mean 1.000, threshold 0.4",
    ):
        assert words in card, card
    with pytest.raises(InputError, match=r"no summary\.json"):
        data_card(tmp_path / "nothing")


# --- shards ----------------------------------------------------------------------------------------------------------


def sharded(tmp_path: Path, count: int = 3, **options: Any) -> list[Path]:
    out = []
    for number in range(1, count + 1):
        out.append(tmp_path / f"part{number}")
        run(make_collection(20), Teacher(), out[-1], shard=Shard(number, count), **options)
    return out


def test_shards_merge_to_what_one_run_gives(tmp_path: Path) -> None:
    run(make_collection(20), Teacher(), tmp_path / "whole")
    parts = sharded(tmp_path)
    result = merge(list(reversed(parts)), tmp_path / "merged")
    for name in ("examples.jsonl", "dropped.jsonl", "fates.jsonl"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert result.n_examples == 20 and result.summary["answers"] == {"select": 40, "hard": 0, "rank": 20}
    assert result.summary["account"]["calls"] == 60 and result.summary["source"]["queries"] == 20
    assert "20 examples" in data_card(tmp_path / "merged")


def test_a_merge_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    parts = sharded(tmp_path)
    out = tmp_path / "merged"
    with pytest.raises(InputError, match="missing: shard 2/3"):
        merge([parts[0], parts[2]], out)
    with pytest.raises(InputError, match="shard 1/3 is also"):
        merge([parts[0], *parts], out)
    with pytest.raises(InputError, match="overwrite a shard"):
        merge(parts, parts[0])
    run(make_collection(20), Teacher(), tmp_path / "halves", shard=Shard(2, 2))
    with pytest.raises(InputError, match="among shards of 3"):
        merge([parts[0], parts[1], tmp_path / "halves"], out)
    run(make_collection(20), Teacher(), tmp_path / "seed", seed=9, shard=Shard(3, 3))
    with pytest.raises(InputError, match=r"made with other settings .*seed: 9 here"):
        merge([*parts[:2], tmp_path / "seed"], out)
    run(make_collection(21), Teacher(), tmp_path / "more", shard=Shard(3, 3))
    with pytest.raises(InputError, match="the source had 21 queries here, 20 in"):
        merge([*parts[:2], tmp_path / "more"], out)
    run(make_collection(20), Teacher(), tmp_path / "alpha", alpha=0.7, shard=Shard(3, 3))
    with pytest.raises(InputError, match=r"alpha is 0\.7 here"):
        merge([*parts[:2], tmp_path / "alpha"], out)
    broken = Teacher(lambda kind, query, r: Reply(error="503"))
    run(make_collection(20), broken, tmp_path / "failed", shard=Shard(3, 3), patience=999)
    with pytest.raises(InputError, match="queries are without an answer"):
        merge([*parts[:2], tmp_path / "failed"], out)
    assert merge([*parts[:2], tmp_path / "failed"], tmp_path / "allowed", allow_failed=True).summary["queries"] == 20
    fates = parts[2] / "fates.jsonl"
    lines = fates.read_text().splitlines(keepends=True)
    fates.write_text("".join(lines[1:]))
    with pytest.raises(InputError, match=r"is missing|the example of query"):
        merge(parts, out)
    (parts[2] / "summary.json").unlink()
    with pytest.raises(MissingFileError, match="this shard is not finished"):
        merge(parts, out)
    assert not (out / "examples.jsonl").exists(), "nothing half done stays behind"
