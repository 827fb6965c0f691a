"""How much faster is the batched reward than calling pytrec_eval and the rbo package once a completion?

Both sides start from the same parsed orders, in batches of 128 completions (16 prompts x 8 rollouts, windows of 20),
as a GRPO step has them, and give R_m = NDCG@10 + 0.2 * Recall@10 + 0.1 * RBO. They are timed in turn, in one process.

    python benchmarks/reward_throughput.py
"""

from __future__ import annotations

import json
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytrec_eval
from rbo import RankingSimilarity

from rrlib.reward import MultiViewReward

PROMPTS, ROLLOUTS, PASSAGES, REPEATS, GOAL = 16, 8, 20, 15, 20.0


def make_batch(rng: np.random.Generator) -> list[tuple[np.ndarray, list[int], list[int]]]:
    """One GRPO step: for each prompt the rollouts' orders, the pointwise labels and the gold list."""
    batch = []
    for _ in range(PROMPTS):
        orders = np.array([rng.permutation(PASSAGES) for _ in range(ROLLOUTS)])
        relevance = (rng.random(PASSAGES) < 0.2).astype(int)
        relevance[rng.integers(PASSAGES)] = 1
        batch.append((orders, relevance.tolist(), rng.permutation(PASSAGES).tolist()))
    return batch


def ours(batch: list[tuple[np.ndarray, list[int], list[int]]], reward: MultiViewReward) -> list[float]:
    """The library's reward: the whole batch at once, a row of labels and a gold list for each completion."""
    orders = np.concatenate([orders for orders, _, _ in batch])
    relevance = np.repeat([labels for _, labels, _ in batch], ROLLOUTS, axis=0)
    gold = np.repeat([listed for _, _, listed in batch], ROLLOUTS, axis=0)
    totals: list[float] = reward.combine(reward.views(orders, relevance, gold)).tolist()
    return totals


def packages(batch: list[tuple[np.ndarray, list[int], list[int]]]) -> list[float]:
    """The same from the packages, a call a completion, as reward code in the field does it."""
    totals: list[float] = []
    for orders, relevance, gold in batch:
        qrels = {"q": {f"d{i}": grade for i, grade in enumerate(relevance)}}
        for order in orders.tolist():
            evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10"})
            run = {"q": {f"d{item}": float(PASSAGES - rank) for rank, item in enumerate(order)}}
            scores = evaluator.evaluate(run)["q"]
            overlap = RankingSimilarity(order, gold).rbo()
            totals.append(scores["ndcg_cut_10"] + 0.2 * scores["recall_10"] + 0.1 * overlap)
    return totals


def main() -> None:
    """Time both sides in turn and print a table and the result."""
    rng, reward = np.random.default_rng(7), MultiViewReward()
    batches = [make_batch(rng) for _ in range(REPEATS)]
    gap = max(abs(a - b) for batch in batches for a, b in zip(ours(batch, reward), packages(batch), strict=True))
    own_seconds, package_seconds = [], []
    for batch in batches:
        began = time.perf_counter()
        ours(batch, reward)
        middle = time.perf_counter()
        packages(batch)
        own_seconds.append(middle - began)
        package_seconds.append(time.perf_counter() - middle)
    size = PROMPTS * ROLLOUTS
    ratio = statistics.median(t / m for m, t in zip(own_seconds, package_seconds, strict=True))
    print(f"{'side':<34}{'completions/s':>14}{'ms a batch of 128':>20}")
    for name, times in (("rrlib.reward", own_seconds), ("pytrec_eval + rbo, one by one", package_seconds)):
        middle = statistics.median(times)
        print(f"{name:<34}{size / middle:>14.0f}{1000 * middle:>20.2f}")
    print(f"largest difference of a reward: {gap:.2e}; ratio by batch: median {ratio:.1f}")
    result = {
        "name": "reward_throughput",
        "value": round(ratio, 1),
        "unit": "times the throughput of pytrec_eval + rbo",
        "goal": GOAL,
        "holds": ratio >= GOAL and gap < 1e-9,
        "n": REPEATS * size,
        "device": "cpu, 1 thread",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
