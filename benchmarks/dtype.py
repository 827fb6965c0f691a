"""What does bfloat16 buy on this CPU? A few steps of both trainings of the miniature in each number format.

The profile's trainings with their own sizes, in turn in one run; `rrlib doctor` says which format this machine gets by
itself. Reading (notebook 04) computes in float32 on a CPU either way. The value is the time of the two whole trainings
in float32 over that in bfloat16, from the median step of each; no goal.

    python benchmarks/dtype.py                               # 8 steps of SFT, 3 of GRPO; about four minutes
    OMP_NUM_THREADS=2 python benchmarks/dtype.py --sft 30 --rl 6
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rrlib.chain.from_profile import grpo_settings, sft_settings
from rrlib.doctor import training_dtype
from rrlib.reward import MultiViewReward
from rrlib.studies.ablations import Table
from rrlib.studies.recipes import RECIPES
from rrlib.studies.setting import setting_of
from rrlib.training.grpo import train_grpo
from rrlib.training.sft import train_sft

RERANKER = "package:rrlib.miniature/reranker"
SKIPPED = 2
"""First steps of a training, which also warm up what is kept between steps."""


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="miniature", help="sizes and trainings: a name in params/, or a path")
    parser.add_argument("--sft", type=int, default=8, help="measured steps of SFT in each format")
    parser.add_argument("--rl", type=int, default=3, help="measured steps of GRPO in each format")
    parser.add_argument("--train-queries", type=int, default=300, help="queries of the training data")
    given = parser.parse_args(argv)
    setting = setting_of(given.profile)
    first, second = setting.config("02_sft", seed=7), setting.config("03_rl", seed=7)
    total = {"sft": 0, "rl": second.steps}
    steps: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        small = setting.changed("01_synthesis", train_queries=given.train_queries)
        examples = Table(folder, small, say=lambda text: None).examples(7, RECIPES["full"])
        rows = first.micro_batch * first.accumulation
        lists = len(examples) / given.train_queries * setting.sizes()["train"]
        total["sft"] = round(first.epochs * lists / rows)
        for dtype in ("bf16", "fp32"):
            sft = replace(sft_settings(first), max_steps=given.sft + SKIPPED, dtype=dtype)
            rl = replace(grpo_settings(second), steps=given.rl + 1, dtype=dtype)
            imitated = train_sft(examples, first.model, Path(folder) / f"sft-{dtype}", sft)
            reward = MultiViewReward(k=second.reward_k)
            reinforced = train_grpo(examples, RERANKER, Path(folder) / f"rl-{dtype}", rl, reward)
            steps[dtype] = {"sft": each(imitated.log)[SKIPPED - 1 :], "rl": each(reinforced.log)}
    print(f"{'seconds a step (median, range)':<34}{'SFT':>24}{'GRPO':>24}{'both, whole':>14}")
    seconds = {}
    for dtype, parts in steps.items():
        cells = [f"{statistics.median(s):.2f} ({min(s):.2f} to {max(s):.2f})" for s in (parts["sft"], parts["rl"])]
        seconds[dtype] = sum(total[part] * statistics.median(parts[part]) for part in total)
        print(f"{dtype:<34}{cells[0]:>24}{cells[1]:>24}{seconds[dtype]:>12.0f} s")
    print(
        f"{total['sft']} and {total['rl']} steps of profile {given.profile}; this machine trains in {training_dtype()}"
    )
    result: dict[str, Any] = {"name": "dtype", "value": round(seconds["fp32"] / seconds["bf16"], 2)}
    result |= {"unit": "time of both trainings, float32 over bfloat16", "goal": None, "holds": True}
    result |= {"n": given.sft + given.rl, "device": f"cpu, {os.environ['OMP_NUM_THREADS']} thread(s)", "whole": seconds}
    print(json.dumps(result))
    return 0


def each(log: list[dict[str, Any]]) -> list[float]:
    """Seconds between one row of the log and the next (rows hold the seconds since the start)."""
    at = [float(row["seconds"]) for row in log if "seconds" in row]
    return [after - before for before, after in itertools.pairwise(at)]


if __name__ == "__main__":
    raise SystemExit(main())
