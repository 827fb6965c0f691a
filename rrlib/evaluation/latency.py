"""What a system costs: calls, tokens, seconds and money, from its window records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rrlib.errors import InputError
from rrlib.records import WindowRecord


@dataclass(frozen=True, slots=True)
class Prices:
    """What is paid for: a million tokens read and written (an API), or an hour of the machine. In any currency."""

    tokens_in: float = 0.0
    tokens_out: float = 0.0
    hour: float = 0.0

    def __post_init__(self) -> None:
        if min(self.tokens_in, self.tokens_out, self.hour) < 0:
            raise InputError(f"prices {self}", remedy="prices are 0 or more")


def query_latency(records: Sequence[WindowRecord]) -> list[float]:
    """Seconds a query waits: its rounds add up (each window needs the one before), and within a round, whose questions
    may be asked at once, the slowest counts. A record's seconds include its wait in the batch."""
    rounds: dict[tuple[str, str], dict[int, float]] = {}
    for record in records:
        query = rounds.setdefault((record.collection, record.qid), {})
        query[record.round] = max(query.get(record.round, 0.0), record.seconds)
    return [sum(query.values()) for query in rounds.values()]


def _quantiles(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    p50, p95 = np.percentile(np.asarray(values, dtype=float), [50, 95])
    return float(p50), float(p95)


def cost_row(
    records: Sequence[WindowRecord], queries: int, seconds: float | None, prices: Prices | None = None
) -> dict[str, float]:
    """One system on one benchmark: everything a query, but `calls_all`, `seconds_all` and `cost_all`.

    calls: windows asked. requests: engine calls (a chain closed at its budget, or a scored passage, takes two).
    tokens_in, tokens_out: read and written. seconds: wall seconds over queries (throughput). latency_*: p50 and p95,
    of a query and of a window. cost_all: nan without prices.
    """
    n = max(queries, 1)
    tokens_in = sum(r.tokens_in for r in records)
    tokens_out = sum(r.tokens_out for r in records)
    query50, query95 = _quantiles(query_latency(records))
    window50, window95 = _quantiles([r.seconds for r in records])
    wall = float("nan") if seconds is None else seconds
    money = float("nan")
    if prices is not None:
        money = tokens_in * prices.tokens_in / 1e6 + tokens_out * prices.tokens_out / 1e6
        money += (0.0 if seconds is None else seconds) * prices.hour / 3600
    return {
        "calls": len(records) / n,
        "requests": sum(r.requests or 1 for r in records) / n,
        "tokens_in": tokens_in / n,
        "tokens_out": tokens_out / n,
        "seconds": wall / n,
        "latency_query_p50": query50,
        "latency_query_p95": query95,
        "latency_window_p50": window50,
        "latency_window_p95": window95,
        "calls_all": float(len(records)),
        "seconds_all": wall,
        "cost_all": money,
    }


def audit_row(records: Sequence[WindowRecord]) -> dict[str, float]:
    """Shares of the responses by verdict, of those closed at their budget, and of those cut off at the limit."""
    from rrlib.responses import VERDICTS, audit

    n = max(len(records), 1)
    row = {r.kind: r.share for r in audit(records) if r.kind in VERDICTS}
    row["closed"] = sum(r.closed for r in records) / n
    row["at_length"] = sum(r.finish_reason == "length" for r in records) / n
    return row
