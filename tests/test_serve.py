"""The server: both forms, limits, keys, hostile and vanishing clients, one engine shared, failures that look like ones.

A real uvicorn on loopback in every test. The scripted engine ranks by the number in a text; a gate holds it where a
test must know what is in flight.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from rrlib.cli import main
from rrlib.engines import Decoding, Reply, Request
from rrlib.errors import EngineError, InputError, StageError
from rrlib.prompts import format_response
from rrlib.records import read_records
from rrlib.rerank import Reranker
from rrlib.serve.guard import Limits
from rrlib.serve.server import Server

ROOT = Path(__file__).resolve().parents[1]
MODEL = "package:rrlib.miniature/reranker"
GAINS = (3, 1, 4, 0, 5, 9, 2, 6)
DOCS = [f"gain {gain}" for gain in GAINS]
BEST = [5, 7, 4, 2, 0, 6, 1, 3]  # places of DOCS, best first
JSON = {"Content-Type": "application/json"}
HEAD = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Scripted:
    """Ranks by the number at the end of each text. gate: `collect` waits for it. fail: the text of a prompt -> what is
    wrong with its call; an exception is raised by `collect`."""

    name, model = "scripted", "scripted"

    def __init__(self, capacity: int = 8, fail: Callable[[str], Any] | None = None, text: str | None = None) -> None:
        self.capacity, self.fail, self.text = capacity, fail, text
        self.gate = threading.Event()
        self.gate.set()
        self.waiting: list[Request] = []
        self.asked: list[str] = []  # the query of each request, in order
        self.most, self.threads, self.closed = 0, set[str](), False

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self.threads.add(threading.current_thread().name)
        self.waiting += requests
        self.asked += [query_of(request) for request in requests]
        self.most = max(self.most, len(self.waiting))

    def collect(self) -> list[tuple[int, Reply]]:
        self.threads.add(threading.current_thread().name)
        assert self.gate.wait(60)
        request = self.waiting.pop(0)
        prompt = request.messages[-1]["content"]
        wrong = self.fail(prompt) if self.fail is not None else None
        if isinstance(wrong, Exception):
            raise wrong
        if wrong is not None:
            return [(request.id, Reply(error=wrong))]
        if self.text is not None:
            return [(request.id, Reply(self.text))]
        gains = [int(gain) for gain in re.findall(r"^\[\d+\] .*?(\d+)$", prompt, re.MULTILINE)]
        order = sorted(range(len(gains)), key=lambda i: -gains[i])
        return [(request.id, Reply(format_response("by gain", order), tokens_in=10, tokens_out=5))]

    def cancel(self) -> None:
        self.waiting = []

    def close(self) -> None:
        self.closed = True


def query_of(request: Request) -> str:
    (query,) = re.findall(r"^Search Query: (.*)\.$", request.messages[-1]["content"], re.MULTILINE)
    return query


@contextmanager
def serving(engine: Any = None, *, key: str = "", options: Any = None, **limits: Any) -> Iterator[httpx.Client]:
    """A client of a server over a scripted engine. limits: of rrlib.serve.guard.Limits; options: of the reranker."""
    made = engine or Scripted()
    with (
        Server(
            lambda: Reranker(made, **{"depth": None, **(options or {})}), "m", key=key, limits=Limits(**limits)
        ) as s,
        httpx.Client(base_url=s.url, timeout=30) as client,
    ):
        client.server = s  # type: ignore[attr-defined]
        yield client
    assert made.closed


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)


def cohere(query: str = "q", documents: Any = DOCS, **more: Any) -> dict[str, Any]:
    return {"query": query, "documents": documents, **more}


def places(answer: Any) -> list[int]:
    return [row["index"] for row in (answer if isinstance(answer, list) else answer["results"])]


@pytest.fixture(scope="module")
def plain() -> Iterator[httpx.Client]:
    with serving() as client:
        yield client


# --- the two forms ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_cohere_jina_vllm(plain: httpx.Client, path: str) -> None:
    answer = plain.post(path, json=cohere(model="m", top_n=3, return_documents=True, max_tokens_per_doc=4096)).json()
    assert answer["results"] == [
        {"index": 5, "relevance_score": 1.0, "document": {"text": "gain 9"}},
        {"index": 7, "relevance_score": 0.875, "document": {"text": "gain 6"}},
        {"index": 4, "relevance_score": 0.75, "document": {"text": "gain 5"}},
    ]
    assert answer["model"] == "m" and answer["id"].startswith("rerank-") and answer["unread_windows"] == 0
    assert answer["usage"] == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    assert "reasoning" not in answer


def test_documents_as_objects_and_all_of_them_by_default(plain: httpx.Client) -> None:
    documents = [
        {"text": text, "title": "A title"} if i % 2 else {"text": text, "url": "u"} for i, text in enumerate(DOCS)
    ]
    answer = plain.post("/v1/rerank", json=cohere(documents=documents, return_documents=True)).json()
    assert places(answer) == BEST and answer["results"][0]["document"] == {"text": "gain 9", "title": "A title"}
    scores = [row["relevance_score"] for row in answer["results"]]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 8 and 0 < scores[-1] <= scores[0] == 1
    assert "document" not in plain.post("/v1/rerank", json=cohere()).json()["results"][0]


def test_tei(plain: httpx.Client) -> None:
    rows = plain.post("/rerank", json={"query": "q", "texts": DOCS, "return_text": True, "truncate": True}).json()
    assert places(rows) == BEST and rows[0] == {"index": 5, "score": 1.0, "text": "gain 9"}
    rows = plain.post("/rerank", json={"query": "q", "texts": DOCS, "raw_scores": True}).json()
    assert [row["score"] for row in rows] == [8, 7, 6, 5, 4, 3, 2, 1] and "text" not in rows[0]


def test_reasoning_only_where_it_is_asked_for(plain: httpx.Client) -> None:
    (window,) = plain.post("/v1/rerank", json=cohere(return_reasoning=True)).json()["reasoning"]
    assert window == {"documents": list(range(8)), "ranking": BEST, "verdict": "ok", "reasoning": "by gain"}


@pytest.mark.parametrize(
    ("accept", "kind"), [("*/*", "text/event-stream"), ("application/x-ndjson", "application/x-ndjson")]
)
def test_windows_are_streamed(plain: httpx.Client, accept: str, kind: str) -> None:
    documents = [f"gain {i}" for i in range(40)]
    body = cohere(documents=documents, stream=True, return_reasoning=True, top_n=2)
    answer = plain.post("/v1/rerank", json=body, headers={"Accept": accept})
    assert answer.headers["content-type"].startswith(kind)
    if accept == "*/*":
        blocks = answer.text.strip().split("\n\n")
        events = [json.loads(block.partition("\ndata: ")[2]) for block in blocks]
        assert [block.partition("\n")[0] for block in blocks] == [f"event: {event['type']}" for event in events]
    else:
        events = [json.loads(line) for line in answer.text.splitlines()]
    assert [event["type"] for event in events] == ["window"] * 3 + ["result"]
    assert events[0]["documents"] == list(range(20, 40)) and events[0]["ranking"][0] == 39
    assert events[0]["reasoning"] == "by gain" and places(events[-1]) == [39, 38]


def test_the_first_window_is_streamed_before_the_last_is_asked() -> None:
    engine = Scripted(capacity=1)
    with serving(engine) as client:
        body = cohere(documents=[f"gain {i}" for i in range(30)], stream=True)
        with client.stream("POST", "/v1/rerank", json=body, headers={"Accept": "application/x-ndjson"}) as answer:
            engine.gate.clear()  # at most the first was let through; open it for one window at a time
            lines = answer.iter_lines()
            assert json.loads(next(lines))["type"] == "window"
            engine.gate.set()
            assert [json.loads(line)["type"] for line in lines] == ["window", "result"]


def test_pointwise_scores_are_probabilities() -> None:
    class Judge(Scripted):
        def collect(self) -> list[tuple[int, Reply]]:
            request = self.waiting.pop(0)
            gain = int(re.findall(r"gain (\d)", request.messages[-1]["content"])[0])
            odds = dict(
                zip(request.choices or ("true", "false"), (-0.1 * (10 - gain), -0.1 * gain - 0.05), strict=True)
            )
            return [(request.id, Reply(tokens_in=3, logprobs=odds))]

    engine = Judge()
    engine.tokenizer = None  # type: ignore[attr-defined]
    engine.submit = lambda requests, decoding: engine.waiting.extend(requests)  # type: ignore[method-assign]
    options = {"style": "pointwise_nothink", "strategy": "pointwise"}
    with serving(engine, options=options) as client:
        rows = client.post("/rerank", json={"query": "q", "texts": DOCS}).json()
        raw = client.post("/rerank", json={"query": "q", "texts": DOCS, "raw_scores": True}).json()
    assert places(rows) == places(raw) == BEST
    assert all(0 < row["score"] < 1 for row in rows) and any(row["score"] < 0 for row in raw)


def test_texts_of_all_scripts_come_back_as_they_were_sent(plain: httpx.Client) -> None:
    texts = ["\ud800 gain 3", "\U0001f600 gain 1", "読む gain 2", "a\u2028b\x00 gain 9"]
    content = json.dumps({"query": "\udfff 読む", "texts": texts, "return_text": True}).encode()
    rows = plain.post("/rerank", content=content, headers=JSON).json()
    assert [row["text"] for row in rows] == [texts[row["index"]] for row in rows] and len(rows) == 4
    answer = plain.post("/v1/rerank", content=json.dumps(cohere(documents=texts, return_documents=True)), headers=JSON)
    assert {row["document"]["text"] for row in answer.json()["results"]} == set(texts)


# --- what is refused --------------------------------------------------------------------------------------------------
REFUSED: list[tuple[str, Any, int, str]] = [
    ("/v1/rerank", b"{", 400, "not JSON"),
    ("/v1/rerank", b"", 422, "required"),
    ("/v1/rerank", b"\xff\xfe", 400, "pars|JSON"),
    ("/v1/rerank", b"[" * 200_000, 400, "pars|JSON"),
    ("/v1/rerank", b'{"query": "q", "documents": ["a"], "top_n": ' + b"9" * 5000 + b"}", 400, "pars|JSON"),
    ("/v1/rerank", [], 422, "object"),
    ("/v1/rerank", "text", 422, "object"),
    ("/v1/rerank", {"query": "q"}, 422, "documents: Field required"),
    ("/v1/rerank", {"documents": ["a"]}, 422, "query: Field required"),
    ("/v1/rerank", {"query": 5, "documents": ["a"]}, 422, "query: .*string"),
    ("/v1/rerank", {"query": "q", "documents": "a"}, 422, "documents: .*list"),
    ("/v1/rerank", {"query": "q", "documents": ["a", 5]}, 422, "documents.1: a document is"),
    ("/v1/rerank", {"query": "q", "documents": [{"content": "a"}]}, 422, "documents.0: a document is"),
    ("/v1/rerank", {"query": "q", "documents": [None]}, 422, "documents.0: a document is"),
    ("/v1/rerank", {"query": "q", "documents": []}, 422, "no documents"),
    ("/v1/rerank", {"query": "q", "documents": ["", " "]}, 422, "no document has a text"),
    ("/v1/rerank", {"query": " ", "documents": ["a"]}, 422, "query is empty"),
    ("/v1/rerank", {"query": "q", "documents": ["a"], "top_n": 0}, 422, "top_n"),
    ("/v1/rerank", {"query": "q", "documents": ["a"], "max_tokens_per_doc": -1}, 422, "max_tokens_per_doc"),
    ("/v1/rerank", {"query": "q", "documents": ["a"], "model": "other"}, 404, "no model 'other'.*has 'm'"),
    ("/v1/rerank", {"query": "q" * 10_001, "documents": ["a"]}, 422, "10,001 characters"),
    ("/rerank", {"query": "q"}, 422, "documents.*texts"),
    ("/rerank", {"query": "q", "texts": ["a"], "documents": ["a"]}, 422, "one of them"),
    ("/rerank", {"query": "q", "texts": [{"text": "a"}]}, 422, "texts.0"),
    ("/rerank", {"query": "q", "texts": []}, 422, "no documents"),
    ("/rerank", [1], 422, "documents.*texts"),
    ("/nowhere", {}, 404, "no such address"),
    ("/health", {}, 405, "Not Allowed"),
    ("/v1/rerank", {"query": "q", "documents": ["a"] * 100_000}, 422, "100,000 documents"),
    ("/v1/rerank", {"query": "q", "documents": ["a" * 10_000_000]}, 413, "4,000,000 bytes"),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_is_wrong_is_said_in_one_form(plain: httpx.Client, path: str, body: Any, status: int, words: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = plain.post(path, content=content, headers=JSON)
    error = answer.json()["error"]
    assert answer.status_code == status == error["code"] and re.search(words, error["message"]), answer.text
    assert set(error) == {"message", "type", "code"} and len(answer.content) < 500
    assert places(plain.post("/v1/rerank", json=cohere()).json()) == BEST  # and nobody else is the worse for it


def test_a_form_that_a_foreign_page_could_send_is_refused(plain: httpx.Client) -> None:
    content = json.dumps(cohere()).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        answer = plain.post("/v1/rerank", content=content, headers={"Content-Type": kind} if kind else {})
        assert answer.status_code == 415 and "application/json" in answer.json()["error"]["message"]
    assert plain.post(
        "/v1/rerank", content=content, headers={"Content-Type": "application/json; charset=utf-8"}
    ).is_success


def test_bodies_without_a_length_are_counted_too(plain: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"query": "q", "documents": ["'
        for _ in range(50):
            yield b"a" * 100_000

    answer = plain.post("/v1/rerank", content=chunks(), headers=JSON)
    assert answer.status_code == 413


def test_ten_megabytes_are_ranked_where_they_are_allowed() -> None:
    documents = [f"{'word ' * 250_000}gain {gain}" for gain in GAINS]
    with serving(body_bytes=20_000_000, options={"max_passage_tokens": 500_000}) as client:
        assert places(client.post("/v1/rerank", json=cohere(documents=documents)).json()) == BEST


def test_a_hundred_thousand_documents_are_ranked_where_they_are_allowed() -> None:
    documents = [f"gain {i}" for i in range(100_000)]
    with serving(documents=100_000, options={"depth": 100}) as client:
        got = places(client.post("/v1/rerank", json=cohere(documents=documents)).json())
    assert got[:3] == [99, 98, 97] and sorted(got) == list(range(100_000)) and got[100:] == list(range(100, 100_000))


def test_keys() -> None:
    with serving(key="correct horse-1") as client:
        wrong = ("correct horse-1", "Bearer", "Bearer wrong", "Bearer correct horse-", "Basic correct horse-1")
        for header in (None, "", *wrong, "Bearer k\xe4se"):
            headers = {} if header is None else {"Authorization": header.encode("latin-1")}
            for path in ("/v1/rerank", "/rerank"):
                answer = client.post(path, json=cohere(), headers=headers)  # type: ignore[arg-type]
                assert answer.status_code == 401 and "Bearer KEY" in answer.json()["error"]["message"]
            assert client.get("/metrics", headers=headers).status_code == 401  # type: ignore[arg-type]
        for scheme in ("Bearer", "bearer"):
            answer = client.post("/v1/rerank", json=cohere(), headers={"Authorization": f"{scheme} correct horse-1"})
            assert places(answer.json()) == BEST
        assert client.get("/health").status_code == 200
        # Refused before a byte of the body is read.
        with socket.create_connection(("127.0.0.1", int(client.base_url.port or 0))) as raw:
            raw.sendall(
                b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\nContent-Type: application/json\r\n\r\n"
            )
            assert raw.recv(100).startswith(b"HTTP/1.1 401")


# --- one engine, many clients -----------------------------------------------------------------------------------------
def test_forty_clients_share_the_slots_and_each_gets_its_own_answer() -> None:
    engine = Scripted(capacity=8)
    engine.gate.clear()
    with serving(engine) as client, ThreadPoolExecutor(40) as pool:

        def one(number: int) -> None:
            n = 15 + number
            documents = [f"gain {(i * 7 + number) % n}" if n % 7 else f"gain {(i + number) % n}" for i in range(n)]
            gains = [int(text.split()[1]) for text in documents]
            answer = client.post(
                "/v1/rerank", json=cohere(f"question {number}", documents, return_documents=True, top_n=10)
            )
            assert places(answer.json()) == sorted(range(n), key=lambda i: -gains[i])[:10], answer.text
            assert [row["document"]["text"] for row in answer.json()["results"]] == [
                documents[i] for i in places(answer.json())
            ]

        answers = [pool.submit(one, number) for number in range(40)]
        until(lambda: "rrlib_requests_inside 40.0" in client.get("/metrics").text)
        engine.gate.set()
        for answer in answers:
            answer.result()
    assert engine.most == 8 and engine.threads == {"engine"}, "all slots were used, and by one thread"
    assert len(set(engine.asked)) == 40


def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    engine = Scripted(capacity=1)
    engine.gate.clear()
    with serving(engine) as client, ThreadPoolExecutor(2) as pool:
        long = pool.submit(client.post, "/v1/rerank", json=cohere("long", [f"gain {i}" for i in range(200)]))
        until(lambda: engine.asked == ["long"])
        short = pool.submit(client.post, "/v1/rerank", json=cohere("short"))
        until(lambda: client.server.service.desk.slots._turns.__len__() == 1)  # type: ignore[attr-defined]
        engine.gate.set()
        assert places(short.result().json()) == BEST and places(long.result().json())[0] == 199
    assert engine.asked[1] == "short" and engine.asked.count("long") == 19


def test_the_queue_has_an_end() -> None:
    engine = Scripted(capacity=1)
    engine.gate.clear()
    with serving(engine, requests=3) as client, ThreadPoolExecutor(8) as pool:
        inside = [pool.submit(client.post, "/v1/rerank", json=cohere(f"q{i}")) for i in range(3)]
        until(lambda: "rrlib_requests_inside 3.0" in client.get("/metrics").text)
        answer = client.post("/v1/rerank", json=cohere())
        assert answer.status_code == 429 and answer.headers["Retry-After"] == "1" and "3 requests" in answer.text
        assert client.get("/health").status_code == 200
        engine.gate.set()
        assert [places(one.result().json()) for one in inside] == [BEST] * 3
        assert client.post("/v1/rerank", json=cohere()).is_success


def test_slow_clients_are_not_waited_for_and_hold_nobody_up() -> None:
    body = json.dumps(cohere()).encode()
    head = HEAD % len(body)
    with serving(body_seconds=0.5) as client:
        slow = [socket.create_connection(("127.0.0.1", int(client.base_url.port or 0))) for _ in range(20)]
        for connection in slow:
            connection.sendall(head + body[:10])
        assert places(client.post("/v1/rerank", json=cohere()).json()) == BEST
        for connection in slow:
            assert connection.recv(4096).startswith(b"HTTP/1.1 408")
            connection.close()


def test_clients_that_vanish_give_up_their_places() -> None:
    engine = Scripted(capacity=2)
    engine.gate.clear()
    with serving(engine) as client, ThreadPoolExecutor(1) as pool:
        address = ("127.0.0.1", int(client.base_url.port or 0))
        gone: list[socket.socket] = []
        for number in range(6):
            body = json.dumps(
                cohere(f"gone {number}", [f"gain {i}" for i in range(50)], stream=number % 2 == 1)
            ).encode()
            connection = socket.create_connection(address)
            connection.sendall(HEAD % len(body) + body)
            gone.append(connection)
        half = socket.create_connection(address)
        half.sendall(HEAD % 9000 + b"{")
        until(lambda: "rrlib_requests_inside 7.0" in client.get("/metrics").text and engine.asked)
        stays = pool.submit(client.post, "/v1/rerank", json=cohere("stays"))
        for connection in (*gone, half):
            connection.close()
        until(lambda: "rrlib_requests_inside 1.0" in client.get("/metrics").text)
        engine.gate.set()
        assert places(stays.result().json()) == BEST
        assert 'status="499"} 7.0' in client.get("/metrics").text
    assert sorted(engine.asked)[-1] == "stays" and len(engine.asked) <= 3, "nothing more was asked for those who left"


def test_nothing_of_a_request_is_kept() -> None:
    engine = Scripted()
    with serving(engine) as client:
        for number in range(5):
            client.post("/v1/rerank", json=cohere(f"q{number}", [f"text {number} gain {i}" for i in range(30)]))
        slots = client.server.slots  # type: ignore[attr-defined]
        assert not slots.reranker.prompts._passages and not slots._flight and not slots._turns


# --- failures that look like failures ---------------------------------------------------------------------------------
def test_a_failed_call_is_a_failed_request_and_no_wrong_order() -> None:
    engine = Scripted(fail=lambda prompt: "the card fell off" if "poison" in prompt else None)
    with serving(engine) as client:
        documents = [f"gain {i}" for i in range(40)] + ["poison gain 40"]  # its windows fail, the last does not
        answer = client.post("/v1/rerank", json=cohere(documents=documents))
        assert answer.status_code == 502 and "1 of 4 calls of the model failed: the card fell off" in answer.text
        assert client.post("/rerank", json={"query": "poison", "texts": DOCS}).status_code == 502
        assert places(client.post("/v1/rerank", json=cohere()).json()) == BEST
        events = client.post("/v1/rerank", json=cohere(documents=["poison gain 99", *documents[:-1]], stream=True)).text
        assert (
            events.count("event: window") == 4 and events.count("event: error") == 1 and "event: result" not in events
        )
        assert json.loads(events.strip().rpartition("data: ")[2])["error"]["code"] == 502


def test_an_engine_that_breaks_fails_those_who_wait_and_lives_on() -> None:
    engine = Scripted(fail=lambda prompt: RuntimeError("out of memory") if "poison" in prompt else None)
    with serving(engine) as client:
        answer = client.post("/v1/rerank", json=cohere("poison"))
        assert answer.status_code == 502 and answer.json()["error"]["message"] == "the engine failed: out of memory"
        health = client.get("/health")
        assert health.status_code == 503 and health.json()["status"] == "failing"
        refused = client.post("/v1/rerank", json=cohere())
        assert refused.status_code == 503 and "failing" in refused.text
        client.server.slots._unwell_since -= 60  # type: ignore[attr-defined]
        assert places(client.post("/v1/rerank", json=cohere()).json()) == BEST
        assert client.get("/health").status_code == 200


def test_answers_that_cannot_be_read() -> None:
    with serving(Scripted(text="I would rather not.")) as client:
        answer = client.post("/v1/rerank", json=cohere())
        assert answer.status_code == 502 and "ranked nothing" in answer.text
        assert 'rrlib_windows_total{verdict="no_answer"} 1.0' in client.get("/metrics").text

    class Once(Scripted):
        def collect(self) -> list[tuple[int, Reply]]:
            self.text = "no list" if len(self.asked) == 1 else None
            return super().collect()

    with serving(Once()) as client:
        documents = [f"gain {i}" for i in range(30)]
        answer = client.post("/v1/rerank", json=cohere(documents=documents)).json()
        assert answer["unread_windows"] == 1 and places(answer)[0] == 19  # 20 to 29 stayed behind
    with serving(Once()) as client:
        assert client.post("/rerank", json={"query": "q", "texts": documents}).headers["X-Unread-Windows"] == "1"


def test_a_fault_of_ours_is_said_and_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as client:
        reranker = client.server.slots.reranker  # type: ignore[attr-defined]
        reranker.strategy, kept = None, reranker.strategy
        answer = client.post("/v1/rerank", json=cohere())
        assert answer.status_code == 500 and "fault of the server" in answer.json()["error"]["message"]
        reranker.strategy = kept
        assert client.post("/v1/rerank", json=cohere()).is_success
    assert "AttributeError" in caplog.text


# --- begin and end ----------------------------------------------------------------------------------------------------
def test_health_is_503_until_the_model_is_loaded() -> None:
    loaded = threading.Event()

    def make() -> Reranker:
        assert loaded.wait(60)
        return Reranker(Scripted())

    server = Server(make, "m")
    thread = threading.Thread(target=server.start)
    thread.start()
    with httpx.Client(base_url=server.url) as client:
        answer = client.get("/health")
        assert answer.status_code == 503 and answer.json() == {"status": "loading", "model": "m"}
        refused = client.post("/v1/rerank", json=cohere())
        assert refused.status_code == 503 and "loading" in refused.text and refused.headers["Retry-After"]
        loaded.set()
        thread.join()
        assert client.get("/health").status_code == 200 and client.post("/v1/rerank", json=cohere()).is_success
    server.stop()


def test_what_the_model_could_not_be_loaded_with_is_raised() -> None:
    def make() -> Reranker:
        raise InputError("no such weights")

    with pytest.raises(InputError, match="no such weights"):
        Server(make, "m").start()
    with pytest.raises(InputError, match="no such weights"):
        Server(make, "m").run()


def test_a_stop_lets_requests_finish_and_refuses_new_ones() -> None:
    engine = Scripted(capacity=1)
    engine.gate.clear()
    server = Server(lambda: Reranker(engine), "m").start()
    with httpx.Client(base_url=server.url) as client, ThreadPoolExecutor(2) as pool:
        inside = pool.submit(client.post, "/v1/rerank", json=cohere(documents=[f"gain {i}" for i in range(50)]))
        until(lambda: bool(engine.asked))
        stopped = pool.submit(server.stop)
        until(lambda: _refused(server.url))
        assert not stopped.done() and not inside.done()
        engine.gate.set()
        assert places(inside.result().json())[0] == 49
        stopped.result()
    assert engine.closed


def _refused(url: str) -> bool:
    try:
        http.client.HTTPConnection(url.removeprefix("http://"), timeout=1).connect()
    except OSError:
        return True
    return False


def test_a_stop_does_not_wait_longer_than_its_grace() -> None:
    engine = Scripted(capacity=1)
    engine.gate.clear()
    server = Server(lambda: Reranker(engine), "m", grace=1).start()
    with httpx.Client(base_url=server.url) as client, ThreadPoolExecutor(1) as pool:
        inside = pool.submit(client.post, "/v1/rerank", json=cohere())
        until(lambda: bool(engine.asked))
        threading.Timer(2.5, engine.gate.set).start()
        server.stop()
        answer = inside.result()
        assert answer.status_code == 503 and "stopping" in answer.json()["error"]["message"]
    assert engine.closed


# --- the real model, and the command ----------------------------------------------------------------------------------
QUERY = "In a tavern, clouds piled up each sunny afternoon, and hot soup cooled sooner beside an open window. Why?"
TEXTS = [
    "Cabbage notes: bacteria make acid from its sugar.",
    "Heated fluid rises and chilled fluid descends.",
    "Sweat carries away latent heat.",
]


def test_the_packaged_reranker_answers_as_it_does_in_a_script() -> None:
    decoding = Decoding(max_new_tokens=200)
    script = Reranker(MODEL, decoding=decoding).rank(QUERY, TEXTS)
    body = cohere(QUERY, TEXTS, return_reasoning=True)
    with (
        Server(lambda: Reranker(MODEL, decoding=decoding), "miniature") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        answers = list(pool.map(lambda _: client.post("/v1/rerank", json=body).json(), range(4)))
        for answer in answers:
            assert [str(place + 1) for place in places(answer)] == [hit.docid for hit in script.results]
            assert [window["reasoning"] for window in answer["reasoning"]] == [w.reasoning for w in script.windows]
        assert answers[0]["reasoning"][0]["reasoning"] and answers[0]["unread_windows"] == 0
        short = client.post("/v1/rerank", json={**body, "max_tokens_per_doc": 4})
        assert (
            "results" in short.json() and short.json()["usage"]["prompt_tokens"] < answers[0]["usage"]["prompt_tokens"]
        )
        long = {"query": "q", "texts": [*TEXTS, "word " * 2000], "truncate": False}
        refused = client.post("/rerank", json=long)
        assert refused.status_code == 422 and "text 3 has more than" in refused.text
        server.slots.reranker.engine.max_model_len = 300  # type: ignore[attr-defined]
        refused = client.post("/v1/rerank", json=body)
        assert refused.status_code == 422 and "tokens" in refused.text and "--" not in refused.text, refused.text


def test_the_command_serves_until_it_is_told_to_end() -> None:
    engine = ("--engine", "openai", "--base-url", "http://127.0.0.1:9/v1")  # needs no weights, and is never asked
    command = [sys.executable, "-m", "rrlib", "serve", "--model", "x", *engine, "--port", "0", "--name", "mini"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RRLIB_TEST_KEY": "key-of-the-test"}
    with subprocess.Popen(
        [*command, "--api-key-env", "RRLIB_TEST_KEY"], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        try:
            first = process.stderr.readline()
            (url,) = re.findall(r"http://127\.0\.0\.1:\d+(?= )", first)
            assert first.startswith("mini at ")
            while process.stderr.readline() != "ready\n":
                assert process.poll() is None
            assert httpx.get(f"{url}/health").json() == {"status": "ready", "model": "mini"}
            assert httpx.post(f"{url}/v1/rerank", json=cohere()).status_code == 401
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0 and process.stderr.read().endswith("stopped\n")
        finally:
            process.kill()


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["serve", *words])
    return code, capsys.readouterr().err


def test_what_the_command_refuses(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RRLIB_NO_SUCH_KEY", raising=False)
    for words, said in (
        ((), "--model is missing"),
        (("--model", MODEL, "--engine", "replay"), "cannot be served"),
        (("--model", MODEL, "--engine", "openai"), "--base-url is missing"),
        (("--model", MODEL, "--max-documents", "0"), "limit documents is 0"),
        (("--model", MODEL, "--api-key-env", "RRLIB_NO_SUCH_KEY"), "RRLIB_NO_SUCH_KEY is not set"),
        (("--model", MODEL, "--temperature", "-1"), "temperature"),
        (("--model", MODEL, "--engine", "jax"), "unknown engine 'jax'"),
        (("--model", MODEL, "--base-url", "http://127.0.0.1:9/v1"), "no option 'base_url'"),
    ):
        code, text = command(capsys, *words)
        assert code == 2 and said in text
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, text = command(capsys, "--model", MODEL, "--port", str(taken.getsockname()[1]))
    assert code == 2 and "cannot serve at 127.0.0.1" in text and "--port" in text


@pytest.mark.parametrize(
    ("engine", "options", "said"),
    [
        ("transformers", ["max_batch_tokens"], "write NAME=VALUE"),
        ("transformers", ["max_batch_tokens=9", "max-batch-tokens=8"], "given twice"),
        ("transformers", ["batch_size=9"], "write --batch-size"),
        ("transformers", ["max_batch_token=9"], "write 'max_batch_tokens'"),
        ("transformers", ["max_batch_tokens=many"], "give int or None"),
        ("vllm", ["dtype=float32"], "write --dtype"),
        ("vllm", ["disable-log-stats=true"], "rrlib sets it"),
        ("vllm", ["data_parallel_size=4"], "many-machines"),
        ("openai", ["timeout=soon"], "give float"),
        ("openai", ["base_url=http://127.0.0.1:9/v1"], "write --base-url"),
        ("openai", ["api_key_env=KEY"], "write --engine-key-env"),
        ("openai", ["api_key=abc"], "api_key_env"),
    ],
)
def test_options_of_the_engine_that_the_command_refuses(
    capsys: pytest.CaptureFixture[str], engine: str, options: list[str], said: str
) -> None:
    """In one line, before the server listens; `--mcp` too."""
    told = [word for option in options for word in ("--engine-option", option)]
    server = ("--base-url", "http://127.0.0.1:9/v1") if engine == "openai" else ()
    for more in ((), ("--mcp",)):
        code, text = command(capsys, "--model", "some/model", "--engine", engine, *server, *told, *more)
        assert code == 2 and said in text and text.startswith("error: ") and text.count("\n") == 1, text


def test_options_and_several_addresses_reach_the_engine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def noting(name: str, model: str, **options: Any) -> Any:
        seen.update(options)
        raise InputError("far enough")

    monkeypatch.setattr("rrlib.engines.make_engine", noting)
    addresses = ["http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1"]
    words = [word for address in addresses for word in ("--base-url", address)]
    words += ["--engine-option", "timeout=5", "--engine-option", 'provider={"headers": {"X-Team": "rank"}}']
    code, text = command(capsys, "--model", "m", "--engine", "openai", *words, "--concurrency", "3", "--port", "0")
    assert code == 2 and "far enough" in text
    provider = {"headers": {"X-Team": "rank"}}
    assert seen == {"base_url": addresses, "concurrency": 3, "timeout": 5, "provider": provider}
    seen.clear()
    code, text = command(
        capsys, "--model", MODEL, "--batch-size", "2", "--engine-option", "max_batch_tokens=9", "--mcp"
    )
    assert code == 2 and seen == {"batch_size": 2, "max_batch_tokens": 9}


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        (["http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1/"], "is named twice"),
        (["http://127.0.0.1:9/v1", "127.0.0.1:10"], "write http://host:port/v1"),
    ],
)
def test_addresses_that_cannot_be(capsys: pytest.CaptureFixture[str], addresses: list[str], said: str) -> None:
    words = [word for address in addresses for word in ("--base-url", address)]
    code, text = command(capsys, "--model", "m", "--engine", "openai", *words, "--port", "0")
    assert code == 2 and said in text.splitlines()[-1] and text.splitlines()[-1].startswith("error: "), text


def test_a_missing_extra_is_named_with_the_line_that_brings_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rrlib.cli.serve.PACKAGES", ("fastapi", "no_such_package_here"))
    code, text = command(capsys, "--model", MODEL)
    missing = "rrlib serve needs no_such_package_here, which is not installed"
    assert (code, text) == (1, f"error: {missing} -> pip install 'rrlib[serve]'\n")


def test_every_finished_window_is_logged_under_the_id_of_its_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of clients at the same time, of both forms and streams; also of a request that then fails."""
    path = tmp_path / "new" / "served.jsonl"
    engine = Scripted(fail=lambda prompt: "told to fail" if "Query: bad" in prompt else None)

    def served(*bodies: tuple[str, dict[str, Any]]) -> list[httpx.Response]:
        made = Server(lambda: Reranker(engine, window=4, stride=2, depth=None), "m", log=path)
        with made as server, httpx.Client(base_url=server.url, timeout=30) as client, ThreadPoolExecutor(8) as pool:
            with pytest.raises(StageError, match="another process is writing"):
                Server(lambda: Reranker(engine), "m", log=path)
            return list(pool.map(lambda body: client.post(body[0], json=body[1]), bodies))

    texts = {"query": "t", "texts": DOCS}
    answers = served(*[("/v1/rerank", cohere(f"q{i}")) for i in range(20)], ("/rerank", texts))
    stream, bad = served(("/v1/rerank", cohere("s", stream=True)), ("/v1/rerank", cohere("bad")))
    records = read_records(path)
    assert len(records) == 23 * 3 and bad.status_code == 502
    lists = {answer.json()["id"]: places(answer.json()) for answer in answers[:20]}
    lists[answers[20].headers["X-Request-Id"]] = places(answers[20].json())
    result = json.loads(stream.text.rpartition("data: ")[2])
    lists[result["id"]] = places(result)
    assert len(lists) == 22 and [r.qid for r in records if r.error] == [*{r.qid for r in records} - set(lists)] * 3
    for name, ranking in lists.items():
        order = [str(place) for place in range(8)]
        for record in records:
            if record.qid == name:
                record.replay_onto(order)
        assert [int(docid) for docid in order] == ranking and ranking[:2] == BEST[:2]
    assert all(record.settings and record.settings["window"] == 4 for record in records)
    assert main(["audit", str(path)]) == 0 and "69" in capsys.readouterr().out


def test_a_log_that_cannot_be_written_costs_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write, full = tmp_path / "served.jsonl", os.write, [False]

    def on_a_full_disk(file: int, data: bytes) -> int:
        if full[0] and data.startswith(b'{"qid"'):
            raise OSError(28, "No space left on device")
        return write(file, data)

    monkeypatch.setattr("rrlib.disk.os.write", on_a_full_disk)
    with Server(lambda: Reranker(Scripted(), depth=None), "m", log=path) as server:
        for state in (False, True, True, False):
            full[0] = state
            assert places(httpx.post(f"{server.url}/v1/rerank", json=cohere()).json()) == BEST
    assert len(read_records(path)) == 2 and caplog.text.count("No space left") == 1
    with pytest.raises(InputError, match="name a file"):
        Server(lambda: Reranker(Scripted()), "m", log=tmp_path)


def test_a_seat_tells_what_happened_to_it() -> None:
    from rrlib.serve.slots import SeatLeft, Slots

    slots = Slots(lambda: Reranker(Scripted()), lambda failure: None)
    with pytest.raises(EngineError, match="loaded"):
        slots.seat()
    slots.start()
    until(lambda: slots.state == "ready")
    left, late = slots.seat(), slots.seat()
    left.leave()
    with pytest.raises(SeatLeft):
        left.submit([Request(1)], Decoding())
    slots.stop()
    with pytest.raises(EngineError, match="stopping"):
        late.submit([Request(1)], Decoding())


def test_the_load_benchmark_runs() -> None:
    script = Path(__file__).resolve().parents[1] / "benchmarks/serve_load.py"
    command = [sys.executable, str(script), "--clients", "8", "--seconds", "2"]
    row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert row["name"] == "serve_load" and row["value"] == 1.0 and row["holds"] and row["right"] > 0
    assert (
        0 < row["p95_seconds"] <= row["p95_limit_seconds"] and row["memory_growth_mb"] <= row["memory_growth_limit_mb"]
    )


@pytest.mark.parametrize("limit", ["--p95", "--growth"])
def test_the_load_benchmark_fails_above_its_limits(limit: str) -> None:
    script = Path(__file__).resolve().parents[1] / "benchmarks/serve_load.py"
    command = [sys.executable, str(script), "--clients", "4", "--seconds", "1", limit, "-1"]
    row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert row["value"] == 1.0 and not row["holds"], "every answer was right, and the limit does not hold"
