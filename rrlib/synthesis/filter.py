"""Step 4, self-consistency: does the teacher's order, made without the gold answer, agree with its labels? (4.1)

NDCG@10 of the gold list judged by the pointwise labels; examples below alpha are dropped (paper: 0.4, from a grid of
0.1 to 0.7). Lower alpha keeps lists in which a positive stands low, higher alpha keeps only the easy queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rrlib.errors import InputError
from rrlib.metrics import ndcg
from rrlib.types import RankingExample

ALPHA = 0.4
GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def self_consistency(gold: Sequence[int], relevance: Sequence[int], k: int = 10) -> float:
    """NDCG@k of the gold list (0-based positions, best first) judged by the pointwise labels; in [0, 1]."""
    return float(ndcg(gold, relevance, k))  # type: ignore[arg-type]  # one list in, one float out


def check_alpha(alpha: float) -> float:
    """alpha itself, or InputError when it is no value of NDCG."""
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha is {alpha}", remedy="NDCG lies between 0 and 1; the paper uses 0.4")
    return alpha


def keeps(value: float, alpha: float) -> bool:
    """Whether an example of that consistency stays: dropped is what lies below alpha."""
    return value >= alpha


@dataclass(frozen=True, slots=True)
class FilterRow:
    """One line of the alpha table: how many examples of how many stay."""

    alpha: float
    kept: int
    total: int


def filter_table(values: Iterable[float], grid: Sequence[float] = GRID) -> list[FilterRow]:
    """What each alpha of the grid would keep."""
    known = list(values)
    return [FilterRow(alpha, sum(keeps(v, alpha) for v in known), len(known)) for alpha in grid]


def filter_examples(
    examples: Iterable[RankingExample], alpha: float = ALPHA, k: int = 10
) -> tuple[list[RankingExample], list[tuple[RankingExample, float]]]:
    """(kept, dropped with their value), for examples that come from elsewhere, such as imported ones."""
    check_alpha(alpha)
    kept: list[RankingExample] = []
    dropped: list[tuple[RankingExample, float]] = []
    for example in examples:
        value = self_consistency(example.gold, example.relevance, k)
        if keeps(value, alpha):
            kept.append(example)
        else:
            dropped.append((example, value))
    return kept, dropped
