"""An OpenAI-compatible server on loopback in front of any chat client: the simulated teacher behind the real wire.

`/v1/chat/completions` and `/v1/models`, without streams. The standard library's threaded server is enough: what is
behind it is small. A simulated teacher's own words about itself (data kind, belief, error) travel in a field of the
response that no real server has, so that what was made over HTTP is labelled as what was made in process.
"""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rrlib.engines.answers import EXTRA_FIELD
from rrlib.engines.base import Decoding, Reply
from rrlib.errors import EngineError, RRLibError
from rrlib.synthesis.teacher.ask import ChatClient, model_name

MOST_BYTES = 50_000_000
"""Of a request."""


class TeacherServer(ThreadingHTTPServer):
    """Serves `client` at `url` from `start()` until `close()`.

    inline_think: the reasoning stands in <think> before the answer; else in `reasoning_content`. delay: seconds that
    an answer takes at least. Raises EngineError when the port is taken.
    """

    daemon_threads = True
    request_queue_size = 512

    def __init__(
        self,
        client: ChatClient,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        inline_think: bool = False,
        delay: float = 0,
    ) -> None:
        self.client, self.inline_think, self.delay = client, inline_think, delay
        self.model = model_name(client)
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise EngineError(f"cannot serve at {host}:{port}: {error.strerror} -> choose another --port") from error
        self.url = f"http://{host}:{self.server_address[1]}/v1"

    def start(self) -> TeacherServer:
        """Serve in a thread of its own."""
        threading.Thread(target=self.serve_forever, name="teacher-server", daemon=True).start()
        return self

    def close(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()

    def __enter__(self) -> TeacherServer:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: TeacherServer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: prompts and answers are in the store of whoever asked."""

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, message: str) -> None:
        self.close_connection = True
        self._send(status, {"error": {"message": message, "type": "invalid_request_error", "code": None}})

    def do_GET(self) -> None:
        """The list of models."""
        if self.path.rstrip("/") != "/v1/models":
            return self._refuse(404, f"no such address: {self.path}")
        self._send(200, {"object": "list", "data": [{"id": self.server.model, "object": "model", "owned_by": "rrlib"}]})

    def do_POST(self) -> None:
        """One chat completion."""
        if self.path.rstrip("/") != "/v1/chat/completions":
            return self._refuse(404, f"no such address: {self.path}")
        try:
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 < length <= MOST_BYTES:
                return self._refuse(413 if length else 400, f"a request of {length} bytes")
            request = json.loads(self.rfile.read(length))
            messages = [{"role": str(m["role"]), "content": m["content"]} for m in request["messages"]]
            if not messages or not all(isinstance(m["content"], str) for m in messages):
                raise ValueError("messages are texts with a role")
            decoding = Decoding(
                max_new_tokens=int(request.get("max_completion_tokens") or request.get("max_tokens") or 3172),
                temperature=float(request.get("temperature") or 0.0),
                top_p=float(1.0 if request.get("top_p") is None else request["top_p"]),
                top_k=int(request.get("top_k") or 0),
                seed=request.get("seed"),
            )
        except (ValueError, KeyError, TypeError) as error:
            return self._refuse(400, f"not a chat request: {error!r}")
        if request.get("model") != self.server.model:
            return self._refuse(404, f"the model {request.get('model')!r} does not exist; {self.server.model!r} does")
        if request.get("stream"):
            return self._refuse(400, "streams are not served")
        try:
            reply = asyncio.run(self._ask(messages, decoding))
        except RRLibError as error:
            return self._refuse(500, str(error))
        self._send(200, completion(reply, self.server.model, self.server.inline_think))

    async def _ask(self, messages: list[dict[str, str]], decoding: Decoding) -> Reply:
        if self.server.delay:
            await asyncio.sleep(self.server.delay)
        return await self.server.client.chat(messages, decoding)


def completion(reply: Reply, model: str, inline_think: bool = False) -> dict[str, Any]:
    """A reply as the JSON body of a chat completion. A chain that was cut off leaves its tag open, as models do."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if inline_think and reply.reasoning:
        closing = "" if reply.finish_reason == "length" and not reply.text else " </think>\n"
        message["content"] = f"<think> {reply.reasoning}{closing}{reply.text}"
    elif reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    body: dict[str, Any] = {
        "id": "chatcmpl-rrlib",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "finish_reason": reply.finish_reason, "message": message}],
        "usage": {
            "prompt_tokens": reply.tokens_in,
            "completion_tokens": reply.tokens_out,
            "total_tokens": reply.tokens_in + reply.tokens_out,
        },
    }
    if reply.extra:
        body[EXTRA_FIELD] = dict(reply.extra)
    return body
