"""Real texts through the real command: ten queries of TREC DL 2019, killed in the middle, resumed, and replayed from
their own log to the same file; NovelEval whole, where the miniature's reranker ends no answer: no run, exit code 3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rrlib.cli import main
from rrlib.formats import read_run

MODEL = "package:rrlib.miniature/reranker"
ROOT = Path(__file__).resolve().parents[1]


def arguments(folder: Path, run: Path, out: Path, depth: int, tokens: int) -> list[str]:
    return [
        "rerank", "--run", str(run),
        "--queries", str(folder / "queries.jsonl"), "--corpus", str(folder / "corpus.jsonl"),
        "--model", MODEL, "--depth", str(depth), "--max-new-tokens", str(tokens), "--output", str(out),
        "--log", str(out.with_suffix(".jsonl")), "--quiet",
    ]  # fmt: skip


def replay(run: Path, log: Path, out: Path, depth: int) -> int:
    return main(
        ["rerank", "--run", str(run), "--engine", "replay", "--responses", str(log), "--depth", str(depth),
         "--output", str(out), "--quiet"]
    )  # fmt: skip


def check(run: Path, out: Path, depth: int) -> None:
    """Every candidate once, the tail behind the head, scores strictly falling."""
    before, after = read_run(run), read_run(out)
    assert list(before) == list(after)
    for qid, hits in before.items():
        old, new = [h.docid for h in hits], [h.docid for h in after[qid]]
        assert sorted(new) == sorted(old) and new[depth:] == old[depth:]
        scores = [h.score for h in after[qid]]
        assert scores == sorted(set(scores), reverse=True)


@pytest.mark.realdata
def test_noveleval_whole(realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = realdata / "collections" / "noveleval"
    run, out = folder / "first_stage.trec", tmp_path / "out.trec"
    log = out.with_suffix(".jsonl")
    assert main(arguments(folder, run, out, 100, 32)) == 3
    assert "63 of 63 windows are truncated" in capsys.readouterr().err and not out.exists()
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    asked = {(row["qid"], row["start"], row["end"]) for row in rows}
    assert len(rows) == len(asked) == 63  # 21 queries of 20 candidates, windows of 10 with stride 5, as it was trained
    assert all(row["tokens_in"] > 500 and row["tokens_out"] == 32 and row["error"] is None for row in rows)
    assert replay(run, log, tmp_path / "again.trec", 100) == 0  # what is recorded is repeated: the order that they had
    check(run, tmp_path / "again.trec", 100)
    assert read_run(tmp_path / "again.trec").keys() == read_run(run).keys()


@pytest.mark.realdata
def test_dl19_killed_resumed_replayed(realdata: Path, tmp_path: Path) -> None:
    folder = realdata / "collections" / "dl19-bm25-top100"
    lines = (folder / "first_stage.trec").read_text().splitlines(keepends=True)
    keep = list(dict.fromkeys(line.split()[0] for line in lines))[:10]
    run, out = tmp_path / "ten.trec", tmp_path / "out.trec"
    run.write_text("".join(line for line in lines if line.split()[0] in keep))
    log, command = out.with_suffix(".jsonl"), arguments(folder, run, out, 30, 128)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "rrlib", *command], env=env)
    while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 7):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    logged = log.read_bytes().count(b"\n")
    assert 7 <= logged < 50 and not out.exists()
    done = subprocess.run([sys.executable, "-m", "rrlib", *command], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{50 - logged} asked; {logged} reused" in done.stderr and "in flight" in done.stderr
    check(run, out, 30)
    assert log.read_bytes().count(b"\n") == 50  # 10 queries, 5 windows each
    assert replay(run, log, tmp_path / "again.trec", 30) == 0
    assert (tmp_path / "again.trec").read_bytes() == out.read_bytes()
