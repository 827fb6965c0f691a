"""What a request has to pass before its body is parsed: the key, a place, and the limits of a body.

One layer in front of the app. It reads the body itself, so that nothing larger than the limit is ever held and a
client that sends slowly is not waited for without end. Every refusal is one JSON object that says what to change.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rrlib.errors import InputError
from rrlib.serve.counts import Counts

OPEN_PATHS = ("/health",)
"""Answered without a key: whoever starts and stops servers asks it."""

CLIENT_LEFT = 499
"""The status that is counted (nobody reads it) where a client left before its answer."""


@dataclass(frozen=True)
class Limits:
    """What a server takes. body_bytes: of one request. documents: of one request. query_chars: of a query.

    requests: being read, waiting or worked on at the same time. body_seconds: how long a body may take to arrive.
    Memory that requests hold is below a few times requests x body_bytes. Raises InputError for a limit below 1.
    """

    body_bytes: int = 4_000_000
    documents: int = 1000
    query_chars: int = 10_000
    requests: int = 256
    body_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("body_bytes", "documents", "query_chars", "requests", "body_seconds"):
            if not getattr(self, name) > 0:
                raise InputError(f"the limit {name} is {getattr(self, name)}", remedy="give more than 0")


_LOGGER = logging.getLogger("rrlib.serve")


class Refused(Exception):
    """A request that gets no answer but a status and one sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message

    def response(self) -> JSONResponse:
        """The one form that all errors have."""
        return error_response(self.status, self.message)


class ClientLeft(Exception):
    """The client closed its connection, so there is nobody to answer."""


def error_response(status: int, message: str) -> JSONResponse:
    """`{"error": {"message", "type", "code"}}`, with the seconds to wait where another try may succeed."""
    name = HTTPStatus(status).name.lower() if status in set(HTTPStatus) else "error"
    again = {"Retry-After": "1"} if status in (429, 503) else {}
    challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    error = {"message": message, "type": name, "code": status}
    return JSONResponse({"error": error}, status, headers={**again, **challenge})


class Guard:
    """The layer. app: what stands behind it. key: what clients must send as `Authorization: Bearer KEY`; "" is none."""

    def __init__(
        self, app: ASGIApp, limits: Limits, key: str, counts: Counts, places: Places, paths: list[str]
    ) -> None:
        self.app, self.limits, self.counts, self.places, self.paths = app, limits, counts, places, paths
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope = {**scope, "path": scope["path"].rstrip("/") or "/"}  # one address, with a slash at its end or without
        began, status = time.perf_counter(), CLIENT_LEFT

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, counted)
        except Refused as refused:
            await refused.response()(scope, receive, counted)
        except ClientLeft:
            pass
        except Exception:
            _LOGGER.exception("a request failed by a fault of the server")
            if status != CLIENT_LEFT:  # an answer was begun: only its end can say that it is none
                raise
            await error_response(500, "this is a fault of the server, whose log has the reason")(
                scope, receive, counted
            )
        finally:
            if scope["method"] == "POST":
                path = scope["path"] if scope["path"] in self.paths else "other"
                self.counts.request(path, status, time.perf_counter() - began)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if any(ord(sign) < 32 for sign in scope["path"]):  # a route matches before a line end, and the guard would not
            raise Refused(404, "there is no such path here")
        if scope["path"] not in OPEN_PATHS:
            self._check_key(headers)
        if scope["method"] != "POST" or scope["path"] not in self.paths:
            return await self.app(scope, receive, send)
        # A page of another site can send a form or plain text here from a browser, but not JSON.
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "send JSON, with the header Content-Type: application/json")
        if (headers.get("content-length") or "0").isdecimal():
            self._check_size(int(headers.get("content-length") or 0))
        with self.places:
            body = await self._body(receive)
            await self.app(scope, _with_body(body, receive), send)

    def _check_key(self, headers: Mapping[str, str]) -> None:
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        given = sent.strip() if scheme.lower() == "bearer" else ""
        if self._key and not hmac.compare_digest(given.encode(), self._key):
            raise Refused(401, "this server wants its key: send the header Authorization: Bearer KEY")

    def _check_size(self, size: int) -> None:
        if size > self.limits.body_bytes:
            raise Refused(413, f"the body has more than {self.limits.body_bytes:,} bytes: send fewer or shorter texts")

    async def _body(self, receive: Receive) -> bytes:
        """The whole body. Raises Refused where it is too long or too slow, ClientLeft where it ends early."""
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeft
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    self._check_size(size)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {self.limits.body_seconds:g} seconds") from None


class Places:
    """How many requests may be inside at a time: `with places:` takes one. Raises Refused (429) where all are taken."""

    def __init__(self, number: int) -> None:
        self.number, self.taken = number, 0

    def __enter__(self) -> None:
        if self.taken >= self.number:
            raise Refused(429, f"{self.taken} requests are being worked on: try again in a moment")
        self.taken += 1

    def __exit__(self, *error: Any) -> None:
        self.taken -= 1


def _with_body(body: bytes, receive: Receive) -> Receive:
    """Give the body that was read, once, and then what else comes (that the client leaves)."""
    unread = [body]

    async def after() -> Message:
        return {"type": "http.request", "body": unread.pop(), "more_body": False} if unread else await receive()

    return after
