"""Releases with human labels in their own formats, parts of folders for the chain, and the real collections."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rrlib.cli import main
from rrlib.errors import InputError, MissingFileError
from rrlib.formats import read_collection
from rrlib.synthesis.chains import argument_of
from rrlib.synthesis.human import human_examples
from rrlib.synthesis.sources.argkp import read_argkp
from rrlib.synthesis.sources.entailment import read_entailment_bank
from rrlib.synthesis.sources.judged_folder import bm25, build, stemmed, write_judged
from rrlib.synthesis.sources.statistics import statistics, table_of_statistics
from rrlib.synthesis.sources.windows import Windowing
from rrlib.types import Passage, Query

# --- EntailmentBank --------------------------------------------------------------------------------------------------

SENTENCES = {
    "ET_addon:0": "DUMMY",
    "ET_addon:1": "iron rusts in damp air",
    "11aa-22bb": "Iron rusts in damp air.",
    "33cc-44dd": "a nail is made of iron",
    "55ee-66ff": "a cellar is a damp place",
}


def tree(qid: str, question: str, leaves: dict[str, tuple[str, str]], **more: Any) -> dict[str, Any]:
    """A record of task 1, as released. leaves: name -> (uuid, sentence)."""
    return {
        "id": qid,
        "context": " ".join(f"{sid}: {text}" for sid, (_, text) in leaves.items()),
        "question": question,
        "answer": "It rusts.",
        "hypothesis": "the nail rusts",
        "proof": "sent1 & sent2 -> int1: a nail can rust; int1 & sent3 -> hypothesis; ",
        "meta": {
            "triples": {sid: text for sid, (_, text) in leaves.items()},
            "worldtree_provenance": {sid: {"uuid": u, "original_text": t} for sid, (u, t) in leaves.items()},
        },
    } | more


LEAVES = {
    "sent1": ("11aa-22bb", "iron rusts in damp air"),
    "sent2": ("", "A nail is made of iron"),
    "sent3": ("99", "it was left in the cellar"),
}


def write_release(root: Path) -> Path:
    base = root / "data" / "public_dataset" / "trees_v2"
    (base / "supporting_data").mkdir(parents=True)
    (base / "supporting_data" / "worldtree_corpus_sentences_extended.json").write_text(json.dumps(SENTENCES))
    rows = {
        "train": [tree("a", "What of a nail?", LEAVES), tree("near", "What of the old wet nail left there?", LEAVES)],
        "dev": [tree("b", "Why is gold dear?", LEAVES)],
        "test": [tree("c", "What of the old wet nail left there now?", LEAVES)],
    }
    for split, records in rows.items():
        for task in ("task_1", "task_3"):
            path = base / "dataset" / task / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            if task == "task_3":
                triples = {
                    "sent1": "a cellar is a damp place",
                    "sent2": "iron rusts in damp air",
                    "sent3": "A nail is made of iron",
                }
                provenance = [
                    {"sid": f"sent{i + 1}", "uuid": u, "relevance_score": 0.9}
                    for i, u in enumerate(("55ee-66ff", "11aa-22bb", "33cc-44dd"))
                ]
                records = [
                    {**r, "proof": "", "meta": {"triples": triples, "worldtree_provenance": provenance}}
                    for r in records
                ]
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return root


def test_entailment_bank_release(tmp_path: Path) -> None:
    judged = read_entailment_bank(write_release(tmp_path / "clone"))
    assert list(judged.queries) == ["a", "b", "c"]  # `near` is too like the test query `c`
    assert judged.queries["a"].text == "What of a nail? It rusts."
    leaf = next(docid for docid in judged.corpus if docid.startswith("leaf_"))
    assert list(judged.corpus) == ["ET_addon_1", "33cc-44dd", "55ee-66ff", leaf]  # equal sentences are one
    assert judged.metadata["a"]["leaves"] == {"sent1": "ET_addon_1", "sent2": "33cc-44dd", "sent3": leaf}
    assert judged.qrels["a"] == {"ET_addon_1": 1, "33cc-44dd": 1, leaf: 1}
    assert argument_of(judged.metadata["a"]).steps[0].text == "a nail can rust"
    assert judged.runs["ai2-25"]["train"]["a"][0].docid == "33cc-44dd"  # in the order of BM25
    folder = write_judged(tmp_path / "folder", judged)
    collection = read_collection(folder, "dev", first_stage="ai2-25")
    assert collection.name == "entailmentbank" and len(collection.candidates()[0].passages) == 3
    with pytest.raises(InputError, match=r"no run dev\.other\.trec"):
        read_collection(folder, "dev", first_stage="other")


def test_a_second_tree_adds_its_leaves(tmp_path: Path) -> None:
    write_release(tmp_path)
    path = next(tmp_path.rglob("task_1/dev.jsonl"))
    second = tree(
        "b", "Why is gold dear?", {"sent1": ("55ee-66ff", "a cellar is a damp place")}, proof="sent1 -> hypothesis;"
    )
    path.write_text(path.read_text() + json.dumps(second) + "\n")
    judged = read_entailment_bank(tmp_path)
    assert "55ee-66ff" in judged.qrels["b"] and len(judged.qrels["b"]) == 4
    assert len(argument_of(judged.metadata["b"]).steps) == 2


def test_entailment_bank_refuses(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no dataset/task_1"):
        read_entailment_bank(tmp_path)
    write_release(tmp_path)
    path = next(tmp_path.rglob("task_1/dev.jsonl"))
    path.write_text(json.dumps({"id": "x", "meta": {}}) + "\n")
    with pytest.raises(InputError, match=r"no `id` or `meta.triples`") as caught:
        read_entailment_bank(tmp_path)
    assert caught.value.line == 1
    path.write_text(json.dumps(tree("x", "q", LEAVES, proof="sent7 -> hypothesis;")) + "\n")
    with pytest.raises(InputError, match="'sent7' of a proof"):
        read_entailment_bank(tmp_path)
    next(tmp_path.rglob("worldtree*.json")).write_text("[]")
    with pytest.raises(InputError, match="not an object"):
        read_entailment_bank(tmp_path)


# --- ArgKP -----------------------------------------------------------------------------------------------------------


def write_csv(path: Path, header: str, rows: list[tuple[str, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([tuple(header.split(",")), *rows])


def write_argkp(root: Path, splits: tuple[str, ...] = ("train", "dev", "test")) -> Path:
    for split in splits:
        folder = root / ("test_data" if split == "test" else "kpm_data")
        topic = f"We should keep cats, {split}"
        n = "1" if split == "dev" else "0"
        arguments = [(f"arg_{n}_0", 'they "purr", and calm us', topic, "1"), (f"arg_{n}_1", "no\nreason", topic, "-1")]
        points = [(f"kp_{n}_0", "Cats calm people", topic, "1"), (f"kp_{n}_1", "Cats catch mice", topic, "1")]
        labels = [(f"arg_{n}_0", f"kp_{n}_0", "1"), (f"arg_{n}_0", f"kp_{n}_1", "0"), (f"arg_{n}_1", f"kp_{n}_1", "0")]
        write_csv(folder / f"arguments_{split}.csv", "arg_id,argument,topic,stance", arguments)
        write_csv(folder / f"key_points_{split}.csv", "key_point_id,key_point,topic,stance", points)
        write_csv(folder / f"labels_{split}.csv", "arg_id,key_point_id,label", labels)
    return root


def test_argkp_release(tmp_path: Path) -> None:
    judged = read_argkp(write_argkp(tmp_path))
    assert list(judged.queries) == ["arg_0_0", "arg_1_0", "test_arg_0_0"]  # without a match: left out
    assert judged.queries["arg_0_0"].text == 'they "purr", and calm us'
    assert judged.qrels["test_arg_0_0"] == {"test_kp_0_0": 1, "test_kp_0_1": 0}
    assert judged.metadata["arg_1_0"]["gold_answer"] == "Cats calm people"
    assert judged.runs[""]["train"]["arg_0_0"] and len(judged.corpus) == 6


def test_argkp_refuses(tmp_path: Path) -> None:
    assert len(read_argkp(write_argkp(tmp_path / "one", ("train",))).queries) == 1
    with pytest.raises(MissingFileError, match=r"no arguments_train.csv"):
        read_argkp(write_argkp(tmp_path / "two", ("dev",)))
    folder = write_argkp(tmp_path / "three")
    labels = folder / "kpm_data" / "labels_dev.csv"
    labels.write_text("arg_id,key_point_id,label\narg_9_9,kp_1_0,1\n")
    with pytest.raises(InputError, match="unknown ids") as caught:
        read_argkp(folder)
    assert caught.value.line == 2
    labels.write_text("arg_id,key_point_id\narg_1_0,kp_1_0\n")
    with pytest.raises(InputError, match="no column 'label'"):
        read_argkp(folder)


def test_the_command_makes_a_folder_and_says_what_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release, folder = write_argkp(tmp_path / "release"), tmp_path / "argkp"
    assert main(["data", "collection", "argkp", str(release), str(folder)]) == 0
    said = capsys.readouterr().out
    assert "first stages: bm25s" in said and "ceiling" in said
    assert read_collection(folder, "validation").data_kind == "real"
    assert main(["data", "collection", "poems", str(release), str(folder)]) == 2


def test_the_first_stage_stem_finds_words_by_their_stems(tmp_path: Path) -> None:
    corpus = {"a": Passage("a", "Sugars are sweet"), "b": Passage("b", "Iron rusts")}
    queries = {"q": Query("q", "Why did the nail rust?")}
    assert [hit.docid for hit in bm25(*stemmed(corpus, queries), 5)["q"]] == ["b"]
    assert not bm25(corpus, queries, 5).get("q")
    release, folder = write_argkp(tmp_path / "release"), tmp_path / "argkp"
    assert main(["data", "collection", "argkp", str(release), str(folder)]) == 0
    stem = read_collection(folder, "train", first_stage="stem")
    assert {hit.docid for hit in (stem.run or {})["arg_0_0"]} == {"kp_0_0", "kp_1_0", "test_kp_0_0"}
    (folder / "runs" / "train.stem.trec").unlink()
    with pytest.raises(InputError, match=r"no run train\.stem\.trec.*rrlib data collection.*PyStemmer"):
        read_collection(folder, "train", first_stage="stem")


def test_without_pystemmer_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    assert main(["data", "collection", "argkp", str(write_argkp(tmp_path / "release")), str(tmp_path / "argkp")]) == 1
    assert "pip install PyStemmer" in capsys.readouterr().err
    assert not (tmp_path / "argkp").exists()


# --- parts, and figures ----------------------------------------------------------------------------------------------


def test_a_part_for_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_judged(tmp_path / "all", read_entailment_bank(write_release(tmp_path / "clone")))
    monkeypatch.setenv("SOMEWHERE", str(tmp_path))
    options: dict[str, Any] = {"source": "$SOMEWHERE/all", "first_stage": "ai2-25", "pool": 2}
    part = build(tmp_path / "part", seed=1, train=1, **options, windows={"size": 2, "stride": 1, "empty": 1.0})
    train = read_collection(part, "train")
    assert train.source["windows"]["size"] == 2 and train.source["part"]["first_stage"] == "ai2-25"
    assert len(train.run["a"]) == 2 and train.data_kind == "real" and train.name == "entailmentbank"  # type: ignore[index]
    assert read_collection(part, "validation").metadata["b"]["split"] == "validation"
    assert list(read_collection(part, "test").queries) == ["c"]
    assert "windows" not in read_collection(build(tmp_path / "plain", **options), "train").source
    with pytest.raises(InputError, match="unknown window setting"):
        build(tmp_path / "bad", **options, windows={"width": 2})
    with pytest.raises(InputError, match=r"no run train.none.trec"):
        build(tmp_path / "bad", source=str(folder), first_stage="none")


def test_figures_of_the_real_collections(realdata: Path) -> None:
    rows = []
    for name, stage, first, ceiling in (("entailmentbank", "ai2-25", 0.498, 0.801), ("argkp", "stem", 0.481, 0.835)):
        row = statistics(read_collection(realdata / "collections" / name, "test", first_stage=stage), split="test")
        assert (row["first stage"], row["ceiling"]) == (first, ceiling)
        rows.append(row)
    assert [row["queries"] for row in rows] == [339, 500]
    assert list(table_of_statistics(rows)["relevant"]) == [4.481, 1.104]


def test_stem_is_made_as_the_real_lists_were(realdata: Path) -> None:
    collection = read_collection(realdata / "collections" / "argkp", "test", first_stage="stem")
    ours = bm25(*stemmed(collection.corpus, collection.queries), 25)
    for qid in collection.queries:
        theirs = (collection.run or {}).get(qid, [])[:25]
        assert {hit.docid for hit in ours.get(qid, [])} == {hit.docid for hit in theirs}, (
            "but for the order of equal scores"
        )


def test_every_real_tree_becomes_chains(realdata: Path) -> None:
    collection = read_collection(realdata / "collections" / "entailmentbank", "dev", first_stage="ai2-25")
    for qid, metadata in collection.metadata.items():
        argument = argument_of(metadata)
        assert set(argument.leaf_order()) == set(collection.qrels[qid]) and argument.steps[-1].name == "hypothesis"
    everything = human_examples(collection, split="dev", form="tree", windowing=Windowing(empty=1.0))
    assert sum("gives the answer" in e.reasoning or "give the answer" in e.reasoning for e in everything) > 10
    assert 0.2 < sum(not any(e.relevance) for e in everything) / len(everything) < 0.4
