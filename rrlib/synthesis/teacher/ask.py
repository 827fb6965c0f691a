"""Asking a teacher: any chat client (`async chat(messages, decoding) -> Reply`), booked, and written down.

Retries are the client's business; the ledger is told of each. A call that failed for good is counted and not stored,
so the next run asks it again; a teacher that fails many times in a row stops the run with its own words, before money
is lost. What a simulated teacher tells about itself (`Reply.extra`) goes into the record under `simulated`.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import inspect
import json
import re
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeVar

from rrlib.engines.base import Decoding, Message, Reply
from rrlib.engines.client import FatalCallError
from rrlib.engines.limits import size_of
from rrlib.errors import EngineError, innermost
from rrlib.reading import split_reasoning
from rrlib.synthesis import prompts
from rrlib.synthesis.fates import Fault
from rrlib.synthesis.teacher.cache import ResponseCache
from rrlib.synthesis.teacher.ledger import BudgetError, Ledger

T = TypeVar("T")


class ChatClient(Protocol):
    """Anything that answers messages. `model`, where it has one, names it in every record.

    A client whose `chat` takes `watch` (see rrlib.engines.client.Watch) has its retries booked one by one.
    """

    async def chat(self, messages: Sequence[Message], decoding: Decoding) -> Reply: ...


def model_name(client: Any) -> str:
    """What a record calls the client's model: its own name for it, or the name of its class."""
    return str(getattr(client, "model", type(client).__name__))


@dataclass
class Usage:
    """What the teacher was asked in this run: calls (failed and cached ones too), tokens and seconds over calls.

    lost: calls asked again, since they were in flight when an earlier run was killed. usd, possible_usd: of this run,
    see rrlib.synthesis.teacher.ledger; None without a price.
    """

    calls: int = 0
    failed: int = 0
    retries: int = 0
    cached: int = 0
    lost: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    usd: float | None = None
    possible_usd: float | None = None
    in_a_row: int = field(default=0, repr=False)


@dataclass
class Teacher:
    """A chat client with its decoding settings, a base seed, its books and perhaps a cache.

    patience: how many calls may fail in a row before EngineError is raised. halted: set it, and no call is begun or
    tried again; those in flight end as they do.
    """

    client: ChatClient
    decoding: Decoding
    seed: int
    ledger: Ledger
    patience: int = 20
    cache: ResponseCache | None = None
    usage: Usage = field(default_factory=Usage)
    halted: bool = False

    def __post_init__(self) -> None:
        self._watched = "watch" in inspect.signature(self.client.chat).parameters
        account = self.ledger.account
        self._before = (account.usd, account.possible_usd, account.lost)

    @property
    def model(self) -> str:
        """The name of the model as the client knows it."""
        return model_name(self.client)

    def decoding_for(self, key: str) -> Decoding:
        """The settings of one call: its sampling seed follows from the run's seed and the call's id."""
        return replace(self.decoding, seed=derived_seed(self.seed, key))

    async def ask(self, key: str, messages: Sequence[Message], keep: Callable[[dict[str, Any]], None]) -> bool:
        """Ask once, and hand the raw part of a store record to `keep`. Returns False when the call failed.

        Raises EngineError when `patience` calls in a row have failed, BudgetError when the money is up, and whatever
        else ends the run; the books are kept in every case.
        """
        decoding = self.decoding_for(key)
        cached = self.cache.get(self.client, messages, decoding) if self.cache is not None else None
        most = self.ledger.most(size_of(messages), decoding.max_new_tokens)
        if cached is None:
            await self.ledger.begin(key, most)
        try:
            start = time.perf_counter()
            reply = cached if cached is not None else await self._call(key, messages, decoding, most)
            seconds = 0.0 if cached is not None else reply.seconds or time.perf_counter() - start
            if reply.error is None:
                if cached is None and self.cache is not None:
                    self.cache.put(self.client, messages, decoding, reply)
                keep(self._record(key, messages, decoding, reply))
                self.ledger.end(key, reply.tokens_in, reply.tokens_out, seconds, cached is not None)
        finally:
            self.ledger.release(key)  # or others would wait for its money for ever
        self._count(reply, seconds, cached is not None)
        return reply.error is None

    async def _call(self, key: str, messages: Sequence[Message], decoding: Decoding, most: float | None) -> Reply:
        """The client's reply; a call that failed for good is booked as such, and comes back with its error."""
        least = self.ledger.most(size_of(messages), 0)

        async def watch(why: str, turned_down: bool) -> None:
            self.usage.retries += 1
            self.ledger.retry(key, why, most, least if turned_down else None)
            if self.halted:
                raise EngineError("the run is stopping, so the call was not tried again")

        try:
            try:
                if self._watched:
                    reply = await self.client.chat(messages, decoding, watch=watch)  # type: ignore[call-arg]
                else:
                    reply = await self.client.chat(messages, decoding)
                    self.usage.retries += reply.retries
            except BaseExceptionGroup as group:  # a client with task groups of its own
                raise innermost(group) from group
        except BudgetError as error:
            self.ledger.fail(key, str(error), 0.0)  # its last try is booked as a retry
            raise
        except FatalCallError as error:
            self.ledger.fail(key, str(error), least)
            raise
        except EngineError as error:
            reply = Reply(error=str(error))
        if reply.error is not None:
            self.ledger.fail(key, reply.error, most)
        return reply

    def _count(self, reply: Reply, seconds: float, cached: bool) -> None:
        usage, account = self.usage, self.ledger.account
        usage.calls += 1
        usage.cached += cached
        usage.seconds += seconds
        usage.tokens_in += 0 if cached else reply.tokens_in
        usage.tokens_out += 0 if cached else reply.tokens_out
        usd, possible, lost = self._before
        usage.usd = None if account.usd is None else account.usd - (usd or 0.0)
        usage.possible_usd = None if account.possible_usd is None else account.possible_usd - (possible or 0.0)
        usage.lost = account.lost - lost
        if reply.error is None:
            usage.in_a_row = 0
            return
        usage.failed += 1
        usage.in_a_row += 1
        if usage.in_a_row >= self.patience:
            raise EngineError(f"the teacher {self.model} failed {usage.in_a_row} times in a row: {reply.error}")

    def _record(self, key: str, messages: Sequence[Message], decoding: Decoding, reply: Reply) -> dict[str, Any]:
        """What the store keeps of a reply: nothing that another run of the same calls would have otherwise."""
        record: dict[str, Any] = {
            "id": key,
            "request": request_hash(messages),
            "prompt_version": prompts.VERSION,
            "model": self.model,
            "teacher_kind": str(reply.extra.get("data_kind", "real")),
            "decoding": asdict(decoding),
            "text": reply.text,
            "reasoning": reply.reasoning,
            "finish_reason": reply.finish_reason,
            "tokens_in": reply.tokens_in,
            "tokens_out": reply.tokens_out,
        }
        if record["teacher_kind"] == "simulated":
            hidden = ("data_kind", "cached")
            record["simulated"] = {name: value for name, value in reply.extra.items() if name not in hidden}
        return record


def derived_seed(seed: int, key: str) -> int:
    """A 31-bit seed for one id, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:4], "big") >> 1


def request_hash(messages: Sequence[Message]) -> str:
    """A short hash of what was asked: tells a stored answer to this question from an answer to another one."""
    return hashlib.sha256(json.dumps([dict(m) for m in messages], sort_keys=True).encode()).hexdigest()[:16]


def split_reply(text: str, reasoning: str, finish_reason: str) -> tuple[str, str, Fault | None]:
    """(reasoning, answer, fault) of a reply: the reasoning comes in a field of its own, or inline in its tags.

    fault: `cut_off` (by the token limit, or inside the reasoning), `empty`, or None.
    """
    split = split_reasoning(text)
    chain, answer = (reasoning.strip() or split.reasoning) if split.closed else reasoning.strip(), split.rest.strip()
    if finish_reason == "length" or split.open:
        return chain, answer, Fault.CUT_OFF
    if not answer:
        return chain, answer, Fault.EMPTY
    return chain, answer, None


_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:can(?:not|'t)|won't|must decline)|unable to (?:help|comply)"
    r"|unable to assist|as an ai\b)",
    re.IGNORECASE,
)


def looks_like_refusal(answer: str) -> bool:
    """Whether an answer without a list is the teacher declining; only the name of the fault depends on it."""
    return bool(_REFUSAL.search(answer.replace("\u2019", "'")))


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """asyncio.run that also works inside a running loop (Jupyter): there, in a thread of its own.

    Ctrl-C cancels the work and waits until it has put its things away.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    outcome: list[T] = []
    errors: list[BaseException] = []
    handle: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    finished = threading.Event()

    async def main() -> T:
        task = asyncio.current_task()
        assert task is not None
        handle.append((asyncio.get_running_loop(), task))
        return await work

    def target() -> None:
        try:
            outcome.append(asyncio.run(main()))
        except BaseException as error:  # handed to the caller's thread
            errors.append(error)
        finally:
            finished.set()

    # In the caller's context: a notebook's kernel knows by it which cell an output belongs to.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(target,), name="rrlib-synthesis")
    try:
        thread.start()
        # Short waits, and on an event: an endless wait misses signals that another thread received, and an
        # interrupted Thread.join takes a running thread for a finished one (Python 3.11).
        while not finished.wait(0.2):
            pass
    except KeyboardInterrupt:
        while not handle and thread.ident is not None and not finished.wait(0.05):
            pass  # interrupted before the work had begun
        if handle:
            loop, task = handle[0]
            loop.call_soon_threadsafe(task.cancel)
            finished.wait()
        raise
    if errors:
        raise errors[0]
    return outcome[0]
