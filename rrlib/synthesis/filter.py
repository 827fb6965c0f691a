"""Step 4, self-consistency: does the teacher's order, made without the gold answer, agree with its labels? (4.1)

NDCG@10 of the gold list judged by the pointwise labels; examples below alpha are dropped (paper: 0.4, from a grid of
0.1 to 0.7). Lower alpha keeps lists in which a positive stands low, higher alpha keeps only the easy queries.
"""

from __future__ import annotations

from collections.abc import Sequence

from rrlib.errors import InputError
from rrlib.metrics import ndcg

ALPHA = 0.4


def self_consistency(gold: Sequence[int], relevance: Sequence[int], k: int = 10) -> float:
    """NDCG@k of the gold list (0-based positions, best first) judged by the pointwise labels; in [0, 1]."""
    return float(ndcg(gold, relevance, k))  # type: ignore[arg-type]  # one list in, one float out


def check_cut(k: int) -> int:
    """The cut-off of the consistency, if it is one. Raises InputError else."""
    if k < 1:
        raise InputError(f"the cut-off of the consistency is k={k}", remedy="give 1 or more, such as window - stride")
    return k


def check_alpha(alpha: float) -> float:
    """alpha itself, or InputError when it is no value of NDCG."""
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha is {alpha}", remedy="NDCG lies between 0 and 1; the paper uses 0.4")
    return alpha


def keeps(value: float, alpha: float) -> bool:
    """Whether an example of that consistency stays: dropped is what lies below alpha."""
    return value >= alpha
