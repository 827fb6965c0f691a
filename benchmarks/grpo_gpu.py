"""Where does the time of a GRPO step go at the shapes of a 7B model on one GPU: generation, scoring, update?

Random weights of Qwen2.5-7B's shapes in bf16 with LoRA of rank 32 (all states of full fine-tuning would not fit one
GPU), gradient checkpointing, the miniature's tokenizer and random words as passages. Random weights hardly ever end an
answer, so every rollout has the length of the limit: an upper bound, and the same for every engine. It is `train_grpo`
that runs, and its own log that is read.

    python benchmarks/grpo_gpu.py                      # rollouts as the library chooses; needs a CUDA GPU
    python benchmarks/grpo_gpu.py --engine generate    # rollouts by transformers
    python benchmarks/grpo_gpu.py --vllm               # rollouts by vLLM in the same process
    python benchmarks/grpo_gpu.py --tiny               # the same path at tiny shapes, anywhere
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import measure
import torch

from rrlib.plans.shapes import Shape
from rrlib.reward import MultiViewReward
from rrlib.training import grpo
from rrlib.training.config import GRPOSettings
from rrlib.types import Passage, Query, RankingExample

PARTS = ("time/generate", "time/score", "time/update")
ENGINES = get_args(get_type_hints(GRPOSettings)["rollout_engine"])
OURS = {"shared_prefix_rollouts": "prefix", "graphed_rollouts": "graph"}
"""Functions of rrlib.training.grpo that draw rollouts, or leave them to TRL: the engine that each is."""


def make_checkpoint(shape: Shape, folder: Path, dtype: torch.dtype, device: str) -> Path:
    """Random weights on disk, with the miniature's tokenizer: TRL takes policy and reference from a folder."""
    tokenizer = measure.miniature_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = measure.random_model(shape, device, dtype, **ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_examples(count: int, passages: int, words: int) -> list[RankingExample]:
    """Lists of passages of random words out of the miniature's vocabulary, one relevant passage each."""
    rng = random.Random(7)
    vocabulary = sorted(word for word in measure.miniature_tokenizer().get_vocab() if word.isalpha() and word.islower())
    made = []
    for number in range(count):
        texts = [" ".join(rng.choices(vocabulary, k=words)) for _ in range(passages)]
        items = tuple(Passage(f"d{number}-{i}", text) for i, text in enumerate(texts))
        labels = tuple(int(i == number % passages) for i in range(passages))
        gold = tuple(sorted(range(passages), key=lambda i, labels=labels: -labels[i]))
        made.append(
            RankingExample(Query(f"q{number}", " ".join(rng.choices(vocabulary, k=12))), items, labels, gold, "")
        )
    return made


def told(draw: Callable[..., Any], engine: str, ran: set[str]) -> Callable[..., Any]:
    """The same function, which puts its engine into `ran` where it does draw."""

    def call(*args: Any) -> Any:
        drawn = draw(*args)
        if drawn:
            ran.add(engine)
        return drawn

    return call


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, on a GPU or a CPU")
    parser.add_argument("--vllm", action="store_true", help="rollouts by vLLM in the same process")
    engine = GRPOSettings().rollout_engine
    parser.add_argument("--engine", choices=ENGINES, default=engine, help="rollouts without vLLM (rollout_engine)")
    parser.add_argument("--steps", type=int, default=4, help="rollout batches; the first is not counted")
    parser.add_argument("--prompts", type=int, default=4, help="prompts a step")
    parser.add_argument("--rollouts", type=int, default=8, help="answers to each")
    parser.add_argument("--words", type=int, default=200, help="words of a passage (20 passages a prompt)")
    parser.add_argument("--completion", type=int, default=1024, help="tokens of an answer")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train a few steps, print the table and the result."""
    given = arguments().parse_args(argv)
    device, name = measure.device()
    if device == "cpu" and not given.tiny:
        measure.nothing_measured("grpo_gpu", "seconds a step", None)
        return 0
    shape = measure.TINY if given.tiny else measure.SEVEN
    words, completion, passages = (4, 16, 4) if given.tiny else (given.words, given.completion, 20)
    settings = GRPOSettings(
        learning_rate=1e-5, prompts=given.prompts, rollouts=given.rollouts, steps=given.steps, save_every=given.steps,
        micro_batch=1, max_completion=completion, max_prompt=shape.positions - completion, lora_rank=32,
        dtype="bf16" if device == "cuda" else "fp32", device="auto" if device == "cuda" else "cpu",
        use_vllm=given.vllm, vllm_memory=0.4, rollout_engine=given.engine,
    )  # fmt: skip
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_checkpoint(shape, Path(folder, "model"), dtype, device)
        measure.forget_peak()
        examples = make_examples(2 * given.prompts, passages, words)
        reward, ran = MultiViewReward(k=min(10, passages)), set[str]()
        watched = {name: told(getattr(grpo, name), engine, ran) for name, engine in OURS.items()}
        with mock.patch.multiple(grpo, **watched):
            result = grpo.train_grpo(examples, checkpoint, Path(folder, "run"), settings, reward)
    counted: list[dict[str, Any]] = result.log[1:] or result.log
    middle = {part: statistics.median(row[part] for row in counted) for part in PARTS}
    total = sum(middle.values())
    batch = given.prompts * given.rollouts
    made = statistics.median(row["completions/mean_length"] for row in counted) * batch
    maker = "vLLM" if given.vllm else "+".join(sorted(ran)) or "generate (transformers)"
    print(f"{name}; {measure.versions()}; rollouts by {maker}; peak {measure.peak_memory():.1f} GiB")
    print(f"{batch} answers of {made / batch:.0f} tokens to prompts of up to {result.info['prompt_tokens_max']} tokens")
    print(f"{'part':<16}{'seconds':>10}{'share':>8}")
    for part, seconds in middle.items():
        print(f"{part.removeprefix('time/'):<16}{seconds:>10.2f}{seconds / total:>8.0%}")
    print(f"{'step':<16}{total:>10.2f}; generation {made / middle['time/generate']:.0f} tokens/s")
    out = {
        "name": "grpo_gpu",
        "value": round(total, 2),
        "unit": f"seconds a step of {batch} completions (generate, score, update: "
        f"{', '.join(f'{middle[part]:.2f}' for part in PARTS)})",
        "goal": None,
        "holds": True,
        "n": len(counted),
        "device": name,
        "parts": middle,
        "rollouts": maker,
    }
    print(json.dumps(out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
