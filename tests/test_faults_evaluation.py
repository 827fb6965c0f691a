"""Faults that a reader with fresh eyes met in evaluation, retrieval and plans. Each test failed on the code before."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from test_experiment import Scripted, world
from test_rerank import Oracle, make

from rrlib.continuation import joined
from rrlib.engines import Decoding, Reply, Request
from rrlib.engines.hf import load_tokenizer
from rrlib.engines.replay import ReplayEngine
from rrlib.errors import InputError
from rrlib.evaluation import Benchmark, Experiment, Given, Interpolated, Listwise, Routed, plan_experiment
from rrlib.evaluation.baselines import Static
from rrlib.evaluation.benchmarks import load_benchmark, make_first_stage
from rrlib.evaluation.faithfulness import compare
from rrlib.evaluation.fetch import fetch
from rrlib.evaluation.latency import query_latency
from rrlib.formats import read_excluded, write_jsonl, write_qrels, write_scored_run
from rrlib.plans.evaluation import paper_plan
from rrlib.records import WindowRecord, read_records
from rrlib.rerank import Reranker
from rrlib.resources import weights_of
from rrlib.types import Candidates, Hit

# --- what is kept ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counting(Scripted):
    """Fails for the queries of `fail`, and counts what it is asked."""

    asked: list[Any] = None  # type: ignore[assignment]

    def _open(self) -> Any:
        engine = Oracle(fail=self.fail)
        self.asked.append(engine)
        return engine


def test_failed_calls_of_an_experiment_are_made_again(tmp_path: Path) -> None:
    asked: list[Any] = []
    down = Counting(fail=lambda request: request.key[1] != "test-0", asked=asked)
    first = Experiment({"first": "first-stage", "m": down}, world(queries=4), output=tmp_path)
    again = Experiment({"first": "first-stage", "m": Counting(asked=asked)}, world(queries=4), output=tmp_path)
    value = again.table.query("system == 'm' and metric == 'nDCG@10'")["mean"].item()
    assert value == 1.0 > first.table.query("system == 'm' and metric == 'nDCG@10'")["mean"].item()
    assert {qid for qid, _ in asked[1].asked} == {f"test-{i}" for i in (1, 2, 3)}, "the good answer was kept"
    Experiment({"first": "first-stage", "m": Counting(asked=asked)}, world(queries=4), output=tmp_path)
    assert len(asked) == 2, "what is whole is kept for good"


def test_recorded_answers_and_packed_weights_are_known_by_what_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, answers = world(queries=1, n=4, window=4, stride=2), tmp_path / "answers.jsonl"
    for best, value in ((0, None), (3, 1.0)):
        [hits] = [data.need_run()["test-0"]]
        order = sorted(range(4), key=lambda i: (hits[i].docid != f"test-0 d{best}", i))
        text = "<think> a </think> <answer> " + " > ".join(f"[{i + 1}]" for i in order) + " </answer>"
        write_jsonl(answers, [{"qid": "test-0", "start": 0, "end": 4, "text": text}])
        replayed = Listwise("replay", engine="replay", engine_options={"responses": str(answers)})
        table = Experiment({"first": "first-stage", "m": replayed}, data, output=tmp_path / "out").table
        assert value is None or table.query("system == 'm' and metric == 'nDCG@10'")["mean"].item() == value
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ck").mkdir()
    (tmp_path / "ck" / "model.safetensors").write_bytes(b"one")
    before = weights_of("~/ck")
    (tmp_path / "ck" / "model.safetensors").write_bytes(b"two")
    assert before != weights_of("~/ck") is not None
    packed = weights_of("package:rrlib.checkpoints/smollm2-135m-judge")
    assert packed is not None and packed != "package:rrlib.checkpoints/smollm2-135m-judge"
    assert weights_of("HuggingFaceTB/SmolLM2-135M-Instruct") is None


def test_a_log_of_a_query_that_was_gone_on_with_is_read_once_a_window(tmp_path: Path) -> None:
    """The windows behind one that had failed are asked again too."""
    log, failed = tmp_path / "log.jsonl", [True]
    query = make(8, "q")

    def fail(request: Request) -> bool:
        return request.key is not None and request.key[3][0] == 4 and failed[0]

    Reranker(Oracle(fail=fail), window=4, stride=2, log=log).rerank([query])  # type: ignore[arg-type]
    failed[0] = False
    whole = Reranker(Oracle(), window=4, stride=2, log=log).rerank([query])  # type: ignore[arg-type]
    assert len(log.read_text().splitlines()) == 6 and len(read_records(log)) == 3
    assert Reranker(ReplayEngine(log)).rerank([query]).rankings == whole.rankings
    log.write_text(log.read_text() + log.read_text().splitlines()[-1] + "\n")
    with pytest.raises(InputError, match="is there twice"):
        ReplayEngine(log)


# --- systems that choose, and runs that are there --------------------------------------------------------------------


def test_validation_queries_of_one_name_are_not_taken_for_each_other() -> None:
    one, other = (world("V", queries=3, split="validation", seed=seed) for seed in (1, 2))
    systems = {"m": Scripted(), "a": Interpolated("m", validation=one), "b": Interpolated("m", validation=other)}
    with pytest.raises(InputError, match="two sets of validation queries are called V -> give each its own name"):
        Experiment(systems, world())
    systems["b"] = Interpolated("m", validation=replace(other, name="W"))
    assert set(Experiment(systems, world()).table["system"]) == {"m", "a", "b"}


def test_the_plan_counts_validation_queries_once() -> None:
    held_out = world("V", queries=5, split="validation")
    systems = {"m": Scripted(), "mix": Interpolated("m", validation=held_out)}
    systems |= {"route": Routed("m", "m2", validation=held_out), "m2": Scripted()}  # type: ignore[dict-item]
    planned = plan_experiment(systems, world(queries=3)).set_index("system")["calls"]
    windows = planned["m"] // 3
    assert dict(planned) == {"m": 3 * windows, "mix": 5 * windows, "route": 5 * windows, "m2": 3 * windows}


def test_a_run_of_another_set_is_refused_before_a_model_is_asked(tmp_path: Path) -> None:
    a, b = world("A", queries=2, seed=1), world("B", queries=2, seed=2)
    b = replace(b, qrels={"test-0": {"other": 1}}, run={"test-0": [Hit("other", 1.0, 1)]}, corpus={})
    path, opened = tmp_path / "b.trec", list[int]()
    write_scored_run(path, b.need_run(), "b")
    with pytest.raises(InputError, match="none of its 1 documents is judged"):
        Experiment({"m": Scripted(opened=opened), "given": Given(path)}, a)
    with pytest.raises(InputError, match="no run of B: there are those of 'A'"):
        Experiment({"given": Given({"A": a.need_run()})}, [a, b])
    path.write_text("test-0 Q0 d 1\n")
    with pytest.raises(InputError, match=r"b\.trec"):
        Experiment({"m": Scripted(opened=opened), "given": Given(path)}, a)
    assert not opened
    assert Experiment({"given": Given({"A": a.need_run()})}, [a]).table["mean"].notna().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [({"style": "nothink_tags", "budget": 9}, "does not reason"), ({"strategy": "pointwise"}, "with strategy")],
)
def test_what_a_reranker_refuses_the_plan_refuses(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        plan_experiment({"m": replace(Scripted(), **change)}, world())


# --- folders ---------------------------------------------------------------------------------------------------------


def build(folder: Path, **options: Any) -> None:
    """A collection whose text tells the options."""
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d", "text": f"text {options}"}])
    (folder / "SOURCE.json").write_text(json.dumps({"data_kind": "synthetic"}))


def test_a_built_folder_is_of_its_options(tmp_path: Path) -> None:
    spec = Benchmark("fake", source=f"callable:{__name__}:build", options={"seed": 7, "sizes": (1, 2)})
    fetch(spec, tmp_path)
    assert "'seed': 7" in (fetch(spec, tmp_path) / "corpus.jsonl").read_text(), "the same again is there"
    with pytest.raises(InputError, match=r"was built here with the options .*7.*, not .*8"):
        fetch(replace(spec, options={"seed": 8}), tmp_path)


def test_documents_of_one_run_are_not_retrieved_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rrlib.evaluation import fetch as module

    fetched: list[str | None] = []

    def parts(name: str, run: Any) -> Any:
        fetched.append(None if run is None else Path(run).name)
        docs = ["d1"] if run is not None else ["d1", "d2"]
        rows = [{"_id": d, "text": "a word"} for d in docs]
        return module._Parts(rows, [{"_id": "q", "text": "word"}], {"q": {"d1": 1}}, origin="ir_datasets: x")

    monkeypatch.setattr(module, "_ir_datasets", parts)
    runs = [tmp_path / "one.trec", tmp_path / "two.trec"]
    for number, path in enumerate(runs):
        write_scored_run(path, {"q": [Hit("d1", float(number + 1), 1)]}, "run")
    root, name = tmp_path / "data", "ir_datasets:x"
    for run in (runs[0], runs[0], runs[1]):
        load_benchmark(name, root=root, run=run, fetch=True)
    assert fetched == ["one.trec", "two.trec"]
    with pytest.raises(InputError, match="the documents of one run alone, too few to retrieve from"):
        load_benchmark(name, root=root, first_stage="bm25s")
    whole = load_benchmark(name, root=root, first_stage="bm25s", fetch=True)
    assert fetched[-1] is None and len(make_first_stage(whole, keep=False)["q"]) == 2
    load_benchmark(name, root=root, run=runs[0], fetch=True)
    assert len(fetched) == 3, "the whole corpus serves every run"


def test_validation_is_of_the_folder_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fake"
    for split, docid in (("test", "d1"), ("validation", "d2")):
        write_qrels(folder / "qrels" / f"{split}.tsv", {f"{split}-q": {docid: 1}})
        write_scored_run(folder / "runs" / f"{split}.trec", {f"{split}-q": [Hit(docid, 1.0, 1)]}, "run")
    write_jsonl(folder / "queries.jsonl", [{"_id": f"{split}-q", "text": "?"} for split in ("test", "validation")])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "current").symlink_to(folder)
    monkeypatch.chdir(folder)
    for name in ("folder:.", f"folder:{tmp_path}/sub/current"):
        held_out = load_benchmark(name).validation
        assert held_out is not None and set(held_out.qrels) == {"validation-q"}


def test_judgements_are_no_list_of_exclusions(tmp_path: Path) -> None:
    path = tmp_path / "excluded.tsv"
    for line in ("q1 0 d1 1", "q1\tQ0\td1\t0"):
        path.write_text(f"q0 d0\n{line}\n")
        with pytest.raises(InputError, match="2: a judgement, where a query and a document are expected"):
            read_excluded(path)
    path.write_text("q0 d0\nq1 a document 0\n")
    assert read_excluded(path) == {"q0": {"d0"}, "q1": {"a document 0"}}


# --- figures ---------------------------------------------------------------------------------------------------------


def test_questions_asked_at_once_wait_once() -> None:
    records = [WindowRecord("a", (0, 1), seconds=1.0, pass_no=number, round=0) for number in range(3)]
    assert query_latency(records) == [1.0]


def test_plans_count_windows_and_hours_by_them(tmp_path: Path) -> None:
    hours = {depth: paper_plan(["bright"], depth=depth, gpus=1).hours for depth in (20, 100, 1000)}
    assert hours[100] == pytest.approx(9 * hours[20], rel=0.01) and hours[1000] == pytest.approx(
        11 * hours[100], rel=0.01
    )
    assert paper_plan(["bright/economics"], depth=20, seconds_query=3600.0).hours == 103
    run = {f"q{i}": [Hit(f"d{j}", -float(j), j + 1) for j in range(n)] for i, n in enumerate((100, 20, 20))}
    write_qrels(tmp_path / "qrels" / "test.tsv", {qid: {"d0": 1} for qid in run})
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": qid, "text": "?"} for qid in run])
    write_scored_run(tmp_path / "runs" / "test.trec", run, "run")
    assert paper_plan([str(tmp_path)]).windows == 11
    assert paper_plan([str(tmp_path)], queries=2, depth=20).windows == 2


def test_tokens_of_two_halves_are_counted_and_bounded(backbone: Path) -> None:
    before, lost = Reply("<think> a", tokens_in=100, tokens_out=4), Reply(error="down", tokens_in=30)
    assert (joined(before, lost).tokens_in, joined(before, lost).tokens_out) == (130, 4)
    bounds = []
    for budget in (None, 8):
        system = Listwise(str(backbone), decoding=Decoding(max_new_tokens=16), budget=budget)
        bounds.append(plan_experiment({"m": system}, world(queries=1)).loc[0, ["calls", "tokens_in_bound"]])
    calls = bounds[0]["calls"]
    assert bounds[1]["tokens_in_bound"] == 2 * bounds[0]["tokens_in_bound"] + 16 * calls


def test_a_block_that_the_prompt_opened_stays_open_behind_a_budget(backbone: Path) -> None:
    """R1's distills and Qwen3-Thinking: the chain that was closed at its budget is a whole answer."""

    thinking = load_tokenizer(str(backbone))
    thinking.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"

    class Engine(Oracle):
        tokenizer = thinking

        def collect(self) -> list[tuple[int, Reply]]:
            request = self.waiting.pop()
            if request.max_new_tokens == 4:
                return [(request.id, Reply("so long a chain", finish_reason="length", tokens_out=4))]
            return [(request.id, Reply(" [2] > [1] > [3] </answer>", finish_reason="stop", tokens_out=9))]

    reranker = Reranker(Engine(), budget=4)  # type: ignore[arg-type]
    query = make(3)
    [record] = reranker.rerank([Candidates(query.query, query.passages)]).records
    assert record.text == "<think>so long a chain </think> <answer> [2] > [1] > [3] </answer>" and record.closed


def test_a_seed_means_the_same_draws_at_every_benchmark(realdata: Path) -> None:
    from rrlib.studies.real import load

    part = load("entailmentbank", "ai2-25", folder=realdata / "collections", split="train").limited(40)
    static = Static(part, seed=3, passes=1)
    candidates = part.candidates(5)[:4]
    last = [list(static.tried(candidates, candidates))[-1][1] for _ in range(2)]
    assert {qid: scores.tolist() for qid, scores in last[0].items()} == {
        qid: scores.tolist() for qid, scores in last[1].items()
    }


def test_free_prose_has_no_verdicts() -> None:
    prose = "The question: is X true? Passage [2] argues no.\nPassage [4] argues yes."
    assert compare("q", prose, (1, 3, 0, 2)).agreement is None
    chain = "It may be so. [1] a spider no [2] a bee, yes\n[3] bat: maybe"
    assert compare("q", chain, (1, 2, 0)).agreement == 1.0
