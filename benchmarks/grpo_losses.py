"""Do the optional losses of GRPO help on the miniature? Each from one SFT checkpoint, with the same prompts and seed.

Sampled reward of the rollouts at the first and last steps, and greedy NDCG on the validation windows before and after,
with a bootstrap interval of the difference from the paper's setting over queries. It reads the run folder of a profile
in which notebooks 01 and 02 are done; on one thread a variant takes about as long as the same steps of notebook 03.

    python benchmarks/grpo_losses.py outputs/miniature --steps 12
    python benchmarks/grpo_losses.py outputs/smoke --steps 2 --only grpo views
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rrlib.evaluation.significance import bootstrap_interval
from rrlib.formats import read_collection, read_examples
from rrlib.manifest import read_json
from rrlib.reward import MultiViewReward
from rrlib.stages import audition
from rrlib.training.grpo import GRPOSettings, train_grpo

VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "views": {"normalize": "views"},
    "dr_grpo": {"loss": "dr_grpo"},
    "dapo": {"loss": "dapo", "clip_high": 0.28},
    "masked": {"mask_truncated": True},
}
"""Name -> what differs from the paper's setting, `grpo`."""
TAIL = 3
"""Steps that are averaged at either end."""


def main(argv: list[str] | None = None) -> int:
    """Train each variant, print the table and the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", nargs="?", default="outputs/miniature", help="folder of a run")
    parser.add_argument("--steps", type=int, default=12, help="rollout batches of each variant")
    parser.add_argument("--prompts", type=int, default=16, help="prompts a step")
    parser.add_argument("--seed", type=int, default=7, help="of sampling and shuffling")
    parser.add_argument("--queries", type=int, default=64, help="validation queries")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, help="variants; the first is the baseline")
    given = parser.parse_args(argv)
    run, result = Path(given.run), {"name": "grpo_losses", "unit": "greedy NDCG, best variant less the paper's"}
    sft = run / "02_sft" / "sft" / "checkpoint"
    if not sft.is_dir():
        print(f"no SFT checkpoint in {run}: run `rrlib run params/miniature.yaml --until 02` first")
        print(json.dumps({**result, "value": None, "goal": None, "holds": False, "n": 0, "device": "none"}))
        return 0
    examples = read_examples(run / "01_synthesis" / "teacher" / "examples.jsonl")
    pointer = read_json(run / "01_synthesis" / "collection.json")
    validation = read_collection(run / "01_synthesis" / pointer["folder"], "validation")
    window = max(len(example.passages) for example in examples)
    reward = MultiViewReward(k=max(window // 2, 1))
    trial = {"window": window, "style": "reasonrank", "max_new_tokens": 512, "k": reward.k, "limit": given.queries}
    before = audition(sft, validation, **trial)["ndcg"]
    print(
        f"{len(examples)} examples, {given.steps} steps of {given.prompts} x 8; greedy NDCG before {before.mean():.3f}"
    )
    print(f"{'variant':<10}{'reward':>16}{'length':>14}{'NDCG':>8}{'less the first (95%)':>26}{'seconds':>9}")
    scores: dict[str, list[float]] = {}
    for name in given.only or VARIANTS:
        settings = GRPOSettings(
            learning_rate=1e-4, prompts=given.prompts, rollouts=8, steps=given.steps,
            micro_batch=math.gcd(32, 4 * given.prompts), seed=given.seed,
            max_prompt=4096, max_completion=512, save_every=given.steps, gradient_checkpointing=False, **VARIANTS[name],
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            trained = train_grpo(examples, sft, folder, settings, reward)
            after = audition(trained.checkpoint, validation, **trial)["ndcg"]
        scores[name] = after.tolist()
        base = next(iter(scores.values()))
        gap = bootstrap_interval([a - b for a, b in zip(scores[name], base, strict=True)], seed=given.seed)
        ends = [
            (statistics.mean(r[key] for r in trained.log[:TAIL]), statistics.mean(r[key] for r in trained.log[-TAIL:]))
            for key in ("reward", "completions/mean_length")
        ]
        shown = f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]" if len(scores) > 1 else ""
        print(
            f"{name:<10}{f'{ends[0][0]:.3f} -> {ends[0][1]:.3f}':>16}{f'{ends[1][0]:.0f} -> {ends[1][1]:.0f}':>14}"
            f"{after.mean():>8.3f}{shown:>26}{trained.seconds:>9.0f}",
            flush=True,
        )
    means = {name: statistics.mean(values) for name, values in scores.items()}
    best = max(means, key=lambda name: means[name])
    value = round(means[best] - next(iter(means.values())), 4)
    result |= {"value": value, "goal": None, "holds": True, "n": len(before), "device": "cpu, 1 thread"}
    print(json.dumps({**result, "best": best, "ndcg": means}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
