"""Any OpenAI-compatible server: an async client with retries, and the engine that the scheduler drives.

A call that fails is a failure with a reason, never text: one toolkit returned the exception's message as the model's
answer and ranked by its digits. 429, 5xx, time-outs and dropped connections are tried again with back-off; 401, 403
and 404 stop the run at once with the server's message.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from rrlib.engines.base import Decoding, Message, Reply, Request
from rrlib.errors import EngineError, InputError

TOP_LOGPROBS = 20
"""Alternatives asked for with each scored token: what vLLM's server allows by default."""


class FatalCallError(EngineError):
    """The server refuses calls like this one: asking again is of no use."""


class RefusedCallError(EngineError):
    """The server refuses this one call (400, 413, 422): others may do."""


class _Unusable(Exception):
    """A 200 that holds no answer: an error body, no choices, not JSON. Tried again."""


def _retryable(error: BaseException) -> bool:
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError | openai.APIResponseValidationError | _Unusable | ValueError)


def _wait(state: Any) -> float:
    """Seconds before the next try: Retry-After where the server says so, else exponential with jitter, at most 60."""
    import tenacity

    error = state.outcome.exception() if state.outcome else None
    header = getattr(getattr(error, "response", None), "headers", {}).get("retry-after")
    try:
        if header is not None:
            return min(max(float(header), 0.0), 60.0)
    except ValueError:
        pass
    return float(tenacity.wait_random_exponential(multiplier=0.5, max=60)(state))


class OpenAIClient:
    """One server and one model. The key comes from the environment only and is never logged.

    timeout: seconds a call. max_retries: tries after the first. `chat` sends messages, `complete` a templated string
    to /v1/completions.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 600.0,
        max_retries: int = 6,
    ) -> None:
        import openai

        if not base_url.startswith(("http://", "https://")):
            raise InputError(f"base URL {base_url!r}", remedy="write http://host:port/v1")
        self.base_url, self.model, self.max_retries = base_url, model, max_retries
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=os.environ.get(api_key_env) or "none", timeout=timeout, max_retries=0
        )

    async def chat(self, messages: Sequence[Message], decoding: Decoding, stop: Sequence[str] = ()) -> Reply:
        """Ask /v1/chat/completions. The reasoning comes from `reasoning_content`, `reasoning`, or stays inline.

        Raises FatalCallError, RefusedCallError, or EngineError when the tries are used up.
        """

        async def ask() -> Any:
            return await self._client.chat.completions.create(
                model=self.model,
                messages=[dict(m) for m in messages],  # type: ignore[misc]
                **_settings(decoding, stop),
            )

        return await self._call(ask)

    async def complete(self, prompt: str, decoding: Decoding, stop: Sequence[str] = ()) -> Reply:
        """Ask /v1/completions with a templated prompt; the server must not add special tokens of its own."""

        async def ask() -> Any:
            settings = _settings(decoding, stop)
            settings["extra_body"] = {**settings["extra_body"], "add_special_tokens": False}
            return await self._client.completions.create(model=self.model, prompt=prompt, **settings)

        return await self._call(ask)

    async def score(self, prompt: str | None, messages: Sequence[Message], choices: Sequence[str]) -> Reply:
        """Log-probabilities of the choices as continuations: of a templated prompt, else as the answer to messages.

        One token is generated and its 20 likeliest alternatives are read. A choice of several tokens is known by its
        first; one that is not among them gets the least of theirs, an upper bound. Raises as `chat`, and EngineError
        where the server gives no log-probabilities.
        """

        async def ask() -> Any:
            if prompt is not None:
                return await self._client.completions.create(
                    model=self.model,
                    prompt=prompt,
                    max_tokens=1,
                    temperature=0.0,
                    logprobs=TOP_LOGPROBS,
                    extra_body={"add_special_tokens": False},
                )
            return await self._client.chat.completions.create(
                model=self.model,
                messages=[dict(m) for m in messages],  # type: ignore[misc]
                max_tokens=1,
                temperature=0.0,
                logprobs=True,
                top_logprobs=TOP_LOGPROBS,
            )

        return await self._call(ask, lambda response: _read_choices(response, choices))

    async def _call(self, ask: Callable[[], Awaitable[Any]], read: Callable[[Any], Reply] | None = None) -> Reply:
        import openai
        import tenacity

        began, tries = time.perf_counter(), 0
        try:
            async for attempt in tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception(_retryable),
                stop=tenacity.stop_after_attempt(self.max_retries + 1),
                wait=_wait,
                reraise=True,
            ):
                with attempt:
                    tries += 1
                    reply = (read or _read)(await ask())
        except openai.APIStatusError as error:
            message = f"{self.base_url} answered {error.status_code}: {_message(error)}"
            if error.status_code in (401, 402, 403, 404):
                raise FatalCallError(message) from error
            if error.status_code in (400, 413, 422):
                raise RefusedCallError(message) from error
            raise EngineError(f"{message} ({tries} tries)") from error
        except (openai.OpenAIError, _Unusable, ValueError) as error:
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            raise EngineError(f"{self.base_url}: {type(error).__name__}: {error}{cause} ({tries} tries)") from error
        return Reply(
            text=reply.text,
            reasoning=reply.reasoning,
            finish_reason=reply.finish_reason,
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            seconds=time.perf_counter() - began,
            retries=tries - 1,
            logprobs=reply.logprobs,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _settings(decoding: Decoding, stop: Sequence[str] = ()) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "max_tokens": decoding.max_new_tokens,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "extra_body": {"top_k": decoding.top_k} if decoding.top_k > 0 else {},
    }
    if decoding.seed is not None:
        settings["seed"] = decoding.seed
    if stop:
        settings["stop"] = list(stop)
    return settings


def _message(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)[:500]


def _read(response: Any) -> Reply:
    """The first choice of a response. Raises _Unusable where there is none."""
    choices = getattr(response, "choices", None)
    if not choices:
        why = getattr(response, "error", None) or (response if isinstance(response, str) else "no choices")
        raise _Unusable(f"an answer without choices: {str(why)[:200]}")
    choice, usage = choices[0], getattr(response, "usage", None)
    message = getattr(choice, "message", None)
    if message is None:
        text, reasoning = getattr(choice, "text", None), ""
    else:
        text = message.content
        reasoning = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None) or ""
    if not isinstance(text, str | None):
        raise _Unusable(f"content of type {type(text).__name__}")
    return Reply(
        text=text or "",
        reasoning=str(reasoning),
        finish_reason=str(choice.finish_reason or ""),
        tokens_in=int(getattr(usage, "prompt_tokens", 0) or 0),
        tokens_out=int(getattr(usage, "completion_tokens", 0) or 0),
    )


def _read_choices(response: Any, choices: Sequence[str]) -> Reply:
    """The log-probabilities of the choices from the alternatives of the first generated token."""
    reply = _read(response)
    given = getattr(response.choices[0], "logprobs", None)
    rows = getattr(given, "top_logprobs", None)  # completions: a dict a token; chat: content[0].top_logprobs, a list
    if rows and isinstance(rows[0], dict):
        found = {str(token): float(value) for token, value in rows[0].items()}
    else:
        content = getattr(given, "content", None) or []
        found = {str(row.token): float(row.logprob) for row in (content[0].top_logprobs if content else [])}
    if not found:
        raise EngineError("the server gave no log-probabilities: pointwise scores need a server that gives them")
    floor = min(found.values())
    logprobs: dict[str, float] = {}
    for choice in choices:
        others = [other for other in choices if other != choice]
        fits = [t for t in found if t and choice.startswith(t) and not any(o.startswith(t) for o in others)]
        logprobs[choice] = found[max(fits, key=len)] if fits else floor
    return replace(reply, text="", finish_reason="stop", logprobs=logprobs)


class OpenAIEngine:
    """The engine over a server: `concurrency` calls in flight, answers taken as they come.

    tokenizer: a model folder or hub name whose tokenizer the server uses; where it is known the templated string goes
    to /v1/completions, so that the prompt is byte-exact; else messages go to /v1/chat/completions.
    """

    name = "openai"

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        tokenizer: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 32,
        timeout: float = 600.0,
        max_retries: int = 6,
    ) -> None:
        if concurrency < 1:
            raise InputError(f"concurrency {concurrency}", remedy="give 1 or more")
        self.model, self.capacity = model, concurrency
        self.tokenizer: Any = None
        if tokenizer is not None:
            from rrlib.engines.hf import load_tokenizer

            self.tokenizer = load_tokenizer(tokenizer)
        self.client = OpenAIClient(base_url, model, api_key_env, timeout, max_retries)
        self._done: queue.Queue[tuple[int, Reply | FatalCallError]] = queue.Queue()
        self._pending = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai-engine", daemon=True)
        self._thread.start()

    async def _one(self, request: Request, decoding: Decoding) -> None:
        began = time.perf_counter()
        outcome: Reply | FatalCallError
        try:
            if request.max_new_tokens is not None:
                decoding = replace(decoding, max_new_tokens=request.max_new_tokens)
            if request.choices:
                outcome = await self.client.score(request.prompt, request.messages, request.choices)
            elif request.prompt is not None:
                outcome = await self.client.complete(request.prompt, decoding, request.stop)
            else:
                outcome = await self.client.chat(request.messages, decoding, request.stop)
        except FatalCallError as error:
            outcome = error
        except Exception as error:  # whatever it was, the window keeps its order and the reason is logged
            outcome = Reply(error=str(error) or type(error).__name__, seconds=time.perf_counter() - began)
        self._done.put((request.id, outcome))

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        """Start the calls; they run on the engine's own thread."""
        for request in requests:
            self._pending += 1
            asyncio.run_coroutine_threadsafe(self._one(request, decoding), self._loop)

    def collect(self) -> list[tuple[int, Reply]]:
        """Wait for one answer, and take all others that are there. Raises FatalCallError."""
        out: list[tuple[int, Reply]] = []
        while self._pending and (not out or not self._done.empty()):
            number, outcome = self._done.get()
            self._pending -= 1
            if isinstance(outcome, FatalCallError):
                raise outcome
            out.append((number, outcome))
        return out

    def close(self) -> None:
        """Cancel what is in flight and end the thread."""
        if self._loop.is_closed() or not self._thread.is_alive():
            return

        async def shut() -> None:
            others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self.client.close()

        asyncio.run_coroutine_threadsafe(shut(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()
