"""Files in tests/golden, written before rrlib.disk and rrlib.records were there: they resume, replay and compare as
they did then. The functions below make what they were made of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from test_experiment import Scripted, world
from test_pointwise import Judge, Thinker
from test_rerank import Oracle, make
from test_synthesis import Teacher, make_collection, run
from tokenizers_for_tests import make_tokenizer

from rrlib.chain import manifest
from rrlib.chain.manifest import identity, open_stage, stage_state
from rrlib.engines import Decoding, make_engine
from rrlib.engines.base import Reply
from rrlib.errors import InputError, StageError
from rrlib.evaluation import Experiment
from rrlib.rerank import Reranker
from rrlib.studies.ablations import Table
from rrlib.studies.setting import Setting
from rrlib.synthesis.teacher.cache import ResponseCache
from rrlib.synthesis.teacher.prices import Price
from rrlib.training.config import GRPOSettings, SFTSettings, as_stored
from rrlib.training.resume import begin

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden"))


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- stages ----------------------------------------------------------------------------------------------------------
PARAMETERS: dict[str, Any] = {"run": "r", "seed": 3, "rate": 1.0, "names": ["ä", "b"], "interactive": False}


def test_a_finished_stage_and_a_begun_one(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, cells = golden / "chain" / "r", golden / "chain" / "cells.json"
    finished = json.loads((chain / "a" / "manifest.json").read_text())["match"]
    monkeypatch.setattr(manifest, "library_hash", lambda: finished["library"])
    for name, inputs, state in (("a", (), "finished"), ("b", ("a",), "begun")):
        assert stage_state(chain, name, identity(chain, name, PARAMETERS, inputs, cells)) == (state, [])
        changed = identity(chain, name, PARAMETERS | {"rate": 2.0}, inputs, cells)
        assert stage_state(chain, name, changed)[1] == ["parameters.rate: 1.0 -> 2.0"]
    before = content(chain)
    stage = open_stage(chain, "b", PARAMETERS, ("a",), notebook=cells)
    assert stage.resumed and stage.path("store.jsonl").read_text() == "{}\n" and stage.data_kind == "synthetic"
    assert open_stage(chain, "a", PARAMETERS, notebook=cells).reopened
    assert {**content(chain), "b/begun.json": b""} == {**before, "b/begun.json": b""}
    with pytest.raises(StageError, match=r"parameters\.rate: 1\.0 -> 3\.0.*--fresh"):
        open_stage(chain, "b", PARAMETERS | {"rate": 3.0}, ("a",), notebook=cells)


# --- trainings -------------------------------------------------------------------------------------------------------
def test_a_finished_training_and_a_begun_one(golden: Path) -> None:
    finished, begun = golden / "training" / "finished", golden / "training" / "begun"
    inputs = json.loads((finished / "inputs.json").read_text())
    before = content(finished)
    result, checkpoint = begin(finished, inputs)
    assert checkpoint is None and result is not None and content(finished) == before
    assert (result.seconds, result.n_examples, result.dropped) == (1.5, 3, 1)
    assert result.log == [{"loss": 0.5, "step": 1}, {"loss": 0.25, "step": 2}] and result.info["device"] == "cpu"
    before = content(begun)
    result, checkpoint = begin(begun, inputs)
    assert result is None and checkpoint == str(begun / "trainer" / "checkpoint-2") and content(begun) == before
    with pytest.raises(StageError, match=r"learning_rate: was 5e-06, is 0\.1.*--fresh"):
        begin(begun, inputs | {"learning_rate": 0.1})
    assert content(begun) == before


# --- a teacher's answers ---------------------------------------------------------------------------------------------
RESULTS = ("examples.jsonl", "dropped.jsonl", "fates.jsonl", "summary.json", "store.json")
OPTIONS: dict[str, Any] = {"concurrency": 1, "price": Price(1.0, 2.0), "budget": 1.0}


def test_a_teachers_store_asks_nothing_again(golden: Path) -> None:
    store, teacher = golden / "teacher", Teacher()
    before = content(store)
    result = run(make_collection(2, 6), teacher, store, **OPTIONS)
    after = content(store)
    assert teacher.asked == [] and result.summary["account"]["calls"] == 4
    assert result.summary["account"]["usd"] == pytest.approx(4 * 10e-6 + (2 * 3 + 2 * 9) * 2e-6)
    for name in (*RESULTS, "select.jsonl", "hard.jsonl", "rank.jsonl", "calls.jsonl"):
        assert after[name] == before[name], name
    with pytest.raises(StageError, match=r"seed: stored 1, now 2"):
        run(make_collection(2, 6), teacher, store, seed=2, **OPTIONS)


def test_a_teachers_store_with_torn_ends_asks_what_is_missing(golden: Path) -> None:
    store, teacher = golden / "teacher", Teacher()
    before = content(store)
    for name in ("rank.jsonl", "calls.jsonl"):
        (store / name).write_bytes(before[name][:-20])
    result = run(make_collection(2, 6), teacher, store, **OPTIONS)
    assert len(teacher.asked) == 1 and teacher.asked[0][0] == "rank" and result.summary["torn_lines"] == 2
    assert result.summary["account"]["lost"] == 1 and result.summary["account"]["calls"] == 4
    assert all(content(store)[name] == before[name] for name in RESULTS)
    rows = [
        [json.loads(line) for line in text.splitlines()]
        for text in (before["rank.jsonl"], content(store)["rank.jsonl"])
    ]
    clocks = {"seconds", "time"}
    assert [{k: v for k, v in row.items() if k not in clocks} for row in rows[0]] == [
        {k: v for k, v in row.items() if k not in clocks} for row in rows[1]
    ]


MESSAGES = [{"role": "user", "content": "ä?"}]


def test_a_cached_answer(golden: Path) -> None:
    cache = ResponseCache(golden / "cache")
    reply = cache.get(Teacher(), MESSAGES, Decoding(temperature=0.6, seed=4))
    assert reply == Reply("ö", "why", "stop", 3, 4, extra={"cached": True, "level": 1})
    cache.put(
        Teacher(), MESSAGES, Decoding(temperature=0.6, seed=4), Reply("ö", "why", "stop", 3, 4, extra={"level": 1})
    )
    assert content(golden / "cache") == content(GOLDEN / "cache")


# --- window logs -----------------------------------------------------------------------------------------------------
class Fails(Oracle):
    """The window at 5 of query q1 fails."""

    def __init__(self) -> None:
        super().__init__(capacity=3, fail=lambda r: r.key[1] == "q1" and r.key[3][0] == 5)


def reranker(name: str, log: Path | None = None, engine: Any = None, **options: Any) -> Reranker:
    """The reranker of each golden log; engine: another one than that which wrote it."""
    tokenizer = make_tokenizer("qwen2.5")
    made: dict[str, tuple[Any, dict[str, Any]]] = {
        "list": (Fails, {"window": 10, "stride": 5, "depth": 15}),
        "point": (lambda: Judge(tokenizer), {"style": "pointwise", "strategy": "pointwise"}),
        "budget": (
            lambda: Thinker(tokenizer, length=40),
            {"window": 10, "stride": 5, "budget": 10, "decoding": Decoding(200, seed=1)},
        ),
    }
    maker, fixed = made[name]
    return Reranker(engine or maker(), log=log, **fixed, **options)


def candidates() -> list[Any]:
    return [make(12, "q1"), make(16, "q2", "söme"), make(1, "q3")]


LOGS = ("list", "point", "budget")


def rankings_of(result: Any) -> list[list[Any]]:
    return [[*name, docids] for name, docids in result.rankings.items()]


@pytest.mark.parametrize("name", LOGS)
def test_a_window_log_replays_to_the_same_bytes(name: str, golden: Path, tmp_path: Path) -> None:
    windows = golden / "windows"
    engine = make_engine("replay", "", responses=windows / f"{name}.jsonl")
    result = reranker(name, tmp_path / "replay.jsonl", engine).rerank(candidates())
    assert (tmp_path / "replay.jsonl").read_bytes() == (windows / f"{name}.replay.jsonl").read_bytes()
    assert rankings_of(result) == json.loads((windows / f"{name}.json").read_text())


@pytest.mark.parametrize("name", LOGS)
def test_a_window_log_resumes_to_the_same_bytes(name: str, golden: Path) -> None:
    log = golden / "windows" / f"{name}.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)

    class Never(Oracle):
        tokenizer = make_tokenizer("qwen2.5") if name != "list" else None

        def submit(self, requests: Sequence[Any], decoding: Decoding) -> None:
            raise AssertionError("a logged window is asked again")

    never = Never()
    never.name = never.model = {"list": "oracle", "point": "judge", "budget": "judge"}[name]
    whole = reranker(name, log, never).rerank(candidates())
    assert whole.counts["reused"] == len(lines) and log.read_bytes() == b"".join(lines)
    assert rankings_of(whole) == json.loads((golden / "windows" / f"{name}.json").read_text())
    # killed while it wrote its third line, with this one and another on their way
    log.write_bytes(b"".join(lines[:2]) + lines[2][:-30])
    shutil.copy(golden / "windows" / f"{name}.asked", log.with_name(log.name + ".asked"))
    resumed = reranker(name, log).rerank(candidates())
    assert resumed.counts["reused"] == 2 and resumed.counts["in_flight_at_kill"] == 2
    assert sorted(log.read_bytes().splitlines(keepends=True)) == sorted(lines)
    assert resumed.rankings == whole.rankings
    with pytest.raises(InputError, match=r":1: this log was made with max_passage_tokens=512, now it is 7.*--fresh"):
        reranker(name, log, never, max_passage_tokens=7).rerank(candidates())


# --- an experiment ---------------------------------------------------------------------------------------------------
def test_an_experiment_is_read_back(golden: Path) -> None:
    folder, opened = golden / "experiment", []
    before = content(folder)
    result = Experiment({"first": "first-stage", "model": Scripted(opened=opened)}, world(queries=2), output=folder)
    assert opened == [] and {name: content(folder)[name] for name in before} == before
    assert len(result.records("model")) == 6 and result.outcomes["model", "toy"].info == {
        "window": 6, "stride": 3, "depth": 12, "max_passage_tokens": 512,
    }  # fmt: skip
    assert {row["mean"] for row in result.rows() if row["system"] == "model"} == {1.0}
    with pytest.raises(InputError, match="--fresh"):
        Experiment({"model": Scripted()}, world(queries=2, seed=4), output=folder)


# --- ablations -------------------------------------------------------------------------------------------------------
SETTING = {
    "corpus": "rrlib.miniature:build", "sizes": {"train": 2}, "teacher": "a:b", "model": "model",
    "sft": asdict(SFTSettings()), "grpo": as_stored(asdict(GRPOSettings())),
    "corpus_options": {}, "teacher_options": {},
    "alpha": 0.4, "consistency_k": 10, "temperature": 0.6, "window": 10, "stride": 5, "depth": 30, "k": 5,
    "max_new_tokens": 512, "engine_options": {},
}  # fmt: skip


class Recorded(Setting):
    """A setting by what its rows depend on, as it was written into them."""

    def identity(self) -> dict[str, Any]:
        return SETTING


def test_rows_of_an_ablation(golden: Path) -> None:
    told: list[str] = []
    table = Table(golden / "ablations", Recorded({}), told.append)
    before = table.path.read_bytes()
    rows = before.splitlines(keepends=True)
    table.path.write_bytes(before + rows[0][:40])  # killed while it wrote
    results = table.fill(["full", "no RL"], [0])
    assert table.path.read_bytes() == before and all("there already" in line for line in told)
    assert [(r.row, r.seed, r.values, r.valid) for r in results] == [
        ("full", 0, {"q1": 0.5, "q2": 1.0}, 0.75),
        ("no RL", 0, {"q1": 0.25, "q2": 0.0}, 1.0),
    ]
