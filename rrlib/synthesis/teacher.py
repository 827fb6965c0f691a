"""Asking a teacher: any chat client (`async chat(messages, decoding) -> Reply`), counted and written down.

Retries are the client's business. A call that failed for good is a counted failure and is not stored, so the next run
asks it again; a teacher that fails many times in a row stops the run with its own words, before money is lost.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeVar

from rrlib.engines.base import Decoding, Message, Reply
from rrlib.errors import EngineError
from rrlib.synthesis import prompts

T = TypeVar("T")


class ChatClient(Protocol):
    """Anything that answers messages. `model`, where it has one, names it in every record."""

    async def chat(self, messages: Sequence[Message], decoding: Decoding) -> Reply: ...


@dataclass
class Usage:
    """What the teacher was asked in this run: calls (failed ones too), tokens and seconds summed over calls."""

    calls: int = 0
    failed: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    in_a_row: int = field(default=0, repr=False)


@dataclass
class Teacher:
    """A chat client with its decoding settings, a base seed and a limit on calls in flight.

    patience: how many calls may fail in a row before EngineError is raised.
    """

    client: ChatClient
    decoding: Decoding
    seed: int
    patience: int = 20
    usage: Usage = field(default_factory=Usage)

    @property
    def model(self) -> str:
        """The name of the model as the client knows it."""
        return str(getattr(self.client, "model", type(self.client).__name__))

    def decoding_for(self, key: str) -> Decoding:
        """The settings of one call: its sampling seed follows from the run's seed and the call's id."""
        return replace(self.decoding, seed=derived_seed(self.seed, key))

    async def ask(self, key: str, messages: Sequence[Message]) -> dict[str, Any] | None:
        """Ask once. Returns the raw part of a store record, or None when the call failed.

        Raises EngineError when `patience` calls in a row have failed, and whatever the client itself raises.
        """
        decoding = self.decoding_for(key)
        start = time.perf_counter()
        reply = await self.client.chat(messages, decoding)
        seconds = reply.seconds or time.perf_counter() - start
        usage = self.usage
        usage.calls += 1
        usage.retries += reply.retries
        usage.seconds += seconds
        usage.tokens_in += reply.tokens_in
        usage.tokens_out += reply.tokens_out
        if reply.error is not None:
            usage.failed += 1
            usage.in_a_row += 1
            if usage.in_a_row >= self.patience:
                raise EngineError(f"the teacher {self.model} failed {usage.in_a_row} times in a row: {reply.error}")
            return None
        usage.in_a_row = 0
        return {
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
            "seconds": round(seconds, 3),
            "retries": reply.retries,
        }


def derived_seed(seed: int, key: str) -> int:
    """A 31-bit seed for one id, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:4], "big") >> 1


def request_hash(messages: Sequence[Message]) -> str:
    """A short hash of what was asked: tells a stored answer to this question from an answer to another one."""
    return hashlib.sha256(json.dumps([dict(m) for m in messages], sort_keys=True).encode()).hexdigest()[:16]


def split_reply(text: str, reasoning: str, finish_reason: str) -> tuple[str, str, str | None]:
    """(reasoning, answer, fault) of a reply: the reasoning comes in a field of its own, or inline in <think>.

    fault: `cut_off` (by the token limit, or inside <think>), `empty`, or None.
    """
    head, closed, tail = text.rpartition("</think>")
    inline = head.partition("<think>")[2] if "<think>" in head else head
    chain = (reasoning.strip() or inline.strip()) if closed else reasoning.strip()
    answer = tail.strip()
    if finish_reason == "length" or (not closed and "<think>" in text):
        return chain, answer, "cut_off"
    if not answer:
        return chain, answer, "empty"
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

    threading.Thread(target=target, name="rrlib-synthesis").start()
    try:
        # Short waits, and on an event: an endless wait misses signals that another thread received, and an
        # interrupted Thread.join takes a running thread for a finished one (Python 3.11).
        while not finished.wait(0.2):
            pass
    except KeyboardInterrupt:
        if handle:
            loop, task = handle[0]
            loop.call_soon_threadsafe(task.cancel)
        finished.wait()
        raise
    if errors:
        raise errors[0]
    return outcome[0]
