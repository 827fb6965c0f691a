"""What each strategy costs for a list, counted by running it: calls, rounds that wait for another, passages shown, and
the tokens that are read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict

from rrlib.errors import InputError
from rrlib.strategies import Answer, StrategySpec, Window, counted, plan

PASSAGE_TOKENS, FRAME_TOKENS = 200, 400
"""Assumed for the column of tokens: of a passage with its number, and of a window's fixed text with the query twice."""

SHUFFLES = 20
"""Random orders over which the cost of a list that the first stage knows nothing of is averaged."""


def compared(size: int = 20, stride: int = 10) -> dict[str, StrategySpec]:
    """The strategies of the table, by name: windows of size and stride, of half of both, and the papers' variants."""
    best = max(1, size - stride)
    half, half_stride = max(2, size // 2), max(1, stride // 2)
    return {
        f"sliding_window {size}/{stride}": StrategySpec("sliding_window", size, stride),
        f"sliding_window {size}/{stride}, 2 passes": StrategySpec("sliding_window", size, stride, 2),
        f"sliding_window {half}/{half_stride}": StrategySpec("sliding_window", half, half_stride),
        f"top_down {size}": StrategySpec("top_down", size, stride),
        f"tournament {size}": StrategySpec("tournament", size, stride),
        f"tournament {size}, 3 passes": StrategySpec("tournament", size, stride, 3),
        f"setwise {size}": StrategySpec("setwise", size, stride),
        "setwise 4": StrategySpec("setwise", 4, 1, best=best),
        "full_list": StrategySpec("full_list", size, stride),
        "pointwise": StrategySpec("pointwise", size, stride),
    }


def cost_rows(
    n: int,
    size: int = 20,
    stride: int = 10,
    *,
    passage_tokens: int = PASSAGE_TOKENS,
    frame_tokens: int = FRAME_TOKENS,
) -> list[dict[str, object]]:
    """A row a strategy for a list of n candidates: widest window, how many of the best a perfect ranker gets right, and
    calls, rounds and passages shown: where the answers confirm the first stage, and for a perfect ranker on a list in
    random order (means of SHUFFLES orders). tokens: read, with the first of these costs, where a passage has
    passage_tokens and a window frame_tokens beside its passages; what is written depends on the model.
    Raises InputError for what is no window or no length."""
    if n < 0:
        raise InputError(f"a list of {n} candidates", remedy="give 0 or more")

    def costs(spec: StrategySpec, seed: int) -> tuple[int, int, int]:
        gains = random.Random(seed).sample(range(n), n)

        def perfect(window: Window) -> Answer:
            if window.score:
                return float(gains[window.items[0]])
            return sorted(range(len(window.items)), key=lambda i: -gains[window.items[i]])

        cost = counted(spec.start(n), perfect)[1]
        return cost.calls, cost.depth, cost.shown

    rows: list[dict[str, object]] = []
    for name, spec in compared(size, stride).items():
        shuffled = zip(*(costs(spec, seed) for seed in range(SHUFFLES)), strict=True)
        calls, rounds, shown = (sum(column) / SHUFFLES for column in shuffled)
        row = {"strategy": name, "window": spec.widest or n, "right": spec.promised(n)}
        planned = asdict(plan(spec.start, n))
        tokens = planned["shown"] * passage_tokens + planned["calls"] * frame_tokens
        row |= {"calls": planned["calls"], "rounds": planned["depth"], "shown": planned["shown"], "tokens": tokens}
        rows.append({**row, "calls_shuffled": calls, "rounds_shuffled": rounds, "shown_shuffled": shown})
    return rows


def cells(rows: Sequence[dict[str, object]]) -> list[list[str]]:
    """The table as text, its head first: the cost as retrieved, then that of a list in random order."""
    head = ["strategy", "window", "right", "calls", "rounds", "shown", "tokens", "calls (random)", "rounds", "shown"]
    return [head] + [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
