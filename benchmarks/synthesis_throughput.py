"""Is synthesis as fast as its teacher, and does it forget what it has written?

Part one: a server of its own process answers every call in 2 seconds; 64 calls in flight should then give 32 calls a
second. Goal: at least 95% of that. Part two: queries are streamed past a teacher that answers at once, in process, and
the resident memory is read on the way. Goal: from the first tenth to the end it grows by less than 10%, or 20 MB.

    python benchmarks/synthesis_throughput.py [--queries 100000] [--calls 1920] [--delay 2.0] [--concurrency 64]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rrlib.engines.base import Decoding, Message, Reply
from rrlib.engines.client import OpenAIClient
from rrlib.synthesis.pipeline import synthesize
from rrlib.synthesis.sources.items import Item
from rrlib.types import Passage, Query

PASSAGES = 20
TEXT = "a passage of some length about nothing in particular, as they are found in every corpus " * 4


class Stream:
    """Queries that are made when they are asked for, each with a window of candidates."""

    name, data_kind = "stream", "synthetic"

    def __init__(self, queries: int) -> None:
        self.queries = queries

    def __len__(self) -> int:
        return self.queries

    def __iter__(self) -> Iterator[Item]:
        for i in range(self.queries):
            passages = tuple(Passage(f"d{i}-{j}", f"{j} {TEXT}") for j in range(PASSAGES))
            yield Item(Query(f"q{i}", f"question {i}"), passages, "biology", f"answer {i}")


def answer(text: str) -> str:
    """The passage that begins with a 2 is relevant, and comes first."""
    (best,) = re.findall(r"^\[(\d+)\] 2 a", text, re.MULTILINE)
    if "\nGold answer: " in text:
        return f"[{best}]"
    return " > ".join([f"[{best}]", *(f"[{i}]" for i in range(1, PASSAGES + 1) if i != int(best))])


class Instant:
    """A teacher of zero latency."""

    model = "instant"

    async def chat(self, messages: Sequence[Message], decoding: Decoding) -> Reply:
        return Reply(answer(messages[1]["content"]), "a chain of thought", tokens_in=2000, tokens_out=100)


def serve(delay: float, port: Any) -> None:
    """An OpenAI-compatible server that answers every call after `delay` seconds."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                await asyncio.sleep(delay)
                message = {"role": "assistant", "content": answer(body["messages"][-1]["content"])}
                choice = {"index": 0, "finish_reason": "stop", "message": {**message, "reasoning_content": "a chain"}}
                usage = {"prompt_tokens": 2000, "completion_tokens": 100, "total_tokens": 2100}
                reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "slow", "choices": [choice]}
                data = json.dumps({**reply, "usage": usage}).encode()
                lines = f"HTTP/1.1 200 OK\r\nContent-Type: text/json\r\nContent-Length: {len(data)}\r\n\r\n"
                writer.write(lines.encode() + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=1024)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(main())


def throughput(calls: int, delay: float, concurrency: int) -> tuple[float, float]:
    """(calls a second, share of the ideal rate concurrency / delay). The client is warmed up first."""
    port = multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=serve, args=(delay, port), daemon=True)
    server.start()
    while port.value == 0:
        time.sleep(0.05)
    with tempfile.TemporaryDirectory() as folder:
        client = OpenAIClient(f"http://127.0.0.1:{port.value}/v1", "slow")
        synthesize(Stream(1), client, f"{folder}/warm", concurrency=1)
        client = OpenAIClient(f"http://127.0.0.1:{port.value}/v1", "slow")
        begun = time.perf_counter()
        result = synthesize(Stream(calls // 2), client, f"{folder}/out", concurrency=concurrency)
        seconds = time.perf_counter() - begun
    server.terminate()
    assert result.n_examples == calls // 2
    rate = calls / seconds
    return rate, rate / (concurrency / delay)


def resident() -> float:
    """Resident memory of this process in MB."""
    with open("/proc/self/statm", encoding="ascii") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory(queries: int) -> tuple[float, float, float, float]:
    """(MB after a tenth of the queries, largest MB after that, MB at the end, queries a second)."""
    seen: list[float] = []
    early = max(1, queries // 10)

    def watch(done: int, total: int, usage: Any) -> None:
        if done % early == 0:
            seen.append(resident())
            print(f"  {done:>9,} queries: {seen[-1]:.1f} MB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        result = synthesize(Stream(queries), Instant(), folder, concurrency=64, progress=watch)
        seconds = time.perf_counter() - begun
        assert result.n_examples == queries
        size = sum(os.path.getsize(f"{folder}/{name}") for name in os.listdir(folder)) / 1e6
    print(f"  written: {size:,.0f} MB")
    return seen[0], max(seen), resident(), queries / seconds


def main() -> None:
    """Both parts, a table, and the last line as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=1920)
    parser.add_argument("--delay", type=float, default=2.0)
    parser.add_argument("--concurrency", type=int, default=64)
    given = parser.parse_args()
    print(f"{given.calls} calls of {given.delay:g} s each, {given.concurrency} in flight", flush=True)
    rate, share = throughput(given.calls, given.delay, given.concurrency)
    print(f"  {rate:.2f} calls/s, {share:.1%} of the ideal rate")
    print(f"{given.queries:,} queries past a teacher of zero latency", flush=True)
    first, most, last, speed = memory(given.queries)
    growth = max(most, last) - first
    print(f"  {speed:.0f} queries/s; {first:.1f} MB after a tenth, {max(most, last):.1f} MB at most after that")
    row = {
        "name": "synthesis_throughput",
        "value": round(share, 4),
        "unit": "share of the ideal rate",
        "goal": 0.95,
        "holds": share >= 0.95 and growth < max(0.1 * first, 20.0),
        "n": given.calls,
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "memory_growth_mb": round(growth, 1),
        "memory_queries": given.queries,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
