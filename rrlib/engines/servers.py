"""Several servers of one model as one: the least loaded is asked, and what one does not answer another is asked.

Health is learned from the calls themselves, and where there are several servers from /health. A server that fails
rests, twice as long each time; then one call at a time tries it, until one is answered. Its calls in flight that fail
go to the others at once; those it still answers count. A call that a server refuses for what stands in it (400, 413,
422) is refused: the others would say the same.

/health is asked every few seconds. A server that answers 503 there drains: it gets no new calls, those it has may
finish, and it is used again when it answers 200. One that answered 200 and then gives no answer, or another 5xx, three
times in a row, is asked only where there is no other. Any other answer says that there is no /health, and it is not
asked for again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from rrlib.engines.base import Reply
from rrlib.engines.client import (
    NEVER_REACHED,
    FatalCallError,
    OpenAIClient,
    RefusedCallError,
    UnreachableError,
)
from rrlib.engines.inflight import FIRST, HIGHEST, InFlightLimit
from rrlib.engines.retries import TIMED_OUT
from rrlib.errors import EngineError, InputError

SHORTEST_REST, LONGEST_REST = 0.5, 30.0
"""Seconds that a server is not asked after its first failure, and at most."""

HEALTH_EVERY, HEALTH_TIMEOUT = 2.0, 5.0
"""Seconds between two looks at /health, and that it has to answer; a busy server may be slow at it."""

MISSES = 3
"""Looks in a row without an answer after which a server counts as gone."""

REFUSALS = ("400", "413", "422")
"""Statuses that speak of the one call, not of the server."""

_LOGGER = logging.getLogger("rrlib.engines")

Call = Callable[[OpenAIClient], Awaitable[Reply]]
"""One question, to be put to whichever server it goes to."""


class Server:
    """One of the servers: its client, its limit, and how it does.

    failures: failed tries since its last answer, those of one moment counted once. refuses: it turns all calls down
    (a wrong key, no such model), as far as is known. drains: /health says that it wants no new calls. misses: looks in
    a row that got no answer from /health, since it was well.
    """

    def __init__(self, client: OpenAIClient, limit: InFlightLimit) -> None:
        self.client, self.limit = client, limit
        self.answers = self.failures = self.misses = 0
        self.refuses = self.said_to_fail = self.drains = self._was_well = False
        self._failed_at = self._rests_until = self._asked_until = 0.0

    @property
    def rests_until(self) -> float:
        """On the clock of time.monotonic: after failures, or as long as the server asks to wait."""
        return max(self._rests_until, self._asked_until)

    @property
    def out(self) -> bool:
        """Whether it is out of use by what /health says."""
        return self.drains or self.misses >= MISSES

    @property
    def awake(self) -> bool:
        """Whether it may be asked: it does not rest, and one that failed has no other call to try it with."""
        rests = self.out or time.monotonic() < self.rests_until
        return not rests and (not self.failures or not self.limit.in_flight)

    @property
    def room(self) -> int:
        """Calls that it is given at once: its limit; 1 after a failure; 0 while it rests or is out of use."""
        return 0 if self.out or time.monotonic() < self.rests_until else 1 if self.failures else self.limit.value

    @property
    def preference(self) -> tuple[float, int]:
        """Less is better: its share of the limit that would be in flight; then how much it has answered."""
        return (self.limit.in_flight + 1) / self.limit.value, self.answers

    def failed(self, what: str, seconds: float, wait: float | None) -> None:
        """Take in a try that failed (rrlib.engines.client.Told)."""
        now = time.monotonic()
        if what in ("429", "503", TIMED_OUT):
            self.limit.pushed_back(seconds)
        if wait is not None:
            self._asked_until = now + min(wait, self.client.max_wait)
        if not self.failures or now - seconds >= self._failed_at:  # else it is of the same moment as the one before
            self.failures, self._failed_at = self.failures + 1, now
            rest = min(SHORTEST_REST * 2.0 ** min(self.failures - 1, 10), LONGEST_REST)
            self._rests_until = now + rest

    def answered(self) -> None:
        """Take in an answer: it is well."""
        self.answers += 1
        self.failures, self._rests_until, self.refuses = 0, 0.0, False

    async def watch(self) -> None:
        """Look at /health every HEALTH_EVERY seconds, as long as there is one."""
        has_one = True
        while has_one:
            try:
                status = await self.client.health(HEALTH_TIMEOUT)
            except FatalCallError:
                return  # the calls say so too
            was_out = self.out
            has_one = self._learn(status)
            if self.out != was_out:
                how = "drains" if self.drains else "is gone" if self.out else "is back"
                _LOGGER.warning("%s %s: its /health says %s", self.client.base_url, how, status or "nothing")
            await asyncio.sleep(HEALTH_EVERY)

    def _learn(self, status: int | None) -> bool:
        """Take in what /health answered, None for nothing. False where there is no /health."""
        if status is None or (status >= 500 and status not in (501, 503)):
            self.misses += self._was_well
            return True
        if self.out and status == 200:
            self._rests_until = 0.0  # asked at once; where it had failed, with one call
        self._was_well = self._was_well or status == 200
        self.misses, self.drains = 0, status == 503
        return status in (200, 503)


class Servers:
    """Servers of one model. concurrency: calls in flight over all of them; None: found for each by itself.

    Raises InputError where there is none, one is named twice, or concurrency is below 1.
    """

    def __init__(self, clients: Sequence[OpenAIClient], concurrency: int | None = None) -> None:
        if concurrency is not None and concurrency < 1:
            raise InputError(f"concurrency {concurrency}", remedy="give 1 or more")
        addresses = [client.base_url.rstrip("/") for client in clients]
        if not addresses:
            raise InputError("no server is named", remedy="write --base-url http://host:port/v1")
        for address in addresses:
            if addresses.count(address) > 1:
                raise InputError(f"the server {address} is named twice", remedy="name each server once")
        share = None if concurrency is None else -(-concurrency // len(clients))
        first, highest = (FIRST, HIGHEST) if share is None else (share, share)
        self.concurrency = concurrency
        self.servers = [Server(client, InFlightLimit(first, highest)) for client in clients]
        for server in self.servers:
            server.client.told = self._listener(server)
            server.client.give_way = lambda server=server: self._other_than(server)  # type: ignore[misc]
        self._watches: list[asyncio.Task[None]] = []

    @property
    def capacity(self) -> int:
        """Calls to keep in flight, at least 1."""
        if self.concurrency is not None:
            return self.concurrency
        if len(self.servers) == 1:
            return self.servers[0].limit.value
        return max(1, sum(server.room for server in self.servers))

    async def ask(self, call: Call) -> Reply:
        """Put a question to the least loaded server, and where that fails to another one.

        Where all servers drain it waits for one, as long as a call may take; then it asks one of them.
        Raises RefusedCallError, FatalCallError where no server answers or one that never did refuses all calls, and
        EngineError when the tries are used up.
        """
        began, moves = time.monotonic(), 0
        self._watch()
        while True:
            while all(s.drains for s in self.servers) and time.monotonic() - began < self.servers[0].client.timeout:
                await asyncio.sleep(0.05)
            server = self._pick()
            try:
                reply = await self._ask_one(server, call)
            except RefusedCallError:
                raise
            except EngineError as error:
                moves += 1
                server.refuses = isinstance(error, FatalCallError) and not isinstance(error, UnreachableError)
                wrong = server.refuses and not server.answers  # it was so from the beginning
                if wrong or all(server.refuses for server in self.servers) or len(self.servers) == 1:
                    raise
                if moves >= server.client.max_retries + len(self.servers) or self._nobody_there:
                    raise self._none_left(error) from None
                continue
            if not moves:
                return reply
            return replace(reply, retries=reply.retries + moves, seconds=time.monotonic() - began)

    async def _ask_one(self, server: Server, call: Call) -> Reply:
        work = 0
        began = server.limit.start()
        try:
            reply = await call(server.client)
            work = reply.tokens_in + reply.tokens_out or 1
        finally:
            server.limit.finish(began, work)
        server.answered()
        if server.said_to_fail:
            server.said_to_fail = False
            _LOGGER.warning("%s answers again", server.client.base_url)
        return reply

    @property
    def _nobody_there(self) -> bool:
        """Whether no server has ever answered, and each was tried a few times."""
        return all(server.failures >= NEVER_REACHED and not server.answers for server in self.servers)

    def _none_left(self, error: EngineError) -> EngineError:
        """The last error of a call that went from server to server."""
        if any(server.answers for server in self.servers):
            return EngineError(f"none of the {len(self.servers)} servers answered it; the last: {error}")
        return FatalCallError(f"none of the {len(self.servers)} servers has answered; the last: {error}")

    def _pick(self) -> Server:
        """The least loaded of those that may be asked; where none may, the one that rests the shortest. One that is out
        of use comes last, above all one that drains."""
        awake = [server for server in self.servers if server.awake]
        if awake:
            return min(awake, key=lambda server: server.preference)
        return min(self.servers, key=lambda s: (s.drains, s.out, s.rests_until, s.preference))

    def _other_than(self, server: Server) -> bool:
        return server.drains or any(other.awake for other in self.servers if other is not server)

    def _watch(self) -> None:
        """Look at the health of several servers, in the running loop, until the loop's tasks are cancelled or `close`.

        Begun anew for all after a cancel.
        """
        if len(self.servers) > 1 and (not self._watches or any(watch.cancelled() for watch in self._watches)):
            self._watches = [asyncio.create_task(server.watch()) for server in self.servers]

    def _listener(self, server: Server) -> Callable[[str, float, float | None], None]:
        def told(what: str, seconds: float, wait: float | None) -> None:
            if what in REFUSALS:
                return
            server.failed(what, seconds, wait)
            if not server.said_to_fail and what != "429" and len(self.servers) > 1:
                server.said_to_fail = True
                _LOGGER.warning("%s fails (%s): its calls go to the others", server.client.base_url, what)

        return told

    async def close(self) -> None:
        """Close the connections of the running loop."""
        for watch in self._watches:
            watch.cancel()
        self._watches = []
        for server in self.servers:
            await server.client.close()
