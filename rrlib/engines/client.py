"""The client of any OpenAI-compatible server: async, with retries that are booked one by one.

A call that fails is a failure with a reason, never text: one toolkit returned the exception's message as the model's
answer and ranked by its digits. 429, 5xx, time-outs and dropped connections are tried again with back-off; 401, 403
and 404, spent credit and a server that was never there stop the run at once with the server's message. The key is
read from the environment, and is cut out of every message.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from rrlib.engines.base import Decoding, Message, Reply
from rrlib.engines.limits import Pace, TokenGauge, size_of
from rrlib.errors import EngineError, InputError

TOP_LOGPROBS = 20
"""Alternatives asked for with each scored token: what vLLM's server allows by default."""

Watch = Callable[[str, bool], Awaitable[None]]
"""Awaited before a call is tried again, with what went wrong, and whether the server turned the try down (a status of
4xx or 5xx) rather than leave open what it did and billed. What it raises ends the call."""

EXTRA_FIELD = "rrlib"
"""A field of a response in which a simulated teacher says that it is one, and what it believed."""

NEVER_REACHED = 3
"""Tries after which a server that has not answered once is taken to be not there."""


class FatalCallError(EngineError):
    """The server refuses calls like this one: asking again is of no use."""


class RefusedCallError(EngineError):
    """The server refuses this one call (400, 413, 422): others may do."""


class _Unusable(Exception):
    """A 200 that holds no answer: an error body, no choices, not JSON. Tried again."""


def _retryable(error: BaseException) -> bool:
    import openai

    if isinstance(error, openai.APIStatusError):
        if _spent(error):
            return False
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    passing = openai.APIConnectionError | openai.APIResponseValidationError | _Unusable | ValueError | TimeoutError
    return isinstance(error, passing)


def _spent(error: Any) -> bool:
    """Whether a 429 says that there is no credit left: waiting does not help."""
    reasons = (getattr(error, "code", None), getattr(error, "type", None))
    return error.status_code == 429 and "insufficient_quota" in reasons


def _retry_after(error: Any) -> float | None:
    """Seconds that the server asks to wait: a number, or a date, in Retry-After."""
    header = getattr(getattr(error, "response", None), "headers", {}).get("retry-after")
    if header is None:
        return None
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _what(error: Any) -> str:
    """A failed try in a word or two, for the books: a status, or the kind of error."""
    status = getattr(error, "status_code", None)
    return str(status) if status is not None else "no answer in time" if _timed_out(error) else type(error).__name__


def _timed_out(error: Any) -> bool:
    import openai

    return isinstance(error, TimeoutError | openai.APITimeoutError)


class OpenAIClient:
    """One server and one model. The key comes from the environment only and is never logged.

    timeout: seconds a try, first byte to last. max_retries: tries after the first. backoff: seconds; the waits between
    tries are random up to backoff, twice, four times, ... that, at most max_wait (a Retry-After goes first, up to
    max_wait too). requests_per_minute, tokens_per_minute: limits of the account, 0 = none; every try counts. `chat`
    sends messages, `complete` a templated string to /v1/completions. Connections belong to an event loop: a client may
    be used from one loop after another, and after close(), not from two at a time.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 600.0,
        max_retries: int = 6,
        requests_per_minute: float = 0.0,
        tokens_per_minute: float = 0.0,
        backoff: float = 0.5,
        max_wait: float = 60.0,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise InputError(f"base URL {base_url!r}", remedy="write http://host:port/v1")
        if "@" in base_url.partition("://")[2].partition("/")[0] or "?" in base_url:  # it stands in records and errors
            raise InputError(
                "a base URL with a user, a password or a query in it", remedy=f"put the key into {api_key_env}"
            )
        if timeout <= 0 or max_retries < 0 or backoff < 0 or max_wait < 0:
            raise InputError("timeout, max_retries, backoff or max_wait is negative", remedy="give positive numbers")
        self.base_url, self.model, self.max_retries = base_url, model, max_retries
        self.timeout, self.backoff, self.max_wait = timeout, backoff, max_wait
        self.gauge = TokenGauge()
        self._requests, self._tokens = Pace(requests_per_minute), Pace(tokens_per_minute)
        self._reached = False
        self._key = os.environ.get(api_key_env) or ""
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _session(self) -> Any:
        """The connections of the running loop."""
        import openai

        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client = openai.AsyncOpenAI(
                base_url=self.base_url, api_key=self._key or "none", timeout=self.timeout, max_retries=0
            )
            self._loop = loop
        return self._client

    async def chat(
        self,
        messages: Sequence[Message],
        decoding: Decoding,
        watch: Watch | None = None,
        *,
        stop: Sequence[str] = (),
    ) -> Reply:
        """Ask /v1/chat/completions. The reasoning comes from `reasoning_content`, `reasoning`, or stays inline.

        Raises FatalCallError, RefusedCallError, or EngineError when the tries are used up.
        """

        async def ask() -> Any:
            return await self._session().chat.completions.create(
                model=self.model,
                messages=[dict(m) for m in messages],  # type: ignore[misc]
                **_settings(decoding, stop),
            )

        return await self._call(ask, size_of(messages), decoding, watch)

    async def complete(self, prompt: str, decoding: Decoding, stop: Sequence[str] = ()) -> Reply:
        """Ask /v1/completions with a templated prompt; the server must not add special tokens of its own."""

        async def ask() -> Any:
            settings = _settings(decoding, stop)
            settings["extra_body"] = {**settings["extra_body"], "add_special_tokens": False}
            return await self._session().completions.create(model=self.model, prompt=prompt, **settings)

        return await self._call(ask, len(prompt.encode("utf-8", "replace")), decoding, None)

    async def score(self, prompt: str | None, messages: Sequence[Message], choices: Sequence[str]) -> Reply:
        """Log-probabilities of the choices as continuations: of a templated prompt, else as the answer to messages.

        One token is generated and its 20 likeliest alternatives are read. A choice of several tokens is known by its
        first; one that is not among them gets the least of theirs, an upper bound. Raises as `chat`, and EngineError
        where the server gives no log-probabilities.
        """

        async def ask() -> Any:
            if prompt is not None:
                return await self._session().completions.create(
                    model=self.model,
                    prompt=prompt,
                    max_tokens=1,
                    temperature=0.0,
                    logprobs=TOP_LOGPROBS,
                    extra_body={"add_special_tokens": False},
                )
            return await self._session().chat.completions.create(
                model=self.model,
                messages=[dict(m) for m in messages],  # type: ignore[misc]
                max_tokens=1,
                temperature=0.0,
                logprobs=True,
                top_logprobs=TOP_LOGPROBS,
            )

        size = size_of(messages) if prompt is None else len(prompt.encode("utf-8", "replace"))
        return await self._call(
            ask, size, Decoding(max_new_tokens=1), None, lambda response: _read_choices(response, choices)
        )

    async def _call(
        self,
        ask: Callable[[], Awaitable[Any]],
        size: int,
        decoding: Decoding,
        watch: Watch | None,
        read: Callable[[Any], Reply] | None = None,
    ) -> Reply:
        import openai
        import tenacity

        began, tries, failed = time.perf_counter(), 0, None
        try:
            async for attempt in tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception(self._try_again),
                stop=self._enough,
                wait=self._wait,
                reraise=True,
            ):
                with attempt:
                    if failed is not None and watch is not None:
                        await watch(_what(failed), isinstance(failed, openai.APIStatusError))
                    tries += 1
                    failed = None
                    try:
                        reply = await self._one_try(ask, size, decoding, read or _read)
                    except Exception as error:
                        failed = error
                        raise
        except (openai.OpenAIError, _Unusable, ValueError, TimeoutError) as error:
            raise self._given_up(error, tries) from None
        return replace(reply, seconds=time.perf_counter() - began, retries=tries - 1)

    def _given_up(self, error: Exception, tries: int) -> EngineError:
        """What is raised of the last try's error: with the server's own words, and how far it reaches."""
        import openai

        if isinstance(error, openai.APIStatusError):
            message = f"{self.base_url} answered {error.status_code}: {self._clean(_message(error))}"
            if error.status_code in (401, 402, 403, 404) or _spent(error):
                return FatalCallError(message)
            if error.status_code in (400, 413, 422):
                return RefusedCallError(message)
            return EngineError(f"{message} ({tries} tries)")
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        why = f"no answer within {self.timeout:g} seconds" if _timed_out(error) else ""
        why = why or self._clean(f"{type(error).__name__}: {error}{cause}")
        if self._silent(error):
            return FatalCallError(
                f"{self.base_url} cannot be reached: {why} ({tries} tries) -> check the address and the network"
            )
        return EngineError(f"{self.base_url}: {why} ({tries} tries)")

    def _silent(self, error: BaseException) -> bool:
        """Whether nobody has ever answered at this address."""
        import openai

        return isinstance(error, openai.APIConnectionError) and not _timed_out(error) and not self._reached

    async def _one_try(
        self, ask: Callable[[], Awaitable[Any]], size: int, decoding: Decoding, read: Callable[[Any], Reply]
    ) -> Reply:
        """One request inside the limits. An answer with an error in it raises."""
        expected = self.gauge.prompt(size) + self.gauge.answer(decoding.max_new_tokens)
        await self._requests.take()
        await self._tokens.take(expected)
        async with asyncio.timeout(self.timeout):  # the client's own time-out is between two bytes
            response = await ask()
        self._reached = True
        reply = read(response)
        self.gauge.learn(size, reply.tokens_in, reply.tokens_out)
        if reply.tokens_in:
            self._tokens.settle(reply.tokens_in + reply.tokens_out - expected)
        return reply

    def _try_again(self, error: BaseException) -> bool:
        self._reached = self._reached or hasattr(error, "status_code")
        return _retryable(error)

    def _enough(self, state: Any) -> bool:
        """No more tries: they are used up, or nobody has ever answered there."""
        limit = self.max_retries + 1
        return state.attempt_number >= (min(NEVER_REACHED, limit) if self._silent(state.outcome.exception()) else limit)

    def _wait(self, state: Any) -> float:
        """Seconds before the next try: Retry-After where the server says so, else exponential with jitter."""
        import tenacity

        asked = _retry_after(state.outcome.exception() if state.outcome else None)
        if asked is not None:
            return min(asked, self.max_wait)
        return float(tenacity.wait_random_exponential(multiplier=self.backoff, max=self.max_wait)(state))

    def _clean(self, text: str) -> str:
        """A message without the key, which some servers quote."""
        return text.replace(self._key, "(key)") if len(self._key) > 3 else text

    async def close(self) -> None:
        """Close the connections of the running loop; the next call opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()


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
        extra=extra if isinstance(extra := getattr(response, EXTRA_FIELD, None), dict) else {},
    )


def _read_choices(response: Any, choices: Sequence[str]) -> Reply:
    """The log-probabilities of the choices from the alternatives of the first generated token."""
    reply = _read(response)
    scored = getattr(response.choices[0], "logprobs", None)
    rows = getattr(scored, "top_logprobs", None)  # completions: a dict a token; chat: content[0].top_logprobs, a list
    if rows and isinstance(rows[0], dict):
        alternatives = {str(token): float(value) for token, value in rows[0].items()}
    else:
        content = getattr(scored, "content", None) or []
        alternatives = {str(row.token): float(row.logprob) for row in (content[0].top_logprobs if content else [])}
    if not alternatives:
        raise EngineError("the server gave no log-probabilities: pointwise scores need a server that gives them")
    floor = min(alternatives.values())
    logprobs: dict[str, float] = {}
    for choice in choices:
        others = [other for other in choices if other != choice]
        fits = [t for t in alternatives if t and choice.startswith(t) and not any(o.startswith(t) for o in others)]
        logprobs[choice] = alternatives[max(fits, key=len)] if fits else floor
    return replace(reply, text="", finish_reason="stop", logprobs=logprobs)
