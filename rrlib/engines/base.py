"""One protocol for everything that answers prompts: submit requests, collect completions as they finish.

The scheduler (rrlib.scheduler) keeps `capacity` requests in flight and never waits for a particular one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from rrlib.errors import InputError
from rrlib.records import Key


@dataclass(frozen=True, slots=True)
class Decoding:
    """Decoding settings; recorded in every log line, because a changed default once cost a toolkit two months.

    max_new_tokens: limit on generated tokens (the paper: 3072 of reasoning, 3072 + 100 at inference).
    temperature 0 = greedy. top_k 0 or -1 = off. seed None = the engine's own, else 0 <= seed < 2**63.
    Raises InputError for a value out of its range.
    """

    max_new_tokens: int = 3172
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("temperature", 0.0 <= self.temperature < math.inf, "0 (greedy) or more"),
            ("top_p", 0.0 < self.top_p <= 1.0, "more than 0, and at most 1"),
            ("top_k", self.top_k >= -1, "1 or more, or 0 for none"),
            ("seed", self.seed is None or 0 <= self.seed < 2**63, "0 or more, below 2**63"),
        ):
            if not fits:
                raise InputError(f"{name} {getattr(self, name)} is out of range", remedy=f"give {wanted}")


Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": str}"""


@dataclass(frozen=True, slots=True)
class Request:
    """One question. `prompt` is the templated string where the tokenizer is known; `messages` where it is not.

    ids: those of `prompt`, where they are known already.
    key: where this window belongs, for engines that look answers up (rrlib.records.Key).
    max_new_tokens: a limit of this request alone. stop: strings at which generation ends; they are not in the text.
    choices: generate nothing, but give the log-probability of each of these continuations of `prompt`.
    seed: of this request's sampling; None is that of the decoding.
    """

    id: int
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    ids: Sequence[int] | None = None
    key: Key | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. `error` is set, and `text` empty, when the call failed: a failure is never text.

    logprobs: natural log-probability of each of the request's choices, given its prompt.
    """

    text: str = ""
    reasoning: str = ""
    finish_reason: str = "stop"
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    error: str | None = None
    retries: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    logprobs: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Engine(Protocol):
    """What the scheduler needs of an engine."""

    name: str
    model: str
    asks_model: bool
    """Whether answers come from a model; else they are looked up by `Request.key`, and requests carry no prompt."""
    capacity: int
    """How many requests it wants in flight."""

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        """Take requests; must not block on their answers."""

    def collect(self) -> list[tuple[int, Reply]]:
        """Block until at least one submitted request has finished; return (request id, reply) of all that have."""

    def close(self) -> None:
        """Free what the engine holds; safe to call twice.

        An engine may have `cancel()` too: give up what is in flight, and be ready for other requests.
        """
