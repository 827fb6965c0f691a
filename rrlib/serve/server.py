"""A server on a port: it listens at once, is healthy when the model is loaded, and stops when all are served."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import uvicorn

from rrlib.errors import EngineError, InputError
from rrlib.rerank import Reranker
from rrlib.serve.app import Service
from rrlib.serve.guard import Limits
from rrlib.serve.log import ServedWindows
from rrlib.serve.slots import Slots


class _Uvicorn(uvicorn.Server):
    """uvicorn, which tells those who still wait after `grace` seconds that it stops, and does not only cut them off."""

    def __init__(self, config: uvicorn.Config, grace: float, give_up: Callable[[], None]) -> None:
        super().__init__(config)
        self.grace, self.give_up = grace, give_up

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(self.grace, self.give_up)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()


class Server:
    """Serves the reranker that `make` makes, at `url`; `run()` in this thread, or `with Server(...) as server:`.

    make: called in the engine's own thread, which loads, asks and closes the model. model: the name that clients use.
    port: 0 is any free one. key: what clients must send; "" is none. grace: seconds that requests may take to finish
    when it stops. ready: called when the model is loaded. log: a file that gets every finished window
    (rrlib.serve.log). Raises InputError where it cannot listen at host and port, or write the log.
    """

    def __init__(
        self,
        make: Callable[[], Reranker],
        model: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str = "",
        limits: Limits | None = None,
        grace: float = 30.0,
        ready: Callable[[], None] = lambda: None,
        log: Path | None = None,
    ) -> None:
        self._failure: BaseException | None = None
        self._socket = _listening(host, port)
        self._log = None if log is None else ServedWindows(log)

        def made() -> Reranker:
            reranker = make()
            if reranker.prompts.tokenizer is not None:
                reranker.prompts.tokenizer("", add_special_tokens=False)  # sets it up, before threads share it
            if self._log is not None:
                self._log.settings = reranker.settings()
            ready()
            return reranker

        self.slots = Slots(made, self._engine_ended)
        self.service = Service(self.slots, model, limits or Limits(), key, self._log)
        port = self._socket.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        config = uvicorn.Config(
            self.service.app, lifespan="off", loop="asyncio", http="h11", ws="none", log_config=None, access_log=False,
            timeout_graceful_shutdown=round(grace) + 5, server_header=False,
        )  # fmt: skip
        self._uvicorn = _Uvicorn(config, grace, self.slots.give_up)
        self._thread: threading.Thread | None = None

    def _engine_ended(self, failure: BaseException | None) -> None:
        self._failure = self._failure or failure
        self._uvicorn.should_exit = True

    def run(self) -> None:
        """Serve until SIGINT, SIGTERM or `stop`. Raises what the model could not be loaded with."""
        self.slots.start()
        try:
            with self._signals():
                self._uvicorn.run(sockets=[self._socket])
        finally:
            self.service.desk.stop()
            self._socket.close()
            if self._log is not None:
                self._log.close()
        if self._failure is not None:
            raise self._failure

    def start(self, timeout: float = 60.0) -> Server:
        """Serve in a thread of its own; comes back when the model is loaded. Raises what it could not be loaded with,
        and EngineError after timeout seconds."""
        self._thread = threading.Thread(target=self._run_apart, name="server", daemon=True)
        self._thread.start()
        ends = time.monotonic() + timeout
        while self.slots.state == "loading" or not self._uvicorn.started:
            if self._failure is not None:
                raise self._failure
            if time.monotonic() > ends:
                self.stop()
                raise EngineError(f"the model was not loaded within {timeout:g} seconds")
            time.sleep(0.01)
        return self

    def _run_apart(self) -> None:
        try:
            self.run()
        except BaseException as error:  # told by `start`, in the thread of whoever called it
            self._failure = error

    def stop(self) -> None:
        """Take no more requests, let those that are inside finish, and end. Safe to call twice."""
        self._uvicorn.should_exit = True
        if self._thread is not None:
            self._thread.join()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """uvicorn stops gracefully at a signal, and then raises it again: by then it has done what it was sent for."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: object) -> None:
            self._uvicorn.should_exit = True

        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(
            f"cannot serve at {host}:{port}: {error.strerror or error}", remedy="choose another --port or --host"
        ) from error
