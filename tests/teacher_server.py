"""A teacher behind HTTP for the tests of synthesis: it answers like a good one, and misbehaves on command.

Small and asynchronous, so that thousands of calls cost seconds. What it does to a request depends on the request
alone (and on a seed), so runs can be compared: a fifth of the requests meet the fault, once or twice in a row.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections import Counter
from types import TracebackType
from typing import Any

SHARE = 0.2
TRANSPORT = ("429", "500", "slow", "dropped", "malformed", "empty", "error body")
CONTENT = ("wrong ids", "none", "refusal", "cut off")
PLACES = ("reasoning_content", "reasoning", "inline")


def good_answer(text: str) -> tuple[str, str]:
    """(reasoning, answer) to a prompt: passages with the word `good` are chosen, and preferred."""
    passages = {int(n): line for n, line in re.findall(r"^\[(\d+)\] (.*)$", text, re.MULTILINE)}
    good = [i for i, line in passages.items() if "good" in line]
    if "\nGold answer: " in text:
        return "I looked", ", ".join(f"[{i}]" for i in good) or "None"
    order = good + [i for i in passages if i not in good]
    return "because it is good", " > ".join(f"[{i}]" for i in order)


class TeacherServer:
    """Use as a context manager; `url` is its base URL, `asked` how often each request came, `done` was answered.

    fault: one of TRANSPORT or CONTENT. place: where the reasoning stands. delay: seconds an answer takes. key: where
    given, requests with another bearer token get 401. model: what it serves; requests for others get 404.
    """

    def __init__(
        self, fault: str = "", place: str = "reasoning_content", *, seed: int = 0, delay: float = 0.0, key: str = ""
    ) -> None:
        self.fault, self.place, self.seed, self.delay, self.key = fault, place, seed, delay, key
        self.model = "toy-teacher"
        self.asked: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.met: set[str] = set()
        self.most = self._flying = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> TeacherServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(re.search(r"content-length: (\d+)", head, re.IGNORECASE).group(1))  # type: ignore[union-attr]
                body = await reader.readexactly(length)
                token = re.search(r"authorization: Bearer (\S+)", head, re.IGNORECASE)
                self._flying += 1
                self.most = max(self.most, self._flying)
                try:
                    if self.delay:
                        await asyncio.sleep(self.delay)
                    status, headers, data, cut = await self._answer(body, token.group(1) if token else "")
                finally:
                    self._flying -= 1
                extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                size = len(data) + (500 if cut else 0)
                first = f"HTTP/1.1 {status} X\r\nContent-Type: text/json\r\nContent-Length: {size}\r\n{extra}\r\n"
                writer.write(first.encode() + data)
                await writer.drain()
                if cut:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, body: bytes, token: str) -> tuple[int, dict[str, str], bytes, bool]:
        request = json.loads(body)
        if self.key and token != self.key:
            return 401, {}, json.dumps({"error": {"message": f"Incorrect key provided: {token}"}}).encode(), False
        if request["model"] != self.model:
            return 404, {}, b'{"error": {"message": "The model does not exist"}}', False
        name = hashlib.sha256(body).hexdigest()
        self.asked[name] += 1
        draw = int(hashlib.sha256(f"{self.seed}/{name}".encode()).hexdigest()[:8], 16) / 2**32
        hit = bool(self.fault) and draw < SHARE
        if hit:
            self.met.add(name)
        times = 1 + int(draw * 1000) % 2
        if hit and self.fault in TRANSPORT and self.asked[name] <= times:
            return await self._transport()
        self.done[name] += 1
        reasoning, said = good_answer(request["messages"][-1]["content"])
        if request["messages"][0]["content"].startswith("You are RankLLM"):  # a reranker is asked, not a teacher
            said = f"<answer> {said} </answer>"
        return 200, {}, json.dumps(self._body(reasoning, said, hit)).encode(), False

    async def _transport(self) -> tuple[int, dict[str, str], bytes, bool]:
        if self.fault == "slow":
            await asyncio.sleep(30)  # the client goes first
        return {
            "429": (429, {"Retry-After": "0.02"}, b'{"error": {"message": "slow down"}}', False),
            "500": (500, {}, b'{"error": {"message": "oops"}}', False),
            "slow": (200, {}, b'{"choices": []}', False),
            "dropped": (200, {}, b'{"choices": [{"message": {"content": "[1', True),
            "malformed": (200, {}, b'{"choices": [{"message": }', False),
            "empty": (200, {}, b'{"choices": []}', False),
            "error body": (200, {}, b'{"error": {"message": "overloaded"}}', False),
        }[self.fault]

    def _body(self, reasoning: str, said: str, hit: bool) -> dict[str, Any]:
        finish = "stop"
        if hit and self.fault in CONTENT:
            said = {
                "wrong ids": said + (" > [99]" if ">" in said else ", [99]"),
                "none": "None",
                "refusal": "I'm sorry, but I cannot help with that.",
                "cut off": "",
            }[self.fault]
            finish = "length" if self.fault == "cut off" else "stop"
        message = {"role": "assistant", "content": said}
        if self.place == "inline":
            message["content"] = f"<think>\n{reasoning}\n</think>\n\n{said}"
        else:
            message[self.place] = reasoning
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "toy-teacher",
            "choices": [{"index": 0, "finish_reason": finish, "message": message}],
            "usage": usage,
        }
