"""Synthesis over HTTP, against a server that fails in every way we know: nothing lost, nothing paid for twice."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from teacher_server import CONTENT, PLACES, TRANSPORT, TeacherServer
from test_synthesis import make_collection, records

from rrlib.cli import main
from rrlib.engines.base import Decoding
from rrlib.engines.client import FatalCallError, OpenAIClient
from rrlib.errors import EngineError, InputError
from rrlib.formats import read_jsonl
from rrlib.synthesis.pipeline import synthesize
from rrlib.synthesis.sources.items import CollectionSource, write_items

QUERIES = 500
COLLECTION = make_collection(QUERIES, pool=6)
STORES = ("select.jsonl", "rank.jsonl")


def over(server: TeacherServer, out: Path, **options: Any) -> Any:
    slow = server.fault == "slow"
    timeout = 5.0 if slow else 120.0  # shared machines have pauses of their own
    client = OpenAIClient(server.url, "toy-teacher", timeout=timeout, max_retries=30, backoff=0.02, max_wait=0.2)
    many = 128 if slow else 16
    return synthesize(COLLECTION, client, out, **{"window": 6, "seed": 1, "concurrency": many, **options})


def lines(path: Path) -> list[bytes]:
    return sorted(path.read_bytes().splitlines())


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("clean")
    with TeacherServer() as server:
        result = over(server, out)
        assert result.n_examples == QUERIES and sum(server.asked.values()) == 2 * QUERIES
        assert server.most <= 16
    yield out


@pytest.mark.parametrize("fault", TRANSPORT)
def test_transport_faults_leave_no_trace_in_the_store(clean: Path, tmp_path: Path, fault: str) -> None:
    with TeacherServer(fault) as server:
        result = over(server, tmp_path)
    assert 0.15 < len(server.met) / (2 * QUERIES) < 0.25, "a fifth of the calls met the fault"
    for name in STORES:
        assert lines(tmp_path / name) == lines(clean / name)
    assert (tmp_path / "examples.jsonl").read_bytes() == (clean / "examples.jsonl").read_bytes()
    begun = Counter(row["id"] for _, row in read_jsonl(tmp_path / "calls.jsonl") if row["event"] == "begin")
    assert len(begun) == 2 * QUERIES and set(begun.values()) == {1}, "no stored call is repeated"
    books = [row for _, row in read_jsonl(tmp_path / "calls.jsonl") if row["event"] == "retry"]
    assert len(books) == result.summary["this_run"]["retries"] >= len(server.met), "each retry is booked"
    if fault != "slow":  # there, an answer may come when nobody waits for it, or a try end before it was sent
        assert set(server.done.values()) == {1} and len(books) == sum(server.asked.values()) - 2 * QUERIES
    expected = {"429": "429", "500": "500", "slow": "no answer in time"}.get(fault)
    assert expected is None or {row["why"] for row in books} == {expected}
    assert result.summary["this_run"]["failed"] == 0 and result.summary["account"]["calls"] == 2 * QUERIES


@pytest.mark.parametrize("fault", CONTENT)
def test_content_faults_cost_their_queries_and_give_a_reason(clean: Path, tmp_path: Path, fault: str) -> None:
    with TeacherServer(fault) as server:
        result = over(server, tmp_path)
    assert set(server.asked.values()) == {1}, "what was answered is not asked again"
    whole = {row["qid"]: row for _, row in read_jsonl(clean / "examples.jsonl")}
    kept = {row["qid"]: row for _, row in read_jsonl(tmp_path / "examples.jsonl")}
    dropped = {row["qid"]: row["reason"] for _, row in read_jsonl(result.dropped)}
    assert whole.keys() == kept.keys() | dropped.keys() and not kept.keys() & dropped.keys()
    assert all(whole[qid] == row for qid, row in kept.items())
    word = {"wrong ids": "ids_out_of_range", "refusal": "refusal", "cut off": "cut_off", "none": "n"}[fault]
    assert all(word in reason for reason in dropped.values()), set(dropped.values())
    if fault == "none":
        assert set(dropped.values()) == {"nothing_selected", "rank: malformed"}
    assert 0.25 < len(dropped) / QUERIES < 0.47, "a query has two calls, a fifth of them bad"
    before = {name: records(clean / name) for name in STORES}
    for name in STORES:
        for key, record in records(tmp_path / name).items():
            same = record == before[name][key]
            assert same or key.partition("/")[0] in dropped


@pytest.mark.parametrize("place", PLACES[1:])
def test_reasoning_is_found_in_each_of_three_places(clean: Path, tmp_path: Path, place: str) -> None:
    """The clean run has it in the first of them, `reasoning_content`."""
    assert {record["reasoning"] for record in records(clean / "rank.jsonl").values()} == {"because it is good"}
    with TeacherServer(place=place) as server:
        over(server, tmp_path)
    assert (tmp_path / "examples.jsonl").read_bytes() == (clean / "examples.jsonl").read_bytes()


def test_retry_after_is_waited_for_and_limits_are_kept(tmp_path: Path) -> None:
    collection = make_collection(4, pool=6)
    with TeacherServer("429", seed=3) as server:
        client = OpenAIClient(server.url, "toy-teacher", max_retries=4, requests_per_minute=60 * 20)
        result = synthesize(collection, client, tmp_path, window=6, seed=1, concurrency=8)
    assert result.n_examples == 4
    begun = [row for _, row in read_jsonl(tmp_path / "calls.jsonl") if row["event"] == "begin"]
    assert len(begun) == 8 and server.most <= 8


# --- what stops a run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["key", "model", "network"])
def test_what_cannot_work_stops_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with TeacherServer(key="another" if what == "key" else "") as server:
        url = "http://127.0.0.1:9/v1" if what == "network" else server.url
        client = OpenAIClient(url, "no-such-model" if what == "model" else "toy-teacher", backoff=0.01)
        with pytest.raises(FatalCallError) as caught:
            synthesize(COLLECTION, client, tmp_path, window=6, seed=1, concurrency=4)
        told = {"key": "401", "model": "404: The model does not exist", "network": "cannot be reached"}[what]
        assert told in str(caught.value) and "sk-very-secret" not in str(caught.value)
        assert sum(server.asked.values()) == 0
        for path in tmp_path.iterdir():
            assert "sk-very-secret" not in path.read_text(errors="replace"), path
        monkeypatch.setenv("OPENAI_API_KEY", "another")
        good = OpenAIClient(server.url, "toy-teacher")
        if what != "model":
            assert synthesize(make_collection(500, 6), good, tmp_path, window=6, seed=1, limit=5).n_examples == 5


def test_a_base_url_holds_no_key(tmp_path: Path) -> None:
    for url in (
        "https://me:sk-very-secret@host/v1",
        "https://sk-very-secret@host/v1",
        "https://host/v1?key=sk-very-secret",
    ):
        with pytest.raises(InputError, match="put the key into OPENAI_API_KEY") as caught:
            OpenAIClient(url, "toy-teacher")
        assert "sk-very-secret" not in str(caught.value)


STOPS = {
    "key": "answered 401: Incorrect key provided: (key)",
    "model": "answered 404: The model does not exist",
    "network": "cannot be reached",
    "budget": "the budget of $0.00 is reached",
    "full disk": "cannot write the store: No space left on device",
    "read-only folder": "cannot write the store: Read-only file system",
}


@pytest.mark.parametrize("what", STOPS)
def test_the_command_says_what_stopped_it_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    """Three queries are there; then it breaks, with exit code 1 and its words. What was stored stays, and is not asked
    again; a full disk loses what is in flight, and says how many."""
    out, items = tmp_path / "out", tmp_path / "items"
    write_items(items, CollectionSource(make_collection(8, 6), seed=1), name="toy", data_kind="synthetic")

    def synthesize(base_url: str, *more: str) -> int:
        to = ["--output", str(out), "--base-url", base_url, "--model", "toy-teacher", "--window", "6", "--quiet"]
        return main(["synthesize", str(items), *to, "--max-new-tokens", "400", *more])

    monkeypatch.setenv("OPENAI_API_KEY", "the-right-key")
    with TeacherServer(key="the-right-key") as server:
        assert synthesize(server.url, "--limit", "3") == 0
        before = {name: lines(out / name) for name in STORES}
        assert [len(rows) for rows in before.values()] == [3, 3]
        capsys.readouterr()
        with monkeypatch.context() as broken:
            if what == "key":
                broken.setenv("OPENAI_API_KEY", "sk-very-secret")
            if what == "model":
                broken.setattr(server, "model", "its-successor")
            if what == "full disk":
                broken.setattr(os, "write", full_disk(os.write, 2000))
            if what == "read-only folder":
                broken.setattr(os, "open", read_only(os.open, out))
                broken.setattr("builtins.open", read_only(open, out))
            url = "http://127.0.0.1:9/v1" if what == "network" else server.url
            priced = ["--price-in", "1", "--price-out", "1", "--budget", "0.002"] if what == "budget" else []
            assert synthesize(url, *priced) == 1
        said = capsys.readouterr().err
        assert STOPS[what] in said and "Traceback" not in said and "sk-very-secret" not in said
        for name in STORES:
            assert set(before[name]) <= set(lines(out / name)), "what was stored stays"
        assert synthesize(server.url) == 0
        repeated = sum(server.done.values()) - len(server.done)
        assert len(server.done) == 16 and repeated == (account(out)["lost"] if what == "full disk" else 0) <= 16


def account(out: Path) -> dict[str, Any]:
    """The sums over all runs of a store."""
    found: dict[str, Any] = json.loads((out / "account.json").read_text())["account"]
    return found


def full_disk(real: Any, left: int) -> Any:
    """os.write, until `left` bytes are written."""

    def write(handle: int, data: bytes) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written: int = real(handle, data[:left])
        left -= written
        return written

    return write


def read_only(real: Any, folder: Path) -> Any:
    """open, builtin or of os, where nothing below `folder` can be opened to be written."""

    def opened(path: Any, mode: Any = "r", *more: Any, **options: Any) -> Any:
        writes = set("wax+") & set(mode) if isinstance(mode, str) else mode & (os.O_WRONLY | os.O_RDWR)
        if writes and str(path).startswith(str(folder)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, mode, *more, **options)

    return opened


def test_a_server_that_dies_in_mid_run(tmp_path: Path) -> None:
    with TeacherServer() as server:
        first = over(server, tmp_path, limit=20)
    assert first.n_examples == 20
    client = OpenAIClient(server.url, "toy-teacher", max_retries=1, backoff=0.01)
    with pytest.raises(EngineError, match="cannot be reached"):
        synthesize(COLLECTION, client, tmp_path, window=6, seed=1, limit=60)
    with TeacherServer() as again:
        assert over(again, tmp_path, limit=60).n_examples == 60
        assert sum(again.asked.values()) == 80, "the first 20 queries are not asked again"


def test_one_client_serves_one_run_after_another(tmp_path: Path) -> None:
    """Each run has an event loop of its own, and connections belong to a loop: a notebook keeps one client."""
    collection = make_collection(4, pool=6)
    with TeacherServer() as server:
        client = OpenAIClient(server.url, "toy-teacher", max_retries=0)
        for name in "abc":
            result = synthesize(collection, client, tmp_path / name, window=6, seed=1, concurrency=4)
            assert result.n_examples == 4 and result.summary["account"]["retries"] == 0


def test_a_refused_call_costs_its_query_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """400 (say, a content filter): counted with the server's words, the others go on."""

    async def answer(self: TeacherServer, body: bytes, token: str) -> Any:
        text = json.loads(body)["messages"][-1]["content"]
        if "question 3\n" in text:
            return 400, {}, b'{"error": {"message": "filtered"}}', False
        return await original(self, body, token)

    original = TeacherServer._answer
    monkeypatch.setattr(TeacherServer, "_answer", answer)
    with TeacherServer() as server:
        client = OpenAIClient(server.url, "toy-teacher", backoff=0.01)
        result = synthesize(make_collection(6, 6), client, tmp_path, window=6, seed=1, decoding=Decoding())
    assert result.n_examples == 5 and result.summary["dropped"] == {"call_failed": 1}
    (failed,) = [row for _, row in read_jsonl(tmp_path / "calls.jsonl") if row["event"] == "fail"]
    assert failed["id"] == "select/q3/0" and "filtered" in failed["why"]
