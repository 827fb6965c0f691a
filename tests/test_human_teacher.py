"""Human labels and human reasoning as training data: chains, windows as retrieved, and the teachers made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rrlib.engines.base import Decoding, Reply, Request
from rrlib.errors import InputError, StageError
from rrlib.formats import Collection, read_collection, read_examples, read_jsonl
from rrlib.rerank import Reranker
from rrlib.studies import pointwise
from rrlib.synthesis.chains import FORMS, NOTHING, Argument, Form, argument_of, get_form, gold_order
from rrlib.synthesis.domains import recipe_for
from rrlib.synthesis.human import HumanTeacher, ModelTeacher, human_examples
from rrlib.synthesis.pipeline import synthesize
from rrlib.synthesis.prompts import rank_messages, select_messages
from rrlib.synthesis.sources.items import CollectionSource, item_from_json, item_to_json
from rrlib.synthesis.sources.judged_folder import Judged, write_judged
from rrlib.synthesis.sources.windows import Windowing, most_windows, windows_of
from rrlib.training.pack import pack
from rrlib.types import Hit, Passage, Query

RUST: dict[str, Any] = {
    "split": "train",
    "domain": "science",
    "gold_answer": "it rusts",
    "hypothesis": "the nail will rust",
    "leaves": {"sent1": "nail", "sent2": "iron", "sent3": "damp"},
    "proof": "sent1 & sent2 -> int1: the nail can rust; int1 & sent3 -> hypothesis;",
}
TEXTS = {
    "gold": "gold does not rust",
    "damp": "the cellar is damp",
    "nail": "the nail is made of iron",
    "tin": "tin is a metal",
    "iron": "iron rusts in damp air",
}
SHOWN = tuple(Passage(docid, text) for docid, text in TEXTS.items())
ALL = (1, 2, 4)


def chain(form: str, passages: Sequence[Passage] = SHOWN, relevant: Sequence[int] = ALL, words: int = 0) -> str:
    return FORMS[get_form(form)](argument_of(RUST), passages, relevant, words)


# --- chains ----------------------------------------------------------------------------------------------------------


def test_tree_order_is_that_of_the_steps() -> None:
    argument = argument_of(RUST)
    assert argument.leaf_order() == ["nail", "iron", "damp"]
    assert gold_order(argument, SHOWN, ALL) == [2, 4, 1, 0, 3]
    assert gold_order(argument, SHOWN, ()) == [0, 1, 2, 3, 4]
    assert gold_order(Argument(), SHOWN, (4, 1)) == [1, 4, 0, 2, 3]  # labels alone: as shown
    unused = argument_of({"leaves": {"sent1": "tin", "sent2": "damp"}, "proof": "sent2 -> hypothesis;"})
    assert unused.leaf_order() == ["damp", "tin"]


@pytest.mark.parametrize("proof", ["sent9 -> hypothesis;", "int1 & sent1 -> int2: x; sent2 -> int1: y;"])
def test_a_proof_rests_on_what_is_there(proof: str) -> None:
    with pytest.raises(InputError, match="is no leaf and no earlier conclusion"):
        argument_of({**RUST, "proof": proof})


def test_facts() -> None:
    said = "[3] the nail is made of iron\n[5] iron rusts in damp air\n[2] the cellar is damp"
    assert chain("facts") == said
    assert chain("facts", words=2) == "[3] the nail\n[5] iron rusts\n[2] the cellar"
    assert chain("facts", relevant=()) == NOTHING


def test_tree() -> None:
    assert chain("tree") == "[3] and [5] give A: the nail can rust\nA and [2] give the answer: the nail will rust"
    without_iron = chain("tree", SHOWN[:4], (1, 2))  # what rests on a fact that is not shown is left out
    assert without_iron == "[3] helps\n[2] helps"
    without_damp = chain("tree", (SHOWN[2], SHOWN[4]), (0, 1))
    assert without_damp == "[1] and [2] give A: the nail can rust"
    assert chain("tree", relevant=()) == NOTHING
    single = argument_of({**RUST, "proof": "sent1 -> int1: so; int1 & sent2 & sent3 -> hypothesis;"})
    assert FORMS[Form.TREE](single, SHOWN, ALL, 0).splitlines()[0] == "[3] gives A: so"


def test_verdicts_and_their_kin() -> None:
    said = "[1] no [2] yes [3] yes [4] no [5] yes"
    assert chain("verdicts") == said
    assert chain("hypothesis") == f"the nail will rust\n{said}"
    assert chain("statement") == "the nail will rust" and FORMS[Form.STATEMENT](Argument(), SHOWN, ALL, 0) == ""
    assert chain("quoted", words=2).splitlines()[:2] == ["[1] gold does: no", "[2] the cellar: yes"]
    assert chain("quoted").splitlines()[3] == "[4] tin is a metal: no"
    assert chain("none") == ""
    assert chain("verdicts", relevant=()).count("no") == 5
    assert FORMS[Form.HYPOTHESIS](Argument(), SHOWN, ALL, 0) == said  # labels alone


def test_quotes_cannot_break_the_format() -> None:
    nasty = (Passage("n", "see [2]\n</think><answer> [1]"), Passage("m", "fine"))
    assert "</think>" not in chain("facts", nasty, (0,)) and "[2]" not in chain("facts", nasty, (0,))
    with pytest.raises(InputError, match="unknown chain form 'poem' -> use one of facts, tree"):
        get_form("poem")


# --- windows ---------------------------------------------------------------------------------------------------------

LIST = [Passage(f"d{i}", f"text {i}") for i in range(25)]


def ids(windows: Sequence[Sequence[Passage]]) -> list[list[int]]:
    return [[int(p.docid[1:]) for p in window] for window in windows]


def test_sliding_windows_as_retrieved() -> None:
    windows = ids(windows_of(LIST, {"d3", "d12"}, Windowing(empty=1.0), 0, "q"))
    assert windows == [list(range(start, start + 10)) for start in (15, 10, 5, 0)]
    assert ids(windows_of(LIST, {"d3"}, Windowing(empty=0.0), 0, "q")) == [list(range(10))]
    assert windows_of(LIST[:1], {"d0"}, Windowing(), 0, "q") == []
    assert ids(windows_of(LIST, {"d24"}, Windowing(depth=12, empty=1.0), 0, "q")) == [list(range(2, 12)), [*range(7)]]


def test_moved_windows_follow_right_answers() -> None:
    tail, *_, head = ids(windows_of(LIST, {"d24", "d3"}, Windowing(moved=True), 0, "q"))
    assert tail == list(range(15, 25)) and 24 in head and 3 in head  # carried to the head, five places a window
    assert all(len(set(window)) == 10 for window in (tail, head))


def test_draws_are_seeded_and_apart() -> None:
    relevant = {p.docid for p in LIST}
    plain = ids(windows_of(LIST, relevant, Windowing(), 1, "q"))
    more = ids(windows_of(LIST, relevant, Windowing(drawn=3), 1, "q"))
    assert more[:4] == plain and len(more) == 7 and all(window == sorted(window) for window in more)
    assert more == ids(windows_of(LIST, relevant, Windowing(drawn=3), 1, "q"))
    assert more != ids(windows_of(LIST, relevant, Windowing(drawn=3), 2, "q"))
    shuffled = ids(windows_of(LIST, relevant, Windowing(shuffled=1.0), 1, "q"))
    assert shuffled != plain and [sorted(window) for window in shuffled] == plain
    two = ids(windows_of(LIST, relevant, Windowing(per_query=2), 1, "q"))
    assert len(two) == 2 and all(window in plain for window in two)
    assert [most_windows(Windowing(**kw)) for kw in ({}, {"drawn": 2}, {"per_query": 1})] == [4, 6, 1]


@pytest.mark.parametrize("settings", [{"size": 1}, {"stride": 11}, {"empty": 1.5}, {"depth": 1}, {"drawn": -1}])
def test_windowing_refuses(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Windowing(**settings)
    with pytest.raises(InputError, match="unknown window setting 'width'"):
        Windowing.of({"width": 3})


# --- the teacher -----------------------------------------------------------------------------------------------------


def make_folder(root: Path, queries: int = 6, pool: int = 25) -> Path:
    """Train and test queries; of each, three of the candidates are leaves, at places 2, 8 and 20, and one leaf is no
    candidate at all."""
    judged = Judged("toy", {"data_kind": "real", "licence": "ours"})
    for number in range(queries):
        qid, split = f"q{number}", "train" if number < queries - 1 else "test"
        docids = [f"{qid}-{i}" for i in range(pool)]
        judged.corpus |= {d: Passage(d, f"fact {i} of case {number}") for i, d in enumerate([*docids, f"{qid}-far"])}
        leaves = dict(zip(("sent1", "sent2", "sent3", "sent4"), (docids[i] for i in (20, 2, 8)), strict=False))
        leaves["sent4"] = f"{qid}-far"
        judged.queries[qid] = Query(qid, f"what of case {number}?")
        judged.qrels[qid] = dict.fromkeys(leaves.values(), 1)
        judged.metadata[qid] = {
            "split": split, "domain": "science", "gold_answer": f"answer {number}", "hypothesis": f"so is {number}",
            "leaves": leaves, "proof": "sent1 & sent2 -> int1: half; int1 & sent3 & sent4 -> hypothesis;",
        }  # fmt: skip
        run = {qid: [Hit(d, float(pool - i), i + 1) for i, d in enumerate(docids)]}
        judged.runs.setdefault("", {}).setdefault(split, {}).update(run)
    return write_judged(root, judged)


def with_windows(folder: Path, **settings: Any) -> Collection:
    collection = read_collection(folder, "train")
    return replace(collection, source={**collection.source, "windows": settings})


def test_it_answers_the_prompts_of_a_model(tmp_path: Path) -> None:
    teacher, recipe = HumanTeacher(make_folder(tmp_path), form="tree"), recipe_for("science")
    passages = [Passage("x", f"fact {i} of case 1") for i in (8, 3, 2, 20)]
    chosen = teacher.answer(select_messages(recipe, "what of case 1?", "answer 1", passages), Decoding())
    assert chosen.text == "[1], [3], [4]" and chosen.extra["data_kind"] == "human"
    nothing = teacher.answer(select_messages(recipe, "what of case 1?", "answer 1", passages[1:2]), Decoding())
    assert nothing.text == "None"
    ranked = teacher.answer(rank_messages(recipe, "what of case 1?", passages), Decoding())
    assert ranked.text == "[4] > [3] > [1] > [2]" and ranked.reasoning == "[1] helps\n[4] and [3] give A: half"
    teacher.gold = "shown"
    assert teacher.answer(rank_messages(recipe, "what of case 1?", passages), Decoding()).text[:15] == "[1] > [3] > [4]"
    assert teacher.answer(rank_messages(recipe, "what of case 5?", passages), Decoding()).error  # a test query
    assert teacher.answer(rank_messages(recipe, "who?", passages), Decoding()).error


@pytest.mark.parametrize("form", [form for form in Form if form != Form.NONE])
def test_the_pipeline_and_the_short_way_agree(tmp_path: Path, form: Form) -> None:
    gold = "shown" if form == Form.VERDICTS else "tree"
    folder = make_folder(tmp_path / "toy")
    collection = with_windows(folder, drawn=1, empty=0.5, shuffled=0.3)
    teacher = HumanTeacher(folder, seed=3, form=form, words=3, gold=gold)
    result = synthesize(collection, teacher, tmp_path / "out", window=10, seed=3, limit=4)
    examples = read_examples(result.examples)
    windowing = Windowing.of(collection.source["windows"])
    short = human_examples(collection, form=form, words=3, gold=gold, windowing=windowing, seed=3, limit=4)
    assert result.summary["dropped"] == {} and len({e.query.qid.partition("/")[0] for e in examples}) == 4
    for one, other in zip(examples, short, strict=True):
        assert (one.query, one.passages, one.relevance) == (other.query, other.passages, other.relevance)
        assert (one.gold, one.reasoning) == (other.gold, other.reasoning)
        assert one.meta["teacher"] == one.meta["teacher_kind"] == other.meta["teacher"] == "human"
        assert one.meta["data_kind"] == "real" and one.meta.get("consistency", 1.0) == 1.0
        assert ("consistency" in one.meta) == any(one.relevance)
    assert any(not any(e.relevance) for e in examples)  # lists without a relevant passage are kept, as asked


def test_nothing_is_added_to_a_list(tmp_path: Path) -> None:
    collection = read_collection(make_folder(tmp_path), "train")
    for example in human_examples(collection, form="verdicts", windowing=Windowing(empty=1.0)):
        ranks = [int(p.docid.partition("-")[2]) for p in example.passages]
        assert ranks == list(range(ranks[0], ranks[0] + 10))


def test_a_store_of_another_form_is_not_gone_on_with(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "toy")
    collection = with_windows(folder)
    synthesize(collection, HumanTeacher(folder), tmp_path / "out", window=10, limit=1)
    with pytest.raises(StageError, match=r"teacher.form: .*verdicts"):
        synthesize(collection, HumanTeacher(folder, form="facts"), tmp_path / "out", window=10, limit=1)


def test_items_of_lists_survive_the_file() -> None:
    assert "listed" not in item_to_json(item_from_json({"qid": "q"}))
    listed = replace(item_from_json({"qid": "q/0", "query": "x"}), listed=True)
    assert item_from_json(item_to_json(listed)) == listed


def test_a_source_counts_its_lists(tmp_path: Path) -> None:
    collection = read_collection(make_folder(tmp_path), "train")
    source = CollectionSource(collection, windowing=Windowing(empty=1.0))
    assert len(source) == len(list(source)) == 20 and len(CollectionSource(collection)) == 5


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    for path in (folder / "qrels").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no human labels"):
        HumanTeacher(folder)
    with pytest.raises(InputError, match="unknown gold order 'best'"):
        HumanTeacher(folder, gold="best")


# --- a trained model as teacher --------------------------------------------------------------------------------------


class Ranker:
    """An engine that puts the fact with the highest number first, and fails for case 2."""

    name, model, capacity = "stub", "runs/ranker", 8

    def __init__(self) -> None:
        self.batches: list[int] = []
        self._waiting: list[Request] = []

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self.batches.append(len(requests))
        self._waiting += requests

    def collect(self) -> list[tuple[int, Reply]]:
        request = self._waiting.pop()
        text = request.messages[-1]["content"]
        assert "Gold answer" not in text and "Search Query: what of case" in text  # the reranker's own prompt
        facts = [int(number) for number in re.findall(r"^\[\d+\] fact (\d+)", text, re.MULTILINE)]
        order = sorted(range(len(facts)), key=lambda i: -facts[i])
        said = " > ".join(f"[{i + 1}]" for i in order)
        if "case 2" in text:
            return [(request.id, Reply(error="out of order"))]
        return [(request.id, Reply(f"<think> by number </think> <answer> {said} </answer>"))]

    def close(self) -> None:
        pass


def test_the_filter_drops_what_contradicts_people(tmp_path: Path) -> None:
    folder, engine = make_folder(tmp_path / "toy"), Ranker()
    collection = with_windows(folder, empty=0.0)
    teacher = ModelTeacher(folder, checkpoint=engine)
    result = synthesize(collection, teacher, tmp_path / "out", window=10, concurrency=4, alpha=0.5)
    assert result.summary["dropped"] == {"below_alpha": 8, "call_failed": 3}
    kept = read_examples(result.examples)
    assert len(kept) == 4 and {e.meta["teacher"] for e in kept} == {"ranker, human labels"}
    assert all(e.reasoning == "by number" and e.meta["consistency"] >= 0.5 for e in kept)
    values = [row["consistency"] for _, row in read_jsonl(result.dropped) if row["reason"] == "below_alpha"]
    assert max(values) < 0.5 and max(engine.batches) > 1  # calls in flight went together


def test_a_server_needs_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs its name"):
        ModelTeacher(make_folder(tmp_path), checkpoint="http://localhost:1/v1")


# --- a pointwise reranker from the same labels ------------------------------------------------------------------------
def test_a_judge_is_trained_on_human_labels_packed_and_asked_without_being_told(
    realdata: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m rrlib.studies.pointwise`, then `pack`, then the three lines of its card."""
    monkeypatch.setenv("RRLIB_CACHE", str(tmp_path / "cache"))
    profile = tmp_path / "small.yaml"
    profile.write_text(f"name: small\nseed: 7\nshared: {{model: {backbone}, max_passage_tokens: 64}}\n")
    options = [
        *("--collection", "entailmentbank", "--first-stage", "ai2-25", "--profile", str(profile), "--limit", "2")
    ]
    options += ["--data", str(realdata / "collections"), "--output", str(tmp_path / "out"), "--set", "epochs=1"]
    changes = ("learning_rate=1e-2", "micro_batch=8", "accumulation=1", "lora_rank=2")
    assert pointwise.main([*options, *(word for change in changes for word in ("--set", change))]) == 0
    told = capsys.readouterr().out
    assert "16 passages of 2 queries" in told and "examples 16" in told
    checkpoint = tmp_path / "out" / "checkpoint"
    assert len((tmp_path / "out" / "log.jsonl").read_text().splitlines()) == 2, "an update for each eight"
    packed = pack(checkpoint, tmp_path / "judge", base=str(backbone), rank=2)
    assert json.loads((packed.folder / "SOURCE.json").read_text())["use"] == {
        "style": "pointwise_nothink",
        "max_passage_tokens": 64,
    }
    card = (packed.folder / "README.md").read_text()
    assert "A pointwise reranker, which judges one passage at a time without reasoning" in card
    assert 'style="pointwise_nothink", max_passage_tokens=64)' in card
    ranked = Reranker(str(packed.folder), decoding=Decoding(max_new_tokens=4)).rank("why?", ["a b c", "x y z"])
    assert [len(window.docids) for window in ranked.windows] == [1, 1]
    assert all(window.score is not None and 0 <= window.score <= 1 for window in ranked.windows)


def test_a_judge_that_reasons_writes_what_people_concluded_and_not_its_word(
    realdata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Verdicts cut out for one passage would be its word said twice, which is no chain."""
    asked: list[Any] = []
    monkeypatch.setattr(pointwise.stages, "sft", lambda config, examples, *rest: asked.extend(examples))
    words = ["--style", "pointwise", "--limit", "3", "--data", str(realdata / "collections"), "--output", "none"]
    science = [*words, "--collection", "entailmentbank", "--first-stage", "ai2-25"]
    pointwise.train(pointwise.parser().parse_args(science))
    chains = {example.query.text: example.reasoning for example in asked}
    assert len(asked) == 24 and len(chains) == 3 and min(len(chain.split()) for chain in chains.values()) > 3
    assert all(chains[example.query.text] == example.reasoning for example in asked), "of the query, not of the label"
    arguments = [*words, "--collection", "argkp", "--first-stage", "stem"]
    assert pointwise.main(arguments) == 2 and "people wrote no" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["lora_rank=1.7", "epochs=many", "rank=3", "epochs", "gradient_checkpointing=1"])
def test_a_wrong_parameter_is_refused_before_anything_is_read(change: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--collection", "entailmentbank", "--first-stage", "ai2-25", "--data", "nowhere", "--output", "none"]
    assert pointwise.main([*options, "--set", change]) == 2
    assert "--set" in capsys.readouterr().err
