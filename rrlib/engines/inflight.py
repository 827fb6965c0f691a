"""How many requests are kept in flight: found from the speed of the answers, or from the room of a cache.

A server of a language model gains by more calls at once until its slots are full; from there on calls only wait in its
queue, or are turned down. Where that point lies is not said by any server, and differs by a factor of a hundred.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from rrlib.errors import InputError

FIRST, HIGHEST = 32, 960
"""Calls in flight at the beginning, and at most: the client holds 1,000 connections."""

FASTER = 1.15
"""Twice as many in flight must give this many times the speed, else they only wait."""

AS_FAST = 0.95
"""What is at least this share of the best speed counts as that speed: answers differ in length."""

USED = 0.75
"""Share of the limit that must have been in flight, on average, for a speed to say anything about it."""

LEAST_ANSWERS = 48
"""Answers over which a speed is measured, at least; as many as are in flight, where those are more."""

LOOK_AGAIN = 20
"""Measurements after which the search begins anew: other people's load comes and goes."""


class Phase(StrEnum):
    """What the limit is doing."""

    DOUBLING = "doubling"
    """Twice as many after each measurement, while that is faster."""
    NARROWING = "narrowing"
    """Halving the distance between too few and enough, for the fewest that are as fast."""
    CLIMBING = "climbing"
    """An eighth more after each measurement: the server turned calls down above."""
    SETTLED = "settled"
    """Staying there, until it is time to look again."""


class InFlightLimit:
    """A limit on calls in flight that finds itself, for one server.

    It doubles while the speed grows, then narrows down to the fewest calls that are as fast. It halves when calls are
    turned down or not answered in time, and then climbs in small steps to what was turned down. first, highest: calls,
    1 or more; where they are equal the limit stays. A speed is measured over as many answers as are in flight, in
    tokens where the server counts them, and only where the limit was used. clock: seconds; replaced in tests.
    Raises InputError for limits below 1.
    """

    def __init__(self, first: int = FIRST, highest: int = HIGHEST, clock: Callable[[], float] = time.monotonic) -> None:
        if not 1 <= first <= highest:
            raise InputError(f"a limit of {first} to {highest} calls in flight", remedy="give 1 or more")
        self.value, self.highest, self.stays, self._clock = first, highest, first == highest, clock
        self.phase = Phase.SETTLED if self.stays else Phase.DOUBLING
        self.in_flight = 0
        self._too_few = self._enough = 0  # slower than the best speed, and the fewest calls known to reach it
        self._best = 0.0  # work a second
        self._measured = 0  # speeds since the limit settled
        self._now = self._clock()
        self._change(first)

    def start(self) -> float:
        """A call goes out. Returns when, for `finish`."""
        self._pass_time()
        self.in_flight += 1
        return self._now

    def finish(self, began: float, work: int) -> None:
        """The call that went out then has ended. work: its tokens, 1 where nobody counts them, 0 where it failed."""
        self._pass_time()
        self.in_flight -= 1
        if self._skip > 0:  # answers to what was asked under another limit
            self._skip -= 1
            if self._skip == 0:
                self._measure()
            return
        self._answers += 1
        self._work += work
        self._waited += self._now - began
        seconds = self._now - self._since
        if self._answers < max(LEAST_ANSWERS, self.value) or seconds <= 0 or self._waited <= 0:
            return
        used = self._area / seconds
        speed = used * self._work / self._waited  # Little's law: answers that come in bursts do not disturb it
        self._measure()
        if used >= USED * self.value and not self.stays:
            self._judge(speed)

    def pushed_back(self, seconds: float) -> None:
        """A call that went out so many seconds ago was turned down or not answered in time: half as many from now on.

        One that went out before the last change says nothing about the limit of now.
        """
        self._pass_time()
        if self.stays or self._now - seconds < self._changed:
            return
        self.phase, self._measured, self._enough = Phase.CLIMBING, 0, max(1, self.value - 1)
        self._change(max(1, self.value // 2))

    def _judge(self, speed: float) -> None:
        """What follows from the speed at this limit."""
        if self.phase is Phase.DOUBLING:
            if speed < FASTER * self._best:
                self._narrow()
                return
            self._too_few, self._enough, self._best = self._enough, self.value, speed
            if self.value < self.highest:
                self._change(min(2 * self.value, self.highest))
            else:
                self._narrow()
        elif self.phase is Phase.NARROWING:
            if speed >= AS_FAST * self._best:
                self._enough, self._best = self.value, max(self._best, speed)
            else:
                self._too_few = self.value
            self._narrow()
        elif self.phase is Phase.CLIMBING and self.value < self._enough:
            self._change(min(self._enough, self.value + max(1, self.value // 8)))
        else:
            self.phase, self._measured = Phase.SETTLED, self._measured + 1
            if self._measured >= LOOK_AGAIN:  # upwards only: fewer than needed would cost time
                self._measured, self._best, self.phase = 0, 0.0, Phase.DOUBLING
                self._enough = self.value - self.value // 8

    def _narrow(self) -> None:
        """Try the middle between too few and enough; settle where they are near."""
        near = self._enough - self._too_few <= max(1, self._enough // 8)
        self.phase = Phase.SETTLED if near else Phase.NARROWING
        self._change(self._enough if near else (self._too_few + self._enough) // 2)

    def _change(self, value: int) -> None:
        self.value, self._changed = value, self._now
        self._skip = max(value, self.in_flight)
        self._measure()

    def _measure(self) -> None:
        self._since, self._area, self._waited, self._answers, self._work = self._now, 0.0, 0.0, 0, 0

    def _pass_time(self) -> None:
        now = self._clock()
        self._area += self.in_flight * (now - self._now)  # calls x seconds
        self._now = now


class CacheRoom:
    """How many windows an engine's key-value cache holds at once, from the lengths of the last ones.

    tokens: what the cache holds; None where the engine does not say. slots: sequences that the engine runs at most.
    """

    def __init__(self, tokens: int | None, slots: int) -> None:
        self.tokens, self.slots = tokens, slots
        self._lengths: deque[int] = deque(maxlen=64)

    def learn(self, length: int) -> None:
        """Take in a window that has ended: tokens of its prompt and answer."""
        self._lengths.append(length)

    @property
    def windows(self) -> int:
        """How many are kept in flight, at least 1. Before the first answer it is as many as the engine runs."""
        if self.tokens is None or not self._lengths:
            return self.slots
        mean = sum(self._lengths) / len(self._lengths)
        return max(1, min(self.slots, int(self.tokens / max(mean, 1.0))))
