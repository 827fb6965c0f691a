"""What each window of a sliding run has done to the final list: credit by the best list still reachable.

The potential of a list is the best NDCG@10 that the windows still to come could make of it. A window that leaves a
relevant passage below the next window's reach lowers it, a perfect one keeps it, and after the last window it is the
final NDCG@10. So no change of it is positive, and the potential at the start plus all changes is the final reward.

Shapes: _TG T windows of G runs of one query.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rrlib.metrics import Floats, ndcg
from rrlib.training.objective import advantages, standardize

Span = tuple[int, int]
"""(first place, place behind the last) of a window, 0-based."""


def best_reachable(labels: Sequence[int], spans: Sequence[Span]) -> list[int]:
    """The labels of the best final list that windows over `spans`, one after the other, can make of a list.

    labels: pointwise labels in the list's order. Every window sorts by label. That is the best: a passage that a window
    carries on always ends above those that it left, so with a better one in its stead no list is worse.
    """
    ranked = list(labels)
    for start, end in spans:
        ranked[start:end] = sorted(ranked[start:end], reverse=True)
    return ranked


def potential(labels: Sequence[int], spans: Sequence[Span], k: int = 10) -> float:
    """The best NDCG@k that windows over `spans` can still reach, in [0, 1]; without spans the NDCG@k of the list."""
    return float(ndcg(range(len(labels)), best_reachable(labels, spans), k))  # type: ignore[arg-type]


def left_behind(labels: Sequence[int], spans: Sequence[Span]) -> float:
    """Share of the relevant passages of a final list that lie below its last window: some window put them where none
    after it could lift them. In [0, 1]; 0 when nothing is relevant."""
    relevant = [place for place, label in enumerate(labels) if label > 0]
    return sum(place >= spans[-1][1] for place in relevant) / max(len(relevant), 1)


def window_advantages(changes_TG: Floats, penalties_TG: Floats, trace: float = 0.0, divide: bool = True) -> Floats:
    """How much better each window did than the same window of the query's other episodes.

    changes: of the potential by each window; penalties: of its format. trace: how much of the changes after a window
    counts as its own, in [0, 1]. At 1 that is the return to go; at 0, the default, its own change: the potential
    already holds what the windows after it can make of its list, so that what they miss is noise to it. (It is the
    lambda of generalized advantage estimation, arXiv 1506.02438, with the potential for the value.)

    The mean is that of the window's place in the episode, since places differ in what can be lost there. The deviation
    is that of all windows of the query: a place where little was lost shall not weigh as much as one where much was.
    """
    credit_TG = np.array(changes_TG, dtype=np.float64)
    for t in reversed(range(len(credit_TG) - 1)):
        credit_TG[t] += trace * credit_TG[t + 1]
    centred_TG = advantages(credit_TG + penalties_TG, divide=False)
    return standardize(centred_TG.reshape(-1), 0).reshape(centred_TG.shape) if divide else centred_TG
