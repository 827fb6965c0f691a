"""The addresses of the server: two forms of reranking, its health, and its counts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from rrlib.records import RerankResult, WindowRecord
from rrlib.serve.counts import Counts
from rrlib.serve.desk import Desk, Order
from rrlib.serve.forms import (
    EitherRequest,
    RerankRequest,
    TextsRequest,
    candidates_of,
    rerank_answer,
    texts_answer,
    window_of,
)
from rrlib.serve.guard import Guard, Limits, Places, Refused, error_response
from rrlib.serve.log import ServedWindows
from rrlib.serve.slots import Slots
from rrlib.types import Candidates

PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
"""Where a body may be sent: Cohere's form at the first two, either form at the last."""


class Service:
    """The app over the slots of an engine. model: the name that clients use; a request may leave it out."""

    def __init__(
        self, slots: Slots, model: str, limits: Limits, key: str = "", log: ServedWindows | None = None
    ) -> None:
        self.model, self.limits, self.slots = model, limits, slots
        places = Places(limits.requests)
        self.counts = Counts(lambda: places.taken, lambda: slots.in_flight)
        self.desk = Desk(slots, self.counts.records, log)
        # The pages of docs and redoc load scripts from elsewhere.
        self.app = FastAPI(title="rrlib", docs_url=None, redoc_url=None, redirect_slashes=False)
        self.app.add_middleware(
            Guard,
            limits=limits,
            key=key,
            counts=self.counts,
            places=places,
            paths=PATHS,  # type: ignore[arg-type]
        )
        for path in PATHS[:2]:
            self.app.post(path, response_model=None)(self.rerank)
        self.app.post(PATHS[2], response_model=None)(self.either)
        self.app.api_route("/health", methods=["GET", "HEAD"])(self.health)
        self.app.get("/metrics")(self.metrics)
        self.app.exception_handler(RequestValidationError)(_not_a_request)
        self.app.exception_handler(HTTPException)(_no_such_thing)

    async def health(self) -> JSONResponse:
        """200 where a reranking can be asked for now, else 503 with the reason in one word."""
        state = self.slots.state
        return JSONResponse({"status": state, "model": self.model}, 200 if state == "ready" else 503)

    async def metrics(self) -> Response:
        """The counts in Prometheus' text format."""
        return Response(self.counts.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def rerank(self, asked: RerankRequest, request: Request) -> Response:
        """Cohere's form."""
        if asked.model is not None and asked.model != self.model:
            raise Refused(404, f"there is no model {asked.model!r:.80} here: this server has {self.model!r}")
        order = Order(self._checked(asked), asked.max_tokens_per_doc)
        if asked.stream:
            return await self._stream(asked, order, request)
        return _json(rerank_answer(asked, await self.desk.carry_out(order, request), self.model, order.id))

    async def either(self, asked: EitherRequest, request: Request) -> Response:
        """TEI's form, or Cohere's: whichever list of texts is in the body."""
        if isinstance(asked, RerankRequest):
            return await self.rerank(asked, request)
        order = Order(self._checked(asked), whole=asked.truncate is False)
        result = await self.desk.carry_out(order, request)
        return _json(
            texts_answer(asked, result), {"X-Unread-Windows": str(len(result.unread)), "X-Request-Id": order.id}
        )

    def _checked(self, asked: RerankRequest | TextsRequest) -> Candidates:
        """The candidates of a request. Raises Refused (422) where it holds nothing to rank, or too much."""
        texts = asked.texts if isinstance(asked, TextsRequest) else [doc.text for doc in asked.documents]
        if not _has_text(asked.query):
            raise Refused(422, "the query is empty")
        if len(asked.query) > self.limits.query_chars:
            raise Refused(
                422, f"the query has {len(asked.query):,} characters, and {self.limits.query_chars:,} are taken"
            )
        if not any(map(_has_text, texts)):
            raise Refused(422, "no document has a text" if texts else "there are no documents")
        if len(texts) > self.limits.documents:
            raise Refused(422, f"{len(texts):,} documents, and {self.limits.documents:,} are taken: send the best ones")
        return candidates_of(asked)

    async def _stream(self, asked: RerankRequest, order: Order, request: Request) -> Response:
        """Events as they happen: a `window` each, then the `result` (what it would be without a stream), or `error`.

        Server-sent events, or JSON lines where the request says `Accept: application/x-ndjson`.
        """
        steps = self.desk.windows(order, request)
        first = await anext(steps)  # what is refused at all is refused here, with its status
        lines = "ndjson" in request.headers.get("accept", "")

        async def events() -> AsyncIterator[str]:
            try:
                yield _event(self._step(asked, order, first), lines)
                async for step in steps:
                    yield _event(self._step(asked, order, step), lines)
            except Refused as refused:
                error = {"message": refused.message, "code": refused.status}
                yield _event({"type": "error", "error": error}, lines)
            finally:
                await steps.aclose()  # type: ignore[attr-defined]

        kind = "application/x-ndjson" if lines else "text/event-stream"
        return StreamingResponse(events(), media_type=kind, headers={"Cache-Control": "no-store"})

    def _step(self, asked: RerankRequest, order: Order, step: WindowRecord | RerankResult) -> dict[str, Any]:
        if isinstance(step, WindowRecord):
            return {"type": "window", **window_of(step, reasoning=asked.return_reasoning)}
        return {"type": "result", **rerank_answer(asked, step, self.model, order.id)}


def _has_text(text: str) -> bool:
    """Whether anything of it can be seen: a text of NUL bytes reaches the model as an empty one."""
    return any(sign.isprintable() and not sign.isspace() for sign in text)


def _json(answer: Any, headers: dict[str, str] | None = None) -> Response:
    """In ASCII: texts come back as they were sent, and half a surrogate pair is no UTF-8."""
    return Response(json.dumps(answer), media_type="application/json", headers=headers)


def _event(event: dict[str, Any], lines: bool) -> str:
    text = json.dumps(event)
    return f"{text}\n" if lines else f"event: {event['type']}\ndata: {text}\n\n"


async def _not_a_request(request: Request, error: Exception) -> Response:
    """What is wrong with a body, without the body: it may be long."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return error_response(400, f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}")
    place = ".".join(str(part) for part in first["loc"][1:])
    message = str(first["msg"]).removeprefix("Value error, ")
    return error_response(422, f"{place}: {message}" if place else message)


async def _no_such_thing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = "there is no such address here" if error.status_code == 404 else str(error.detail)
    return error_response(error.status_code, message)
