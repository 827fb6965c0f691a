"""The server at the edges of a request: addresses, empty texts, texts cut short, and the strategy's options."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from test_serve import DOCS, MODEL, Scripted, cohere, command, serving

from rrlib.cli import main
from rrlib.engines import Decoding


@pytest.mark.parametrize("path", ["/health", "/health/"])
def test_health_can_be_asked_for_its_head_alone(path: str) -> None:
    with serving(key="secret") as client:
        answer = client.head(path)
    assert (answer.status_code, answer.content) == (200, b""), "open, as it is for GET"


@pytest.mark.parametrize("path", ["/v1/rerank/", "/v2/rerank/", "/rerank/", "/rerank//"])
def test_a_slash_at_the_end_is_the_same_address(path: str) -> None:
    with serving(key="secret") as client:
        assert client.post(path, json=cohere()).status_code == 401
        answer = client.post(path, json=cohere(), headers={"Authorization": "Bearer secret"})
        counts = client.get("/metrics/", headers={"Authorization": "Bearer secret"}).text
    assert answer.status_code == 200 and len(answer.json()["results"]) > 0
    assert f'path="{path.rstrip("/")}"' in counts, "it is counted as that address"


@pytest.mark.parametrize("empty", ["", "  \n", "\0", "\0 \0", "\u200b", "\u00a0"])
def test_what_cannot_be_seen_is_no_text(empty: str) -> None:
    with serving() as client:
        query = client.post("/v1/rerank", json=cohere(query=empty))
        documents = client.post("/v1/rerank", json=cohere(documents=[empty, empty]))
        some = client.post("/v1/rerank", json=cohere(documents=["gain 1", "gain 5"], query=f"{empty}q{empty}"))
    assert (query.status_code, query.json()["error"]["message"]) == (422, "the query is empty")
    assert (documents.status_code, documents.json()["error"]["message"]) == (422, "no document has a text")
    assert some.status_code == 200


def test_a_document_of_nul_bytes_beside_others_is_ranked() -> None:
    class Ordered(Scripted):
        def __init__(self) -> None:
            super().__init__(text="<think>x</think><answer>[2] > [1] > [3]</answer>")

    with serving(Ordered()) as client:
        answer = client.post("/v1/rerank", json=cohere(documents=["\0", "gain 2", "   "]))
    assert [row["index"] for row in answer.json()["results"]] == [1, 0, 2]


def test_an_answer_that_cannot_be_read_names_the_cut_that_was_asked_for() -> None:
    with serving(Scripted(text="nothing")) as client:
        plain = client.post("/v1/rerank", json=cohere(documents=DOCS))
        cut = client.post("/v1/rerank", json=cohere(documents=DOCS, max_tokens_per_doc=1))
    assert plain.status_code == cut.status_code == 502
    message = cut.json()["error"]["message"]
    assert message.startswith(plain.json()["error"]["message"]) and message.endswith(
        "its documents were cut by max_tokens_per_doc, which is 1"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--samples", "3"), "samples at temperature 0"),
        (("--samples", "3", "--temperature", "0.7", "--fuse", "mean", "--engine", "transformers"), "'mean'"),
    ],
)
def test_samples_that_cannot_be(capsys: Any, words: tuple[str, ...], said: str) -> None:
    code, text = command(capsys, "--model", MODEL, "--engine", "numpy", *words)
    assert code == 2 and said in text


def test_best_and_samples_reach_the_reranker(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    class Stub:
        url = "http://127.0.0.1:1"

        def __init__(self, make: Any, *words: Any, **more: Any) -> None:
            self.make = make

        def run(self) -> None:
            made["reranker"] = self.make()

    monkeypatch.setattr("rrlib.serve.server.Server", Stub)
    monkeypatch.setattr("rrlib.engines.make_engine", lambda *words, **more: Scripted())
    words = ["serve", "--model", "m", "--engine", "transformers", "--strategy", "setwise", "--window", "4"]
    words += ["--stride", "2", "--best", "3", "--samples", "2", "--fuse", "borda", "--temperature", "0.5"]
    assert main(words) == 0
    spec = made["reranker"].strategy
    assert (spec.name, spec.size, spec.best, spec.samples, spec.fuse) == ("setwise", 4, 3, 2, "borda")


def test_samples_are_asked_and_fused() -> None:
    engine = Scripted()
    options = {"samples": 3, "decoding": Decoding(64, 0.7)}
    with serving(engine, options=options) as client:
        answer = client.post("/v1/rerank", json=cohere(documents=DOCS))
    assert answer.json()["results"][0]["index"] == 5 and len(engine.asked) == 3


def test_what_is_no_http_gets_plain_text_from_the_library() -> None:
    """docs/serving.md says so: all other errors are JSON."""
    with serving() as client, socket.create_connection((client.base_url.host, client.base_url.port or 0)) as line:
        line.sendall(b"nonsense\r\n\r\n")
        answer = line.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400") and b"text/plain" in answer
