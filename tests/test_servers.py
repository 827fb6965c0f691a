"""Several servers as one, calls in flight that find themselves, options of engines: over real servers on loopback."""

from __future__ import annotations

import heapq
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from test_rerank import make

from rrlib.cli import main
from rrlib.engines import make_engine
from rrlib.engines.client import FatalCallError
from rrlib.engines.inflight import CacheRoom, InFlightLimit, Phase
from rrlib.engines.options import read_options, vllm_options
from rrlib.errors import EngineError, InputError
from rrlib.prompts import format_response
from rrlib.records import read_records
from rrlib.rerank import Reranker


# --- a limit that finds itself, in virtual time ----------------------------------------------------------------------
class Slots:
    """A server with so many slots in virtual time; more calls than that queue up, or are refused above `takes`."""

    def __init__(self, slots: int, spread: float, takes: int = 10**9, seed: int = 0) -> None:
        self.now, self.slots, self.spread, self.takes = 0.0, slots, spread, takes
        self.random, self.refused = random.Random(seed), 0
        self.busy: list[tuple[float, float]] = []  # when each ends, and began
        self.queue: deque[float] = deque()
        self.limit = InFlightLimit(clock=lambda: self.now)

    def answer(self, count: int) -> float:
        """Give so many answers, with as many calls in flight as the limit wants. Returns answers a second."""
        began, given = self.now, 0
        while given < count:
            while self.limit.in_flight < self.limit.value:
                began = self.limit.start()
                if self.limit.in_flight > self.takes:
                    self.refused += 1
                    self.limit.pushed_back(0.0)
                    self.limit.finish(began, 0)
                    continue
                self.queue.append(began)
            while self.queue and len(self.busy) < self.slots:
                end = self.now + 1 + self.spread * self.random.uniform(-1, 1)
                heapq.heappush(self.busy, (end, self.queue.popleft()))
            self.now, began = heapq.heappop(self.busy)
            self.limit.finish(began, 1)
            given += 1
        return count / (self.now - began)


@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("slots", [1, 4, 24, 100, 400])
def test_the_limit_settles_near_the_slots(slots: int, spread: float) -> None:
    """The best speed of this server is its slots a second: 32 at once would give away 92% of 400, and queue up 31."""
    server = Slots(slots, spread)
    server.answer(6000)
    speed = server.answer(4000)
    assert speed >= 0.9 * slots
    assert 0.9 * slots <= server.limit.value <= max(2.5 * slots, slots + 8)


def test_it_begins_with_what_was_fixed_before() -> None:
    """A run of a few windows has the 32 that was the rule; more only after a measurement."""
    server = Slots(400, 0.5)
    server.answer(70)
    assert server.limit.value == 32


@pytest.mark.parametrize("takes", [5, 20, 100])
def test_calls_that_are_turned_down_halve_it(takes: int) -> None:
    server = Slots(takes, 0.2, takes)
    server.answer(3000)
    before, speed = server.refused, server.answer(3000)
    assert server.refused - before < 0.02 * 3000
    assert takes / 2 <= server.limit.value <= takes * 1.2 and speed > 0.7 * takes


def test_one_burst_of_refusals_is_one_halving() -> None:
    now = [0.0]
    limit = InFlightLimit(64, clock=lambda: now[0])
    for _ in range(64):
        limit.start()
    now[0] = 1.0
    for _ in range(30):
        limit.pushed_back(1.0)
    assert limit.value == 32 and limit.phase is Phase.CLIMBING
    now[0] = 2.0
    limit.pushed_back(0.5)  # sent after the change
    assert limit.value == 16
    for _ in range(10):
        now[0] += 1
        limit.pushed_back(0.0)
    assert limit.value == 1


def test_a_limit_that_is_not_used_stays() -> None:
    now = [0.0]
    limit = InFlightLimit(32, clock=lambda: now[0])
    for _ in range(500):
        began = limit.start()
        now[0] += 1.0
        limit.finish(began, 1)
    assert limit.value == 32
    fixed = InFlightLimit(5, 5)
    fixed.pushed_back(0.0)
    assert fixed.value == 5
    with pytest.raises(InputError, match="in flight"):
        InFlightLimit(0)


def test_room_of_a_cache() -> None:
    """Before the first answer as many as the engine runs; then tokens of the cache over tokens of a window."""
    room = CacheRoom(100_000, 64)
    assert room.windows == 64
    room.learn(10_000)
    assert room.windows == 10
    room.learn(30_000)
    assert room.windows == 5
    for _ in range(64):
        room.learn(10)
    assert room.windows == 64
    room.learn(10**9)
    assert room.windows == 1 and CacheRoom(None, 7).windows == 7


@pytest.mark.parametrize(("blocks", "size", "windows"), [(1000, 16, 4), (None, 16, 9), (100_000, 16, 9), (1, 16, 1)])
def test_what_vllm_says_of_its_cache(blocks: int | None, size: int, windows: int) -> None:
    """16,000 tokens hold 4 windows of 4,000; more than max_num_seqs are never generated at once."""
    from rrlib.engines.vllm import _cache_room

    cache = SimpleNamespace(num_gpu_blocks=blocks, block_size=size)
    room = _cache_room(SimpleNamespace(cache_config=cache, scheduler_config=SimpleNamespace(max_num_seqs=9)))
    assert room.windows == 9
    room.learn(4000)
    assert room.windows == windows


# --- servers ---------------------------------------------------------------------------------------------------------
class Server(ThreadingHTTPServer):
    """Ranks by the gains that stand in the passages. slots: calls that are worked on at once, `seconds` each.

    failing: answer 500 until that many calls have had it. dies_after: answers after which the process is gone: calls
    in flight get no answer, and nobody listens any more. stops_after: answers after which it is being stopped, as vLLM
    does it: calls in flight get half an answer that says `abort`, later ones 500. status: of every answer, where it is
    not 200. health: what /health answers; 0 cuts the connection; most of these servers have none.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        seconds: float = 0.0,
        slots: int = 64,
        failing: int = 0,
        dies_after: int = 10**9,
        stops_after: int = 10**9,
        status: int = 200,
        health: int = 404,
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.health, self.looks = health, 0
        self.stops_after, self.broken_off = stops_after, 0
        self.seconds, self.failing, self.dies_after, self.status = seconds, failing, dies_after, status
        self.slots, self.guard, self.dead = threading.Semaphore(slots), threading.Lock(), False
        self.answered: list[str] = []
        self.asked = self.active = self.most_active = 0
        self.keys: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *args: object) -> None:
        """Clients that have gone are part of these tests."""

    def die(self) -> None:
        self.dead = True
        threading.Thread(target=self.shutdown, daemon=True).start()
        self.socket.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        assert self.path == "/health"
        if self.server.health:
            self.send_response(self.server.health)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.close_connection = True
        self.server.looks += 1

    def do_POST(self) -> None:
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = request["messages"][-1]["content"]
        with server.guard:
            server.asked += 1
            server.active += 1
            server.most_active = max(server.most_active, server.active)
            server.keys.add(f"{self.headers['Authorization']} {self.headers['X-Team']}")
            stopped = len(server.answered) >= server.stops_after
            failing, server.failing = server.failing > 0 or stopped, server.failing - 1
        with server.slots:
            time.sleep(server.seconds)
        with server.guard:
            server.active -= 1
            if server.dead or len(server.answered) >= server.dies_after:
                if not server.dead:
                    server.die()
                self.close_connection = True
                return
            if failing or server.status != 200:
                body = json.dumps({"error": {"message": "told to fail"}}).encode()
            else:
                gains = [int(line.rpartition(" ")[2]) for line in text.splitlines() if "] gain " in line]
                order = sorted(range(len(gains)), key=lambda i: -gains[i])
                said, reason = format_response("by gain", order), "stop"
                if len(server.answered) >= server.stops_after:
                    said, reason = said[: len(said) // 2], "abort"
                    server.broken_off += 1
                else:
                    server.answered.append(text)
                choice = {"message": {"content": said}, "finish_reason": reason}
                body = json.dumps({"choices": [choice]}).encode()
        self.send_response(500 if failing else server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[Server] = []

    def start(**options: Any) -> Server:
        server = Server(**options)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    yield start
    for server in servers:
        if not server.dead:
            server.shutdown()
        server.server_close()


def over(*servers: Server, **options: Any) -> Reranker:
    urls = [server.url for server in servers]
    return Reranker(make_engine("openai", "m", base_url=urls, **options), window=10, stride=5)


def texts(tmp_path: Path, queries: int) -> list[str]:
    """A first stage of 20 passages a query, three windows each, as files. Returns the words of the command line."""
    items = [make(20, f"q{number}") for number in range(queries)]
    run = [f"{i.query.qid} Q0 {i.query.qid}-{p.docid} {rank} {-rank} x\n"
           for i in items for rank, p in enumerate(i.passages)]  # fmt: skip
    corpus = [{"_id": f"{i.query.qid}-{p.docid}", "text": p.text} for i in items for p in i.passages]
    files = {
        "run": "".join(run),
        "queries": "".join(f"{i.query.qid}\t{i.query.text} {i.query.qid}\n" for i in items),
        "corpus": "".join(json.dumps(row) + "\n" for row in corpus),
    }
    names = {"run": "run.trec", "queries": "queries.tsv", "corpus": "corpus.jsonl"}
    for name, text in files.items():
        (tmp_path / names[name]).write_text(text)
    return [word for name in files for word in (f"--{name}", str(tmp_path / names[name]))]


def command(files: list[str], out: Path, servers: list[Server], *more: str) -> int:
    addresses = [word for server in servers for word in ("--base-url", server.url)]
    options = ["--window", "10", "--stride", "5", "--engine", "openai", "--model", "m", "--quiet"]
    return main(["rerank", *files, "--output", str(out), *options, *addresses, *more])


def test_one_of_three_servers_is_killed(
    serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same final run file, no failed window, and no window that was answered is asked again."""
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-for-all-of-them")
    files = texts(tmp_path, 20)
    assert command(files, tmp_path / "whole.trec", [serve()]) == 0
    servers = [serve(seconds=0.02, dies_after=8), serve(seconds=0.02), serve(seconds=0.02)]
    assert command(files, tmp_path / "out.trec", servers, "--provider", "header.X-Team=rank") == 0
    assert (tmp_path / "out.trec").read_bytes() == (tmp_path / "whole.trec").read_bytes()
    records = read_records(tmp_path / "out.trec.log.jsonl")
    assert len(records) == 60 and not any(record.error for record in records)
    answered = Counter(text for server in servers for text in server.answered)
    assert len(answered) == 60 and set(answered.values()) == {1}
    assert len(servers[0].answered) == 8 and all(len(server.answered) > 8 for server in servers[1:])
    assert all(server.keys == {"Bearer a-key-for-all-of-them rank"} for server in servers)
    assert servers[0].url in caplog.text and "its calls go to the others" in caplog.text
    lost = sum(record.retries for record in records)
    assert 1 <= lost <= 3 * servers[0].most_active  # of its calls in flight alone


def test_one_of_two_servers_behind_rrlib_serve_is_killed(serve: Any) -> None:
    """No client notices: each gets its own order, and no call that was answered is made again."""
    dies, lives = serve(seconds=0.02, dies_after=5, health=200), serve(seconds=0.02, health=200)
    words = [sys.executable, "-m", "rrlib", "serve", "--model", "m", "--engine", "openai", "--port", "0"]
    words += ["--base-url", dies.url, "--base-url", lives.url, "--engine-option", "timeout=20", "--concurrency", "4"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        try:
            (url,) = re.findall(r"http://127\.0\.0\.1:\d+(?= )", process.stderr.readline())
            while process.stderr.readline() != "ready\n":
                assert process.poll() is None

            def ask(number: int) -> list[int]:
                documents = [f"gain {(place + number) % 10}" for place in range(10)]
                body = {"query": f"q{number}", "documents": documents}
                answer = httpx.post(f"{url}/v1/rerank", json=body, timeout=60)
                assert answer.status_code == 200, answer.text
                return [row["index"] for row in answer.json()["results"]]

            with ThreadPoolExecutor(8) as pool:
                orders = list(pool.map(ask, range(60)))
        finally:
            process.kill()
    assert orders == [sorted(range(10), key=lambda place: -((place + n) % 10)) for n in range(60)]
    answered = Counter(dies.answered + lives.answered)
    assert len(answered) == 60 and set(answered.values()) == {1} and len(dies.answered) == 5


def test_one_that_is_stopped_breaks_off_what_is_in_flight(serve: Any, tmp_path: Path) -> None:
    """vLLM answers 200 and `abort` with what there is of the text: that is no answer, and the others are asked."""
    files = texts(tmp_path, 20)
    assert command(files, tmp_path / "whole.trec", [serve()]) == 0
    servers = [serve(seconds=0.05, stops_after=9), serve(seconds=0.05)]
    assert command(files, tmp_path / "out.trec", servers, "--concurrency", "8") == 0
    assert servers[0].broken_off > 0
    assert (tmp_path / "out.trec").read_bytes() == (tmp_path / "whole.trec").read_bytes()
    records = read_records(tmp_path / "out.trec.log.jsonl")
    assert len(records) == 60 and {record.finish_reason for record in records} == {"stop"}
    answered = Counter(text for server in servers for text in server.answered)
    assert len(answered) == 60 and set(answered.values()) == {1}
    assert sum(record.retries for record in records) >= servers[0].broken_off


def test_a_slow_server_gets_fewer_calls(serve: Any) -> None:
    slow, quick = serve(seconds=1.5), serve(seconds=0.02)
    result = over(slow, quick, concurrency=8).rerank([make(10, f"q{i}") for i in range(60)])
    assert result.counts["verdict_ok"] == 60
    assert 1 <= len(slow.answered) <= 20 and len(slow.answered) + len(quick.answered) == 60  # half of 60, taken in turn


def test_one_that_answers_500_for_a_while_comes_back(
    serve: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rrlib.engines.servers.SHORTEST_REST", 0.05)
    ill, well = serve(failing=4, seconds=0.02), serve(seconds=0.02)
    result = over(ill, well, concurrency=4).rerank([make(20, f"q{i}") for i in range(50)])
    assert result.counts["verdict_ok"] == 150 and "failed" not in result.counts
    assert ill.answered and len(ill.answered) + len(well.answered) == 150
    assert "answers again" in caplog.text
    assert ill.asked == len(ill.answered) + 4 and ill.asked < 120  # it rested: few calls were lost on it


def test_all_of_them_die(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrlib.engines.servers.SHORTEST_REST", 0.01)
    servers = [serve(dies_after=0), serve(dies_after=0)]
    for server in servers:
        server.die()
    with pytest.raises(EngineError, match=r"none of the 2 servers has answered; the last: .*cannot be reached"):
        over(*servers).rerank([make(10, f"q{i}") for i in range(20)])
    servers = [serve(dies_after=3), serve(dies_after=3)]
    result = over(*servers, max_retries=1, concurrency=2).rerank([make(10, f"q{i}") for i in range(9)])
    assert result.counts["verdict_ok"] == 6 and result.counts["failed"] == 3
    assert all("none of the 2 servers answered it" in r.error for r in result.records if r.error)


@pytest.mark.parametrize(("status", "error"), [(401, FatalCallError), (404, FatalCallError)])
def test_one_that_was_never_right_stops_the_run(serve: Any, status: int, error: type[Exception]) -> None:
    """A wrong address or key is the user's to mend: a run that quietly goes on with half of its servers is no help."""
    with pytest.raises(error, match="told to fail"):
        over(serve(status=status, seconds=0.05), serve(seconds=0.05)).rerank([make(10, f"q{i}") for i in range(20)])


def test_a_refused_call_is_not_asked_of_the_others(serve: Any) -> None:
    servers = [serve(status=400), serve(status=400)]
    result_of = over(*servers, concurrency=2)
    with pytest.raises(EngineError, match="every call failed"):
        result_of.rerank([make(10, "a"), make(10, "b")])
    assert sum(server.asked for server in servers) == 2


# --- their health, asked for -----------------------------------------------------------------------------------------
@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrlib.engines.servers.HEALTH_EVERY", 0.01)


def says(server: Server, health: int) -> None:
    """It answers so from now on, and that is known: three looks say that it is gone, one before may be older."""
    server.health = health
    seen = server.looks + 5
    while server.looks < seen:
        time.sleep(0.005)


@pytest.mark.parametrize(("health", "word"), [(503, "drains"), (500, "is gone"), (0, "is gone")])
def test_a_server_that_is_not_well_gets_no_new_calls(
    serve: Any, often: None, caplog: pytest.LogCaptureFixture, health: int, word: str
) -> None:
    """What it has in flight it finishes, and it is used again when it is well: no call is lost or made twice."""
    leaves, stays = serve(seconds=0.3, health=200), serve(seconds=0.02, health=200)
    reranker, windows, asked = over(leaves, stays, concurrency=8), 0, []

    def on_window(record: Any) -> None:
        nonlocal windows
        windows += 1
        if windows == 10:
            says(leaves, health)
        if windows in (10, 50):
            asked.append(leaves.asked)
        if windows == 50:
            says(leaves, 200)

    reranker.on_window = on_window
    result = reranker.rerank([make(10, f"q{i}") for i in range(120)])
    assert result.counts["verdict_ok"] == 120 and sum(record.retries for record in result.records) == 0
    assert 1 <= asked[0] == asked[1] < leaves.asked == len(leaves.answered)
    assert len(leaves.answered) + len(stays.answered) == 120
    assert f"{leaves.url} {word}" in caplog.text and f"{leaves.url} is back" in caplog.text


def test_calls_wait_where_all_servers_drain(serve: Any, often: None) -> None:
    servers = [serve(health=200), serve(health=200)]
    reranker = over(*servers)
    reranker.rerank([make(10, "first")])
    for server in servers:
        says(server, 503)
    before = sum(server.asked for server in servers)
    threading.Timer(0.5, lambda: setattr(servers[1], "health", 200)).start()
    began = time.monotonic()
    result = reranker.rerank([make(10, f"q{i}") for i in range(5)])
    assert time.monotonic() - began > 0.4 and result.counts["verdict_ok"] == 5
    assert sum(server.asked for server in servers) == before + 5 == len(servers[1].answered) + servers[0].asked
    impatient = over(*servers, timeout=0.3, max_retries=0)  # after the time of a call they are asked all the same
    impatient.rerank([make(10, "first")])
    for server in servers:
        says(server, 503)
    assert impatient.rerank([make(10, "a")]).counts["verdict_ok"] == 1


def test_a_server_without_health_is_looked_at_once(serve: Any, often: None) -> None:
    servers = [serve(seconds=0.02), serve(seconds=0.02, health=501)]
    reranker = over(*servers, concurrency=2)
    assert reranker.rerank([make(10, f"q{i}") for i in range(40)]).counts["verdict_ok"] == 40
    assert [server.looks for server in servers] == [1, 1] and all(server.answered for server in servers)
    servers = [serve(health=502), serve(health=0)]  # a gateway that lets nothing but /v1 through: no word of the server
    reranker = over(*servers)
    reranker.rerank([make(10, "a")])
    says(servers[0], 502)
    assert reranker.engine.capacity == 64
    alone = serve(health=503)
    assert over(alone).rerank([make(10, "a")]).counts["verdict_ok"] == 1 and not alone.looks


def test_health_is_looked_at_again_after_a_cancel(serve: Any, often: None) -> None:
    servers = [serve(health=200), serve(health=200)]
    reranker = over(*servers)
    reranker.rerank([make(10, "a")])
    reranker.engine.cancel()  # type: ignore[attr-defined]
    reranker.rerank([make(10, "b")])
    says(servers[0], 200)
    reranker.engine.close()
    looks = servers[0].looks
    time.sleep(0.1)
    assert servers[0].looks == looks


@pytest.mark.parametrize("base", ["http://h:1/v1", "http://h:1", "http://h:1/", "http://h:1/v1/"])
def test_where_health_stands(base: str) -> None:
    from rrlib.engines.address import health_address

    assert health_address(base) == "http://h:1/health"
    assert health_address("https://h/some/v1beta") == "https://h/some/health"


@pytest.mark.parametrize(
    ("addresses", "words"),
    [([], "no server"), (["http://h:1/v1", "http://h:1/v1/"], "named twice"), (["http://h:1/v1", "h:2"], "base URL")],
)
def test_addresses_that_cannot_be(addresses: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_engine("openai", "m", base_url=addresses)


def test_in_flight_settles_on_a_server_with_slots(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slots, the rest queues up: in the end a few are in flight, and the orders are those of one at a time."""
    monkeypatch.setattr("rrlib.engines.servers.FIRST", 4)
    monkeypatch.setattr("rrlib.engines.inflight.LEAST_ANSWERS", 8)
    candidates = [make(10, f"q{i}") for i in range(70)]
    expected = over(serve(), concurrency=1).rerank(candidates).run()
    settled = []
    while len(settled) < 3 and not any(2 <= value <= 3 for value in settled):  # a busy machine disturbs speeds
        server = serve(seconds=0.15, slots=2)
        reranker = over(server)
        assert reranker.engine.capacity == 4
        assert reranker.rerank(candidates).run() == expected
        assert server.most_active > 4  # it looked whether more is faster
        settled.append(reranker.engine.capacity)
    assert 2 <= settled[-1] <= 3, settled
    assert over(serve(), concurrency=3).engine.capacity == 3


# --- options ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "value"),
    [("n=2", 2), ("n=0.85", 0.85), ("n=1e-6", 1e-6), ("n=true", True), ("n=True", True), ("n=null", None),
     ("n=fp8", "fp8"), ('n={"a": [1]}', {"a": [1]}), ("n={a: 1}", {"a": 1}), ("n=a=b", "a=b"),
     ("n=2026-01-02", "2026-01-02")],
)  # fmt: skip
def test_values_of_options(text: str, value: Any) -> None:
    read = read_options([text], {})
    assert read == {"n": value} and type(read["n"]) is type(value)


ENGINE_OPTIONS = [
    ("transformers", ["max_batch_tokens"], "NAME=VALUE"),
    ("transformers", ["max_batch_tokens=9", "max-batch-tokens=8"], "twice"),
    ("transformers", ["batch_size=9"], "write --batch-size"),
    ("transformers", ["max_batch_token=9"], "write 'max_batch_tokens'"),
    ("transformers", ["tensor_parallel_size=2"], "are dtype, device, batch_size, max_batch_tokens"),
    ("transformers", ["max_batch_tokens=many"], "give int or None"),
    ("openai", ["timeout=soon"], "give float"),
    ("openai", ["max_retries=true"], "give int"),
    ("openai", ["api_key=abc"], "api_key_env"),
    ("vllm", ["model=other"], "--model"),
    ("vllm", ["disable-log-stats=true"], "rrlib sets it"),
    ("vllm", ["data_parallel_size=4"], "many-machines"),
    ("vllm", ["gpu_memory_utilization=most"], "give float"),
    ("replay", ["seed=1"], "no option 'seed'"),
    ("jax", ["seed=1"], "unknown engine"),
]


@pytest.mark.parametrize(("engine", "options", "words"), ENGINE_OPTIONS)
def test_options_refused_before_anything_is_loaded(
    engine: str, options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [word for option in options for word in ("--engine-option", option)]
    argv = ["rerank", "--run", str(tmp_path / "no.trec"), "--output", str(tmp_path / "o"), "--engine", engine]
    assert main([*argv, "--model", "some/model", *told]) == 2
    assert words in capsys.readouterr().err and "abc" not in words


def test_options_reach_the_engine(serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def noting(name: str, model: str, **options: Any) -> Any:
        seen.update(options)
        return make_engine(name, model, **options)

    monkeypatch.setattr("rrlib.engines.make_engine", noting)
    more = ["--engine-option", "timeout=5", "--engine-option", "max-retries=2"]
    assert command(texts(tmp_path, 2), tmp_path / "out.trec", [serve()], *more) == 0
    assert seen["timeout"] == 5 and seen["max_retries"] == 2 and "concurrency" not in seen


@pytest.mark.vllm
def test_vllms_own_options_are_known_without_loading_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"tensor_parallel_size", "max_num_seqs", "kv_cache_dtype", "quantization", "seed"} <= vllm_options()
    argv = ["rerank", "--run", str(tmp_path / "no.trec"), "--output", str(tmp_path / "o"), "--engine", "vllm"]
    argv += ["--model", "some/model"]
    assert main([*argv, "--engine-option", "kv_cache_dtyp=fp8"]) == 2
    assert "write 'kv_cache_dtype'" in capsys.readouterr().err
    assert main([*argv, "--engine-option", "kv_cache_dtype=fp8"]) == 2
    assert "no.trec" in capsys.readouterr().err  # the option passed
