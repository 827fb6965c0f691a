"""The scheduler: no barriers, a log that resumes, failures that keep the order, recorded runs to the letter."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rrlib.cli import main
from rrlib.engines import Decoding, Reply, Request
from rrlib.errors import EngineError, InputError, StageError
from rrlib.formats import read_run
from rrlib.prompts import format_response
from rrlib.records import WindowRecord
from rrlib.rerank import Reranker
from rrlib.strategies import STRATEGIES, Window
from rrlib.types import Candidates, Passage, Query

ROOT = Path(__file__).resolve().parents[1]


class Oracle:
    """An engine that ranks by the number in a passage's text, finishing calls in a shuffled order."""

    name, model = "oracle", "oracle"

    def __init__(self, capacity: int = 8, seed: int = 0, fail: Any = None, text: str | None = None) -> None:
        self.capacity, self.random, self.fail, self.text = capacity, random.Random(seed), fail, text
        self.waiting: list[Request] = []
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self.in_flight: list[int] = []
        self.closed = False

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self.waiting += requests
        self.in_flight.append(len(self.waiting))
        self.asked += [(r.key[1], r.key[3]) for r in requests if r.key is not None]

    def collect(self) -> list[tuple[int, Reply]]:
        request = self.waiting.pop(self.random.randrange(len(self.waiting)))
        if self.fail is not None and self.fail(request):
            return [(request.id, Reply(error="the server is down"))]
        if self.text is not None:
            return [(request.id, Reply(self.text))]
        lines = [li for li in request.messages[1]["content"].splitlines() if li.startswith("[") and "] gain " in li]
        gains = [int(line.rpartition(" ")[2]) for line in lines]
        order = sorted(range(len(gains)), key=lambda i: -gains[i])
        return [(request.id, Reply(format_response("by gain", order), tokens_in=10, tokens_out=5))]

    def close(self) -> None:
        self.closed = True


def make(n: int, qid: str = "q1", collection: str = "", seed: int = 0) -> Candidates:
    gains = list(range(n))
    random.Random(f"{seed}{qid}{collection}").shuffle(gains)
    passages = tuple(Passage(f"d{g}", f"gain {g}") for g in gains)
    return Candidates(Query(qid, f"query {qid}"), passages, collection=collection)


def rerank(candidates: list[Candidates], engine: Oracle | None = None, **options: Any) -> Any:
    return Reranker(engine or Oracle(), **options).rerank(candidates)


def test_oracle_brings_the_best_to_the_head() -> None:
    result = rerank([make(100, f"q{i}") for i in range(7)], depth=100)
    assert result.counts["asked"] == 63 and result.counts["verdict_ok"] == 63
    for order in result.run().values():
        assert order[:10] == [f"d{g}" for g in range(99, 89, -1)]
        assert len(set(order)) == 100


@pytest.mark.parametrize(("n", "asked"), [(0, 0), (1, 0), (2, 1), (19, 1), (20, 1), (95, 9), (98, 9)])
def test_short_lists(n: int, asked: int) -> None:
    result = rerank([make(n)])
    assert result.counts.get("asked", 0) == asked
    assert sorted(result.run()["q1"]) == sorted(f"d{g}" for g in range(n))


def test_a_ranking_and_its_reranker_show_themselves_in_a_notebook() -> None:
    reranker = Reranker(Oracle(), window=2, stride=1, depth=7)  # type: ignore[arg-type]
    html = reranker.rank("why", {"low": "gain 1", "<i>": "gain 9"})._repr_html_()
    assert "<td>1<td>&lt;i&gt;<td>gain 9" in html and html.index("gain 9") < html.index("gain 1")
    shown = reranker._repr_html_()
    assert "<th>engine<td>oracle" in shown and "<th>window<td>2" in shown and "<th>depth<td>7" in shown


def test_depth_keeps_the_tail_behind_the_head() -> None:
    candidates = make(50)
    order = rerank([candidates], depth=30).run()["q1"]
    assert order[30:] == [p.docid for p in candidates.passages[30:]]
    assert sorted(order[:30]) == sorted(p.docid for p in candidates.passages[:30])
    assert rerank([candidates], depth=0).run()["q1"] == [p.docid for p in candidates.passages]


def test_no_barriers_and_longest_chain_first() -> None:
    """A query with 9 windows and many with one: the long chain starts at once, and the engine stays full."""
    engine = Oracle(capacity=4)
    rerank([make(20, f"s{i}") for i in range(12)] + [make(100, "long")], engine)
    assert engine.asked[0][0] == "long"
    # every time the long chain's window came back it went out again before the waiting short ones
    assert max(engine.in_flight) == 4
    last_long = max(i for i, (qid, _) in enumerate(engine.asked) if qid == "long")
    assert len(engine.asked) == 21
    assert Counter(qid for qid, _ in engine.asked[: last_long + 1])["long"] == 9


@pytest.mark.parametrize("short", [12, 200])
def test_a_long_chain_behind_many_short_ones_is_begun_first(short: int) -> None:
    """However many wait before it, more than are open at once: begun last, it would run on alone."""
    engine = Oracle(capacity=4)
    rerank([make(20, f"s{i}") for i in range(short)] + [make(100, "long")], engine)
    assert engine.asked[0][0] == "long"
    assert [qid for qid, _ in engine.asked[1:4]] == ["s0", "s1", "s2"]  # of equals as given


def test_two_windows_at_one_place_are_refused_not_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would have one key: a resume and a replay could not tell them apart."""

    def again(spec: Any, n: int) -> Any:
        for _ in range(2):
            yield [Window(tuple(range(n)), tuple(range(n)))]
        return tuple(range(n))

    monkeypatch.setitem(STRATEGIES, "again", again)
    with pytest.raises(InputError, match=r"two windows at \(0, 1, 2\) in pass 0.*pass_no"):
        rerank([make(3)], strategy="again", log=tmp_path / "log.jsonl")


def test_query_ids_repeat_across_collections() -> None:
    result = rerank([make(30, "1", "economics"), make(30, "1", "biology")])
    assert set(result.rankings) == {("economics", "1"), ("biology", "1")}
    with pytest.raises(InputError, match="twice"):
        rerank([make(3, "1"), make(3, "1")])


def test_a_failed_call_keeps_the_order_and_is_counted(tmp_path: Path) -> None:
    candidates = make(100)
    engine = Oracle(fail=lambda r: r.key[3][0] == 40)
    result = rerank([candidates], engine, log=tmp_path / "log.jsonl")
    assert result.counts["failed"] == 1 and result.counts["verdict_failed"] == 1
    (failed,) = [r for r in result.records if r.verdict == "failed"]
    assert failed.text is None and failed.error == "the server is down" and failed.order == tuple(range(20))
    assert len(set(result.run()["q1"])) == 100


def test_when_every_call_fails_the_run_stops() -> None:
    engine = Oracle(fail=lambda r: True)
    with pytest.raises(EngineError, match="the server is down"):
        rerank([make(100, f"q{i}") for i in range(30)], engine)
    assert len(engine.asked) <= 10 + engine.capacity and not engine.closed
    with pytest.raises(EngineError, match="every call failed"):
        rerank([make(5)], Oracle(fail=lambda r: True))


def test_truncated_answers_keep_the_order() -> None:
    candidates = make(30)
    result = rerank([candidates], Oracle(text="<think> [3] > [2] > [1] and"))
    assert result.run()["q1"] == [p.docid for p in candidates.passages]
    assert result.counts["verdict_no_answer"] == 2  # the engine said `stop`, so it was not cut off


def test_resume_asks_no_logged_window_again(tmp_path: Path) -> None:
    candidates = [make(60, f"q{i}") for i in range(5)]
    whole = rerank(candidates)
    log = tmp_path / "log.jsonl"

    class Dies(Oracle):
        def collect(self) -> list[tuple[int, Reply]]:
            if len(self.asked) > 14:
                raise KeyboardInterrupt
            return super().collect()

    with pytest.raises(KeyboardInterrupt):
        rerank(candidates, Dies(capacity=3), log=log)
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    with log.open("a") as handle:
        handle.write('{"qid": "q1", "sta')  # torn by the kill
    engine = Oracle()
    result = rerank(candidates, engine, log=log)
    assert result.rankings == whole.rankings
    assert result.counts["reused"] == len(logged) and result.counts["asked"] == 25 - len(logged)
    assert result.counts["in_flight_at_kill"] == 3
    done = {(r["qid"], r["start"]) for r in logged}
    assert not done & {(qid, positions[0]) for qid, positions in engine.asked}
    assert not log.with_name("log.jsonl.asked").exists()
    assert len(log.read_text().splitlines()) == 25
    again = rerank(candidates, Oracle(fail=lambda r: True), log=log)
    assert again.rankings == whole.rankings and again.counts.get("asked", 0) == 0


def test_retry_failed(tmp_path: Path) -> None:
    candidates, log = [make(100)], tmp_path / "log.jsonl"
    rerank(candidates, Oracle(fail=lambda r: r.key[3][0] == 40), log=log)
    kept = rerank(candidates, Oracle(), log=log, retry_failed=False)
    assert kept.counts["failed" if "failed" in kept.counts else "verdict_failed"] == 1
    retried = rerank(candidates, Oracle(), log=log)
    assert retried.rankings == rerank(candidates).rankings
    assert retried.counts["reused"] == 4 and retried.counts["asked"] == 5


def test_a_log_of_other_settings_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rerank([make(30)], log=log)
    with pytest.raises(InputError, match=r"log\.jsonl:1.*stride=10.*5.*--fresh"):
        rerank([make(30)], log=log, stride=5)
    with pytest.raises(InputError, match="decoding"):
        rerank([make(30)], log=log, decoding=Decoding(temperature=0.6))
    with pytest.raises(InputError, match="another prompt"):
        rerank([make(30, seed=5)], log=log)
    rerank([make(30, seed=5)], log=log, fresh=True)
    log.write_text("not json\n")
    with pytest.raises(InputError, match=r"log\.jsonl:1"):
        rerank([make(30)], log=log)


def test_a_checkpoint_may_be_moved_but_not_changed(tmp_path: Path) -> None:
    log, old, new = tmp_path / "log.jsonl", tmp_path / "a" / "checkpoint", tmp_path / "b" / "checkpoint"
    old.mkdir(parents=True)
    (old / "model.safetensors").write_bytes(b"weights")

    def engine(model: Path) -> Oracle:
        found = Oracle()
        found.model = str(model)
        return found

    first = rerank([make(30)], engine(old), log=log)
    old.parent.rename(new.parent)
    again = rerank([make(30)], engine(new), log=log)
    assert again.rankings == first.rankings and again.counts.get("asked", 0) == 0
    (new / "model.safetensors").write_bytes(b"others!")
    with pytest.raises(InputError, match="weights="):
        rerank([make(30)], engine(new), log=log)
    # a log from before weights were recorded still knows its model by its path alone
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        del line["settings"]["weights"]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match="model="):
        rerank([make(30)], engine(new), log=log)
    new.parent.rename(old.parent)
    assert rerank([make(30)], engine(old), log=log).counts.get("asked", 0) == 0


def test_two_processes_on_one_log_are_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"

    class Second(Oracle):
        def collect(self) -> list[tuple[int, Reply]]:
            with pytest.raises(StageError, match="another process"):
                rerank([make(30)], Oracle(), log=log)
            return super().collect()

    rerank([make(20)], Second(), log=log)


def test_overlong_windows_are_refused_before_work_starts() -> None:
    from tokenizers_for_tests import make_tokenizer

    engine = Oracle()
    engine.tokenizer, engine.max_model_len = make_tokenizer("qwen2.5"), 3000  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="query q1: a window may hold"):
        rerank([make(30)], engine, decoding=Decoding(max_new_tokens=2950))
    assert not engine.asked


def test_a_record_is_the_row_it_was_read_from() -> None:
    least = {"qid": "q", "start": 2, "end": 4, "docids": ["c", "d"], "order": [1, 0], "verdict": "ok"}
    record = WindowRecord.from_json(least)
    assert record.key == ("", "q", 0, (2, 3), 0) and (record.start, record.end) == (2, 4) and record.text is None
    docids = list("abcd")
    record.replay_onto(docids)
    assert docids == ["a", "b", "d", "c"] and record.ranked_docids == ("d", "c")
    spread = {**record.to_json(), "end": 6, "positions": [2, 5], "round": 1, "score": None, "logprobs": {"no": -0.5}}
    spread |= {"requests": 1, "closed": True, "settings": {"model": "m"}, "sample": 3, "seed": 11}
    again = WindowRecord.from_json(spread)
    assert json.loads(json.dumps(again.to_json())) == json.loads(json.dumps(spread))
    assert list(again.to_json())[:4] == ["qid", "pass", "start", "end"] and again.positions == (2, 5)
    for lost in ("qid", "start", "docids", "order", "verdict"):
        with pytest.raises(KeyError):
            WindowRecord.from_json({key: value for key, value in least.items() if key != lost})


def test_an_engine_that_asks_no_model_is_given_keys_alone() -> None:
    class Looks(Oracle):
        asks_model = False

        def collect(self) -> list[tuple[int, Reply]]:
            request = self.waiting.pop()
            assert request.key is not None and request.messages == () and request.prompt is None
            return [(request.id, Reply(error="not there"))]

    result = rerank([make(100, f"q{i}") for i in range(3)], Looks())
    assert result.counts["failed"] == result.counts["asked"] == 27  # nobody is down, so nothing is given up
    assert {record.prompt_hash for record in result.records} == {None}
    named = Oracle()
    named.name = "replay"  # a name says nothing
    assert rerank([make(20)], named).run()["q1"][0] == "d19"


def test_rank_a_few_texts() -> None:
    ranking = Reranker(Oracle()).rank("which is more?", ["gain 1", "gain 7", "gain 3"])
    assert [r.docid for r in ranking] == ["2", "3", "1"]
    assert [r.score for r in ranking] == [3.0, 2.0, 1.0]
    assert ranking[0].text == "gain 7" and ranking.reasoning == ("by gain",) and ranking.verdicts == ("ok",)
    assert [r.docid for r in Reranker(Oracle()).rank("q", ["gain 1", "gain 2"], ["x", "y"])] == ["y", "x"]
    assert len(Reranker(Oracle()).rank("q", [])) == 0
    with pytest.raises(InputError, match="doc_ids"):
        Reranker(Oracle()).rank("q", ["a"], ["x", "y"])


# --- the command line, and runs recorded by others -------------------------------------------------------------------
def write_replay(folder: Path, n: int = 40) -> tuple[Path, Path]:
    run = folder / "run.trec"
    run.write_text("".join(f"q1 Q0 d{i} {i + 1} {100 - i} bm25\n" for i in range(n)))
    responses = folder / "responses.jsonl"
    rows = [
        {"qid": "q1", "start": 20, "end": 40, "text": " > ".join(f"[{i}]" for i in range(20, 0, -1))},
        {"qid": "q1", "start": 10, "end": 30, "text": "[2] > [1]"},
    ]
    responses.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return run, responses


def test_replay_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, responses = write_replay(tmp_path)
    out, log = tmp_path / "out.trec", tmp_path / "log.jsonl"
    args = ["rerank", "--run", str(run), "--engine", "replay", "--prompt", "rankgpt", "--quiet"]
    assert main([*args, "--responses", str(responses), "--output", str(out), "--log", str(log)]) == 0
    assert "1 missing" in capsys.readouterr().err  # window 0-20 is not in the file: it keeps its order
    order = [h.docid for h in read_run(out)["q1"]]
    assert order[10] == "d11" and order[11] == "d10" and order[12] == "d12" and order[20] == "d39"
    assert [float(line.split()[4]) for line in out.read_text().splitlines()] == [float(s) for s in range(40, 0, -1)]
    again = tmp_path / "again.trec"
    assert main([*args, "--responses", str(log), "--output", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_audit_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, responses = write_replay(tmp_path)
    assert main(["audit", str(responses), "--prompt", "rankgpt", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["responses"]
    assert table["ok"]["count"] == 1 and table["repaired: missing"]["count"] == 1


def replay_file(recorded: Path, run: dict[str, list[Any]], depth: int, out: Path) -> None:
    """The recorded responses are one flat list, query after query, windows from the tail to the head."""
    from rrlib.strategies import sliding_spans

    with gzip.open(recorded, "rt", encoding="utf-8") as handle:
        texts = iter(json.load(handle))
    with out.open("w", encoding="utf-8") as handle:
        for qid, hits in run.items():
            for start, end in sliding_spans(min(len(hits), depth), 20, 10):
                handle.write(json.dumps({"qid": qid, "start": start, "end": end, "text": next(texts)}) + "\n")
    assert next(texts, None) is None


@pytest.mark.realdata
def test_twelve_recorded_runs_come_out_as_published(realdata: Path, tmp_path: Path) -> None:
    folder = realdata / "replay"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(manifest) == 12
    for entry in manifest:
        initial, responses, out = folder / entry["initial"], tmp_path / "responses.jsonl", tmp_path / "out.trec"
        replay_file(folder / entry["responses"], read_run(initial), entry["topk"], responses)
        code = main(
            [
                "rerank",
                "--run",
                str(initial),
                "--engine",
                "replay",
                "--responses",
                str(responses),
                "--prompt",
                "rankgpt",
                "--depth",
                str(entry["topk"]),
                "--output",
                str(out),
                "--quiet",
            ]
        )
        assert code == 0
        got, expected = read_run(out), read_run(folder / entry["expected"])
        for qid, hits in expected.items():
            mine = [h.docid for h in got[qid]][: len(hits)]
            assert mine == [h.docid for h in hits], (entry["name"], qid)
        assert len(expected) == entry["queries"]


KILL = """
import sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from test_rerank import Oracle, make
from rrlib.rerank import Reranker
from rrlib.strategies import STRATEGIES, Window
class Slow(Oracle):
    def collect(self):
        time.sleep(0.01)
        return super().collect()
Reranker(Slow(capacity=4), log={log!r}).rerank([make(100, f"q{{i}}") for i in range(10)])
"""


@pytest.mark.parametrize("after", [5, 37])
def test_kill_9_and_resume(tmp_path: Path, after: int) -> None:
    log = tmp_path / "log.jsonl"
    script = KILL.format(root=str(ROOT), tests=str(ROOT / "tests"), log=str(log))
    process = subprocess.Popen([sys.executable, "-c", script])
    while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < after):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    logged = log.read_bytes().count(b"\n")
    candidates = [make(100, f"q{i}") for i in range(10)]
    result = rerank(candidates, Oracle(capacity=4), log=log)
    assert result.rankings == rerank(candidates).rankings
    assert result.counts["reused"] == logged and result.counts["asked"] == 90 - logged
    assert 1 <= result.counts["in_flight_at_kill"] <= 4
