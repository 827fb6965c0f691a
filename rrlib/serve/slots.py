"""One engine whose slots all clients share: no client waits for another's whole list, and none can harm another.

A strategy knows one query, the scheduler (rrlib.scheduler) one call. So each client gets a seat: an engine to its own
reranking, and in truth a place in one queue. One thread gives free slots to the seats in turn, a window each, under
numbers of its own, and hands every answer to the seat that asked. It makes the engine, asks it and closes it: no other
thread ever touches it. Sampling is seeded by those numbers, so with a temperature an answer depends on the traffic.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rrlib.engines import Decoding, Reply, Request
from rrlib.engines.shared import alone
from rrlib.errors import EngineError
from rrlib.rerank import Reranker

UNWELL_SECONDS = 10.0
"""So long after the engine raised an error, and gave no answer since, it counts as not ready."""

_TURN = 0.05
"""Seconds after which an engine that can hand out nothing yet is left, to fill its free slots."""
_LOGGER = logging.getLogger("rrlib.serve")


class SeatLeft(EngineError):
    """The client of a seat is gone, so nobody waits for its answers."""


class Seat:
    """The engine as one client sees it (rrlib.engines.Engine): its own numbers, its own answers.

    Made by `Slots.seat`. After `leave` what it waits for is dropped, and `submit` and `collect` raise SeatLeft. Both
    raise EngineError where the engine failed or is stopped.
    """

    def __init__(self, slots: Slots, lock: threading.Lock) -> None:
        engine = slots.reranker.engine
        self.name, self.model, self.capacity = engine.name, engine.model, engine.capacity
        self.asks_model = getattr(engine, "asks_model", True)
        self.max_model_len = getattr(engine, "max_model_len", None)
        self.waiting: deque[Request] = deque()
        self.answers: list[tuple[int, Reply]] = []
        self.error: EngineError | None = None
        self.answered = threading.Condition(lock)
        self._slots = slots

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        """Wait for slots with these requests. decoding: as the reranker of the slots has it."""
        self._slots.wait_with(self, requests)

    def collect(self) -> list[tuple[int, Reply]]:
        """Wait for one answer, and take all others that are there."""
        with self.answered:
            while not self.answers and self.error is None:
                self.answered.wait()
            if self.error is not None:
                raise self.error
            answers, self.answers = self.answers, []
        return answers

    def fail(self, error: EngineError) -> None:
        """What `submit` and `collect` raise from now on; the lock of the slots is held. A first reason stays."""
        self.waiting.clear()
        self.error = self.error or error
        self.answered.notify_all()

    def leave(self) -> None:
        """The client is gone. What is in flight for it runs to its end, and is thrown away. Safe to call twice."""
        with self.answered:
            self.fail(SeatLeft("the client is gone"))

    cancel = close = leave


class Slots:
    """The engine's thread. make: makes the reranker, whose engine is shared; called in that thread by `start`.

    ended: called in that thread when it ends, with the error where the reranker could not be made or
    the thread broke, else with None.
    """

    def __init__(self, make: Callable[[], Reranker], ended: Callable[[BaseException | None], None]) -> None:
        self._make, self._ended = make, ended
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._turns: deque[Seat] = deque()  # seats with waiting requests; the first gets the next slot
        self._flight: dict[int, tuple[Seat, int]] = {}  # our number -> the seat and its number
        self._last = 0
        self._stopping = False
        self._unwell_since: float | None = None
        self._reranker: Reranker | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def reranker(self) -> Reranker:
        """The reranker that was made. Raises EngineError before it is ready."""
        if self._reranker is None:
            raise EngineError("the model is still being loaded")
        return self._reranker

    @property
    def state(self) -> str:
        """`ready`, or why not: `loading`, `failing` (the engine raised an error a moment ago) or `stopping`."""
        if self._stopping:
            return "stopping"
        if self._reranker is None:
            return "loading"
        since = self._unwell_since
        return "failing" if since is not None and time.monotonic() - since < UNWELL_SECONDS else "ready"

    @property
    def in_flight(self) -> int:
        """Windows that the engine has now."""
        return len(self._flight)

    def start(self) -> None:
        """Begin to make the reranker; comes back at once."""
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Give up all seats and close the engine. timeout: seconds to wait for the call that the engine is in."""
        self.give_up()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def give_up(self) -> None:
        """Nobody is served any longer: every seat is told, and every later one will be. Comes back at once."""
        with self._lock:
            self._stopping = True
            self._fail_all("the server is stopping")
            for seat in self._turns:
                seat.fail(EngineError("the server is stopping"))
            self._turns.clear()
            self._changed.notify_all()

    def seat(self) -> Seat:
        """A seat for one client. Raises EngineError before the model is ready."""
        return Seat(self, self._lock)

    def wait_with(self, seat: Seat, requests: Sequence[Request]) -> None:
        """Put a seat's requests into the queue. Raises EngineError where it has failed, or the server stops."""
        with self._lock:
            if self._stopping:
                seat.fail(EngineError("the server is stopping"))
            if seat.error is not None:
                raise seat.error
            if requests and not seat.waiting:
                self._turns.append(seat)
            seat.waiting.extend(requests)
            self._changed.notify_all()

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            made = self._make()
            self._reranker = made
            try:
                with alone(made.engine):
                    while self._take_turns(made):
                        pass
            finally:
                self.give_up()
                made.engine.close()
        except BaseException as error:
            failure = error
        self._ended(failure)

    def _take_turns(self, made: Reranker) -> bool:
        """Fill the slots and hand out what was answered; False when the server stops."""
        with self._lock:
            while not (self._turns or self._flight or self._stopping):
                self._changed.wait()
            if self._stopping:
                return False
            batch = self._next_requests(made.engine.capacity)
        try:
            if batch:
                made.engine.submit(batch, made.decoding)
            replies = self._collect(made.engine) if self._flight else []
        except Exception as error:
            _LOGGER.error("the engine failed: %s", error)
            with self._lock:
                self._unwell_since = time.monotonic()
                self._fail_all(f"the engine failed: {str(error).strip() or type(error).__name__}")
            cancel = getattr(made.engine, "cancel", None)
            if cancel is not None:
                cancel()
            return True
        self._hand_out(replies)
        return True

    def _collect(self, engine: Any) -> list[tuple[int, Reply]]:
        """What is finished. An engine that can is asked to come back soon: others may want its free slots."""
        if "timeout" in inspect.signature(engine.collect).parameters:
            return engine.collect(timeout=_TURN)  # type: ignore[no-any-return]
        return engine.collect()  # type: ignore[no-any-return]

    def _next_requests(self, capacity: int) -> list[Request]:
        """Requests for the free slots, one of each seat in turn; the lock is held."""
        batch: list[Request] = []
        while self._turns and len(self._flight) < max(capacity, 1):
            seat = self._turns.popleft()
            if not seat.waiting:
                continue  # it left
            request = seat.waiting.popleft()
            if seat.waiting:
                self._turns.append(seat)
            self._last += 1
            self._flight[self._last] = (seat, request.id)
            batch.append(replace(request, id=self._last))
        return batch

    def _hand_out(self, replies: Sequence[tuple[int, Reply]]) -> None:
        with self._lock:
            for number, reply in replies:
                seat, its_number = self._flight.pop(number, (None, 0))
                if seat is None or seat.error is not None:
                    continue  # of a call that was given up, or of a client that is gone
                self._unwell_since = None
                seat.answers.append((its_number, reply))
                seat.answered.notify_all()

    def _fail_all(self, why: str) -> None:
        """Tell the seats that have something in flight; the lock is held."""
        for seat, _ in self._flight.values():
            seat.fail(EngineError(why))
        self._flight.clear()
