"""The books: every try of every call, written down before it is made, so that a killed run still knows what it owes.

`calls.jsonl` holds one line an event: `begin` before a call, `retry` before another try, then `end` (its answer is in
the store) or `fail`. A call that began and neither ended nor failed was in flight when a run was killed: the next run
writes `lost` for it, and asks again. Two sums come out: `usd`, what answers cost by the server's own token counts, and
`possible_usd`, what failed, repeated and lost tries may have cost at most. The budget holds for both together, with
what calls in flight may still cost at most, so it cannot be overrun.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrlib.errors import EngineError, InputError
from rrlib.synthesis.teacher.prices import Price
from rrlib.synthesis.teacher.store import open_rows

MOST_BYTES_PER_TOKEN = 2.0
"""For the most that a prompt may cost: no text we know has shorter tokens on average."""


class BudgetError(EngineError):
    """The next call could overrun the budget. Everything that was answered is in the store."""


def check_budget(budget: float | None, price: Price | None) -> None:
    """Raise InputError for a budget that is no sum of dollars, and for one where no price is known."""
    if budget is not None and not 0 <= budget < math.inf:
        raise InputError(f"a budget of {budget}", remedy="give dollars, 0 or more")
    if budget is not None and price is None:
        raise InputError(
            "a budget, and no price of this model is known",
            remedy="give its price in dollars a million tokens (--price-in and --price-out, or --prices FILE)",
        )


@dataclass
class Account:
    """Sums over the runs of a store: calls that ended, tries repeated, calls failed, lost in a kill, from a cache.

    seconds: of the calls, one after another. usd, possible_usd: see the module; None when no price is known.
    """

    calls: int = 0
    retries: int = 0
    failed: int = 0
    lost: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    usd: float | None = None
    possible_usd: float | None = None


class Ledger:
    """The books of one store. Open it under the store's lock, and call `recover` when the stores are open."""

    def __init__(self, path: Path, price: Price | None = None, budget: float | None = None) -> None:
        check_budget(budget, price)
        self.price, self.budget = price, budget
        nothing = 0.0 if price is not None else None
        self.account = Account(usd=nothing, possible_usd=nothing)
        self._open: dict[str, float | None] = {}
        self._held: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._rows = open_rows(path, self._seen)

    @property
    def torn(self) -> int:
        """1 if a torn last line was cut off at opening."""
        return int(self._rows.torn > 0)

    @property
    def spent(self) -> float:
        """Dollars booked, the possible ones too."""
        return (self.account.usd or 0.0) + (self.account.possible_usd or 0.0)

    def _seen(self, offset: int, row: dict[str, Any]) -> None:
        """Book one event; at opening for those of the file, later for each that is written."""
        event, key, account = row["event"], row["id"], self.account
        if event == "begin":
            self._open[key] = row["most"]
        elif event == "retry":
            account.retries += 1
        elif event in ("end", "fail", "lost"):
            self._open.pop(key, None)
            account.calls += event == "end"
            account.failed += event == "fail"
            account.lost += event == "lost"
            account.cached += bool(row.get("cached"))
            account.tokens_in += row.get("tokens_in", 0)
            account.tokens_out += row.get("tokens_out", 0)
            account.seconds += row.get("seconds", 0.0)
        else:
            raise ValueError(f"the event {event!r}")
        if (usd := row.get("usd")) is not None:
            account.usd = (account.usd or 0.0) + usd
        if (possible := row.get("possible")) is not None:
            account.possible_usd = (account.possible_usd or 0.0) + possible

    def _write(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._seen(0, row)

    def recover(self, cost_if_stored: Callable[[str], tuple[int, int] | None]) -> int:
        """Close what a killed run left open; returns how many calls must be asked again.

        cost_if_stored: (tokens in, tokens out) of the stored answer of a call, or None when there is none.
        """
        for key, most in list(self._open.items()):
            tokens = cost_if_stored(key)
            if tokens is None:
                self._write({"event": "lost", "id": key, "possible": most})
            else:
                self._write(self._end(key, *tokens, seconds=0.0, cached=False))
        return self.account.lost

    def most(self, size: int, max_new_tokens: int) -> float | None:
        """What one try of a prompt of `size` bytes may cost at most, in dollars; None without a price."""
        return None if self.price is None else self.price.cost(size / MOST_BYTES_PER_TOKEN, max_new_tokens)

    async def begin(self, key: str, most: float | None) -> None:
        """Book that a call is about to be made; waits for calls in flight where the budget is short.

        Raises BudgetError when it does not fit even with nothing in flight.
        """
        while self.budget is not None and self.spent + self.held + (most or 0.0) > self.budget:
            if not self._held:
                raise BudgetError(
                    f"the budget of ${self.budget:.2f} is reached: ${self.account.usd or 0.0:.4f} spent, "
                    f"${self.account.possible_usd or 0.0:.4f} possibly, and the next call may cost ${most or 0.0:.4f}"
                )
            self._changed.clear()
            await self._changed.wait()
        self._held[key] = most or 0.0
        self._write({"event": "begin", "id": key, "most": most})

    def retry(self, key: str, why: str, most: float | None, least: float | None) -> None:
        """Book a failed try that is made again. least: what it cost at most if the server turned it down, else None.

        Raises BudgetError when the budget does not hold another try.
        """
        self._write({"event": "retry", "id": key, "why": why, "possible": most if least is None else least})
        if self.budget is not None and self.spent + self.held > self.budget:
            raise BudgetError(f"the budget of ${self.budget:.2f} does not hold another try (the last one: {why})")

    def end(self, key: str, tokens_in: int, tokens_out: int, seconds: float, cached: bool) -> None:
        """Book that an answer is stored."""
        self._write(self._end(key, tokens_in, tokens_out, seconds, cached))
        self.release(key)

    def fail(self, key: str, why: str, booked: float | None) -> None:
        """Book a call that got no answer. booked: what its last try may have cost."""
        self._write({"event": "fail", "id": key, "why": why[:300], "possible": booked})
        self.release(key)

    def _end(self, key: str, tokens_in: int, tokens_out: int, seconds: float, cached: bool) -> dict[str, Any]:
        row: dict[str, Any] = {"event": "end", "id": key, "seconds": round(seconds, 3)}
        if cached:
            return row | {"cached": True}
        usd = None if self.price is None else self.price.cost(tokens_in, tokens_out)
        return row | {"tokens_in": tokens_in, "tokens_out": tokens_out, "usd": usd}

    @property
    def held(self) -> float:
        """Dollars that the calls in flight may still cost at most."""
        return sum(self._held.values())

    def release(self, key: str) -> None:
        """A call is over, however it ended: what was held for it is free for others. Safe to call twice."""
        self._held.pop(key, None)
        self._changed.set()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._rows.close()
