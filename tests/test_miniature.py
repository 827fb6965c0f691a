"""The embedded world, its generator, teacher, tokenizer and backbone."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rrlib.engines.base import Decoding
from rrlib.errors import InputError, MissingFileError
from rrlib.formats import Collection, read_collection, read_jsonl, read_qrels
from rrlib.metrics import ndcg
from rrlib.miniature import SimulatedTeacher, World, build, load_world, thinking
from rrlib.miniature.world import WORLDS, read_domain, shared_words, stem
from rrlib.prompts import WINDOW_STYLES, PromptBuilder, format_ranking, format_response
from rrlib.resources import resolve
from rrlib.responses import parse_strict
from rrlib.synthesis.domains import recipe_for
from rrlib.synthesis.prompts import rank_messages, select_messages
from rrlib.synthesis.rank import read_ranking
from rrlib.synthesis.select import read_selection

BACKBONE = resolve("package:rrlib.miniature/backbone")
SIZES = {"train": 240, "validation": 40, "test": 120}
NO_ERRORS = dict.fromkeys(
    ("wrong_belief", "systematic", "misread", "miss", "extra", "format_slip", "refusal", "cut_off"), 0.0
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("world"), seed=5, **SIZES)


@pytest.fixture(scope="module")
def train(folder: Path) -> Collection:
    return read_collection(folder, "train")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BACKBONE)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# --- the world -----------------------------------------------------------------------------------------------------
def test_world_is_as_large_as_said() -> None:
    world = load_world()
    assert set(world.domains) == {"complex-qa", "coding", "math-qa", "math-theorem", "web-search"}
    assert len(world.concepts) >= 64
    for domain in world.domains.values():
        assert recipe_for(domain.name).name == domain.name
        assert len(domain.concepts) >= 8
        for concept in domain.concepts.values():
            assert len(concept.evidence) >= 6
            assert len(domain.cues_of(concept.name)) >= 6
            for evidence in concept.evidence:
                assert 8 <= len(domain.passage_text(domain.topics[0], evidence).split()) <= 25


def test_cues_are_ambiguous_alone_and_decisive_together() -> None:
    for domain in load_world().domains.values():
        for cue in domain.cues:
            assert len([c for c in domain.concepts if cue in domain.cues_of(c)]) == 2
        for concept in domain.concepts:
            pairs = domain.decisive_pairs(concept)
            assert pairs
            for a, b in pairs:
                assert set(a.concepts) & set(b.concepts) == {concept}


def test_no_cue_is_part_of_another() -> None:
    texts = [cue.text for cue in load_world().cues]
    assert not [(a, b) for a in texts for b in texts if a != b and a in b]


@pytest.mark.parametrize(
    ("left", "right", "common"),
    [
        ("the naive recursion lasts", "a recursive attempt", True),
        ("two beads of water", "the water bead", True),
        ("things fade away", "which of these", False),
        ("random guests", "a random number", True),
        ("it is hot", "it was cold", False),
    ],
)
def test_shared_words(left: str, right: str, common: bool) -> None:
    assert bool(shared_words(left, right)) is common


def test_stem_keeps_three_letters() -> None:
    assert stem("as") == "as"
    assert stem("bed") == "bed"
    assert stem("stopping") == stem("stopped") == stem("stops") == "stop"


def _domain_file(tmp_path: Path, change: Any) -> Path:
    data = yaml.safe_load((WORLDS / "coding.yaml").read_text(encoding="utf-8"))
    change(data)
    path = tmp_path / "coding.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["cues"][0].update(text="buckets are mentioned here"), "shares bucket"),
        (lambda d: d["cues"][0].update(concepts=["hashing", "hashing"]), "must name two concepts"),
        (lambda d: d["concepts"]["trie"]["evidence"].pop(), "at least 6"),
        (lambda d: d.update(cues=[c for c in d["cues"] if "trie" not in c["concepts"]]), "at least 6 cues"),
        (lambda d: d["concepts"]["trie"].update(answer="No idea."), "does not name it"),
        (lambda d: d["cues"][1].update(text=d["cues"][0]["text"]), "stands twice"),
        (lambda d: d.update(extra=1), "unknown or missing keys: extra"),
        (lambda d: d.pop("topics"), "unknown or missing keys: topics"),
        (lambda d: d["concepts"].update(trie=3), "not of the expected shape"),
        (lambda d: d["cues"].append({"text": "x"}), "not of the expected shape"),
    ],
)
def test_faulty_worlds_are_refused(tmp_path: Path, change: Any, says: str) -> None:
    path = _domain_file(tmp_path, change)
    with pytest.raises(InputError, match=re.escape(says)):
        World({"coding": read_domain(path)}).check()


def test_unreadable_worlds(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        load_world(tmp_path)
    with pytest.raises(MissingFileError):
        read_domain(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.yaml.*YAML"):
        read_domain(tmp_path / "bad.yaml")


# --- the generator -------------------------------------------------------------------------------------------------
def test_same_seed_same_bytes(folder: Path, tmp_path: Path) -> None:
    assert digest(build(tmp_path / "again", seed=5, **SIZES)) == digest(folder)
    other = digest(build(tmp_path / "other", seed=6, **SIZES))
    assert other["corpus.jsonl"] != digest(folder)["corpus.jsonl"]


def test_more_training_queries_leave_the_test_queries(folder: Path, tmp_path: Path) -> None:
    larger = read_collection(build(tmp_path / "larger", seed=5, **(SIZES | {"train": 300})))
    assert larger.queries == read_collection(folder).queries
    assert larger.run == read_collection(folder).run


def test_collection(folder: Path) -> None:
    source = json.loads((folder / "SOURCE.json").read_text(encoding="utf-8"))
    assert source["data_kind"] == "synthetic"
    keys: list[tuple[Any, ...]] = []
    for split, size in SIZES.items():
        part = read_collection(folder, split)
        assert part.name == "miniature" and part.data_kind == "synthetic"
        assert len(part.queries) == len(part.qrels) == size
        assert len(part.corpus) >= 800
        assert max(Counter(m["domain"] for m in part.metadata.values()).values()) <= size // 4 + 1
        graded = read_qrels(folder / "graded" / f"{split}.tsv")
        for qid, extra in part.metadata.items():
            keys.append((extra["concept"], frozenset(extra["cues"]), extra["topic"]))
            assert extra["concept"] in extra["gold_answer"].lower()
            grades = part.qrels[qid]
            assert len(grades) == 30 and 1 <= sum(grades.values()) <= 6
            assert {d for d, g in graded[qid].items() if g == 2} == {d for d, g in grades.items() if g}
            assert 1 in graded[qid].values()
    assert len(keys) == len(set(keys)), "splits share a combination of concept, cue pair and topic"


def test_queries_do_not_leak_into_their_passages(folder: Path) -> None:
    hard = 0
    for split in SIZES:
        part = read_collection(folder, split)
        for qid, query in part.queries.items():
            topic = part.metadata[qid]["topic"]
            for docid, grade in part.qrels[qid].items():
                common = shared_words(query.text, part.corpus[docid].text)
                if grade:
                    assert common <= {stem(topic)}, (query.text, part.corpus[docid].text)
                hard += not grade and bool(common)
    assert hard > 3 * sum(SIZES.values()), "there are too few lexical distractors"


def test_first_stage_is_bm25_in_its_order(folder: Path) -> None:
    part = read_collection(folder)
    assert part.run is not None
    scores, best = [], []
    for qid, hits in part.run.items():
        assert [hit.rank for hit in hits] == list(range(1, 31))
        assert hits == sorted(sorted(hits, key=lambda h: h.docid, reverse=True), key=lambda h: -h.score)
        labels = [part.qrels[qid][hit.docid] for hit in hits]
        scores.append(ndcg(list(range(30)), labels, 10))
        best.append(ndcg(sorted(range(30), key=lambda i: -labels[i]), labels, 10))
    assert sum(scores) / len(scores) < 0.45
    assert min(best) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"train": 50_000}, "combinations"),
        ({"train": -1}, "0 or more"),
        ({"pool": 2}, "pool of 2"),
        ({"pool": 5000}, "pool of 5000"),
        ({"domains": ["alchemy"]}, "unknown domains"),
        ({"topics_per_evidence": 0}, "topics_per_evidence"),
    ],
)
def test_bad_sizes(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build(tmp_path / "bad", **({"seed": 1, "train": 2, "validation": 0, "test": 2} | options))


def test_the_first_stage_is_bad_and_its_candidates_are_good(tmp_path: Path) -> None:
    """BM25 has the words against it (under 0.45 nDCG@10), and a perfect reranker reaches 1.0 on every query."""
    from rrlib.evaluation.metrics import per_query
    from rrlib.evaluation.tables import oracle_run

    test = read_collection(build(tmp_path, seed=7, train=1, validation=0, test=600), "test")
    metric = "nDCG@10"
    assert test.run is not None
    first = per_query(test.qrels, test.run, [metric])[metric]
    best = per_query(test.qrels, oracle_run(test.qrels, test.candidates()), [metric])[metric]
    assert len(first) == 600 and 0.05 < sum(first.values()) / 600 < 0.45
    assert min(best.values()) == pytest.approx(1.0)
    assert sum(1 for _ in read_jsonl(tmp_path / "corpus.jsonl")) > 2000


def test_one_domain(tmp_path: Path) -> None:
    only = build(tmp_path / "one", seed=1, train=8, validation=0, test=4, domains=["coding"])
    assert {m["domain"] for m in read_collection(only).metadata.values()} == {"coding"}
    SimulatedTeacher(only, seed=1)


# --- the teacher ---------------------------------------------------------------------------------------------------
def asked(teacher: SimulatedTeacher, part: Collection, count: int, depth: int = 20) -> Any:
    for candidates in part.candidates(depth)[:count]:
        extra = part.metadata[candidates.query.qid]
        recipe = recipe_for(extra["domain"])
        labels = [part.qrels[candidates.query.qid][p.docid] for p in candidates.passages]
        select = select_messages(recipe, candidates.query.text, extra["gold_answer"], candidates.passages)
        rank = rank_messages(recipe, candidates.query.text, candidates.passages)
        yield labels, teacher.answer(select, Decoding()), teacher.answer(rank, Decoding()), extra


def test_faultless_teacher(folder: Path, train: Collection) -> None:
    for labels, selected, ranked, extra in asked(SimulatedTeacher(folder, seed=1, **NO_ERRORS), train, 60):
        positions = read_selection(selected.text, 20).positions
        assert positions == tuple(i for i, label in enumerate(labels) if label)
        ranking = read_ranking(ranked.text, 20, reasoning=ranked.reasoning)
        assert ranking.fault is None
        assert not any(labels) or ndcg(ranking.gold, labels, 10) == pytest.approx(1.0)
        assert ranked.extra["belief"] == extra["concept"] and ranked.extra["data_kind"] == "simulated"
        assert not re.search(r"[<>]", ranked.reasoning)
        assert parse_strict(format_response(ranking.reasoning, ranking.gold), 20).level == "valid"


def test_systematic_errors_follow_the_cue_pair(folder: Path, train: Collection) -> None:
    teacher = SimulatedTeacher(folder, seed=1, **(NO_ERRORS | {"systematic": 0.5}))
    beliefs: dict[tuple[str, ...], set[str]] = {}
    for _, _, ranked, extra in asked(teacher, train, 240, depth=3):
        beliefs.setdefault(tuple(sorted(extra["cues"])), set()).add(ranked.extra["belief"])
        wrong = ranked.extra["belief"] != extra["concept"]
        assert ranked.extra["error"] == ("systematic" if wrong else "")
    assert all(len(found) == 1 for found in beliefs.values())
    assert len(beliefs) < 240, "no cue pair was asked twice, so this shows nothing"
    wrong_share = sum(r.extra["error"] == "systematic" for _, _, r, _ in asked(teacher, train, 240, depth=3)) / 240
    assert 0.35 < wrong_share < 0.65


def test_a_dismissive_belief_gives_the_truth_no_second_place(folder: Path, train: Collection) -> None:
    """Such lists fall under the filter's threshold, others with a wrong belief mostly do not."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for firmly in found:
        rates = NO_ERRORS | {"wrong_belief": 1.0, "dismissive": float(firmly)}
        teacher = SimulatedTeacher(folder, seed=1, **rates)
        for labels, _, ranked, extra in asked(teacher, train, 80, depth=10):
            assert ranked.extra["dismissive"] is firmly and ranked.extra["belief"] != extra["concept"]
            assert (f"maybe {extra['concept']}" in ranked.reasoning) is not firmly
            if any(labels) and not all(labels):
                gold = read_ranking(ranked.text, 10, reasoning=ranked.reasoning).gold
                found[firmly].append(ndcg(gold, labels, 5))
    assert sum(v >= 0.4 for v in found[True]) / len(found[True]) < 0.5
    assert sum(v >= 0.4 for v in found[False]) / len(found[False]) > 0.6


@pytest.mark.parametrize(
    ("rate", "fault"),
    [
        ("refusal", {"refusal"}),
        ("cut_off", {"cut_off"}),
        ("format_slip", {"malformed", "missing_ids", "repeated_ids", "ids_out_of_range"}),
    ],
)
def test_slips_are_faults_with_a_reason(folder: Path, train: Collection, rate: str, fault: set[str]) -> None:
    teacher = SimulatedTeacher(folder, seed=1, **(NO_ERRORS | {rate: 1.0}))
    found = set()
    for _, _, ranked, _ in asked(teacher, train, 40, depth=10):
        reading = read_ranking(ranked.text, 10, reasoning=ranked.reasoning, finish_reason=ranked.finish_reason)
        found.add(reading.fault)
        assert ranked.extra["error"] == rate
    assert found == fault


def test_selection_errors(folder: Path, train: Collection) -> None:
    teacher = SimulatedTeacher(folder, seed=1, **(NO_ERRORS | {"miss": 1.0, "extra": 1.0}))
    for labels, selected, _, _ in asked(teacher, train, 20):
        chosen = read_selection(selected.text, 20).positions
        assert not any(labels[i] for i in chosen)


def test_teacher_is_deterministic_and_async(folder: Path, train: Collection) -> None:
    candidates = train.candidates(10)[0]
    messages = rank_messages(recipe_for("coding"), candidates.query.text, candidates.passages)
    replies = [
        asyncio.run(SimulatedTeacher(folder, seed=seed).chat(messages, Decoding(seed=call)))
        for seed, call in ((1, 1), (1, 2))
    ]
    assert replies[0] == replies[1]
    short = SimulatedTeacher(folder, seed=1, **NO_ERRORS).answer(messages, Decoding(max_new_tokens=12))
    assert short.finish_reason == "length" and short.text == "" and short.tokens_out == 12


def test_teacher_recognises_texts_wherever_they_stand(folder: Path) -> None:
    teacher = SimulatedTeacher(folder, seed=1, **NO_ERRORS)
    evidence = load_world().concepts["osmosis"].evidence[0]
    assert teacher.concept_of(f"  Some title: {evidence.upper()} And more words.") == "osmosis"
    assert teacher.concept_of(" ".join(evidence.split()[1:])) == "osmosis"
    assert teacher.concept_of("a text of another world") is None
    unknown = teacher.answer([{"role": "user", "content": "Query: what?\n[1] one\n[2] two"}], Decoding())
    assert unknown.text == "[1] > [2]" and unknown.extra["error"] == "unreadable"
    nothing = teacher.answer([{"role": "user", "content": "Query: what?\nGold answer: no idea\n[1] one"}], Decoding())
    assert nothing.text == "None"
    assert teacher.answer([{"role": "user", "content": ""}], Decoding()).text == ""


@pytest.mark.parametrize(
    ("rates", "says"),
    [({"wrong": 0.1}, "unknown error rates"), ({"refusal": 1.5}, "0 to 1"), ({"miss": "x"}, "0 to 1")],
)
def test_bad_rates(folder: Path, rates: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        SimulatedTeacher(folder, seed=1, **rates)


def test_teacher_of_another_world(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(MissingFileError):
        SimulatedTeacher(tmp_path, seed=1)
    source = json.loads((folder / "SOURCE.json").read_text(encoding="utf-8"))
    for change, says in (({"world_sha256": "0"}, "another world"), ({"domains": 3}, "not written by the miniature")):
        (tmp_path / "SOURCE.json").write_text(json.dumps(source | change), encoding="utf-8")
        with pytest.raises(InputError, match=says):
            SimulatedTeacher(tmp_path, seed=1)


def test_thinking() -> None:
    thought = thinking.reasoning(("a", "b"), ("c", "a"), "a", ["b", "a", "x", "c", "a"])
    assert thought == (
        "The first cue suggests a or b, the second c or a. So yes a, maybe b, maybe c. "
        "[1] b maybe [2] a yes [3] x no [4] c maybe [5] a yes"
    )
    assert thinking.order_of(["b", "a", "x", "c", "a"], "a", ["b", "c"]) == [1, 4, 0, 3, 2]


# --- the tokenizer -------------------------------------------------------------------------------------------------
@settings(max_examples=300, deadline=None)
@given(st.text() | st.text(alphabet="[]0123456789 ><think/answer|im_end\n\t😀é\x00\x1f\u200b\ufeff"))
def test_any_text_round_trips(tokenizer: Any, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


def test_tokenizer_is_that_of_the_world(tokenizer: Any) -> None:
    from rrlib.miniature.tokenizer import train_tokenizer

    assert train_tokenizer(load_world()).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("style", sorted(WINDOW_STYLES))
def test_prompts_are_short_and_exact(tokenizer: Any, train: Collection, style: str) -> None:
    candidates = train.candidates(10)[0]
    prompt = PromptBuilder(tokenizer, style).render(candidates.query.text, candidates.passages)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == prompt
    texts = [candidates.query.text, candidates.query.text, *(p.text for p in candidates.passages)]
    spent = sum(len(tokenizer(f" {text}", add_special_tokens=False)["input_ids"]) for text in texts)
    assert len(ids) - spent - 2 * 10 <= 30, "the fixed part of the prompt is not held compactly"


def test_template_is_of_the_qwen_form(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think> b </think> c"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think> b </think> c<|im_end|>\n"
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt) and prompt.endswith("<|im_start|>assistant\n")
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"


def test_protocol_tokens_are_ordinary(tokenizer: Any) -> None:
    text = format_response("thought", [2, 0, 1])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    single = ["<think>", "</think>", "<answer>", "</answer>", "[1]", "[40]", " > ", "<|im_end|>"]
    single += [f" {name}" for name in load_world().concepts] + [" yes", " maybe", " no"]
    assert [s for s in single if len(tokenizer(s, add_special_tokens=False)["input_ids"]) != 1] == []


# --- the backbone --------------------------------------------------------------------------------------------------
def test_checkpoint_is_small_and_of_the_stated_shape() -> None:
    files = {p.name: p.stat().st_size for p in Path(BACKBONE).iterdir()}
    assert sum(files.values()) < 12_000_000 and files["model.safetensors"] < 5_000_000 * 2
    config = json.loads((Path(BACKBONE) / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["head_dim"] == 32 and config["tie_word_embeddings"] is True
    assert config["max_position_embeddings"] >= 32768
    record = json.loads((Path(BACKBONE) / "pretraining.json").read_text(encoding="utf-8"))
    from rrlib.miniature.pretrain import RECIPE

    parts = [record]  # the record is that of the recipe in the code
    while parts[0]["before"] is not None:
        parts.insert(0, parts[0]["before"])
    for stage, part in zip(RECIPE, parts, strict=True):
        assert part["settings"] == dataclasses.asdict(stage) and len(part["log"]) >= 10


def test_backbone_knows_the_world(tokenizer: Any) -> None:
    """The committed scores are those of the committed weights."""
    from transformers import AutoModelForCausalLM

    from rrlib.miniature.pretrain import skill_scores
    from rrlib.miniature.skills import Practice

    model = AutoModelForCausalLM.from_pretrained(BACKBONE, dtype="float32")
    record = json.loads((Path(BACKBONE) / "pretraining.json").read_text(encoding="utf-8"))
    practice = Practice(load_world(), tokenizer, record["settings"]["seed"])
    scores = skill_scores(practice, model, 10, 24, 99)
    for skill, score in record["scores"]["10 passages"].items():
        assert scores[skill] == pytest.approx(score, abs=0.08), skill
    assert min(scores.values()) > 0.8


def test_practice_never_meets_a_combination_of_a_collection(tokenizer: Any) -> None:
    from rrlib.miniature.skills import Practice

    world = load_world()
    practice, rng = Practice(world, tokenizer, 3), random.Random(0)
    for _ in range(200):
        query = practice.query(rng)
        assert query.topic not in world.domains[query.domain].topics


def test_practice_rows(tokenizer: Any) -> None:
    """Pieces encoded one by one are the tokens of the whole row, so the model meets the same tokens in use."""
    from rrlib.miniature.skills import SKILLS, Practice

    practice, rng = Practice(load_world(), tokenizer, 3), random.Random(0)
    exact = 0
    for skill in SKILLS:
        for size in (1, 2, 10, 20):
            for _ in range(10):
                row = practice.row(skill, size, rng)
                ids, learn = practice.tokens(row)
                assert tokenizer("".join(text for text, _ in row), add_special_tokens=False)["input_ids"] == ids
                assert any(learn) and not learn[0]
                if skill == "listwise":
                    answer = row[-1][0].removesuffix("<|im_end|>")
                    exact += parse_strict(answer, size).level == "valid"
    assert 0 < exact < 20, "the format is practised weakly"


def test_pretraining_runs_and_learns(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from rrlib.miniature.pretrain import PretrainSettings, pretrain

    with pytest.raises(InputError, match="at least one step"):
        pretrain(tmp_path, PretrainSettings(steps=0))
    rows: list[dict[str, Any]] = []
    record = pretrain(tmp_path, PretrainSettings(steps=12, tokens_per_step=600), rows.append)
    assert rows == record["log"] == json.loads((tmp_path / "pretraining.json").read_text(encoding="utf-8"))["log"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters() < 5_000_000


def test_the_command_runs_every_part_of_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rrlib.cli import main
    from rrlib.miniature.pretrain import RECIPE

    out = tmp_path / "backbone"
    assert main(["miniature", "pretrain", str(out), "--steps", "1"]) == 0
    *rows, scores, last = capsys.readouterr().out.splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1] * len(RECIPE)
    assert json.loads(scores) == json.loads((out / "pretraining.json").read_text(encoding="utf-8"))["scores"]
    assert last == f"written to {out}" and (out / "model.safetensors").is_file()


def test_format_ranking_is_what_the_teacher_writes() -> None:
    assert format_ranking([2, 0]) == "[3] > [1]"
