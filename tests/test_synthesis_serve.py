"""The simulated teacher behind HTTP: what is made through the server equals what is made in process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from rrlib.cli import main
from rrlib.engines.base import Decoding
from rrlib.engines.client import OpenAIClient
from rrlib.errors import EngineError
from rrlib.formats import read_collection, read_jsonl
from rrlib.miniature import SimulatedTeacher, build
from rrlib.synthesis.pipeline import synthesize
from rrlib.synthesis.teacher.serve import TeacherServer

RATES = {"refusal": 0.05, "cut_off": 0.05, "format_slip": 0.05}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "collection"
    return build(folder, seed=3, train=40, validation=4, test=4)


@pytest.fixture(scope="module")
def in_process(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("in-process")
    make(world, SimulatedTeacher(world, seed=5, **RATES), out)
    return out


def make(world: Path, client: Any, out: Path) -> Any:
    return synthesize(read_collection(world, "train"), client, out, window=10, seed=5, concurrency=8)


def lines(path: Path) -> list[bytes]:
    return sorted(path.read_bytes().splitlines())


def test_through_the_server_equals_in_process(world: Path, in_process: Path, tmp_path: Path) -> None:
    with TeacherServer(SimulatedTeacher(world, seed=5, **RATES)) as server:
        make(world, OpenAIClient(server.url, "simulated-teacher"), tmp_path)
    for name in ("select.jsonl", "rank.jsonl", "examples.jsonl", "fates.jsonl"):
        assert lines(tmp_path / name) == lines(in_process / name)
    records = [row for _, row in read_jsonl(tmp_path / "rank.jsonl")]
    assert {record["teacher_kind"] for record in records} == {"simulated"}
    assert any("belief" in record["simulated"] for record in records), "what it believed travels over the wire"
    errors = {record["simulated"]["error"] for record in records}
    assert len(errors) > 2, "the error rates do their work"


def test_reasoning_inline_gives_the_same_examples(world: Path, in_process: Path, tmp_path: Path) -> None:
    with TeacherServer(SimulatedTeacher(world, seed=5, **RATES), inline_think=True) as server:
        make(world, OpenAIClient(server.url, "simulated-teacher"), tmp_path)
    for name in ("examples.jsonl", "fates.jsonl"):
        assert (tmp_path / name).read_bytes() == (in_process / name).read_bytes()
    texts = [row["text"] for _, row in read_jsonl(tmp_path / "rank.jsonl")]
    assert any(text.startswith("<think> ") and "</think>" in text for text in texts)


def test_the_server_refuses_what_it_does_not_serve(world: Path) -> None:
    with TeacherServer(SimulatedTeacher(world, seed=5)) as server:
        good = {"model": "simulated-teacher", "messages": [{"role": "user", "content": "hello"}]}
        assert httpx.get(f"{server.url}/models").json()["data"][0]["id"] == "simulated-teacher"
        answer = httpx.post(f"{server.url}/chat/completions", json=good).json()
        assert answer["object"] == "chat.completion" and answer["usage"]["prompt_tokens"] > 0
        for change, status, words in (
            ({"model": "gpt"}, 404, "does not exist"),
            ({"stream": True}, 400, "streams"),
            ({"messages": []}, 400, "not a chat request"),
            ({"messages": [{"role": "user", "content": [1]}]}, 400, "not a chat request"),
            ({"max_tokens": "many"}, 400, "not a chat request"),
        ):
            refused = httpx.post(f"{server.url}/chat/completions", json={**good, **change})
            assert refused.status_code == status and words in refused.json()["error"]["message"]
        assert httpx.post(f"{server.url}/chat/completions", content=b"{").status_code == 400
        assert httpx.post(f"{server.url}/embeddings", json={}).status_code == 404
        assert httpx.get(f"{server.url}/files").status_code == 404
        with pytest.raises(EngineError, match="choose another --port"):
            TeacherServer(SimulatedTeacher(world, seed=5), port=server.server_address[1])
    assert Decoding().max_new_tokens == 3172, "what the server assumes where a request says nothing"


def test_the_command_serves_until_ctrl_c(world: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rrlib", "teacher", "serve", str(world), "--port", "0", "--error", "refusal=1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as it:
        assert it.stdout is not None
        url = re.search(r"http://\S+", it.stdout.readline()).group()  # type: ignore[union-attr]
        body = {"model": "simulated-teacher", "messages": [{"role": "user", "content": "Query: x"}]}
        answer = httpx.post(f"{url}/chat/completions", json=body, timeout=30).json()
        assert "sorry" in answer["choices"][0]["message"]["content"] and answer["rrlib"]["data_kind"] == "simulated"
        it.send_signal(signal.SIGINT)
        assert it.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--error", "refusal"], "NAME=PROBABILITY"),
        (["--error", "refusal=often"], "NAME=PROBABILITY"),
        (["--error", "refusal=2"], "refusal"),
        (["--error", "kindness=0.5"], "kindness"),
    ],
)
def test_bad_arguments(world: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert main(["teacher", "serve", str(world), "--port", "0", *arguments]) == 2
    assert words in capsys.readouterr().err


def selections(world: Path, window: int) -> int:
    """How often a teacher is asked to select, counted from the files: a question for each window of candidates, but
    none in web search, whose labels people made."""
    rows = [json.loads(line) for line in (world / "queries.jsonl").read_text().splitlines()]
    asked = {row["_id"] for row in rows if row["metadata"]["split"] == "train"}
    judged = {row["_id"] for row in rows if row["metadata"]["domain"] == "web-search"}
    listed = Counter(line.split()[0] for line in (world / "runs" / "train.trec").read_text().splitlines())
    assert listed.keys() == asked and len(asked) == 40 and 0 < len(asked & judged) < 40
    return sum(-(-candidates // window) for qid, candidates in listed.items() if qid not in judged)


def test_synthesize_on_the_command_line(world: Path, in_process: Path, tmp_path: Path, capsys: Any) -> None:
    """Dry run, a budget that stops, going on, two shards and their merge, card and export: one after another."""
    with TeacherServer(SimulatedTeacher(world, seed=5, **RATES)) as server:
        to = ["--base-url", server.url, "--model", "simulated-teacher", "--window", "10", "--seed", "5", "--quiet"]
        priced = [*to, "--price-in", "1", "--price-out", "2"]
        assert main(["synthesize", str(world), "--output", str(tmp_path / "a"), *priced, "--dry-run"]) == 0
        said = capsys.readouterr().out
        selects = selections(world, window=10)
        assert f"queries: 40; calls to make: {selects + 40} ({selects} select, 40 rank);" in said
        assert "cost: about $" in said
        assert not (tmp_path / "a").exists()
        budget = [*priced, "--max-new-tokens", "400", "--budget"]
        assert main(["synthesize", str(world), "--output", str(tmp_path / "a"), *budget, "0.02"]) == 1
        assert "the budget of $0.02 is reached" in capsys.readouterr().err
        assert main(["synthesize", str(world), "--output", str(tmp_path / "a"), *budget, "9"]) == 0
        said = capsys.readouterr().out
        assert re.search(r"examples of 40 queries", said) and "cost: $0." in said
        for part in "12":
            shard = ["--output", str(tmp_path / f"part{part}"), "--shard", f"{part}/2"]
            assert main(["synthesize", str(world), *to, *shard]) == 0
    capsys.readouterr()
    assert main(["data", "merge", str(tmp_path / "m"), str(tmp_path / "part2"), str(tmp_path / "part1")]) == 0
    assert "complete: all 40 queries of the source, each once" in capsys.readouterr().out
    merged = [json.loads(line)["gold"] for line in (tmp_path / "m/examples.jsonl").read_text().splitlines()]
    whole = [json.loads(line)["gold"] for line in (in_process / "examples.jsonl").read_text().splitlines()]
    assert merged == whole
    assert main(["data", "card", str(tmp_path / "m")]) == 0
    assert "simulated-teacher (simulated)" in capsys.readouterr().out
    examples = str(tmp_path / "m/examples.jsonl")
    assert main(["data", "export", examples, str(tmp_path / "released"), "--format", "released"]) == 0
    assert main(["data", "import", str(tmp_path / "released"), str(tmp_path / "back")]) == 0
    assert f"{len(merged)} examples of {len(merged)} queries" in capsys.readouterr().out
    assert main(["data", "merge", str(tmp_path / "n"), str(tmp_path / "part2")]) == 2
    assert "missing: shard 1/2" in capsys.readouterr().err


def test_a_source_is_prepared_and_used(world: Path, tmp_path: Path, capsys: Any) -> None:
    problems, corpus, items = tmp_path / "p.json", tmp_path / "c.jsonl", tmp_path / "items"
    problems.write_text(
        json.dumps([{"id": i, "content": f"sort numbers {i}", "python": "sorted(x)"} for i in range(3)])
    )
    corpus.write_text(
        "".join(json.dumps({"_id": f"d{i}", "text": f"sort numbers with heap {i}"}) + "\n" for i in range(9))
    )
    assert (
        main(["data", "prepare", "leetcode", str(problems), str(items), "--corpus", str(corpus), "--limit", "2"]) == 0
    )
    assert "2 items" in capsys.readouterr().out
    teacher = ["--base-url", "http://127.0.0.1:9/v1", "--model", "deepseek-reasoner"]
    assert (
        main(["synthesize", str(items), "--output", str(tmp_path / "o"), *teacher, "--dry-run", "--window", "5"]) == 0
    )
    assert "calls to make: 6 (4 select, 2 rank)" in capsys.readouterr().out
    assert main(["synthesize", str(items), "--output", str(tmp_path / "o"), *teacher, "--max-retries", "0"]) == 1
    assert "cannot be reached" in capsys.readouterr().err
    for arguments, words in (
        (["synthesize", str(items), "--output", str(tmp_path / "o")], "--base-url"),
        (["synthesize", str(items), "--output", "o", "--base-url", "http://x/v1"], "--model"),
        (["synthesize", str(items), "--output", "o", *teacher, "--shard", "9/8"], "9/8"),
        (["synthesize", str(items), "--output", "o", *teacher, "--price-in", "1"], "--price-out"),
        (["data", "prepare", "cookery", str(problems), str(items)], "cookery"),
        (["data", "prepare", "leetcode", str(problems), str(items)], "--corpus"),
        (["data", "prepare", "stackexchange", str(problems), str(items)], "--domain"),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err
