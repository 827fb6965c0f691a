"""One Experiment call: figures against hand-made ones, checks before models, baselines, resuming, exports."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_rerank import Oracle as OracleEngine

from rrlib.engines import Decoding
from rrlib.errors import EngineError, InputError
from rrlib.evaluation import (
    Benchmark,
    BenchmarkData,
    Experiment,
    Interpolated,
    Listwise,
    Outcome,
    Prices,
    Routed,
    interpolate,
    paired_t,
    paired_test,
    plan_experiment,
    suite_interval,
)
from rrlib.evaluation.latency import cost_row, query_latency
from rrlib.evaluation.mixtures import disagreement
from rrlib.formats import Collection, ranking_to_run, write_run
from rrlib.records import WindowRecord
from rrlib.types import Hit, Passage, Query


def world(
    name: str = "toy", queries: int = 6, n: int = 12, seed: int = 1, split: str = "test", suite: str = "", **spec: Any
) -> BenchmarkData:
    """Passages that say their gain; the one with the highest gain is relevant; the first stage is a shuffle."""
    qrels, run, texts, passages = {}, {}, {}, {}
    for q in range(queries):
        qid = f"{split}-{q}"
        gains = list(range(n))
        random.Random(f"{seed}/{name}/{qid}").shuffle(gains)
        ids = [f"{qid} d{g}" for g in gains]  # ids with blanks, as in BRIGHT's StackOverflow
        run[qid] = [Hit(d, float(n - i), i + 1) for i, d in enumerate(ids)]
        qrels[qid] = {f"{qid} d{n - 1}": 1}
        texts[qid] = Query(qid, f"query {qid}")
        passages |= {f"{qid} d{g}": Passage(f"{qid} d{g}", f"gain {g}") for g in gains}
    spec = {"window": 6, "stride": 3, "depth": n, "metrics": ("nDCG@10", "RR"), **spec}
    return BenchmarkData(
        name, texts, {}, qrels, passages, run, data_kind="synthetic", spec=Benchmark(name, suite, **spec), split=split
    )


@dataclass(frozen=True)
class Scripted(Listwise):
    """A listwise system over an engine that is made by the test."""

    model: str = "scripted"
    engine: str = "openai"
    fail: Any = None
    opened: list[int] = None  # type: ignore[assignment]

    def _open(self) -> Any:
        if self.opened is not None:
            self.opened.append(1)
        return OracleEngine(fail=self.fail)

    def settings(self) -> dict[str, Any]:
        return {"kind": "Scripted", "window": self.window, "shuffle": self.shuffle}


# --- figures ---------------------------------------------------------------------------------------------------------
def test_a_hand_made_table() -> None:
    """Three queries: reciprocal ranks 1, 1/2, 1/2 against 1/2, 1/2, 1."""
    qrels = {q: {"r": 1} for q in ("1", "2", "3")}
    run = ranking_to_run({"1": ["x", "r"], "2": ["x", "r"], "3": ["r", "x"]})
    data = BenchmarkData("hand", {}, {}, qrels, {}, run, spec=Benchmark("hand", depth=2))
    mine = {"1": ["r", "x"], "2": ["x", "r"], "3": ["x", "r"]}
    result = Experiment({"first": "first-stage", "mine": mine, "best": "oracle"}, data, "RR", resamples=2000)
    rows = {row["system"]: row for row in result.rows("RR")}
    assert rows["first"]["mean"] == rows["mine"]["mean"] == pytest.approx(2 / 3)
    assert rows["best"]["mean"] == rows["mine"]["ceiling"] == 1.0 and rows["best"]["gap_closed"] == 1.0
    assert (rows["mine"]["wins"], rows["mine"]["ties"], rows["mine"]["losses"]) == (1, 1, 1)
    assert rows["mine"]["difference"] == 0.0 and rows["mine"]["p"] == 1.0 and rows["mine"]["gap_closed"] == 0.0
    assert (rows["best"]["wins"], rows["best"]["losses"], rows["best"]["difference"]) == (2, 0, pytest.approx(1 / 3))
    assert rows["best"]["p"] == 0.5  # two differing queries: 2 of 4 sign patterns
    assert rows["best"]["p_holm"] == 1.0 and math.isnan(rows["first"]["p"])
    assert list(result.differences("best", "RR")) == [0.5, 0.5, 0.0]
    assert len(result.per_query) == 9


def test_tests_agree_with_the_functions_that_agree_with_scipy() -> None:
    data = world(queries=30)
    systems = {"first": "first-stage", "random": "random", "best": "oracle"}
    table = Experiment(systems, data, "nDCG@10", seed=5, resamples=3000)
    t = Experiment(systems, data, "nDCG@10", seed=5, resamples=300, test="t")
    wide = table.per_query.pivot(index="qid", columns="system", values="value").loc[list(data.qrels)]
    for name in ("random", "best"):
        row = next(r for r in table.rows() if r["system"] == name)
        assert row["p"] == paired_test(wide[name], wide["first"], 5, 3000)
        other = next(r for r in t.rows() if r["system"] == name)
        assert other["p"] == pytest.approx(paired_t(wide[name], wide["first"]))
        assert row["mean"] == pytest.approx(wide[name].mean()) and row["low"] <= row["mean"] <= row["high"]


def test_a_suite_is_the_plain_mean_of_set_means() -> None:
    sets = [world("bright/economics", 4, suite="bright"), world("bright/pony", 20, suite="bright", seed=2)]
    result = Experiment({"first": "first-stage", "best": "oracle"}, sets, "RR", resamples=2000)
    rows = {(r["benchmark"], r["system"]): r for r in result.rows("RR")}
    suite = rows["bright (2 of 12)", "first"]
    assert suite["mean"] == pytest.approx(
        (rows["bright/economics", "first"]["mean"] + rows["bright/pony", "first"]["mean"]) / 2
    )
    assert suite["n"] == 24 and suite["low"] < suite["mean"] < suite["high"]
    gap = rows["bright (2 of 12)", "best"]
    assert gap["difference"] == pytest.approx(1 - suite["mean"]) and 0 < gap["p"] < 0.05
    reported = result.table[result.table["source"] == "reported"]
    assert set(reported["benchmark"]) == {"bright/economics", "bright/pony"}  # no mean over sets that are not all here
    assert reported[(reported["system"] == "ReasonRank-7B") & (reported["benchmark"] == "bright/pony")][
        "mean"
    ].item() == pytest.approx(0.2495)
    assert (
        "ReasonRank-7B (reported)" in result.wide("nDCG@10").index if "nDCG@10" in set(result.table["metric"]) else True
    )


def test_the_suite_interval_covers_the_true_mean() -> None:
    """200 simulated suites of three sets of 40, 60 and 100 values: a nominal 95% interval covers in 90 to 99%."""
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(200):
        sets = [rng.beta(0.6, 1.4, size=n) for n in (40, 60, 100)]
        interval = suite_interval(sets, seed=trial, n=400)
        hits += interval.low <= 0.3 <= interval.high
    assert 180 <= hits <= 198


# --- models ----------------------------------------------------------------------------------------------------------
def test_systems_rank_and_costs_are_counted() -> None:
    data = [world("a"), world("b", n=11)]
    result = Experiment(
        {"first": "first-stage", "model": Scripted(), "shuffled": Scripted(shuffle=3)},
        data,
        baseline="first",
        prices={"model": Prices(1e6, 2e6, 3600.0)},
    )
    rows = {(r["benchmark"], r["system"], r["metric"]): r for r in result.rows()}
    for name in ("a", "b"):
        for system in ("model", "shuffled"):
            assert rows[name, system, "RR"]["mean"] == 1.0 and rows[name, system, "RR"]["gap_closed"] == 1.0
        assert len(result.records("model", name)) == 18  # 6 queries x 3 windows
    costs = {(r["benchmark"], r["system"]): r for r in result.costs.to_dict("records")}
    cost = costs["a", "model"]
    assert (cost["calls"], cost["tokens_in"], cost["tokens_out"], cost["calls_all"]) == (3, 30, 15, 18)
    assert cost["cost_all"] == pytest.approx(18 * 10 + 2 * 18 * 5 + cost["seconds_all"])
    assert math.isnan(costs["a", "shuffled"]["cost_all"]) and ("a", "first") not in costs
    audit = {(r["benchmark"], r["system"]): r for r in result.audit.to_dict("records")}
    assert audit["b", "model"]["ok"] == 1.0 and audit["b", "model"]["closed"] == 0.0
    shown = [r.docids for r in result.records("model", "a")], [r.docids for r in result.records("shuffled", "a")]
    assert shown[0] != shown[1]
    with pytest.raises(InputError, match="no benchmark None"):
        result.run("model")


def test_a_crashed_query_lowers_the_mean_and_is_named(tmp_path: Path) -> None:
    data = world()
    ranking = {qid: [hit.docid for hit in hits] for qid, hits in data.need_run().items()}
    del ranking["test-3"]
    path = write_run(tmp_path / "crashed.trec", ranking, "t")
    result = Experiment({"first": "first-stage", "crashed": str(path)}, data, "RR")
    rows = {r["system"]: r for r in result.rows()}
    lost = result.per_query[(result.per_query["system"] == "first") & (result.per_query["qid"] == "test-3")][
        "value"
    ].item()
    assert rows["crashed"]["mean"] == pytest.approx(rows["first"]["mean"] - lost / 6) and rows["crashed"]["losses"] == 1
    assert any("not in the run and score 0: 'test-3'" in note for note in result.notes)


def test_failed_calls_are_named_and_keep_the_order() -> None:
    data = world()
    system = Scripted(fail=lambda request: request.key[1] == "test-2")
    result = Experiment({"first": "first-stage", "model": system}, data, "RR")
    assert any("calls of 1 queries failed" in note and "'test-2'" in note for note in result.notes)
    assert result.ranking("model")["test-2"] == result.ranking("first")["test-2"]
    assert result.audit["failed"].item() == pytest.approx(3 / 18)
    with pytest.raises(EngineError, match="failed"):
        Experiment({"model": Scripted(fail=lambda request: True)}, data, "RR")


def test_repeated_query_ids_across_sets_and_lists_of_any_length() -> None:
    one, two = world("a", n=95), world("b", n=95, seed=9)
    for data, sizes in ((one, (0, 1, 95)), (two, (2, 3, 95))):
        for qid, size in zip(list(data.need_run()), sizes, strict=False):
            data.need_run()[qid] = data.need_run()[qid][:size]
    assert one.need_run().keys() == two.need_run().keys()
    result = Experiment({"first": "first-stage", "model": Scripted()}, [one, two], "RR")
    for data in (one, two):
        for qid, hits in data.need_run().items():
            found = result.ranking("model", data.name).get(qid, [])
            assert sorted(found) == sorted(hit.docid for hit in hits)
    calls = [len([r for r in result.records("model", "a") if r.qid == f"test-{q}"]) for q in range(3)]
    assert calls == [0, 0, 31]


def test_first_stage_ties_keep_trec_evals_order_and_reranked_lists_have_none() -> None:
    data = world(queries=1, n=4)
    data = replace(data, run={"test-0": [Hit(h.docid, 1.0, h.rank) for h in data.need_run()["test-0"]]})
    result = Experiment({"first": "first-stage", "model": Scripted()}, data, "RR")
    assert result.ranking("first")["test-0"] == sorted(
        data.qrels["test-0"] | {h.docid: 0 for h in data.need_run()["test-0"]}, reverse=True
    )
    assert [h.score for h in result.run("model")["test-0"]] == [4.0, 3.0, 2.0, 1.0]


# --- before any model is loaded --------------------------------------------------------------------------------------
def test_everything_wrong_is_said_at_once_before_a_model_is_loaded(tmp_path: Path) -> None:
    opened: list[int] = []
    system = Scripted(opened=opened)
    lost, strange, silent = world("lost"), world("strange"), world("silent")
    del lost.corpus["test-1 d3"]  # type: ignore[attr-defined]
    strange = replace(strange, run={"other": strange.need_run()["test-0"]})
    del silent.queries["test-4"]
    with pytest.raises(InputError) as caught:
        Experiment({"m": system, "n": Listwise(str(tmp_path / "nothing"))}, [world(), lost, strange, silent])
    told = str(caught.value)
    assert "test-1 d3" in told and "no query of the run is judged" in told and "'test-4'" in told and "nothing" in told
    assert told.startswith("4 problems") and not opened


@pytest.mark.parametrize(
    ("systems", "options", "told"),
    [
        ({}, {}, "no systems"),
        ({"a/b": "oracle"}, {}, "file's name"),
        ({"a": "nonsense"}, {}, "no system"),
        ({"a": 3}, {}, "no system"),
        ({"a": "oracle"}, {"baseline": "b"}, "none of the systems"),
        ({"a": "oracle"}, {"test": "sign"}, "randomisation or t"),
        ({"a": "oracle"}, {"metrics": "nDCG@0"}, "positive"),
        ({"a": Interpolated("b")}, {}, "no other system"),
        ({"a": Interpolated("b"), "b": Interpolated("a")}, {}, "validation queries|circle"),
        ({"a": Interpolated("b", 0.5), "b": Interpolated("a", 0.5)}, {}, "circle"),
        ({"a": Interpolated("b"), "b": "oracle"}, {}, "no validation queries"),
        ({"a": Interpolated("b", 1.5), "b": "oracle"}, {}, "lies in"),
    ],
)
def test_bad_calls(systems: dict[str, Any], options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Experiment(systems, world(), **options)


def test_trials_may_take_the_first_queries_of_both_splits() -> None:
    data = replace(world(queries=6), validation=world(queries=5, split="validation"))
    few = data.limited(2, validation=3)
    assert few.validation is not None and (len(few.qrels), len(few.validation.qrels)) == (2, 3)
    assert data.limited(2).validation is data.validation and data.limited(0) is data.limited(9, 9) is data


def test_bad_benchmarks() -> None:
    with pytest.raises(InputError, match="no benchmarks"):
        Experiment({"a": "oracle"}, [])
    with pytest.raises(InputError, match="twice: 'toy'"):
        Experiment({"a": "oracle"}, [world(), world()])
    with pytest.raises(InputError, match="no first-stage run"):
        Experiment({"a": "oracle"}, replace(world(), run=None))
    with pytest.raises(InputError, match="prices"):
        Prices(tokens_in=-1)


def test_a_collection_that_is_read_already() -> None:
    data = world()
    collection = Collection(
        "mine", data.queries, {}, data.qrels, dict(data.corpus), data.run,
        {"test-0": {data.need_run()["test-0"][0].docid}}, "synthetic",
    )  # fmt: skip
    result = Experiment({"first": "first-stage", "m": Scripted(window=6, stride=3)}, collection, "RR")
    assert len(result.ranking("m")["test-0"]) == 11 and any("1 excluded" in note for note in result.notes)


# --- mixtures --------------------------------------------------------------------------------------------------------
def test_interpolation_by_hand() -> None:
    first = {"q": [Hit("a", 10.0, 1), Hit("b", 8.0, 2), Hit("c", 0.0, 3)]}
    mine = ranking_to_run({"q": ["c", "b", "a"]})
    # first stage scaled: 1, 0.8, 0; places scaled: c 1, b 0.5, a 0
    assert [h.docid for h in interpolate(mine, first, 0.0)["q"]] == ["a", "b", "c"]
    assert [h.docid for h in interpolate(mine, first, 1.0)["q"]] == ["c", "b", "a"]
    assert [h.docid for h in interpolate(mine, first, 0.5)["q"]] == ["b", "c", "a"]  # 0.65, 0.5, 0.5: reranked order
    assert [h.docid for h in interpolate({}, first, 0.5)["q"]] == ["a", "b", "c"]


def test_the_weight_is_chosen_on_validation_queries_only() -> None:
    test, held = world(queries=8), world(queries=8, split="validation")
    test = replace(test, validation=held)
    wrong = lambda data: {q: [h.docid for h in reversed(hits)] for q, hits in data.need_run().items()}  # noqa: E731

    class Liar(Scripted):
        """Right on validation queries, wrong on test queries: the weight must come from the former."""

        def rank(self, data: Any, log: Any, peer: Any) -> list[Outcome]:
            if data[0].split == "test":
                return [Outcome(ranking_to_run(wrong(one)), [], 1.0) for one in data]
            return super().rank(data, log, peer)

    seen = Experiment({"first": "first-stage", "liar": Liar(), "mix": Interpolated("liar", metric="RR")}, test, "RR")
    info = seen.outcomes["mix", "toy"].info
    assert info["weight"] > 0.5 and info["validation"] == 1.0 and info["weight_from"] == "8 validation queries"
    rows = {r["system"]: r["mean"] for r in seen.rows()}
    assert rows["mix"] <= rows["first"] + 1e-9 or rows["liar"] > rows["first"]
    with pytest.raises(InputError, match="are test queries"):
        Experiment({"a": "random", "b": Interpolated("a", validation=world())}, world(), "RR")


def test_a_router_sends_on_what_is_difficult() -> None:
    data = world(queries=10)
    data = replace(data, validation=world(queries=10, split="validation"))
    moved = disagreement(data.need_run(), data.need_run())
    assert set(moved.values()) == {0.0}
    systems = {"easy": "first-stage", "hard": Scripted()}
    never = Experiment({**systems, "r": Routed("easy", "hard", threshold=1.1)}, data, "RR")
    always = Experiment({**systems, "r": Routed("easy", "hard", threshold=0.0)}, data, "RR")
    means = [{r["system"]: r["mean"] for r in x.rows()} for x in (never, always)]
    assert means[0]["r"] == means[0]["easy"] and means[1]["r"] == means[1]["hard"] == 1.0
    assert never.outcomes["r", "toy"].info["routed"] == 0 and len(never.records("r")) == 0
    assert always.outcomes["r", "toy"].info["routed"] == 1 and len(always.records("r")) == 30
    assert always.outcomes["r", "toy"].info["random_route"] == 1.0
    chosen = Experiment({**systems, "r": Routed("easy", "hard", metric="RR")}, data, "RR")
    assert chosen.outcomes["r", "toy"].info["threshold"] == 0.0  # it pays here, at no price
    dear = Experiment({**systems, "r": Routed("easy", "hard", metric="RR", price=5.0)}, data, "RR")
    assert dear.outcomes["r", "toy"].info["routed"] == 0.0


# --- resuming, exports, plans ----------------------------------------------------------------------------------------
def test_finished_systems_are_read_back_and_no_model_is_loaded(tmp_path: Path) -> None:
    opened: list[int] = []
    systems = {"first": "first-stage", "model": Scripted(opened=opened)}
    first = Experiment(systems, world(), output=tmp_path)
    assert opened == [1] and (tmp_path / "model" / "windows.jsonl").read_text().count("\n") == 18
    again = Experiment(systems, world(), output=tmp_path)
    assert opened == [1] and again.table.equals(first.table)
    assert [r.order for r in again.records("model")] == [r.order for r in first.records("model")]
    # killed before its end: the log is there, the outcome is not
    (tmp_path / "model" / "outcome.json").unlink()
    log = tmp_path / "model" / "windows.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:7]))
    resumed = Experiment(systems, world(), output=tmp_path)
    assert opened == [1, 1] and resumed.outcomes["model", "toy"].info["windows_reused"] == 7
    assert resumed.ranking("model") == first.ranking("model") and log.read_text().count("\n") == 18
    # other candidates are another experiment
    with pytest.raises(InputError, match="--fresh"):
        Experiment(systems, world(seed=4), output=tmp_path)
    Experiment(systems, world(seed=4), output=tmp_path, fresh=True)
    assert opened[-1] == 1 and len(opened) == 4


def test_exports(tmp_path: Path) -> None:
    result = Experiment(
        {"first": "first-stage", "50% _mo|del_": Scripted()},
        [world("bright/pony"), world("b")],
        "nDCG@10 RR",
        output=tmp_path,
    )
    assert {p.name for p in tmp_path.iterdir()} >= {
        "table.md",
        "table.tex",
        "table.json",
        "table.csv",
        "per_query.csv.gz",
    }
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].startswith("| benchmark | system | nDCG@10 | RR | difference from first | p (Holm) | w/t/l")
    assert all(line.replace("\\|", "").count("|") == lines[0].count("|") for line in lines)
    assert "50% _mo\\|del_" in lines[3] and "(reported)" in "\n".join(lines)
    tex = (tmp_path / "table.tex").read_text()
    assert "\\toprule" in tex and "50\\% \\_mo|del\\_" in tex
    data = json.loads((tmp_path / "table.json").read_text())
    assert data["baseline"] == "first" and data["table"][0]["p"] is None and data["table"][0]["source"] == "measured"
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 1 + len(result.table)
    assert result.summary().shape[0] == len(result._repr_html_().split("<tr>")) - 1
    assert "font-size:0.7em" in result._repr_html_() and ", " not in re.sub(r"<[^>]+>", "", result._repr_html_())
    assert result.wide("RR").loc["first", "b"] == pytest.approx(
        next(r["mean"] for r in result.rows("RR") if r["system"] == "first" and r["benchmark"] == "b")
    )
    with pytest.raises(InputError, match="no metric"):
        result.wide("MAP")


def test_plans_count_calls_exactly_and_bound_tokens() -> None:
    model = Listwise("package:rrlib.miniature/reranker", decoding=Decoding(100))
    data = world(queries=5, n=30, window=20, stride=10)
    table = plan_experiment({"first": "first-stage", "list": model, "point": Scripted()}, data).set_index("system")
    assert list(table["calls"]) == [0, 10, 10] and list(table["queries"]) == [5, 5, 5]
    assert table.loc["list", "tokens_out_bound"] == 1000 and table.loc["list", "limit"] == 32768
    from rrlib.engines.hf import load_tokenizer
    from rrlib.prompts import PromptBuilder

    builder = PromptBuilder(load_tokenizer(model.model))
    longest = 0
    for one in data.candidates():
        for start in (10, 0):
            prompt = builder.render(one.query.text, one.passages[start : start + 20])
            longest = max(longest, len(builder.tokenizer(prompt, add_special_tokens=False)["input_ids"]))  # type: ignore[misc]
    assert longest <= table.loc["list", "longest_prompt"] <= longest + 6 * 20 + 8
    assert table.loc["list", "tokens_in_bound"] == pytest.approx(10 * table.loc["list", "longest_prompt"], rel=0.1)


def test_windows_are_cut_to_fit_the_context() -> None:
    model = Listwise("package:rrlib.miniature/reranker", decoding=Decoding(100))
    data = world(queries=2, n=30, window=20, stride=10)
    room = plan_experiment({"m": model}, data)["longest_prompt"].item() + 100
    with pytest.raises(InputError, match=r"there is room for .*fit='passages'"):
        plan_experiment({"m": replace(model, context=room - 40)}, data)
    window = plan_experiment({"m": replace(model, context=room - 40, fit="window")}, data)
    assert window["longest_prompt"].item() <= room - 140 and window["calls"].item() > 4
    long = {d: replace(p, text=" ".join([p.text] * 20)) for d, p in data.corpus.items()}
    wordy = replace(data, corpus=long)
    full = plan_experiment({"m": model}, wordy)["longest_prompt"].item()
    cut = plan_experiment({"m": replace(model, context=full // 2, fit="passages")}, wordy)
    assert cut["longest_prompt"].item() <= full // 2 - 100 and cut["calls"].item() == 4
    with pytest.raises(InputError, match="fit='half'"):
        plan_experiment({"m": replace(model, fit="half")}, data)


def test_latency_adds_rounds_and_takes_the_slowest_of_a_round() -> None:
    records = [
        WindowRecord("a", (0, 1), seconds=1.0),
        WindowRecord("a", (0, 1), seconds=2.0, round=1),
        WindowRecord("a", (0, 1), seconds=9.0, round=2, pass_no=1),  # rounds count on from pass to pass
        WindowRecord("b", (0, 1), seconds=1.0, tokens_in=5),
        WindowRecord("b", (0, 1), seconds=4.0, tokens_out=3, requests=2),
    ]
    assert query_latency(records) == [12.0, 4.0]
    row = cost_row(records, 2, 10.0)
    assert (row["calls"], row["requests"], row["seconds"], row["tokens_in"]) == (2.5, 3.0, 5.0, 2.5)
    assert row["latency_query_p50"] == 8.0 and row["latency_window_p95"] == pytest.approx(8.0)
    assert math.isnan(cost_row([], 2, None)["seconds"]) and math.isnan(cost_row([], 2, None)["latency_query_p50"])


def test_what_a_notebook_stores_of_a_result_does_not_grow_with_its_windows() -> None:
    import pandas as pd

    from rrlib.evaluation.results import ExperimentResult

    frame = pd.DataFrame({"system": ["a", "b"], "benchmark": ["x", "x"]})
    outcomes = {("a", "x"): "w" * 100_000}
    shown = repr(ExperimentResult(frame, frame, frame, frame, [], "a", outcomes))  # type: ignore[arg-type]
    assert shown == "ExperimentResult(a, b; on x)"
