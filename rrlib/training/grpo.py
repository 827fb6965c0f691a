"""Stage two: reinforcement learning with the multi-view reward (paper section 4.2), GRPO as verl 0.4 ran it.

The defaults are the paper's: 16 prompts a step, 8 rollouts each, two updates per rollout batch (mini-batch of 8
prompts), 200 steps, lr 1e-6 constant, KL 0.001 against the SFT checkpoint, clip 0.2, entropy 0, prompts up to 20480
and responses up to 3072 tokens. TRL's own defaults differ in nearly all of it, so each is set below: its schedule is
linear, its loss is DAPO's, its KL has a bias correction, its beta is 0.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.errors import InputError
from rrlib.prompts import PromptBuilder, format_response
from rrlib.resources import resolve
from rrlib.reward import MultiViewReward
from rrlib.training.common import (
    Common,
    OnLog,
    choose_bf16,
    choose_device,
    load_tokenizer,
    log_writer,
    lora_config,
    model_length,
    require,
    run_trainer,
    tamed_trl,
    training_arguments,
)
from rrlib.training.data import Encoded, Limits, encode_examples
from rrlib.training.generation import small_model_rollouts
from rrlib.training.resume import TrainResult, begin, fingerprint
from rrlib.types import RankingExample

if TYPE_CHECKING:
    import pandas as pd

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class GRPOSettings(Common):
    """Settings of GRPO; see Common for the rest. A step here is one rollout batch, as in the paper.

    prompts: prompts per step. rollouts: completions per prompt. updates: optimiser updates per step.
    steps: rollout batches. beta: weight of the KL to the starting checkpoint. clip: of the ratio; dual_clip: upper
    bound of the ratio for negative advantages (verl: 3). max_prompt, max_completion: tokens; longer prompts are
    refused or dropped, longer completions are cut and earn -1. save_every: steps between two resume points.
    use_vllm: rollouts by vLLM in the trainer's process (GPU), else by transformers.
    """

    learning_rate: float = 1e-6
    weight_decay: float = 0.01
    prompts: int = 16
    rollouts: int = 8
    updates: int = 2
    steps: int = 200
    beta: float = 0.001
    clip: float = 0.2
    dual_clip: float = 3.0
    entropy: float = 0.0
    temperature: float = 1.0
    max_prompt: int = 20480
    max_completion: int = 3072
    save_every: int = 25
    use_vllm: bool = False
    vllm_memory: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (
            ("prompts", 1),
            ("rollouts", 2),
            ("updates", 1),
            ("steps", 1),
            ("beta", 0),
            ("max_prompt", 1),
            ("max_completion", 1),
            ("save_every", 1),
        ):
            require(self, name, low)
        if self.temperature <= 0:
            raise InputError(f"temperature is {self.temperature}", remedy="rollouts are sampled: 1.0 in the paper")
        if (self.prompts * self.rollouts) % self.updates:
            raise InputError(
                f"{self.prompts} prompts x {self.rollouts} rollouts do not split into {self.updates} updates"
            )


@dataclass(frozen=True, slots=True)
class Batches:
    """TRL's batch algebra for our settings.

    accumulation: forward passes per update; per_generation: forward passes per rollout batch; max_steps: optimiser
    updates in all; save_steps and logging_steps count updates too and fall on generation boundaries, the only places
    where a resume is exact and where the reward is logged.
    """

    accumulation: int
    per_generation: int
    max_steps: int
    save_steps: int
    logging_steps: int


def batches(settings: GRPOSettings, processes: int = 1) -> Batches:
    """Raises InputError when the completions of an update do not split evenly over processes and micro-batches."""
    update = settings.prompts * settings.rollouts // settings.updates
    pass_size = settings.micro_batch * processes
    if update % pass_size:
        raise InputError(
            f"an update of {update} completions does not split into passes of {settings.micro_batch} on "
            f"{processes} processes",
            remedy=f"choose a micro_batch that divides {update // processes if update % processes == 0 else update}",
        )
    accumulation = update // pass_size
    return Batches(
        accumulation,
        accumulation * settings.updates,
        settings.steps * settings.updates,
        settings.save_every * settings.updates,
        settings.updates,
    )


def encode_for_grpo(
    examples: Sequence[RankingExample], model: str | Path, settings: GRPOSettings, style: str = "reasonrank"
) -> Encoded:
    """The prompts GRPO would roll out, with every length checked. Raises InputError naming offenders."""
    path = resolve(model)
    tokenizer = load_tokenizer(path)
    room = model_length(path) - settings.max_completion
    if room < 1:
        raise InputError(
            f"max_completion is {settings.max_completion}, but the model has {model_length(path)} positions",
            remedy="leave room for the prompt",
        )
    limit = min(settings.max_prompt, room)
    builder = PromptBuilder(tokenizer, style, settings.max_passage_tokens)
    encoded = encode_examples(
        examples, tokenizer, builder, Limits(limit, limit, limit), responses=False, too_long=settings.too_long
    )
    if len(encoded.rows) < settings.prompts:
        raise InputError(
            f"{len(encoded.rows)} examples for {settings.prompts} prompts a step: no step would ever be full",
            remedy="make more examples, or lower the number of prompts",
        )
    return encoded


def train_grpo(
    examples: Sequence[RankingExample],
    model: str | Path,
    output: str | Path,
    settings: GRPOSettings | None = None,
    reward: MultiViewReward | None = None,
    style: str = "reasonrank",
    *,
    on_log: OnLog | None = None,
) -> TrainResult:
    """Improve `model`, a checkpoint of stage one, by GRPO.

    Parameters
    ----------
    examples: pointwise labels and gold list are used, reasoning is not.
    model: checkpoint folder, hub name or `package:` reference; it is also the reference of the KL term.
    output, on_log, style: as for train_sft. Completions stay in `output/trainer/completions/*.parquet`.
    settings: defaults are the paper's for Qwen2.5-7B.
    reward: its cut-off k should be window - stride (default 10, as 20 - 10).

    Returns the final checkpoint and a log with one row a step: reward, its views (`view/ndcg`, `view/recall`,
    `view/rbo`), the shares of the format levels, lengths, KL, entropy, seconds of generation (`time/generate`).
    Raises InputError for bad settings, prompts that are too long, or a reward that does not read the style's format;
    StageError for a folder begun with other inputs.
    """
    settings, reward = settings or GRPOSettings(), reward or MultiViewReward()
    path, out = resolve(model), Path(output)
    encoded = encode_for_grpo(examples, path, settings, style)
    _check_reward(encoded, reward, style)
    split = batches(settings, int(os.environ.get("WORLD_SIZE", "1")))
    inputs = fingerprint(settings, path, examples, stage="grpo", style=style, reward=repr(reward))
    done, resume = begin(out, inputs)
    if done is not None:
        return done

    from datasets import Dataset
    from trl import GRPOConfig

    tokenizer = load_tokenizer(path)
    device = choose_device(settings)
    bf16 = choose_bf16(settings, device)
    with tamed_trl():
        config = GRPOConfig(
            **training_arguments(settings, out, device, bf16),
            gradient_accumulation_steps=split.accumulation,
            steps_per_generation=split.per_generation,
            num_generations=settings.rollouts,
            num_iterations=1,
            max_steps=split.max_steps,
            lr_scheduler_type="constant",
            beta=settings.beta,
            use_bias_correction_kl=False,
            epsilon=settings.clip,
            delta=settings.dual_clip,
            loss_type="grpo",  # mean over a sequence, then over sequences, as verl with one sequence a micro-batch
            scale_rewards="group",
            entropy_coef=settings.entropy,
            temperature=settings.temperature,
            top_p=1.0,
            top_k=0,
            max_completion_length=settings.max_completion,
            mask_truncated_completions=False,
            use_vllm=settings.use_vllm,
            vllm_mode="colocate",
            vllm_max_model_length=settings.max_prompt + settings.max_completion,
            vllm_gpu_memory_utilization=settings.vllm_memory,
            vllm_importance_sampling_correction=False,
            log_completions=True,
            logging_steps=split.logging_steps,
            save_strategy="steps",
            save_steps=split.save_steps,
        )
        trainer = _trainer_class()(
            model=path,  # a path, since TRL reloads the reference from it
            reward_funcs=reward.trl(decode=answer_decoder(tokenizer)),
            args=config,
            train_dataset=Dataset.from_dict(_columns(encoded)),
            processing_class=tokenizer,
            peft_config=lora_config(settings),
            callbacks=[log_writer(out, _watch(on_log))],
        )
        info = {
            "device": device,
            "bf16": bf16,
            "prompt_tokens_max": encoded.prompt_tokens,
            "completions_per_step": settings.prompts * settings.rollouts,
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
        }
        return run_trainer(trainer, tokenizer, out, resume, len(encoded.rows), encoded.dropped, info)


def _trainer_class() -> type:
    """GRPOTrainer with two additions: our prompt tokens, and the seconds of generation in the log."""
    from trl import GRPOTrainer

    class RankingGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
        def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            # The prompts are templated strings: encoded as the engines do it, without a second BOS token.
            return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}

        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            generated = small_model_rollouts(self, *args, **kwargs) or super()._generate_single_turn(*args, **kwargs)
            mode = "train" if self.model.training else "eval"
            self._metrics[mode]["time/generate"].append(time.perf_counter() - start)
            return generated

    return RankingGRPOTrainer


def answer_decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    """ids -> text for the reward: end and padding tokens go, every other token stays visible.

    TRL decodes with all special tokens skipped, which would hide a chat marker in the middle of a response, and the
    tags themselves where a tokenizer has them as special tokens.
    """
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}

    def decode(ids: list[int]) -> str:
        stop = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        text: str = tokenizer.decode(ids[:stop], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    return decode


def _check_reward(encoded: Encoded, reward: MultiViewReward, style: str) -> None:
    """The reward must find the style's own target valid; else every rollout would earn -1, whatever is learned."""
    example = encoded.rows[0].example
    target = format_response(example.reasoning or "because", example.gold, style)
    record = reward.score(target, example.relevance, example.gold)
    if record.level != "valid":
        raise InputError(
            f"the reward does not read what the style {style!r} writes ({record.why})",
            remedy="use a style with answer tags, and MultiViewReward(think=...) as the style has it",
        )


def _watch(on_log: OnLog | None) -> OnLog:
    """Say once, aloud, when training goes on in silence without learning anything."""
    told: set[str] = set()

    def watch(row: dict[str, Any]) -> None:
        for key, message in (
            ("completions/clipped_ratio", "all completions were cut off: raise max_completion"),
            ("frac_reward_zero_std", "no group has a spread of rewards, so nothing is learned: train SFT further"),
        ):
            if (row.get(key) or 0.0) >= 1.0 and key not in told:
                told.add(key)
                _LOGGER.warning("step %s: %s", row.get("step"), message)
        if on_log is not None:
            on_log(row)

    return watch


def _columns(encoded: Encoded) -> dict[str, list[Any]]:
    return {
        "prompt": [row.prompt for row in encoded.rows],
        "qid": [row.example.query.qid for row in encoded.rows],
        "relevance": [list(row.example.relevance) for row in encoded.rows],
        "gold": [list(row.example.gold) for row in encoded.rows],
    }


def read_completions(output: str | Path) -> pd.DataFrame:
    """Every kept completion of a GRPO training: step (optimiser update), prompt, completion, reward, level, views,
    advantage. One row a completion. Raises InputError when there are none."""
    import pandas as pd

    files = sorted(Path(output).glob("trainer/completions/completions_*.parquet"))
    if not files:
        raise InputError("no completions here", path=output, remedy="name the output folder of train_grpo")
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
