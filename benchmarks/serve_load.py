"""Does the server give 200 clients at once their own right answers, while others send nonsense?

A scripted engine (it ranks by the number in a text, and takes a few milliseconds a batch of windows) behind the real
server on loopback; clients in threads, each asking again and again with documents of its own and checking the answer.
Beside them hostile ones: malformed JSON, bodies of 10 MB, 100,000 documents, a wrong key, a client that sends half a
body, one that leaves. Goal: every answer right or a clear refusal, none lost, a p95 within --p95 seconds, and memory
that grows by at most --growth MB after a third of the time. p95 is of the answered requests; memory is this process's,
clients included. The limits are for 200 clients on two cores: twice what such a machine showed (docs/experiments.md).

    python benchmarks/serve_load.py [--clients 200] [--seconds 60]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from rrlib.engines import Decoding, Reply, Request
from rrlib.prompts import format_response
from rrlib.rerank import Reranker
from rrlib.serve.guard import Limits
from rrlib.serve.server import Server

KEY = "a-key-of-the-benchmark"
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
DOCUMENTS = 30  # two windows
P95_SECONDS, GROWTH_MB = 2.5, 60.0
"""What `holds` allows: twice what 200 clients saw on two cores, 1.15 s and 26 MB."""
CLEAR = {400, 401, 408, 413, 422, 429}
"""Statuses that say what was wrong with a request, or that it came at a full moment."""


class Scripted:
    """Ranks by the number at the end of each text; a step takes `seconds` whatever the number of windows in it."""

    name, model, capacity = "scripted", "scripted", 64

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.waiting: list[Request] = []

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self.waiting += requests

    def collect(self) -> list[tuple[int, Reply]]:
        time.sleep(self.seconds)
        done, self.waiting = self.waiting, []
        return [(request.id, _reply(request.messages[-1]["content"])) for request in done]

    def close(self) -> None:
        self.waiting = []


def _reply(prompt: str) -> Reply:
    gains = [int(gain) for gain in re.findall(r"^\[\d+\] .*?(\d+)$", prompt, re.MULTILINE)]
    order = sorted(range(len(gains)), key=lambda i: -gains[i])
    return Reply(format_response("by gain", order), tokens_in=10, tokens_out=5)


class Tally:
    """What the clients saw."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.lock = threading.Lock()

    def add(self, what: str, seconds: float | None = None) -> None:
        with self.lock:
            self.seen[what] += 1
            if seconds is not None:
                self.seconds.append(seconds)


def honest(number: int, port: int, ends: float, tally: Tally) -> None:
    """Ask with documents of one's own until the time is up, and check every answer."""
    chance = random.Random(number)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while time.monotonic() < ends:
        gains = chance.sample(range(100_000), DOCUMENTS)
        body = json.dumps({"query": f"client {number}", "documents": [f"gain {gain}" for gain in gains], "top_n": 10})
        began = time.perf_counter()
        try:
            connection.request("POST", "/v1/rerank", body, HEADERS)
            answer = connection.getresponse()
            said = json.loads(answer.read())
        except (OSError, ValueError, http.client.HTTPException):
            tally.add("lost")
            connection.close()
            continue
        if answer.status == 200:
            best = sorted(range(DOCUMENTS), key=lambda i: -gains[i])[:10]
            right = [row["index"] for row in said["results"]] == best
            tally.add("right" if right else "wrong", time.perf_counter() - began)
        else:
            tally.add("refused" if answer.status in CLEAR and said["error"]["message"] else "wrong")
            time.sleep(0.05)


def hostile(port: int, ends: float, tally: Tally) -> None:
    """What a server on the internet sees; each must be refused clearly, but for those that leave."""
    many = json.dumps({"query": "q", "documents": ["a"] * 100_000}).encode()
    long = json.dumps({"query": "q", "documents": ["a" * 10_000_000]}).encode()
    fair = json.dumps({"query": "q", "documents": ["gain 1", "gain 2"]}).encode()
    bodies = [
        (b'{"query": ', HEADERS),
        (long, HEADERS),
        (many, HEADERS),
        (fair, {**HEADERS, "Authorization": "Bearer no"}),
    ]
    while time.monotonic() < ends:
        for body, headers in bodies:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.request("POST", "/v1/rerank", body, headers)
                tally.add("hostile refused" if connection.getresponse().status in CLEAR else "wrong")
            except (OSError, http.client.HTTPException):
                tally.add("hostile lost")
            connection.close()
        for sent in (fair[:9], fair):  # half a body, then silence; a whole one, and nobody there for the answer
            head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
            with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
                raw.sendall(
                    f"POST /v1/rerank HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(fair)}\r\n\r\n".encode() + sent
                )
                time.sleep(0.1)
            tally.add("left")


def resident() -> float:
    """Resident memory of this process in MB."""
    with open("/proc/self/statm", encoding="ascii") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def load(clients: int, seconds: float, step: float) -> tuple[Tally, float, float]:
    """(what was seen, MB after a third of the time, most MB after that)."""
    tally = Tally()
    limits = Limits(requests=clients + 50, body_seconds=5.0)
    with Server(lambda: Reranker(Scripted(step)), "scripted", key=KEY, limits=limits) as server:
        port = int(server.url.rpartition(":")[2])
        ends = time.monotonic() + seconds
        jobs: list[Callable[[], None]] = [lambda number=n: honest(number, port, ends, tally) for n in range(clients)]
        jobs.append(lambda: hostile(port, ends, tally))
        threads = [threading.Thread(target=job) for job in jobs]
        for thread in threads:
            thread.start()
        time.sleep(seconds / 3)
        early = most = resident()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.2)
            most = max(most, resident())
    return tally, early, most


def main() -> None:
    """A table, and the last line as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--step", type=float, default=0.01, help="seconds a step of the engine")
    parser.add_argument("--p95", type=float, default=P95_SECONDS, help="most seconds of the p95")
    parser.add_argument("--growth", type=float, default=GROWTH_MB, help="most MB that memory grows")
    given = parser.parse_args()
    print(f"{given.clients} clients for {given.seconds:g} s, and hostile ones beside them", flush=True)
    tally, early, most = load(given.clients, given.seconds, given.step)
    seen, times = tally.seen, sorted(tally.seconds)
    for what, times_seen in sorted(seen.items()):
        print(f"  {what:<16} {times_seen:>8,}")
    p50, p95 = (times[int(share * (len(times) - 1))] if times else float("nan") for share in (0.5, 0.95))
    print(f"  seconds to an answer: median {p50:.3f}, p95 {p95:.3f}; {len(times) / given.seconds:.0f} answers a second")
    print(f"  memory: {early:.0f} MB after a third of the time, {most:.0f} MB at most after that")
    asked = seen["right"] + seen["wrong"] + seen["refused"] + seen["lost"]
    bad, growth = seen["wrong"] + seen["lost"] + seen["hostile lost"], most - early
    bounded = growth <= given.growth and p95 <= given.p95
    row = {
        "name": "serve_load",
        "value": round(1 - bad / max(asked + seen["hostile refused"] + seen["hostile lost"], 1), 6),
        "unit": "share of the requests with a right answer or a clear refusal",
        "goal": 1.0,
        "holds": bad == 0 and seen["right"] > 0 and bounded,
        "n": asked,
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "clients": given.clients,
        "right": seen["right"],
        "p50_seconds": round(p50, 4),
        "p95_seconds": round(p95, 4),
        "p95_limit_seconds": given.p95,
        "memory_growth_mb": round(growth, 1),
        "memory_growth_limit_mb": given.growth,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
