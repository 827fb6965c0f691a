"""The multi-view ranking reward (paper section 4.2): R_m = NDCG@10 + 0.2 * Recall@10 + 0.1 * RBO, gated by format.

| response | R |
|---|---|
| one think block, one answer block with a permutation of 1..n written `[a] > [b] > ...` | R_m |
| both blocks there, the list wrong (count, repeats, 0, out of range, other separators, text, empty) | 0 |
| a tag missing, doubled, nested, out of order or unclosed; text outside the blocks; cut off; empty | -1 |

Recall is there because the window slides: with window w and stride s only the first w - s passages of a window meet
the next one, so k should be w - s (10 for the paper's 20 and 10). Three defects of the released reward are not
repeated: it reads id 0 as the last passage, accepts any digits as a list, and raises when nothing is relevant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rrlib.errors import InputError
from rrlib.metrics import Floats, Ints, _ndcg, _rbo, _recall
from rrlib.responses import parse_strict

PAPER_WEIGHTS: Mapping[str, float] = {"ndcg": 1.0, "recall": 0.2, "rbo": 0.1}
VIEWS = tuple(PAPER_WEIGHTS)
Rows = Sequence[int] | Sequence[Sequence[int]] | Ints


@dataclass(frozen=True, slots=True)
class RewardRecord:
    """One rollout's reward and its views; views are None where the format did not hold."""

    total: float
    ndcg: float | None
    recall: float | None
    rbo: float | None
    level: str
    why: str = ""


@dataclass(frozen=True)
class MultiViewReward:
    """The reward with its weights, cut-off k and RBO persistence p as parameters (defaults: the paper's).

    rbo_where_right: likeness to the gold list counts only where that list is itself right, with NDCG@k 1 by the labels;
    elsewhere RBO is 0 for every answer.

    >>> reward = MultiViewReward()
    >>> labels = [1, 0, 1, 0]
    >>> record = reward.score("<think> a </think> <answer> [1] > [3] > [2] > [4] </answer>", labels, [0, 2, 1, 3])
    >>> record.level, round(record.total, 3)
    ('valid', 1.3)
    """

    k: int = 10
    weights: Mapping[str, float] = field(default_factory=lambda: dict(PAPER_WEIGHTS))
    p: float = 1.0
    think: bool = True
    rbo_where_right: bool = False

    def __post_init__(self) -> None:
        unknown = set(self.weights) - set(VIEWS)
        if unknown:
            raise InputError(f"unknown reward views {sorted(unknown)}", remedy=f"weights are for {', '.join(VIEWS)}")
        if self.k < 1 or not 0.0 < self.p <= 1.0:
            raise InputError(f"reward with k={self.k}, p={self.p}", remedy="k is 1 or more, p lies in (0, 1]")

    @property
    def signature(self) -> str:
        """All that decides a reward, as text: equal for equal rewards, in whatever order the weights were given."""
        weights = ", ".join(f"{view} {self.weights[view]:g}" for view in VIEWS if view in self.weights)
        more = ", rbo where right" if self.rbo_where_right else ""  # so that rewards of before keep their text
        return f"k {self.k}, p {self.p:g}, think {self.think}, weights {weights}{more}"

    def views(self, orders_GP: Ints, relevance_P: Rows, gold_P: Rows) -> Floats:
        """The three views of G valid rankings: shape (G, 3), columns NDCG@k, Recall@k, RBO.

        relevance_P, gold_P: of the one window that was ranked, or (G, P) with a row for each ranking.
        """
        relevance = np.asarray(relevance_P, dtype=np.float64)
        gold = np.asarray(gold_P, dtype=np.int64)
        shapes = (orders_GP.shape, orders_GP.shape[1:])
        if relevance.shape not in shapes or gold.shape not in shapes:
            raise InputError(
                f"{orders_GP.shape[1]} passages, {relevance.shape[-1]} labels, a gold list of {gold.shape[-1]}"
            )
        rbo_G = _rbo(orders_GP, gold, self.p)
        if self.rbo_where_right:
            rbo_G *= _ndcg(np.atleast_2d(gold), relevance, self.k) >= 1.0 - 1e-9  # (1,) or (G,)
        return np.stack([_ndcg(orders_GP, relevance, self.k), _recall(orders_GP, relevance, self.k), rbo_G], axis=1)

    def combine(self, views_GV: Floats) -> Floats:
        """Weighted sum of the views: shape (G,)."""
        return views_GV @ np.array([self.weights.get(view, 0.0) for view in VIEWS])

    def score(self, text: str, relevance: Sequence[int], gold: Sequence[int]) -> RewardRecord:
        """The reward of one response. relevance: pointwise labels (P,); gold: 0-based gold list (P,), best first."""
        return self.score_group([text], relevance, gold)[0]

    def score_group(self, texts: Sequence[str], relevance: Sequence[int], gold: Sequence[int]) -> list[RewardRecord]:
        """The rewards of rollouts of one prompt."""
        return self.score_many(texts, [relevance] * len(texts), [gold] * len(texts))

    def score_many(
        self, texts: Sequence[str], relevance: Sequence[Sequence[int]], gold: Sequence[Sequence[int]]
    ) -> list[RewardRecord]:
        """The rewards of rollouts of any prompts: one row of labels and one gold list a text. Windows of one size are
        scored together."""
        records: list[RewardRecord | None] = [None] * len(texts)
        sizes: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
        for i, text in enumerate(texts):
            strict = parse_strict(text, len(relevance[i]), think=self.think)
            if strict.order is None:
                low = 0.0 if strict.level == "bad_list" else -1.0
                records[i] = RewardRecord(low, None, None, None, strict.level, strict.why)
            elif len(gold[i]) != len(strict.order):
                raise InputError(f"{len(strict.order)} passages and a gold list of {len(gold[i])}")
            else:
                sizes.setdefault(len(strict.order), []).append((i, strict.order))
        for valid in sizes.values():
            views = self.views(
                np.array([order for _, order in valid], dtype=np.int64),
                np.array([relevance[i] for i, _ in valid]),
                np.array([gold[i] for i, _ in valid]),
            )
            for (i, _), total, (ndcg_, recall_, rbo_) in zip(
                valid, self.combine(views).tolist(), views.tolist(), strict=True
            ):
                records[i] = RewardRecord(total, ndcg_, recall_, rbo_, "valid")
        return [record for record in records if record is not None]
