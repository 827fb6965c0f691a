"""The multi-view reward with the signature that TRL's GRPOTrainer calls (trl.rewards), its views and levels logged.

Dataset columns: `relevance` (pointwise labels, a list a row) and `gold` (0-based gold list, best first, a list a row).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rrlib.reward import VIEWS, MultiViewReward, RewardRecord
from rrlib.templates import whole_response

TRLReward = Callable[..., list[float]]
Decode = Callable[[list[int]], str]
"""Completion ids -> text, for tags that might be special tokens, which TRL's own decoding drops."""
LogExtra = Callable[[str, list[Any]], None]
"""TRL's hook for a column of its table of completions."""
LogMetric = Callable[[str, float], None]
"""TRL's hook for a number of its log."""
Rows = Sequence[Sequence[int]]


def trl_reward(reward: MultiViewReward, decode: Decode | None = None) -> TRLReward:
    """The function that TRL calls: one reward a completion, its views logged by name."""
    return _reward_function("multi_view_reward", _Scorer(reward, decode), lambda record: record.total, log=True)


def trl_reward_parts(reward: MultiViewReward, decode: Decode | None = None) -> tuple[list[TRLReward], list[float]]:
    """The same reward as four functions and their weights, for an optimiser that normalises each on its own (GDPO,
    arXiv 2601.05242): `gate` (-1 for a broken format, else 0), and `ndcg`, `recall`, `rbo` (0 where not valid).

    Their weighted sum is the reward of `trl_reward`, to the last bit that float32 keeps. The first logs what
    `trl_reward` logs, and the sum as column `multi_view_reward`.
    """
    score, views = _Scorer(reward, decode), [view for view in VIEWS if reward.weights.get(view)]

    def gate_of(record: RewardRecord) -> float:
        return -1.0 if record.level == "bad_format" else 0.0

    def part(view: str) -> TRLReward:
        return _reward_function(view, score, lambda record: getattr(record, view) or 0.0)

    gate = _reward_function("gate", score, gate_of, log=True, log_total=True)
    return [gate, *map(part, views)], [1.0, *(reward.weights[view] for view in views)]


def answer_decoder(tokenizer: Any, prompt: str = "", think: bool = True) -> Decode:
    """ids -> text for the reward: end and padding tokens go, every other token stays visible.

    prompt: one of the prompts, whose end may have begun the response; think: as in `rrlib.templates.whole_response`.

    TRL decodes with all special tokens skipped, which would hide a chat marker in the middle of a response, and the
    tags themselves where a tokenizer has them as special tokens.
    """
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}

    def decode(ids: list[int]) -> str:
        stop = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        text: str = tokenizer.decode(ids[:stop], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return whole_response(prompt, text, think)

    return decode


class _Scorer:
    """Records of a batch of completions; asked again for the same batch, it does not parse again."""

    def __init__(self, reward: MultiViewReward, decode: Decode | None) -> None:
        self.reward, self.decode = reward, decode
        self.batch: tuple[list[str], Rows, Rows] | None = None
        self.records: list[RewardRecord] = []

    def __call__(
        self, completions: Sequence[Any], completion_ids: Sequence[list[int]] | None, relevance: Rows, gold: Rows
    ) -> list[RewardRecord]:
        if self.decode is not None and completion_ids is not None:
            texts = [self.decode(ids) for ids in completion_ids]
        else:
            texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        batch = (texts, list(relevance), list(gold))
        if batch != self.batch:
            self.batch, self.records = batch, self.reward.score_many(texts, relevance, gold)
        return self.records


def _reward_function(
    name: str, score: _Scorer, value: Callable[[RewardRecord], float], log: bool = False, log_total: bool = False
) -> TRLReward:
    """A reward function, and the name under which TRL logs it.

    value: the number of a record that is the reward. log: whether views and levels are logged with it; log_total: the
    sum of all parts too, as a column, where `value` is but one of them.
    """

    def reward(
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[list[int]] | None = None,
        *,
        relevance: Rows,
        gold: Rows,
        log_extra: LogExtra | None = None,
        log_metric: LogMetric | None = None,
        **_: Any,
    ) -> list[float]:
        records = score(completions, completion_ids, relevance, gold)
        if log:
            _log(records, relevance, log_extra, log_metric)
        if log_total and log_extra is not None:
            log_extra("multi_view_reward", [record.total for record in records])
        return [value(record) for record in records]

    reward.__name__ = name
    return reward


def _log(
    records: Sequence[RewardRecord], relevance: Rows, log_extra: LogExtra | None, log_metric: LogMetric | None
) -> None:
    """Views and format levels into TRL's log and its table of completions.

    One number a completion, not one a batch: TRL takes the mean of all that all processes log, and a mean of means over
    unequal counts of valid completions would be another number.
    """
    if log_metric is not None:
        for record, labels in zip(records, relevance, strict=True):
            for name, value in summary([record]).items():
                log_metric(name, value)
            log_metric("share/no_relevant", float(not any(label > 0 for label in labels)))
    if log_extra is not None:
        log_extra("level", [r.level for r in records])
        log_extra("views", [json.dumps([r.ndcg, r.recall, r.rbo]) for r in records])


def summary(records: Sequence[RewardRecord]) -> dict[str, float]:
    """Shares of the three format levels, and the mean of each view over the valid rollouts (absent if none is)."""
    count = max(len(records), 1)
    means = {
        f"share/{name}": sum(r.level == name for r in records) / count for name in ("valid", "bad_list", "bad_format")
    }
    for view in VIEWS:
        values = [value for r in records if (value := getattr(r, view)) is not None]
        if values:
            means[f"view/{view}"] = float(np.mean(values))
    return means
