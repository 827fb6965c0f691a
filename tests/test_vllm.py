"""vLLM for real: the in-process engine and vLLM's own OpenAI-compatible server agree with transformers.

Temperature 0 and float32 on both sides, the miniature's checkpoint, single windows of the miniature's own test queries.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from rrlib.engines import Decoding, make_engine
from rrlib.formats import make_candidates, read_collection, write_requests
from rrlib.miniature import build
from rrlib.records import WindowRecord, read_records
from rrlib.rerank import Reranker
from rrlib.resources import resolve
from rrlib.types import Candidates

pytestmark = pytest.mark.vllm  # conftest skips these where vllm is not installed; CI installs it
MODEL = "package:rrlib.miniature/reranker"
ROOT = Path(__file__).resolve().parents[1]
DECODING = Decoding(max_new_tokens=320)
SIZE = 10


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> list[Candidates]:
    """Forty windows of ten passages: the head of each of forty test queries' pools."""
    folder = tmp_path_factory.mktemp("world")
    build(folder, seed=11, train=40, validation=10, test=40)
    collection = read_collection(folder, "test")
    assert collection.run is not None
    full = make_candidates(collection.run, collection.queries, collection.corpus, depth=SIZE)
    return full[:40]


@pytest.fixture(scope="module")
def expected(windows: list[Candidates]) -> dict[str, WindowRecord]:
    """What transformers says."""
    reranker = Reranker(MODEL, window=SIZE, stride=SIZE, decoding=DECODING, dtype="float32")
    return {r.qid: r for r in reranker.rerank(windows).records}


def agree(records: list[WindowRecord], expected: dict[str, WindowRecord]) -> None:
    assert len(records) == len(expected)
    valid = sum(r.verdict == "ok" for r in records)
    assert valid >= 0.9 * len(records), f"{valid} of {len(records)} answers are valid"
    for record in records:
        assert record.prompt_hash == expected[record.qid].prompt_hash
    same = sum(r.order == expected[r.qid].order for r in records)
    assert same >= 0.95 * len(records), f"the same permutation on {same} of {len(records)} windows"


def test_the_reference_is_worth_comparing_with(expected: dict[str, WindowRecord]) -> None:
    assert sum(r.verdict == "ok" for r in expected.values()) >= 0.9 * len(expected)
    assert len({tuple(r.order) for r in expected.values()}) > 20


def test_vllm_engine(windows: list[Candidates], expected: dict[str, WindowRecord], tmp_path: Path) -> None:
    """Through the command line, in a process of its own: vLLM leaves threads and distributed state behind."""
    requests, out = tmp_path / "requests.jsonl", tmp_path / "out.trec"
    write_requests(requests, windows)
    done = subprocess.run(
        [sys.executable, "-m", "rrlib", "rerank", "--requests", str(requests), "--engine", "vllm", "--model", MODEL,
         "--window", str(SIZE), "--stride", str(SIZE), "--dtype", "float32", "--max-model-len", "4096",
         "--max-new-tokens", str(DECODING.max_new_tokens), "--output", str(out), "--quiet",
         "--engine-option", "max_num_seqs=16", "--engine-option", "enable-prefix-caching=false"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    agree(read_records(f"{out}.log.jsonl"), expected)


def test_an_object_that_answers_every_name_does_not_stop_vllm() -> None:
    """numba's llvmlite has one; whoever ranks with BM25 first has loaded it."""
    from llvmlite.binding import ffi

    from rrlib.patches import hide_inner_names

    hide_inner_names()
    hide_inner_names()  # a second engine
    assert not hasattr(ffi.lib, "__dict__")
    assert ffi.lib.LLVMPY_GetVersionInfo() > 0, "its own names are still found"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "server.log"
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("w") as handle:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", resolve(MODEL),
             "--served-model-name", "reranker", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
             "--max-model-len", "4096", "--enforce-eager"],
            env=env, stdout=handle, stderr=subprocess.STDOUT,
        )  # fmt: skip
    for _ in range(360):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            break
        except OSError:
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.5)
    else:
        process.kill()
        pytest.fail(f"the server did not answer in 180 s: {log.read_text()[-3000:]}")
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(30)


def test_openai_engine_with_the_tokenizer(
    windows: list[Candidates], expected: dict[str, WindowRecord], server: str
) -> None:
    """The templated string goes to /v1/completions."""
    engine = make_engine("openai", "reranker", base_url=server, tokenizer=MODEL, max_retries=1)
    result = Reranker(engine, window=SIZE, stride=SIZE, decoding=DECODING).rerank(windows)
    engine.close()
    agree(result.records, expected)
    tokens = {r.qid: r.tokens_in for r in result.records}
    assert tokens == {qid: r.tokens_in for qid, r in expected.items()}  # no special token was added on the way


def test_openai_engine_with_messages(windows: list[Candidates], expected: dict[str, WindowRecord], server: str) -> None:
    """The server applies the chat template; these texts need no ftfy, so the prompt is the same."""
    engine = make_engine("openai", "reranker", base_url=server, max_retries=1)
    result = Reranker(engine, window=SIZE, stride=SIZE, decoding=DECODING).rerank(windows)
    engine.close()
    assert {r.qid: r.tokens_in for r in result.records} == {q: r.tokens_in for q, r in expected.items()}
    same = sum(r.order == expected[r.qid].order for r in result.records)
    assert same >= 0.95 * len(expected)


def test_rrlib_serve_over_vllm(windows: list[Candidates], expected: dict[str, WindowRecord], tmp_path: Path) -> None:
    """Sixteen clients at once get the orders of transformers, from the same prompts."""
    log, asked = tmp_path / "served.jsonl", windows[:16]
    command = [
        sys.executable, "-m", "rrlib", "serve", "--engine", "vllm", "--model", MODEL, "--dtype", "float32",
        "--port", "0", "--max-model-len", "4096", "--max-new-tokens", str(DECODING.max_new_tokens),
        "--window", str(SIZE), "--stride", str(SIZE), "--log", str(log),
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    with (tmp_path / "said").open("w+") as said, subprocess.Popen(command, env=env, stderr=said) as process:
        try:
            ends = time.monotonic() + 180
            while "\nready\n" not in (text := Path(said.name).read_text()):
                assert process.poll() is None and time.monotonic() < ends, text[-3000:]
                time.sleep(0.1)
            (url,) = re.findall(r"http://127\.0\.0\.1:\d+(?= )", text)

            def ask(item: Candidates) -> tuple[str, list[str]]:
                documents = [{"text": passage.text, "title": passage.title} for passage in item.passages]
                body = {"query": item.query.text, "documents": documents}
                answer = httpx.post(f"{url}/v1/rerank", json=body, timeout=120).json()
                return answer["id"], [item.passages[row["index"]].docid for row in answer["results"]]

            with ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(ask, asked))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, Path(said.name).read_text()[-3000:]
        finally:
            process.kill()
    records = {record.qid: record for record in read_records(log)}
    found = [replace(records[name], qid=w.query.qid) for w, (name, _) in zip(asked, answers, strict=True)]
    agree(found, {record.qid: expected[record.qid] for record in found})
    for item, (name, docids) in zip(asked, answers, strict=True):
        assert docids == [item.passages[place].docid for place in records[name].order]


CHOICES = """
import json, sys
from rrlib.engines import Decoding, Request, make_engine

name, options = sys.argv[1], json.loads(sys.argv[2])
engine = make_engine(name, "package:rrlib.miniature/reranker", dtype="float32", **options)
prompts = ["why is the sky blue?", "the list is [2] > "]
asked = [(p, c) for p in prompts for c in (("[1]", "[2]"), (" true", " false"))]
engine.submit([Request(i, prompt=p, choices=c) for i, (p, c) in enumerate(asked)], Decoding())
engine.submit([Request(9, prompt=prompts[1], stop=(">",), max_new_tokens=12)], Decoding(40))
found = {}
while len(found) < len(asked) + 1:
    found.update(engine.collect())
print("FOUND", json.dumps([[dict(found[i].logprobs) for i in range(len(asked))], found[9].text, found[9].tokens_out]))
"""


def test_vllm_gives_the_log_probabilities_of_choices() -> None:
    """Of one token and of several, as transformers gives them; and it stops at strings and at a request's own limit."""
    answers = []
    for name, options in (("transformers", {}), ("vllm", {"max_model_len": 512})):
        done = subprocess.run(
            [sys.executable, "-c", CHOICES, name, json.dumps(options)],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        line = next(row for row in done.stdout.splitlines() if row.startswith("FOUND "))
        answers.append(json.loads(line.removeprefix("FOUND ")))
    (expected, text, _), (found, other, tokens) = answers
    for a, b in zip(expected, found, strict=True):
        assert list(a) == list(b)
        assert all(abs(a[word] - b[word]) < 0.01 for word in a), (a, b)
    assert len({round(v, 3) for row in expected for v in row.values()}) == 8  # they are not all the same number
    assert text.strip() == other.strip() and ">" not in other and tokens <= 12
