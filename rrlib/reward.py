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

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rrlib.errors import InputError
from rrlib.metrics import Floats, Ints, _ndcg, _rbo, _recall
from rrlib.responses import parse_strict

PAPER_WEIGHTS: Mapping[str, float] = {"ndcg": 1.0, "recall": 0.2, "rbo": 0.1}
VIEWS = tuple(PAPER_WEIGHTS)


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

    def __post_init__(self) -> None:
        unknown = set(self.weights) - set(VIEWS)
        if unknown:
            raise InputError(f"unknown reward views {sorted(unknown)}", remedy=f"weights are for {', '.join(VIEWS)}")
        if self.k < 1 or not 0.0 < self.p <= 1.0:
            raise InputError(f"reward with k={self.k}, p={self.p}", remedy="k is 1 or more, p lies in (0, 1]")

    def views(self, orders_GP: Ints, relevance_P: Sequence[int] | Ints, gold_P: Sequence[int] | Ints) -> Floats:
        """The three views of G valid rankings of one window: shape (G, 3), columns NDCG@k, Recall@k, RBO."""
        relevance = np.asarray(relevance_P, dtype=np.float64)
        gold = np.asarray(gold_P, dtype=np.int64)
        if not len(relevance) == len(gold) == orders_GP.shape[1]:
            raise InputError(f"{orders_GP.shape[1]} passages, {len(relevance)} labels, a gold list of {len(gold)}")
        return np.stack(
            [_ndcg(orders_GP, relevance, self.k), _recall(orders_GP, relevance, self.k), _rbo(orders_GP, gold, self.p)],
            axis=1,
        )

    def combine(self, views_GV: Floats) -> Floats:
        """Weighted sum of the views: shape (G,)."""
        return views_GV @ np.array([self.weights.get(view, 0.0) for view in VIEWS])

    def score(self, text: str, relevance: Sequence[int], gold: Sequence[int]) -> RewardRecord:
        """The reward of one response. relevance: pointwise labels (P,); gold: 0-based gold list (P,), best first."""
        return self.score_group([text], relevance, gold)[0]

    def score_group(self, texts: Sequence[str], relevance: Sequence[int], gold: Sequence[int]) -> list[RewardRecord]:
        """The rewards of rollouts of one prompt."""
        read = [parse_strict(text, len(relevance), think=self.think) for text in texts]
        orders = np.array([s.order for s in read if s.order is not None], dtype=np.int64)
        views = self.views(orders, relevance, gold) if len(orders) else np.zeros((0, len(VIEWS)))
        totals = self.combine(views)
        rows = iter(zip(totals.tolist(), views.tolist(), strict=True))
        records: list[RewardRecord] = []
        for strict in read:
            if strict.order is None:
                low = 0.0 if strict.level == "bad_list" else -1.0
                records.append(RewardRecord(low, None, None, None, strict.level, strict.why))
            else:
                total, (ndcg_, recall_, rbo_) = next(rows)
                records.append(RewardRecord(total, ndcg_, recall_, rbo_, "valid"))
        return records

    def trl(self, decode: Callable[[list[int]], str] | None = None) -> Callable[..., list[float]]:
        """The function that TRL's GRPOTrainer calls: one reward, its views logged by name.

        Dataset columns: `relevance` (list of labels a row) and `gold` (0-based gold list a row). `decode` turns
        completion ids into text when the tags might be special tokens, which TRL's own decoding would drop.
        """

        def multi_view_reward(
            prompts: Sequence[Any] | None = None,
            completions: Sequence[Any] = (),
            completion_ids: Sequence[list[int]] | None = None,
            *,
            relevance: Sequence[Sequence[int]],
            gold: Sequence[Sequence[int]],
            log_extra: Callable[[str, list[Any]], None] | None = None,
            log_metric: Callable[[str, float], None] | None = None,
            **_: Any,
        ) -> list[float]:
            if decode is not None and completion_ids is not None:
                texts = [decode(ids) for ids in completion_ids]
            else:
                texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
            records: list[RewardRecord] = []
            start = 0
            while start < len(texts):  # consecutive rollouts of one prompt are scored together
                stop = start + 1
                while stop < len(texts) and relevance[stop] == relevance[start] and gold[stop] == gold[start]:
                    stop += 1
                records += self.score_group(texts[start:stop], relevance[start], gold[start])
                start = stop
            if log_metric is not None:
                for name, value in summary(records).items():
                    log_metric(name, value)
                silent = sum(1 for labels in relevance if not any(label > 0 for label in labels))
                log_metric("share/no_relevant", silent / max(len(texts), 1))
            if log_extra is not None:
                log_extra("level", [r.level for r in records])
                log_extra("views", [json.dumps([r.ndcg, r.recall, r.rbo]) for r in records])
            return [r.total for r in records]

        return multi_view_reward


def summary(records: Sequence[RewardRecord]) -> dict[str, float]:
    """Shares of the three format levels, and the mean of each view over the valid rollouts (absent if none is)."""
    count = max(len(records), 1)
    out = {
        f"share/{name}": sum(r.level == name for r in records) / count for name in ("valid", "bad_list", "bad_format")
    }
    for view in VIEWS:
        values = [value for r in records if (value := getattr(r, view)) is not None]
        if values:
            out[f"view/{view}"] = float(np.mean(values))
    return out
