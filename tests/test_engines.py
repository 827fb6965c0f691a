"""The engines: transformers on a tiny random model, and the openai client against a server that misbehaves."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_rerank import make
from tokenizers_for_tests import make_tokenizer

from rrlib.engines import Decoding, Request, make_engine
from rrlib.engines.client import FatalCallError
from rrlib.errors import EngineError, InputError, MissingFileError
from rrlib.prompts import format_response
from rrlib.rerank import Reranker
from rrlib.resources import load_callable, resolve


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Qwen3 of 60,000 parameters with a byte-level tokenizer and the Qwen2.5 chat template."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = make_tokenizer("qwen2.5")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def ask(engine: Any, prompts: list[str], decoding: Decoding) -> dict[int, Any]:
    engine.submit([Request(i, prompt=p) for i, p in enumerate(prompts)], decoding)
    replies: dict[int, Any] = {}
    while len(replies) < len(prompts):
        replies.update(engine.collect())
    return replies


def test_transformers_batches_do_not_change_greedy_answers(tiny: str) -> None:
    prompts = [f"<|im_start|>user\n{'the fox jumps ' * i}<|im_end|>\n<|im_start|>assistant\n" for i in range(1, 8)]
    decoding = Decoding(max_new_tokens=12)
    one = ask(make_engine("transformers", tiny, batch_size=1), prompts, decoding)
    many = ask(make_engine("transformers", tiny, batch_size=4), prompts, decoding)
    assert {i: r.text for i, r in one.items()} == {i: r.text for i, r in many.items()}
    assert all(r.tokens_out <= 12 and r.finish_reason in ("stop", "length") and r.error is None for r in many.values())
    assert [one[i].tokens_in for i in range(7)] == sorted(one[i].tokens_in for i in range(7))


def test_transformers_samples_by_seed(tiny: str) -> None:
    engine = make_engine("transformers", tiny)
    hot = Decoding(max_new_tokens=20, temperature=1.0, seed=3)
    assert ask(engine, ["the fox"], hot)[0].text == ask(engine, ["the fox"], hot)[0].text
    texts = {ask(engine, ["the fox"], Decoding(max_new_tokens=20, temperature=1.0, seed=s))[0].text for s in range(4)}
    assert len(texts) > 1


def test_a_request_with_a_seed_of_its_own_is_sampled_by_it(tiny: str) -> None:
    engine, hot = make_engine("transformers", tiny), Decoding(max_new_tokens=20, temperature=1.0, seed=3)

    def text(number: int, seed: int) -> str:
        engine.submit([Request(number, prompt="the fox", seed=seed)], hot)
        return engine.collect()[0][1].text

    assert text(1, 5) == text(2, 5)  # whatever its number
    assert len({text(1, seed) for seed in range(4)}) > 1


def test_transformers_refuses_what_does_not_fit(tiny: str) -> None:
    engine = make_engine("transformers", tiny)
    reply = ask(engine, ["the fox " * 3000], Decoding(max_new_tokens=10))[0]
    assert reply.error is not None and "4096" in reply.error and reply.text == ""


def test_transformers_end_to_end(tiny: str, tmp_path: Path) -> None:
    reranker = Reranker(tiny, decoding=Decoding(max_new_tokens=8), window=10, stride=5, log=tmp_path / "log.jsonl")
    result = reranker.rerank([make(12, "a"), make(3, "b")])
    assert sorted(result.run()["a"]) == sorted(f"d{i}" for i in range(12))
    record = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert record["settings"]["decoding"]["max_new_tokens"] == 8 and record["prompt_hash"] and record["tokens_in"] > 100
    assert record["settings"]["dtype"] == "float32"


@pytest.mark.parametrize(
    ("make_it", "error", "words"),
    [
        (lambda t: make_engine("jax", t), InputError, "transformers, vllm, openai, replay"),
        (lambda t: make_engine("transformers", t + "/nowhere"), InputError, "nowhere"),
        (lambda t: make_engine("transformers", t, dtype="float12"), InputError, "float12"),
        (lambda t: make_engine("transformers", t, batch_size=0), InputError, "batch_size"),
        (lambda t: make_engine("openai", t, base_url="localhost:8000"), InputError, "http"),
        (
            lambda t: make_engine("openai", t, base_url="http://127.0.0.1:1/v1", concurrency=0),
            InputError,
            "concurrency",
        ),
        (lambda t: resolve("package:no_such_module/x"), InputError, "no_such_module"),
        (lambda t: resolve("package:rrlib.engines/no/such/folder"), MissingFileError, "no/such/folder"),
        (lambda t: load_callable("rrlib.reward"), InputError, "module:name"),
        (lambda t: load_callable("rrlib.reward:Nothing"), InputError, "Nothing"),
        (lambda t: load_callable("no_such_module:x"), InputError, "no_such_module"),
        (lambda t: load_callable("rrlib.reward:VIEWS"), InputError, "not callable"),
    ],
)
def test_bad_engines(tiny: str, make_it: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make_it(tiny)


# --- a server that misbehaves ----------------------------------------------------------------------------------------
class Server(ThreadingHTTPServer):
    """Answers like an OpenAI-compatible server; `faults` maps a fault's name to how often it is shown first."""

    daemon_threads = True

    def __init__(self, where: str = "content", faults: dict[str, int] | None = None, delay: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.where, self.faults, self.delay = where, Counter(faults or {}), delay
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.active = self.most_active = 0
        self.guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.guard:
            server.seen.append((self.path, request))
            server.active += 1
            server.most_active = max(server.most_active, server.active)
            fault = next((f for f, left in server.faults.items() if left > 0), None)
            if fault is not None:
                server.faults[fault] -= 1
        time.sleep(server.delay)
        with server.guard:
            server.active -= 1
        if fault == "dropped":
            self.reply(200, b'{"choices": [', length=500)
            self.close_connection = True
            return
        if fault is not None:
            bodies: dict[str, tuple[int, bytes]] = {
                "429": (429, b'{"error": {"message": "slow down"}}'),
                "500": (500, b'{"error": {"message": "oops"}}'),
                "503": (503, b"not json"),
                "400": (400, b'{"error": {"message": "prompt too long"}}'),
                "401": (401, b'{"error": {"message": "bad key"}}'),
                "404": (404, b'{"error": {"message": "no such model"}}'),
                "malformed": (200, b"{not json"),
                "empty": (200, b'{"choices": []}'),
                "error body": (200, b'{"error": {"message": "overloaded"}}'),
            }
            status, body = bodies[fault]
            self.reply(status, body, {"Retry-After": "0"} if status == 429 else None)
            return
        text = request.get("prompt") or request["messages"][-1]["content"]
        gains = [int(li.rpartition(" ")[2]) for li in text.splitlines() if li.startswith("[") and "] gain " in li]
        order = sorted(range(len(gains)), key=lambda i: -gains[i])
        full = format_response("by gain", order)
        answer = full.partition("</think> ")[2]
        message = {
            "content": {"role": "assistant", "content": full},
            "reasoning_content": {"role": "assistant", "content": answer, "reasoning_content": "by gain"},
            "reasoning": {"role": "assistant", "content": answer, "reasoning": "by gain"},
        }[server.where]
        said = {"text": full} if "prompt" in request else {"message": message}
        choice = {"index": 0, "finish_reason": "stop", **said}
        usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
        self.reply(200, json.dumps({"id": "x", "object": "x", "choices": [choice], "usage": usage}).encode())


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[Server] = []

    def start(**options: Any) -> Server:
        server = Server(**options)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def over(server: Server, **options: Any) -> Reranker:
    return Reranker(make_engine("openai", "m", base_url=server.url, **options), window=10, stride=5)


def test_a_server_is_told_the_seed_of_each_sample(serve: Any) -> None:
    server = serve()
    engine = make_engine("openai", "m", base_url=server.url)
    warm = Decoding(temperature=0.7, seed=7)
    result = Reranker(engine, window=10, stride=5, samples=3, decoding=warm).rerank([make(20)])
    assert result.run()["q1"][:5] == [f"d{g}" for g in range(19, 14, -1)]
    seeds = [request["seed"] for _, request in server.seen]
    assert len(set(seeds)) == len(seeds) == 9 and set(seeds) == {record.seed for record in result.records}


@pytest.mark.parametrize("where", ["content", "reasoning_content", "reasoning"])
def test_reasoning_from_each_of_three_places(serve: Any, where: str) -> None:
    result = over(serve(where=where)).rerank([make(20)])
    assert result.run()["q1"][:5] == [f"d{g}" for g in range(19, 14, -1)]
    assert all(r.reasoning == "by gain" and r.tokens_in == 11 and r.tokens_out == 7 for r in result.records)


@pytest.mark.parametrize("fault", ["429", "500", "503", "malformed", "empty", "error body", "dropped"])
def test_transport_faults_are_tried_again(serve: Any, fault: str) -> None:
    server = serve(faults={fault: 2})
    result = over(server).rerank([make(10)])
    assert result.counts["verdict_ok"] == 1 and result.records[0].retries == 2
    assert len(server.seen) == 3
    assert result.run()["q1"] == [f"d{g}" for g in range(9, -1, -1)]


def test_retries_have_an_end_and_failures_are_no_text(serve: Any) -> None:
    server = serve(faults={"500": 2})
    candidates = [make(10, "a"), make(10, "b")]
    result = over(server, max_retries=1, concurrency=1).rerank(candidates)
    assert result.counts["failed"] == 1 and result.counts["verdict_ok"] == 1
    (failed,) = [r for r in result.records if r.error]
    assert "oops" in failed.error and failed.text is None and failed.order == tuple(range(10))


def test_one_refused_call_is_a_failure(serve: Any) -> None:
    result = over(serve(faults={"400": 1}), concurrency=1).rerank([make(10, "a"), make(10, "b")])
    assert result.counts["failed"] == 1
    assert "prompt too long" in next(r.error for r in result.records if r.error)


@pytest.mark.parametrize(("fault", "words"), [("401", "bad key"), ("404", "no such model")])
def test_refusals_stop_the_run_at_once(serve: Any, fault: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-value")
    server = serve(faults={fault: 99})
    with pytest.raises(FatalCallError, match=words) as caught:
        over(server, concurrency=2).rerank([make(30, f"q{i}") for i in range(20)])
    assert len(server.seen) <= 4 and "secret-value" not in str(caught.value)


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine("openai", "m", base_url="http://127.0.0.1:9/v1", max_retries=0)
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9"):
        Reranker(engine).rerank([make(5)])


def test_calls_run_side_by_side(serve: Any) -> None:
    server = serve(delay=0.1)
    over(server, concurrency=6).rerank([make(10, f"q{i}") for i in range(12)])
    assert 4 <= server.most_active <= 6


def test_a_known_tokenizer_sends_the_templated_prompt(serve: Any, tiny: str) -> None:
    server = serve()
    engine = make_engine("openai", "m", base_url=server.url, tokenizer=tiny)
    result = Reranker(engine, decoding=Decoding(max_new_tokens=64, top_k=20)).rerank([make(10)])
    path, request = server.seen[0]
    assert path == "/v1/completions" and request["prompt"].startswith("<|im_start|>system\nYou are RankLLM")
    assert request["add_special_tokens"] is False and request["top_k"] == 20 and request["max_tokens"] == 64
    assert result.counts["verdict_ok"] == 1
    path, request = over(server).rerank([make(10)]) and server.seen[-1]
    assert path == "/v1/chat/completions" and "top_k" not in request
