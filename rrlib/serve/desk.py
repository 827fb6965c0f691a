"""Where requests become rerankings: a thread for each that is worked on, over seats at the one engine.

What a thread does is `Reranker.rerank`, as in a script: prompts, strategy and parsing are the same. There are
twice as many threads as the engine has slots, so that a free slot finds a window ready; the other requests wait in the
order they came.
"""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from rrlib.errors import EngineError, InputError
from rrlib.pieces import PreparedPrompts
from rrlib.prompts import PromptBuilder
from rrlib.ranking import why_unranked
from rrlib.records import RerankResult, WindowRecord
from rrlib.rerank import Reranker
from rrlib.serve.guard import ClientLeft, Refused
from rrlib.serve.log import ServedWindows
from rrlib.serve.slots import Seat, Slots
from rrlib.types import Candidates

FEWEST_THREADS, MOST_THREADS = 64, 256  # an engine may find slots as it goes
T = TypeVar("T")


@dataclass(frozen=True)
class Order:
    """What is to be done for one client. max_tokens: documents are cut to this, where it is below the server's own
    limit. whole: refuse a document that would be cut. id: of the request, in its answer and in the log."""

    candidates: Candidates
    max_tokens: int | None = None
    whole: bool = False
    id: str = field(default_factory=lambda: f"rerank-{uuid.uuid4().hex}")


class Desk:
    """Takes orders over the slots of one engine. done: told of the windows of every order that was carried out. log:
    gets every window as it is finished."""

    def __init__(
        self, slots: Slots, done: Callable[[list[WindowRecord]], None], log: ServedWindows | None = None
    ) -> None:
        self.slots, self.done, self.log = slots, done, log
        self._pool: ThreadPoolExecutor | None = None

    async def carry_out(self, order: Order, request: Request) -> RerankResult:
        """The result of an order. Raises Refused, and ClientLeft when the client leaves first."""
        with self._begun(order) as (work, _):
            return await _attended(work, request)

    async def windows(self, order: Order, request: Request) -> AsyncIterator[WindowRecord | RerankResult]:
        """The windows of an order as they finish, then its result. Raises as `carry_out`; what the first of them shows
        to be wrong is raised before anything is given."""
        finished: asyncio.Queue[WindowRecord | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def on_window(record: WindowRecord) -> None:
            loop.call_soon_threadsafe(finished.put_nowait, record)

        with self._begun(order, on_window) as (work, _):
            work.add_done_callback(lambda _: finished.put_nowait(None))
            while (record := await _attended(finished.get(), request)) is not None:
                yield record
            yield await work

    def stop(self) -> None:
        """End the engine and the threads; orders that are not finished fail."""
        self.slots.stop()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    @contextmanager
    def _begun(self, order: Order, on_window: Callable[[WindowRecord], None] | None = None) -> Any:
        """An order handed to a thread: (its future, its seat). Given up where the block is left before it is done."""
        if self.slots.state != "ready":
            raise Refused(503, f"the server is not ready: it is {self.slots.state}")
        if self._pool is None:
            threads = min(max(2 * self.slots.reranker.engine.capacity, FEWEST_THREADS), MOST_THREADS)
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="client")
        seat = self.slots.seat()
        work = asyncio.get_running_loop().run_in_executor(self._pool, self._work, order, seat, on_window)
        work.add_done_callback(lambda future: future.cancelled() or future.exception())  # nobody may be left to ask
        try:
            yield work, seat
        finally:
            seat.leave()
            work.cancel()

    def _work(self, order: Order, seat: Seat, on_window: Callable[[WindowRecord], None] | None) -> RerankResult:
        """In a thread of the pool. Raises Refused with what the client is told."""
        reranker = _for_seat(self.slots.reranker, seat, order.max_tokens)

        def told(record: WindowRecord) -> None:
            if self.log is not None:
                self.log.append(order.id, record)
            if on_window is not None:
                on_window(record)

        reranker.on_window = told
        try:
            if seat.error is not None:
                raise seat.error  # its client left, or the server stopped, while it waited for a thread
            if order.whole:
                _check_whole(reranker.prompts, order.candidates)
            result = reranker.rerank([order.candidates])
        except InputError as error:
            remedy = "send shorter texts, or a smaller max_tokens_per_doc"
            raise Refused(422, f"{error.message.removeprefix('query query: ')} -> {remedy}") from error
        except EngineError as error:
            raise Refused(503 if self.slots.state == "stopping" else 502, str(error)) from error
        self.done(result.records)
        if (reason := why_unranked(result.records)) is not None:
            if order.max_tokens is not None:
                reason += f"; its documents were cut by max_tokens_per_doc, which is {order.max_tokens}"
            raise Refused(502, reason)  # an order is not passed off as the model's that is the client's own
        return result


def _for_seat(reranker: Reranker, seat: Seat, max_tokens: int | None) -> Reranker:
    """The reranker for one client: the same settings over its seat, and prompts that are dropped with it."""
    own = copy.copy(reranker)
    own.engine = seat
    own.max_passage_tokens = min(max_tokens or reranker.max_passage_tokens, reranker.max_passage_tokens)
    own.prompts = PromptBuilder(reranker.prompts.tokenizer, reranker.style.name, own.max_passage_tokens)
    own.prepared = PreparedPrompts(own.prompts, reranker.prepared)
    return own


def _check_whole(prompts: PromptBuilder, candidates: Candidates) -> None:
    for place, passage in enumerate(candidates.passages):
        prompts.passage(passage)
        if prompts.cut:
            limit = prompts.max_passage_tokens
            raise Refused(422, f"text {place} has more than {limit} tokens: shorten it, or leave truncate: false out")


async def _attended(waiting: Awaitable[T], request: Request) -> T:
    """Wait for something while the client stays. Raises ClientLeft where it leaves first."""
    wanted: asyncio.Future[T] = asyncio.ensure_future(waiting)
    gone = asyncio.ensure_future(request.receive())  # the body has been read, so only its leaving can come
    both: set[asyncio.Future[Any]] = {wanted, gone}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not wanted.done():
            wanted.cancel()
            raise ClientLeft
        return wanted.result()
    finally:
        gone.cancel()
