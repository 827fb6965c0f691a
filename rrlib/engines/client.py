"""The client of any OpenAI-compatible server: async, with retries that are booked one by one.

A call that fails is a failure with a reason, never text: one toolkit returned the exception's message as the model's
answer and ranked by its digits. 429, 5xx, time-outs and dropped connections are tried again with back-off; 401, 403,
404, spent credit, a web page and a server that was never there stop the run at once with the server's message. The key
is read from the environment (rrlib.engines.keys), and is cut out of every message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rrlib.engines.address import health_address, hint_of_path, hint_of_proxy, hint_of_redirect, read_address
from rrlib.engines.answers import UnusableAnswer, WebPage, read_body, read_choices, read_reply
from rrlib.engines.base import Decoding, Message, Reply
from rrlib.engines.keys import Keys, hide_in_logs, is_secret_name
from rrlib.engines.limits import Pace, TokenGauge, size_of
from rrlib.engines.provider import Provider, remedy_for
from rrlib.engines.retries import Patience, in_a_word, message_of, retry_after, retryable, spent, timed_out
from rrlib.errors import EngineError, InputError, innermost

TOP_LOGPROBS = 20
"""Alternatives asked for with each scored token: what vLLM's server allows by default."""

Watch = Callable[[str, bool], Awaitable[None]]
"""Awaited before a call is tried again, with what went wrong, and whether the server turned the try down (a status of
4xx or 5xx) rather than leave open what it did and billed. What it raises ends the call."""

Told = Callable[[str, float, float | None], None]
"""Told of each try that failed: what went wrong in a word (a status, "no answer in time", the kind of error), how long
it took, and how long the server asks to wait, both in seconds."""

NEVER_REACHED = 3
"""Tries after which a server that has not answered once is taken to be not there."""


class FatalCallError(EngineError):
    """The server refuses calls like this one: asking again is of no use."""


class UnreachableError(FatalCallError):
    """Nobody has ever answered at this address, or nothing but a web page has."""


class RefusedCallError(EngineError):
    """The server refuses this one call (400, 413, 422; 403 where it has answered others): others may do."""


class OpenAIClient:
    """One server and one model. The key comes from the environment only and is never logged.

    timeout: seconds a try, first byte to last. max_retries: tries after the first; one that is answered 429 with a
    Retry-After counts only after `timeout` seconds. backoff: seconds; the waits between tries are random up to backoff,
    twice, four times, ... that, at most max_wait (a Retry-After comes on top, up to max_wait too). requests_per_minute,
    tokens_per_minute: limits of the account, 0 = none; every try counts. `chat` sends messages, `complete` a templated
    string to /v1/completions. provider: what this server wants otherwise than most (rrlib.engines.provider), or the
    mapping of its fields. Connections belong to an event loop: a client may be used from one loop after another, and
    after close(), not from two at a time. Where there are other servers, set `told`, and `give_way`: whether a call
    that failed here is better asked of another one now. A server that sends elsewhere is not followed: the keys are
    for this one.
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
        provider: Provider | Mapping[str, Any] | None = None,
    ) -> None:
        self.keys = Keys()
        self._key = self.keys.from_environment(api_key_env)
        self.base_url, parameters = read_address(base_url, api_key_env)
        self.provider = Provider.of(provider)
        query, self._headers, self._body = self.provider.expanded(self.keys)
        self._query = {**parameters, **query}
        if timeout <= 0 or max_retries < 0 or backoff < 0 or max_wait < 0:
            raise InputError("timeout, max_retries, backoff or max_wait is negative", remedy="give positive numbers")
        self.model, self.max_retries = model, max_retries
        self.timeout, self.backoff, self.max_wait = timeout, backoff, max_wait
        self.gauge = TokenGauge()
        self._requests, self._tokens = Pace(requests_per_minute), Pace(tokens_per_minute)
        self.told: Told | None = None
        self.give_way: Callable[[], bool] = lambda: False
        self._reached = False  # whether anything has answered there
        self._answered = False  # whether a call has
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What stands in the header of a store, since it changes the answers; empty for a server like most."""
        return self.provider.settings()

    def _session(self) -> Any:
        """The connections of the running loop. Raises FatalCallError where the environment's proxy makes no sense."""
        import openai

        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            try:
                self._client = openai.AsyncOpenAI(
                    base_url=self.base_url,
                    api_key=self._key or "none",
                    timeout=self.timeout,
                    max_retries=0,
                    default_headers=self._headers,
                    default_query=self._query,
                    # the SDK would go where it is sent, and send every header but one along
                    http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, timeout=self.timeout),
                )
                hide_in_logs(self.keys)
            except Exception as error:  # a proxy without a scheme, SOCKS without its package
                why = self.keys.hide(f"{type(error).__name__}: {error}")
                raise FatalCallError(f"no connection to {self.base_url}: {why}{hint_of_proxy(self.base_url)}") from None
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
            fields = self._with_body(self.provider.fields(decoding, stop))
            return await self._session().chat.completions.with_raw_response.create(
                model=self.model, messages=self.provider.messages(messages), **fields
            )

        return await self._call(ask, size_of(messages), decoding, watch)

    async def health(self, timeout: float) -> int | None:
        """The status of this server's /health, which stands beside its /v1; None: no answer in so many seconds.

        Raises FatalCallError as a call does.
        """
        import httpx
        import openai

        session = self._session()
        try:
            options = {"timeout": timeout}
            answer = await session.get(health_address(self.base_url), cast_to=httpx.Response, options=options)
        except openai.APIStatusError as error:
            return error.status_code
        except Exception:  # whatever it is, the calls meet it too and name it
            return None
        return int(answer.status_code)

    def _with_body(self, fields: dict[str, Any], **more: Any) -> dict[str, Any]:
        """The fields of a request, with those of its body that the SDK does not know."""
        fields = {**fields, "extra_body": {**fields.get("extra_body", {}), **more, **self._body}}
        names = [name.lower() for name in self._headers]
        if not self._key and "authorization" not in names and any(map(is_secret_name, names)):
            import openai

            fields["extra_headers"] = {"Authorization": openai.Omit()}  # the key goes by a header of its own
        return fields

    async def complete(self, prompt: str, decoding: Decoding, stop: Sequence[str] = ()) -> Reply:
        """Ask /v1/completions with a templated prompt; the server must not add special tokens of its own."""

        async def ask() -> Any:
            fields = self._with_body(self.provider.fields(decoding, stop, chat=False), add_special_tokens=False)
            create = self._session().completions.with_raw_response.create
            return await create(model=self.model, prompt=prompt, **fields)

        return await self._call(ask, len(prompt.encode("utf-8", "replace")), decoding, None)

    async def score(self, prompt: str | None, messages: Sequence[Message], choices: Sequence[str]) -> Reply:
        """Log-probabilities of the choices as continuations: of a templated prompt, else as the answer to messages.

        One token is generated and its 20 likeliest alternatives are read. A choice of several tokens is known by its
        first; one that is not among them gets the least of theirs, an upper bound. Raises as `chat`, and EngineError
        where the server gives no log-probabilities.
        """

        first = Decoding(max_new_tokens=1)

        async def ask() -> Any:
            fields = self.provider.fields(first, chat=prompt is None)
            if prompt is not None:
                fields = self._with_body({**fields, "logprobs": TOP_LOGPROBS}, add_special_tokens=False)
                create = self._session().completions.with_raw_response.create
                return await create(model=self.model, prompt=prompt, **fields)
            fields = self._with_body({**fields, "logprobs": True, "top_logprobs": TOP_LOGPROBS})
            create = self._session().chat.completions.with_raw_response.create
            return await create(model=self.model, messages=self.provider.messages(messages), **fields)

        size = size_of(messages) if prompt is None else len(prompt.encode("utf-8", "replace"))
        return await self._call(ask, size, first, None, lambda body: read_choices(body, choices))

    async def _call(
        self,
        ask: Callable[[], Awaitable[Any]],
        size: int,
        decoding: Decoding,
        watch: Watch | None,
        read: Callable[[Mapping[str, Any]], Reply] | None = None,
    ) -> Reply:
        import openai
        import tenacity

        began, tries, failed = time.perf_counter(), 0, None
        patience = Patience(self.timeout, self.backoff, self.max_wait)
        try:
            async for attempt in tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception(self._try_again),
                stop=lambda state: self._enough(patience.counted(state), state),
                wait=patience.wait,
                reraise=True,
            ):
                with attempt:
                    if failed is not None and watch is not None:
                        await watch(in_a_word(failed), isinstance(failed, openai.APIStatusError))
                    tries += 1
                    failed, sent = None, time.perf_counter()
                    try:
                        reply = await self._one_try(ask, size, decoding, read or read_reply)
                    except Exception as error:
                        failed = error
                        if self.told is not None:
                            self.told(in_a_word(error), time.perf_counter() - sent, retry_after(error))
                        raise
        except (openai.OpenAIError, UnusableAnswer, ValueError, TimeoutError) as error:
            raise self._given_up(error, tries) from None
        except ExceptionGroup as group:
            raise self._given_up(innermost(group), tries) from None
        hide = self.keys.hide_in_answer
        text, reasoning = hide(reply.text), hide(reply.reasoning)
        return replace(reply, text=text, reasoning=reasoning, seconds=time.perf_counter() - began, retries=tries - 1)

    def _given_up(self, error: BaseException, tries: int) -> EngineError:
        """What is raised of the last try's error: with the server's own words, and how far it reaches."""
        import openai

        if isinstance(error, EngineError):
            return error
        proxy = hint_of_proxy(self.base_url)
        if isinstance(error, openai.APIStatusError):
            return self._refused(error, tries, proxy)
        cause = f" ({innermost(error.__cause__)})" if error.__cause__ else ""
        why = f"no answer within {self.timeout:g} seconds" if timed_out(error) else ""
        name = "" if isinstance(error, UnusableAnswer) else f"{type(error).__name__}: "
        why = why or self.keys.hide(f"{name}{error}{cause}")[:500]
        if isinstance(error, WebPage) and not self._reached:
            remedy = hint_of_path(self.base_url) or proxy or " -> check the address; is there a login before it?"
            return UnreachableError(f"{self.base_url} answered with {why} ({tries} tries){remedy}")
        if self._silent(error):
            remedy = proxy or " -> check the address and the network"
            return UnreachableError(f"{self.base_url} cannot be reached: {why} ({tries} tries){remedy}")
        return EngineError(f"{self.base_url}: {why} ({tries} tries){'' if self._reached else proxy}")

    def _refused(self, error: Any, tries: int, proxy: str) -> EngineError:
        """What is raised of a status of 4xx or 5xx."""
        said = self.keys.hide(message_of(error))[:500]
        if 300 <= error.status_code < 400:
            to = hint_of_redirect(error.response.headers.get("location", ""), str(error.request.url))
            return FatalCallError(self.keys.hide(f"{self.base_url} answered {error.status_code}: it has moved{to}"))
        message = f"{self.base_url} answered {error.status_code}: {said}"
        if error.status_code in (404, 405):
            return FatalCallError(message + hint_of_path(self.base_url))
        if error.status_code == 403 and self._answered:  # the key is good, so it is this prompt
            return RefusedCallError(message)
        if error.status_code in (401, 402, 403, 407) or spent(error):
            return FatalCallError(message + (proxy if error.status_code in (403, 407) else ""))
        if error.status_code in (400, 413, 422):
            remedy = remedy_for(said)
            return RefusedCallError(message + (f" -> {remedy}" if remedy else ""))
        return EngineError(f"{message} ({tries} tries){proxy if error.status_code in (502, 503, 504) else ''}")

    def _silent(self, error: BaseException) -> bool:
        """Whether nobody has ever answered at this address, or nothing but a web page has."""
        import openai

        unheard = isinstance(error, openai.APIConnectionError) and not timed_out(error)
        return (unheard or isinstance(error, WebPage)) and not self._reached

    async def _one_try(
        self,
        ask: Callable[[], Awaitable[Any]],
        size: int,
        decoding: Decoding,
        read: Callable[[Mapping[str, Any]], Reply],
    ) -> Reply:
        """One request inside the limits. An answer with an error in it raises."""
        expected = self.gauge.prompt(size) + self.gauge.answer(decoding.max_new_tokens)
        await self._requests.take()
        await self._tokens.take(expected)
        async with asyncio.timeout(self.timeout):  # the client's own time-out is between two bytes
            response = await ask()
        try:
            body = read_body(response.http_response.text)
            self._reached = True
            reply = read(body)
        except (AttributeError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise UnusableAnswer(f"an answer in a form of its own: {error!r}") from None
        self._answered = True
        self.gauge.learn(size, reply.tokens_in, reply.tokens_out)
        if reply.tokens_in:
            self._tokens.settle(reply.tokens_in + reply.tokens_out - expected)
        return reply

    def _try_again(self, error: BaseException) -> bool:
        self._reached = self._reached or hasattr(error, "status_code")
        return retryable(innermost(error))

    def _enough(self, tries: int, state: Any) -> bool:
        """No more tries: they are used up, nobody has ever answered there, or another server is free."""
        limit, silent = self.max_retries + 1, self._silent(state.outcome.exception())
        return self.give_way() or tries >= (min(NEVER_REACHED, limit) if silent else limit)

    async def close(self) -> None:
        """Close the connections of the running loop; the next call opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()
