"""The engine over OpenAI-compatible servers: calls of rrlib.engines.client on a thread of their own."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rrlib.engines.base import Decoding, Reply, Request
from rrlib.engines.client import FatalCallError, OpenAIClient
from rrlib.engines.provider import Provider
from rrlib.engines.servers import Servers
from rrlib.errors import EngineError, innermost


class OpenAIEngine:
    """The engine over a server, or over several that serve the same model: answers are taken as they come.

    base_url: an address or several; key, provider and all else hold for each (rrlib.engines.servers). concurrency:
    calls in flight over all servers; None: found for each server while it works (rrlib.engines.inflight). tokenizer: a
    model folder or hub name whose tokenizer the servers use; where it is known the templated string goes to
    /v1/completions, so that the prompt is byte-exact; else messages go to /v1/chat/completions. timeout: seconds a
    call. max_retries: tries after the first. provider: see rrlib.engines.provider.
    """

    name = "openai"
    asks_model = True

    def __init__(
        self,
        model: str,
        *,
        base_url: str | Sequence[str],
        tokenizer: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int | None = None,
        timeout: float = 600.0,
        max_retries: int = 6,
        provider: Provider | Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        addresses = [base_url] if isinstance(base_url, str) else list(base_url)
        clients = [OpenAIClient(a, model, api_key_env, timeout, max_retries, provider=provider) for a in addresses]
        self.servers = Servers(clients, concurrency)
        self.provider, self._keys = clients[0].provider, clients[0].keys
        self.tokenizer: Any = None
        if tokenizer is not None:
            from rrlib.engines.hf import load_tokenizer

            self.tokenizer = load_tokenizer(tokenizer)
        self._done: queue.Queue[tuple[int, Reply | FatalCallError]] = queue.Queue()
        self._pending = 0
        self._fatal: FatalCallError | None = None  # raised when all that is in flight has come back
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai-engine", daemon=True)
        self._thread.start()

    @property
    def capacity(self) -> int:
        """Calls to keep in flight: as many as were asked for, else as many as the servers are found to do; none from a
        fatal answer on until it is raised."""
        return 0 if self._fatal else self.servers.capacity

    async def _one(self, request: Request, decoding: Decoding) -> None:
        began = time.perf_counter()
        outcome: Reply | FatalCallError
        try:
            if request.max_new_tokens is not None:
                decoding = replace(decoding, max_new_tokens=request.max_new_tokens)
            if request.seed is not None:
                decoding = replace(decoding, seed=request.seed)
            outcome = await self.servers.ask(lambda client: _asked(client, request, decoding))
        except FatalCallError as error:
            outcome = error
        except Exception as error:  # whatever it was, the window keeps its order and the reason is logged
            cause = innermost(error)
            why = self._keys.hide(str(cause)) or type(cause).__name__
            outcome = (
                cause if isinstance(cause, FatalCallError) else Reply(error=why, seconds=time.perf_counter() - began)
            )
        self._done.put((request.id, outcome))

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        """Start the calls; they run on the engine's own thread. Behind a fatal answer none is: `collect` raises it."""
        if self._loop.is_closed():
            raise EngineError("this engine is closed -> make another")
        if self._fatal is not None:
            return
        for request in requests:
            self._pending += 1
            asyncio.run_coroutine_threadsafe(self._one(request, decoding), self._loop)

    def collect(self, timeout: float | None = None) -> list[tuple[int, Reply]]:
        """Wait for one answer, and take all others that are there. timeout: seconds to wait; then it may be none.

        Raises FatalCallError when nothing is in flight any longer: what the other calls bring is paid for.
        """
        out: list[tuple[int, Reply]] = []
        while self._pending and (not out or not self._done.empty()):
            try:
                number, outcome = self._done.get(timeout=timeout)
            except queue.Empty:
                break
            self._pending -= 1
            if isinstance(outcome, FatalCallError):
                self._fatal = self._fatal or outcome
            else:
                out.append((number, outcome))
        if self._fatal is not None and not out and not self._pending:
            fatal, self._fatal = self._fatal, None
            raise fatal
        return out

    async def _cancel_all(self) -> None:
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def cancel(self) -> None:
        """Give up the calls in flight, and forget the answers that were not collected."""
        if self._loop.is_closed() or not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result(timeout=10)
        self._pending, self._fatal = 0, None
        while not self._done.empty():
            self._done.get()

    def close(self) -> None:
        """Cancel what is in flight and end the thread."""
        if self._loop.is_closed() or not self._thread.is_alive():
            return
        self.cancel()
        asyncio.run_coroutine_threadsafe(self.servers.close(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()


async def _asked(client: OpenAIClient, request: Request, decoding: Decoding) -> Reply:
    """A request put to one server in the form that it asks for."""
    if request.choices:
        return await client.score(request.prompt, request.messages, request.choices)
    if request.prompt is not None:
        return await client.complete(request.prompt, decoding, request.stop)
    return await client.chat(request.messages, decoding, stop=request.stop)
