"""Queries as they finish, and what is kept in memory: by counts of objects and sizes of caches."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from test_rerank import ROOT, Oracle, make, rerank, write_replay

from rrlib.cli import main
from rrlib.engines import Reply
from rrlib.errors import EngineError, InputError
from rrlib.formats import read_run
from rrlib.logged import LoggedRecords
from rrlib.records import WindowLog, WindowRecord
from rrlib.rerank import Reranker
from rrlib.types import Candidates, Passage, Query


def test_a_stream_gives_the_rankings_of_rerank_as_they_finish(tmp_path: Path) -> None:
    candidates = [make(100, "long"), *(make(20, f"s{i}", "short") for i in range(9))]
    whole = rerank(candidates, Oracle(capacity=2))
    for log in (None, tmp_path / "log.jsonl", tmp_path / "log.jsonl"):  # the last time all is read back
        engine = Oracle(capacity=2)
        stream = Reranker(engine, log=log).stream(candidates)
        first = next(stream)
        assert log or len(engine.asked) < 18  # before the last query is done
        rankings = [first, *stream]
        assert {(r.collection, r.qid): r.docids for r in rankings} == whole.rankings
        assert {len(r.windows) for r in rankings} == {1, 9} and set(first.reasoning) == {"by gain"}
        assert stream.counts["verdict_ok"] == stream.tally.windows == 18 and not stream.tally.unread
    assert stream.counts["reused"] == 18
    assert not any(r.windows for r in Reranker(Oracle()).stream(candidates, windows=False))


def test_a_stream_that_is_closed_leaves_engine_and_log_usable(tmp_path: Path) -> None:
    candidates, engine = [make(60, f"q{i}") for i in range(6)], Oracle(capacity=3)
    reranker = Reranker(engine, log=tmp_path / "log.jsonl")
    stream = reranker.stream(candidates)
    next(stream)
    with pytest.raises(EngineError, match="in the middle of a reranking"):
        reranker.rank("q", ["gain 1", "gain 2"])
    stream.close()
    logged = len((tmp_path / "log.jsonl").read_text().splitlines())
    again = reranker.rerank(candidates)
    assert again.rankings == rerank(candidates).rankings
    assert again.counts["reused"] == logged and again.counts["asked"] == 30 - logged
    with pytest.raises(InputError, match="given twice"):
        next(reranker.stream([make(3), make(3)]))


def test_nothing_of_a_finished_query_is_kept(tmp_path: Path) -> None:
    """Counted in objects: passages in the builder's caches, and window records that are alive."""
    import gc

    def alive() -> int:
        gc.collect()
        return sum(isinstance(thing, WindowRecord) for thing in gc.get_objects())

    reranker, before = Reranker(Oracle()), alive()
    for number in range(50):
        reranker.rank(f"q{number}", [f"gain {number * 100 + i}" for i in range(20)])
        assert len(reranker.prompts._passages) == len(reranker.prompts._tokens) == 0
    candidates = [make(20 if i % 2 else 100, f"q{i}") for i in range(30)]
    for log in (tmp_path / "log.jsonl", None):
        reranker = Reranker(Oracle(), log=log)
        sizes = [len(reranker.prompts._passages) for _ in reranker.stream(candidates, windows=log is not None)]
        assert sizes[-1] == 0 and max(sizes) > 0
        assert alive() - before <= 10
    shared = tuple(Passage(f"d{i}", f"gain {i}") for i in range(40))
    cuts: Counter[str] = Counter()
    reranker = Reranker(Oracle(capacity=2))
    cut = reranker.prompts._cut
    reranker.prompts._cut = lambda text: cuts.update([text]) or cut(text)  # type: ignore[method-assign]
    reranker.rerank([Candidates(Query(f"q{i}", "which?"), shared) for i in range(5)])
    assert len(cuts) == 40 and set(cuts.values()) == {1}  # a passage of several queries is cut once


def test_a_builder_keeps_so_many_passages_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from rrlib import prompts

    whole = rerank([make(60)])
    monkeypatch.setattr(prompts, "MOST_KEPT", 7)
    reranker = Reranker(Oracle())
    seen: list[int] = []
    forget = reranker.prompts.forget
    reranker.prompts.forget = lambda p: seen.append(len(reranker.prompts._passages)) or forget(p)  # type: ignore
    assert reranker.rerank([make(60)]).rankings == whole.rankings and max(seen) <= 7


def test_a_log_keeps_places_and_says_where_a_line_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rerank([make(60, f"q{i}") for i in range(3)], log=path)
    lines = path.read_text().splitlines(keepends=True)
    settings = json.loads(lines[0])["settings"]
    log = WindowLog(path, settings)
    rows = [json.loads(line) for line in lines]
    for row in rows:
        assert log.get(WindowRecord.from_json(row).key) == WindowRecord.from_json(row)
    assert all(isinstance(place, int) for place in log._places.values()) and len(log._places) == 15
    assert len(log._same) == 5 and log.get(("", "nobody", 0, (0, 1))) is None
    log.close(finished=True)
    lines[6] = lines[6].replace("by gain", "by \\x gain")  # inside of a text: it is found when the window is needed
    path.write_text("".join(lines))
    with pytest.raises(InputError, match=r"log\.jsonl:7.*not a window log record"):
        rerank([make(60, f"q{i}") for i in range(3)], log=path)
    lines[6] = lines[6].replace('"order": [', '"orders": [')
    path.write_text("".join(lines))
    with pytest.raises(InputError, match=r"log\.jsonl:7.*'order'"):
        WindowLog(path, settings)


def test_a_reranking_with_a_log_keeps_places_and_reads_its_records_when_asked(tmp_path: Path) -> None:
    import gc

    def alive() -> int:
        gc.collect()
        return sum(type(thing) is WindowRecord for thing in gc.get_objects())

    candidates, log, before = [make(60, f"q{i}", "ab"[i % 2]) for i in range(8)], tmp_path / "log.jsonl", alive()
    plain = rerank(candidates, Oracle(capacity=2))
    result = Reranker(Oracle(capacity=2), log=log).rerank(candidates)
    assert isinstance(result.records, LoggedRecords) and isinstance(plain.records, list)
    own = {record.key: record for record in plain.records}
    count = len(own)
    assert len(result.records) == count == 40 and all(record.settings is None for record in result.records)
    for record in result.records:  # but for what an engine without a log does not tell
        assert replace(record, source_hash=None, seconds=0) == replace(own[record.key], source_hash=None, seconds=0)
    assert result.records[-1] == list(result.records)[-1] and result.records[3:5] == list(result.records)[3:5]
    assert {r.collection for r in result.records.at([i for i, r in enumerate(result.records) if i % 5 == 0])} <= {
        "a",
        "b",
    }
    del record, own, plain
    assert alive() - before <= 2
    again = Reranker(Oracle(), log=log).rerank(candidates)
    assert all(record.settings for record in again.records) and again.counts["reused"] == 40
    log.rename(tmp_path / "moved.jsonl")
    assert len({record.key for record in result.records}) == 40, "it is open still"
    (tmp_path / "moved.jsonl").rename(log)
    Reranker(Oracle(seed=1), log=log, fresh=True).rerank(candidates[::-1])
    with pytest.raises(InputError, match="begun anew"):
        list(result.records)


PIPED = ["rerank", "--engine", "replay", "--prompt", "rankgpt", "--quiet"]


def test_standard_output_gets_the_run_and_nothing_else(tmp_path: Path) -> None:
    run, responses = write_replay(tmp_path)
    words = [*PIPED, "--run", str(run), "--responses", str(responses), "--output"]
    assert main([*words, str(tmp_path / "out.trec")]) == 0
    done = subprocess.run([sys.executable, "-m", "rrlib", *words, "-"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0 and done.stdout == (tmp_path / "out.trec").read_bytes() and b"wrote -" in done.stderr
    assert main(["rerank", "--run", str(run), "--model", "m", "--output", "-"]) == 2  # the answers need a place
    assert main(["rerank", "--run", str(run), "--model", "m", "--output", "/dev/null"]) == 2  # here too


def test_the_shell_may_put_a_command_in_the_place_of_the_output(tmp_path: Path) -> None:
    import shlex

    run, responses = write_replay(tmp_path)
    words = [*PIPED, "--run", str(run), "--responses", str(responses), "--output"]
    assert main([*words, str(tmp_path / "out.trec")]) == 0
    command = shlex.join([sys.executable, "-m", "rrlib", *words])
    script = f"{command} >(cat > {shlex.quote(str(tmp_path / 'got'))}); code=$?; wait $!; exit $code"
    subprocess.run(["bash", "-c", script], cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "got").read_bytes() == (tmp_path / "out.trec").read_bytes()


def test_a_pipe_gets_each_query_at_once_and_nothing_where_nothing_is_reranked(tmp_path: Path) -> None:
    import os
    import threading

    from rrlib.cli.rerank import NOTHING_RANKED, _write

    fifo, order = tmp_path / "fifo", list[str]()
    os.mkfifo(fifo)
    candidates = [make(40, "long"), *(make(20, f"s{i}") for i in range(4))]
    here, ahead = threading.Event(), threading.Event()

    def read() -> None:
        with fifo.open() as lines:
            for line in lines:
                order.append(line.split()[0])
                here.set()

    class Waits(Oracle):
        def collect(self) -> list[tuple[int, Reply]]:
            if len(self.asked) == 7:  # the last calls wait until a reader has the first query
                ahead.set()
                assert here.wait(20)
            return super().collect()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    code, line, stream = _write(Reranker(Waits(capacity=1)), candidates, fifo, None, "t", ({}, 20, True))
    reader.join(20)
    assert (code, line) == (0, "") and ahead.is_set() and stream.counts["asked"] == 7
    assert len(set(order)) == 5 and len(order) == 120
    mute = Oracle(text="I cannot say")
    code, line, _ = _write(Reranker(mute), candidates, fifo, None, "t", ({}, 20, True))  # and nobody reads
    assert code == NOTHING_RANKED and "nothing was reranked" in line


def test_a_file_has_the_order_of_the_run_whatever_finishes_first(tmp_path: Path) -> None:
    from rrlib.cli.rerank import _write

    out = tmp_path / "out.trec"
    out.write_text("what was there\n")
    candidates = [make(100, "long"), *(make(20, f"s{i}") for i in range(4))]

    class Looks(Oracle):
        def collect(self) -> list[tuple[int, Reply]]:
            assert out.read_text() == "what was there\n" and sorted(p.name for p in tmp_path.iterdir()) == ["out.trec"]
            return super().collect()

    _write(Reranker(Looks()), candidates, out, None, "t", ({}, 20, True))
    assert list(read_run(out)) == [c.query.qid for c in candidates]


@pytest.mark.parametrize(
    ("script", "sizes", "value"),
    [
        ("benchmarks/resume.py", ["--windows", "300", "--read"], "megabytes"),
        ("benchmarks/evaluate.py", ["--queries", "20", "--documents", "30"], "value"),
    ],
)
def test_the_benchmarks_run(script: str, sizes: list[str], value: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / script), *sizes], capture_output=True, text=True, check=True)
    row = json.loads(done.stdout.splitlines()[-1])
    assert row[value] > 0 and row["name"] in script and {"unit", "goal", "holds", "n"} <= set(row)
