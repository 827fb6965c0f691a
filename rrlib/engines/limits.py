"""How fast a server may be asked: so many requests, and so many tokens, a minute.

Calls are spaced, not counted in windows: a request that costs `amount` keeps the line busy for amount / limit minutes.
So the limit holds over any minute (up to one request), no burst meets the server after a pause, and there is no state
but one point in time. Estimates are corrected when the true number is known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from rrlib.errors import InputError

BYTES_PER_TOKEN = 4.0
"""Of English prose under the tokenizers in use, before a server has told its own count."""


class Pace:
    """At most `per_minute` units a minute; 0 = no limit.

    clock, sleep: seconds; replaced in tests.
    """

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if per_minute < 0:
            raise InputError(f"a limit of {per_minute} a minute", remedy="give a positive number, or 0 for no limit")
        self.per_minute, self._clock, self._sleep = per_minute, clock, sleep
        self._free = 0.0

    async def take(self, amount: float = 1.0) -> None:
        """Wait for one's turn, and take `amount` units."""
        if not self.per_minute:
            return
        now = self._clock()
        start = max(now, self._free)
        self._free = start + amount * 60.0 / self.per_minute
        if start > now:
            await self._sleep(start - now)

    def settle(self, difference: float) -> None:
        """Correct an estimate: `difference` units more (or less, negative) were used than taken."""
        if self.per_minute:
            self._free += difference * 60.0 / self.per_minute


class TokenGauge:
    """Guesses tokens from bytes, with the ratio that the server's own counts have shown so far."""

    def __init__(self) -> None:
        self._bytes = self._tokens = 0.0
        self._replies = self._written = 0

    @property
    def bytes_per_token(self) -> float:
        """Bytes of UTF-8 a token of the prompt."""
        return self._bytes / self._tokens if self._tokens else BYTES_PER_TOKEN

    def prompt(self, size: int) -> int:
        """Expected tokens of a prompt of `size` bytes."""
        return max(1, round(size / self.bytes_per_token))

    def answer(self, limit: int) -> int:
        """Expected tokens of an answer: the mean so far; before the first, a quarter of the limit."""
        return min(limit, round(self._written / self._replies) if self._replies else max(1, limit // 4))

    def learn(self, size: int, tokens_in: int, tokens_out: int) -> None:
        """Take in what a reply cost; servers that count nothing (0) teach nothing."""
        if tokens_in > 0:
            self._bytes += size
            self._tokens += tokens_in
        if tokens_out > 0:
            self._replies += 1
            self._written += tokens_out


def size_of(messages: Sequence[Mapping[str, str]]) -> int:
    """Bytes (UTF-8) of the texts of a chat."""
    return sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
