"""GRPO on the miniature with vLLM in the trainer's process, in a process of its own: vLLM leaves threads behind.

    python tests/vllm_rollouts.py OUTPUT [--unsynced]

Takes two steps at a large learning rate and prints the log as JSON. --unsynced leaves the weight sync out after the
first: the counter-example that the measured gap must expose.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from rrlib.formats import read_collection
from rrlib.miniature import build
from rrlib.patches import prepare_vllm
from rrlib.reward import MultiViewReward
from rrlib.training.config import GRPOSettings
from rrlib.training.grpo import train_grpo
from rrlib.types import RankingExample

SETTINGS = GRPOSettings(
    learning_rate=1e-3, micro_batch=16, prompts=4, rollouts=8, updates=1, steps=2, save_every=2, max_prompt=1024,
    max_completion=200, dtype="fp32", device="cpu", gradient_checkpointing=False, use_vllm=True, vllm_memory=0.3,
)  # fmt: skip


def examples(folder: Path) -> list[RankingExample]:
    """Windows of ten passages of the embedded world, as the checkpoint knows them, each with a relevant one."""
    build(folder, seed=3, train=16, validation=4, test=4)
    collection = read_collection(folder, "train")
    found = []
    for item in collection.candidates(10):
        grades = collection.qrels.get(item.query.qid, {})
        labels = tuple(int(grades.get(p.docid, 0) > 0) for p in item.passages)
        gold = tuple(sorted(range(len(labels)), key=lambda i: -labels[i]))
        if any(labels):
            found.append(RankingExample(item.query, item.passages, labels, gold, ""))
    return found


def main(output: Path, synced: bool) -> None:
    """Train, and print the log."""
    prepare_vllm("cpu", "colocate")
    if not synced:
        from trl.generation.vllm_generation import VLLMGeneration

        real, calls = VLLMGeneration.sync_weights, []

        def once(self: object) -> None:
            if not calls:
                calls.append(1)
                real(self)

        VLLMGeneration.sync_weights = once
    settings = dataclasses.replace(SETTINGS)
    result = train_grpo(
        examples(output / "world"), "package:rrlib.miniature/reranker", output / "grpo", settings, MultiViewReward(k=5)
    )
    print("LOG " + json.dumps(result.log))


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--unsynced" not in sys.argv)
