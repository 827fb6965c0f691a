"""Faults that a reader of the serving part met: a path past the guard, one client's refusal, odd bodies, odd frames."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pandas as pd
import pytest

from rrlib.engines import Decoding, Request
from rrlib.engines.answers import read_body
from rrlib.engines.client import FatalCallError
from rrlib.engines.openai import OpenAIEngine
from rrlib.errors import InputError
from rrlib.rerank import Reranker
from rrlib.serve.guard import Limits
from rrlib.serve.server import Server
from tests.test_rerank import Oracle

ANSWER = {"message": {"content": "<think> x </think> <answer> [2] > [1] </answer>"}, "finish_reason": "stop"}
GOOD = {"choices": [ANSWER], "usage": {"prompt_tokens": 5, "completion_tokens": 5}}
Answers = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def backend() -> Iterator[Any]:
    """A server whose answers are (status, content type, body) by the text of the request; `url`, `answers`, `got`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["content-length"])).decode()
            server.got.append((time.monotonic(), text))  # type: ignore[attr-defined]
            status, kind, body = server.answers(text)  # type: ignore[attr-defined]
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.answers = [], lambda _: (200, "application/json", json.dumps(GOOD))  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{server.server_port}/v1"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def good() -> tuple[int, str, str]:
    return 200, "application/json", json.dumps(GOOD)


def ask(url: str, query: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/rerank", json={"query": query, "documents": ["a", "b"]}, timeout=30)


# --- the server -------------------------------------------------------------------------------------------------------
def test_a_path_with_a_line_end_does_not_pass_the_guard() -> None:
    long = json.dumps({"query": "q", "documents": ["x" * 5000, "b"]})
    with Server(lambda: Reranker(Oracle()), "m", limits=Limits(body_bytes=2000)) as server:  # type: ignore[arg-type]
        for path, status in (("/v1/rerank", 413), ("/v1/rerank%0A", 404), ("/rerank%0A", 404)):
            sent = httpx.post(server.url + path, content=long, headers={"content-type": "application/json"}, timeout=30)
            assert sent.status_code == status, path


def test_a_prompt_that_is_refused_harms_nobody_else(backend: Any) -> None:
    def answers(text: str) -> tuple[int, str, str]:
        if "EVIL" in text:
            time.sleep(0.2)
            return 403, "application/json", '{"error": {"message": "blocked by a filter"}}'
        time.sleep(1.0 if "LONG" in text else 0.0)
        return good()

    backend.answers = answers
    with Server(lambda: Reranker(OpenAIEngine("m", base_url=backend.url, concurrency=8, max_retries=1)), "m") as server:
        assert ask(server.url, "first").status_code == 200
        found: dict[str, httpx.Response] = {}
        threads = [
            threading.Thread(target=lambda query=query: found.update({query: ask(server.url, query)}))
            for query in ("LONG a", "LONG b", "EVIL")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found[name].status_code for name in ("LONG a", "LONG b")] == [200, 200]
        assert found["EVIL"].status_code == 502 and "blocked by a filter" in found["EVIL"].text
        assert ask(server.url, "after").status_code == 200


def test_a_free_slot_does_not_wait_for_the_one_that_is_taken(backend: Any) -> None:
    def answers(text: str) -> tuple[int, str, str]:
        time.sleep(2.0 if "SLOW" in text else 0.0)
        return good()

    backend.answers = answers
    with Server(lambda: Reranker(OpenAIEngine("m", base_url=backend.url, concurrency=8)), "m") as server:
        slow = threading.Thread(target=ask, args=(server.url, "SLOW"))
        slow.start()
        while not backend.got:
            time.sleep(0.01)
        assert ask(server.url, "fast").status_code == 200
        assert slow.is_alive(), "the fast one was asked only when the slow one was back"
        slow.join()


# --- the client -------------------------------------------------------------------------------------------------------
def test_answers_that_came_before_a_fatal_error_are_handed_out(backend: Any) -> None:
    backend.answers = lambda text: (401, "application/json", "{}") if "EVIL" in text else good()
    engine = OpenAIEngine("m", base_url=backend.url, concurrency=8, max_retries=0)
    asked = [Request(i, ({"role": "user", "content": "ok"},)) for i in range(5)]  # type: ignore[arg-type]
    engine.submit([*asked, Request(9, ({"role": "user", "content": "EVIL"},))], Decoding())  # type: ignore[arg-type]
    while engine._done.qsize() < 6:
        time.sleep(0.01)
    seen: list[int] = []
    with pytest.raises(FatalCallError, match="401"):
        while True:
            seen += [number for number, _ in engine.collect()]
    engine.close()
    assert set(seen) <= set(range(5)) and seen, "what came before it"
    assert engine.collect() == []


def test_waiting_for_answers_may_have_an_end(backend: Any) -> None:
    def answers(_: str) -> tuple[int, str, str]:
        time.sleep(0.5)
        return good()

    backend.answers = answers
    engine = OpenAIEngine("m", base_url=backend.url, concurrency=8)
    engine.submit([Request(1, ({"role": "user", "content": "ok"},))], Decoding())  # type: ignore[arg-type]
    began = time.monotonic()
    assert engine.collect(timeout=0.05) == [] and time.monotonic() - began < 0.4
    assert [number for number, _ in engine.collect()] == [1]
    engine.close()


@pytest.mark.parametrize(
    ("status", "kind", "body", "words"),
    [
        (
            422,
            "application/json",
            '{"error": "inputs tokens exceeds maximum length of 4096 tokens"}',
            "exceeds maximum",
        ),
        (500, "text/plain", "CUDA out of memory", "CUDA out of memory"),
        (200, "text/event-stream", 'data: {"choices": ["x"]}\n\n', "form of its own|not JSON|choices"),
        (200, "application/json", '{"choices": 5}', "form of its own|choices"),
        (200, "application/json", "[" * 200_000, "form of its own|not JSON"),
    ],
)
def test_what_a_server_says_is_told_and_odd_answers_are_failures(
    status: int, kind: str, body: str, words: str, backend: Any
) -> None:
    backend.answers = lambda _: (status, kind, body)
    engine = OpenAIEngine("m", base_url=backend.url, concurrency=8, max_retries=0)
    engine.submit([Request(1, ({"role": "user", "content": "ok"},))], Decoding())  # type: ignore[arg-type]
    ((_, reply),) = engine.collect()
    engine.close()
    assert reply.error is not None and re.search(words, reply.error), reply.error


@pytest.mark.parametrize("sign", ["\u2028", "\u0085"])
def test_a_line_of_events_ends_at_line_ends_only(sign: str) -> None:
    pieces = [{"choices": [{"delta": {"content": f"a{sign}b"}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}]
    text = "".join(f"data: {json.dumps(piece, ensure_ascii=False)}\r\n\r\n" for piece in pieces) + "data: [DONE]\n\n"
    assert read_body(text)["choices"][0]["message"]["content"] == f"a{sign}b"


# --- PyTerrier --------------------------------------------------------------------------------------------------------
def test_a_frame_of_other_types_is_read_by_its_numbers() -> None:
    import rrlib.adapters.pyterrier as door

    n = 12
    frame = pd.DataFrame({"qid": ["q"] * n, "query": ["why"] * n, "docno": [f"d{i}" for i in range(n)]})
    frame["text"] = pd.Categorical([None if i == 3 else f"gain {n - i}" for i in range(n)])
    frame["rank"] = [str(i) for i in range(n)]
    ranked = door.Reranker(Reranker(Oracle()))(frame)  # type: ignore[arg-type]
    assert list(ranked["docno"])[:3] == ["d0", "d1", "d2"]
    kept = door._best_first(frame)
    assert list(kept["docno"]) == [f"d{i}" for i in range(n)]
    frame.loc[2, "qid"] = None
    with pytest.raises(InputError, match="no qid"):
        door.Reranker(Reranker(Oracle()))(frame)  # type: ignore[arg-type]
