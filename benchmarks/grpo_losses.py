"""Do the optional losses of GRPO help on the miniature? Each from one SFT checkpoint, with the same prompts and seed.

Sampled reward of the rollouts at the first and last steps, and greedy NDCG on held-out windows before and after, with
bootstrap intervals over queries of the gain and of the difference from the paper's setting. It reads the run folder of
a profile in which notebooks 01 and 02 are done, or a checkpoint, examples and a collection that are named; on one
thread a variant takes about as long as the same steps of notebook 03. With --output it can be stopped and started.

    python benchmarks/grpo_losses.py outputs/miniature --steps 12
    python benchmarks/grpo_losses.py outputs/smoke --steps 2 --only grpo views
    python benchmarks/grpo_losses.py --checkpoint SFT/checkpoint --examples examples.jsonl --collection FOLDER
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from measure import device

from rrlib.disk import read_json
from rrlib.evaluation.audition import audition
from rrlib.evaluation.significance import bootstrap_interval
from rrlib.formats import read_collection, read_examples
from rrlib.reward import MultiViewReward
from rrlib.training.config import GRPOSettings
from rrlib.training.grpo import train_grpo

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


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", nargs="?", default="outputs/miniature", help="folder of a run")
    parser.add_argument("--checkpoint", help="SFT checkpoint, in place of the run's")
    parser.add_argument("--examples", help="JSONL of training examples, in place of the run's")
    parser.add_argument("--collection", help="folder of a collection, in place of the run's")
    parser.add_argument("--split", default="validation", help="of the collection, on which is judged")
    parser.add_argument("--steps", type=int, default=12, help="rollout batches of each variant")
    parser.add_argument("--prompts", type=int, default=16, help="prompts a step")
    parser.add_argument("--rollouts", type=int, default=8, help="answers to each")
    parser.add_argument("--completion", type=int, default=160, help="tokens of an answer, as params/miniature.yaml")
    parser.add_argument("--seed", type=int, default=7, help="of sampling and shuffling")
    parser.add_argument("--queries", type=int, default=64, help="queries that are judged")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, help="variants; the first is the baseline")
    parser.add_argument("--output", help="folder that keeps the trainings; without it they are thrown away")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train each variant, print the table and the result."""
    given = arguments().parse_args(argv)
    run, result = Path(given.run), {"name": "grpo_losses", "unit": "greedy NDCG, best variant less the paper's"}
    sft = Path(given.checkpoint or run / "02_sft" / "sft" / "checkpoint")
    if not sft.is_dir():
        print(f"no SFT checkpoint at {sft}: run `rrlib run params/miniature.yaml --until 02` first")
        print(json.dumps({**result, "value": None, "goal": None, "holds": False, "n": 0, "device": "none"}))
        return 0
    examples = read_examples(given.examples or run / "01_synthesis" / "teacher" / "examples.jsonl")
    held_out = read_collection(given.collection or _collection(run), given.split)
    window = max(len(example.passages) for example in examples)
    reward = MultiViewReward(k=max(window // 2, 1))
    trial = {"window": window, "max_new_tokens": given.completion, "k": reward.k, "limit": given.queries}
    before = audition(sft, held_out, **trial)["ndcg"]
    print(
        f"{len(examples)} examples, {given.steps} steps of {given.prompts} x {given.rollouts}, seed {given.seed}; "
        f"greedy NDCG@{reward.k} of {len(before)} {given.split} windows before: {before.mean():.3f}"
    )
    print(
        f"{'variant':<9}{'reward':>16}{'valid':>16}{'length':>12}{'no spread':>10}{'NDCG':>7}"
        f"{'less before (95%)':>25}{'less the first (95%)':>25}{'seconds':>9}"
    )
    scores: dict[str, list[float]] = {}
    for name in given.only or VARIANTS:
        settings = GRPOSettings(
            learning_rate=1e-4, prompts=given.prompts, rollouts=given.rollouts, steps=given.steps,
            micro_batch=math.gcd(32, given.prompts * given.rollouts // 2), seed=given.seed, max_prompt=4096,
            max_completion=given.completion, save_every=given.steps, gradient_checkpointing=False, **VARIANTS[name],
        )  # fmt: skip
        keep = nullcontext(str(Path(given.output, name))) if given.output else tempfile.TemporaryDirectory()
        with keep as folder:
            trained = train_grpo(examples, sft, folder, settings, reward)
            scores[name] = audition(trained.checkpoint, held_out, **trial)["ndcg"].tolist()
        shown = [
            _interval(scores[name], before.tolist(), given.seed),
            _interval(scores[name], next(iter(scores.values())), given.seed) if len(scores) > 1 else "",
        ]
        still = statistics.mean(row["groups/no_spread"] for row in trained.log)
        print(
            f"{name:<9}{_ends(trained.log, 'reward', '.3f'):>16}{_ends(trained.log, 'share/valid', '.3f'):>16}"
            f"{_ends(trained.log, 'completions/mean_length', '.0f'):>12}{still:>10.2f}"
            f"{statistics.mean(scores[name]):>7.3f}{shown[0]:>25}{shown[1]:>25}{trained.seconds:>9.0f}",
            flush=True,
        )
    means = {name: statistics.mean(values) for name, values in scores.items()}
    best = max(means, key=lambda name: means[name])
    value = round(means[best] - next(iter(means.values())), 4)
    result |= {"value": value, "goal": None, "holds": True, "n": len(before), "device": device()[1]}
    print(json.dumps({**result, "best": best, "ndcg": means}))
    return 0


def _collection(run: Path) -> Path:
    return run / "01_synthesis" / str(read_json(run / "01_synthesis" / "collection.json")["folder"])


def _interval(values: list[float], others: list[float], seed: int) -> str:
    """Mean difference of paired values and its 95% interval over queries."""
    gap = bootstrap_interval([a - b for a, b in zip(values, others, strict=True)], seed=seed)
    return f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"


def _ends(log: list[dict[str, Any]], key: str, form: str) -> str:
    """Mean over the first steps -> mean over the last ones."""
    return " -> ".join(f"{statistics.mean(row[key] for row in part):{form}}" for part in (log[:TAIL], log[-TAIL:]))


if __name__ == "__main__":
    raise SystemExit(main())
