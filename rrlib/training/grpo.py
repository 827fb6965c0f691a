"""Stage two: reinforcement learning with the multi-view reward (paper section 4.2), GRPO as verl 0.4 ran it.

The defaults are the paper's: 16 prompts a step, 8 rollouts each, two updates per rollout batch (mini-batch of 8
prompts), 200 steps, lr 1e-6 constant, KL 0.001 against the SFT checkpoint, clip 0.2, entropy 0, prompts up to 20480
and responses up to 3072 tokens. TRL's own defaults differ in nearly all of it, so each is set below: its schedule is
linear, its loss is DAPO's, its KL has a bias correction, its beta is 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rrlib.errors import InputError
from rrlib.prompts import PromptBuilder, format_response
from rrlib.resources import resolve
from rrlib.reward import MultiViewReward
from rrlib.training.common import (
    Common,
    OnLog,
    check_attention,
    choose_bf16,
    choose_device,
    load_tokenizer,
    lora_config,
    model_length,
    one_of,
    require,
    tamed_trl,
    training_arguments,
    world_size,
)
from rrlib.training.completions import read_completions
from rrlib.training.data import Encoded, Limits, encode_examples
from rrlib.training.probe import probe
from rrlib.training.resume import TrainResult, begin, fingerprint, locked
from rrlib.training.rollouts import small_model_logprobs, small_model_rollouts
from rrlib.training.schedule import Batches, batches
from rrlib.training.trainer import Facts, log_writer, run_trainer
from rrlib.types import RankingExample

__all__ = ["Batches", "GRPOSettings", "answer_decoder", "batches", "encode_for_grpo", "read_completions", "train_grpo"]


@dataclass(frozen=True)
class GRPOSettings(Common):
    """Settings of GRPO; see Common for the rest. A step here is one rollout batch, as in the paper.

    prompts: prompts per step. rollouts: completions per prompt. updates: optimiser updates per step.
    steps: rollout batches. beta: weight of the KL to the starting checkpoint. clip: of the ratio; clip_high: of the
    ratio upwards where it differs (DAPO: 0.28), 0 = as clip; dual_clip: upper bound of the ratio for negative
    advantages (verl: 3). max_prompt, max_completion: tokens; longer prompts are refused or dropped, longer completions
    are cut and earn -1. save_every: steps between two resume points.

    Beyond the paper, off by default:
    loss: `grpo` (mean over a sequence, then over sequences: the paper's run), `dr_grpo` (arXiv 2503.20783: divided by a
        constant length, and advantages not by the group's spread), `dapo` (arXiv 2503.14476: mean over all tokens).
    normalize: `total` normalises the reward within a group, `views` each view on its own before they are summed (GDPO,
        arXiv 2601.05242).
    mask_truncated: completions that were cut off teach nothing, instead of earning -1 (they stay in the group's mean).

    use_vllm: rollouts by vLLM, else by transformers. vllm_mode: `colocate` (in the trainer's processes, with
        vllm_memory of each GPU, split over vllm_tensor_parallel GPUs; with vllm_sleep it gives its memory back while
        the update runs, as verl does) or `server` (vllm_server: its base URL).
    vllm_correction: weigh tokens by the ratio of trainer's and vLLM's probabilities (truncated at 3, token by token);
        off as in the paper's run.
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
    clip_high: float = 0.0
    loss: Literal["grpo", "dr_grpo", "dapo"] = "grpo"
    normalize: Literal["total", "views"] = "total"
    mask_truncated: bool = False
    use_vllm: bool = False
    vllm_mode: Literal["colocate", "server"] = "colocate"
    vllm_server: str = "http://localhost:8000"
    vllm_memory: float = 0.5
    vllm_tensor_parallel: int = 1
    vllm_sleep: bool = False
    vllm_correction: bool = False

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
            ("clip_high", 0),
            ("vllm_tensor_parallel", 1),
        ):
            require(self, name, low)
        one_of(self, loss=("grpo", "dr_grpo", "dapo"), normalize=("total", "views"), vllm_mode=("colocate", "server"))
        if not 0.0 < self.vllm_memory < 1.0:
            raise InputError(f"vllm_memory is {self.vllm_memory}", remedy="it is a share of a GPU, such as 0.5")
        if self.normalize == "views" and self.loss == "dr_grpo":
            raise InputError(
                "loss dr_grpo leaves out the spread by which normalize: views divides", remedy="choose one of them"
            )
        if self.temperature <= 0:
            raise InputError(f"temperature is {self.temperature}", remedy="rollouts are sampled: 1.0 in the paper")
        if (self.prompts * self.rollouts) % self.updates:
            raise InputError(
                f"{self.prompts} prompts x {self.rollouts} rollouts do not split into {self.updates} updates"
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
    model: checkpoint folder, hub name, `.gguf` file or `package:` reference; it is also the reference of the KL term.
    output, on_log, style: as for train_sft. Completions stay in `output/trainer/completions/*.parquet`.
    settings: defaults are the paper's for Qwen2.5-7B.
    reward: its cut-off k should be window - stride (default 10, as 20 - 10).

    Returns the final checkpoint and a log with one row a step: reward, its views (`view/ndcg`, `view/recall`,
    `view/rbo`), the shares of the format levels, of groups without spread (`groups/no_spread`) and of completions cut
    off (`completions/clipped_ratio`), lengths, KL, entropy, seconds of generation, scoring and update (`time/...`).
    Raises InputError for bad settings, prompts that are too long, or a reward that does not read the style's format;
    StageError for a folder begun with other inputs.
    """
    settings, reward = settings or GRPOSettings(), reward or MultiViewReward()
    path, out = resolve(model), Path(output)
    device = choose_device(settings)
    check_attention(settings, device)
    encoded = encode_for_grpo(examples, path, settings, style)
    _check_reward(encoded, reward, style)
    inputs = fingerprint(
        settings, path, examples, stage="grpo", style=style, reward=reward.signature, processes=world_size()
    )

    from datasets import Dataset

    if settings.use_vllm:
        from rrlib.training.patches import prepare_vllm

        prepare_vllm(device, settings.vllm_mode)
    tokenizer = load_tokenizer(path)
    bf16 = choose_bf16(settings, device)
    decode = answer_decoder(tokenizer)
    parts = reward.trl_parts(decode) if settings.normalize == "views" else ([reward.trl(decode)], [1.0])
    with tamed_trl(), locked(out):
        limit = model_length(path)
        config = grpo_config(settings, out, device, bf16, world_size(), limit, reward_weights=parts[1])
        with config.main_process_first(local=False):  # one process clears the folder, then the others look at it
            done, resume = begin(out, inputs)
        if done is not None:
            return done
        trainer = _trainer_class()(
            model=path,  # a path, since TRL reloads the reference from it
            reward_funcs=parts[0],
            args=config,
            train_dataset=Dataset.from_dict(_columns(encoded)),
            processing_class=tokenizer,
            peft_config=lora_config(settings),
            callbacks=[log_writer(out, on_log)],
        )
        info = {
            "device": device,
            "bf16": bf16,
            "processes": world_size(),
            "style": style,
            "reward": reward.signature,
            "prompt_tokens_max": encoded.prompt_tokens,
            "completions_per_step": settings.prompts * settings.rollouts,
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
        }
        row = encoded.rows[0]
        trainer.add_callback(probe(trainer, tokenizer, row, out, settings.max_completion, settings.updates))
        facts = Facts("grpo", str(model), len(encoded.rows), encoded.dropped, asdict(settings), info)
        return run_trainer(trainer, tokenizer, out, resume, facts)


def grpo_config(
    settings: GRPOSettings,
    output: Path,
    device: str,
    bf16: bool,
    processes: int = 1,
    positions: int = 1 << 30,
    **more: Any,
) -> Any:
    """TRL's GRPOConfig for our settings: every value that matters is set, and none is left to a default.

    positions: of the model, beyond which vLLM would not start. more: arguments of GRPOConfig that are not settings (the
    weights of the reward functions).
    """
    from trl import GRPOConfig

    split = batches(settings, processes)
    server = {"vllm_server_base_url": settings.vllm_server} if settings.vllm_mode == "server" else {}
    return GRPOConfig(
        **training_arguments(settings, output, device, bf16),
        gradient_accumulation_steps=split.accumulation,
        steps_per_generation=split.per_generation,
        num_generations=settings.rollouts,
        num_iterations=1,
        max_steps=split.max_steps,
        lr_scheduler_type="constant",
        beta=settings.beta,
        use_bias_correction_kl=False,
        epsilon=settings.clip,
        epsilon_high=settings.clip_high or settings.clip,
        delta=settings.dual_clip,
        loss_type=settings.loss,  # grpo: mean over a sequence, then over sequences, as verl with one a micro-batch
        scale_rewards="none" if settings.loss == "dr_grpo" else "group",
        multi_objective_aggregation="normalize_then_sum" if settings.normalize == "views" else "sum_then_normalize",
        entropy_coef=settings.entropy,
        temperature=settings.temperature,
        top_p=1.0,
        top_k=0,
        max_completion_length=settings.max_completion,
        mask_truncated_completions=settings.mask_truncated,
        use_vllm=settings.use_vllm,
        vllm_mode=settings.vllm_mode,
        vllm_max_model_length=min(settings.max_prompt + settings.max_completion, positions),
        vllm_gpu_memory_utilization=settings.vllm_memory,
        vllm_tensor_parallel_size=settings.vllm_tensor_parallel,
        vllm_enable_sleep_mode=settings.vllm_sleep,
        vllm_importance_sampling_correction=settings.vllm_correction,
        vllm_importance_sampling_mode="token_truncate",
        log_completions=True,
        logging_steps=split.logging_steps,
        save_strategy="steps",
        save_steps=split.save_steps,
        **server,
        **more,
    )


def _trainer_class() -> type:
    """GRPOTrainer with our prompt tokens, and a log that also says where the time goes, how groups spread, and whether
    vLLM samples from the weights that are trained."""
    import torch
    from trl import GRPOTrainer

    class RankingGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
        _began: float | None = None  # when the running rollout batch began
        _spent = 0.0  # seconds of it in generation and scoring

        def _note(self, **values: float) -> None:
            mode = "train" if self.model.training else "eval"
            for name, value in values.items():
                self._metrics[mode][name.replace("__", "/")].append(value)

        def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            # The prompts are templated strings: encoded as the engines do it, without a second BOS token.
            return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}

        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            self._began = self._began or start
            generated = small_model_rollouts(self, *args, **kwargs) or super()._generate_single_turn(*args, **kwargs)
            seconds = time.perf_counter() - start
            self._spent += seconds
            self._note(time__generate=seconds)
            return generated

        def _get_per_token_logps_and_entropies(
            self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
        ) -> Any:
            entropy = bool(kwargs.get("compute_entropy"))
            plain = not args and not kwargs.get("compute_aux_loss")
            own = plain and small_model_logprobs(self, model, input_ids, attention_mask, logits_to_keep, entropy)
            return own or super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            rewards_GF = super()._calculate_rewards(*args, **kwargs)
            seconds = time.perf_counter() - start
            self._spent += seconds
            totals = (
                (rewards_GF * self.reward_weights.to(rewards_GF.device)).nansum(dim=1).view(-1, self.num_generations)
            )
            still = torch.isclose(totals.std(dim=1), torch.zeros((), device=totals.device), atol=1e-7)
            self._note(time__score=seconds, groups__no_spread=still.float().mean().item())
            return rewards_GF

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            batch = super()._generate_and_score_completions(inputs)
            if self.use_vllm and not self.vllm_importance_sampling_correction:
                self._note(**self._sampling_gap(batch))
            return batch

        @torch.no_grad()
        def _sampling_gap(self, batch: Any) -> dict[str, float]:
            # TRL logs this only together with its correction. One pass is enough to see stale weights.
            rows = slice(self.args.per_device_train_batch_size)
            ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)[rows]
            mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)[rows]
            keep = batch["completion_ids"].shape[1]
            trained, _, _ = self._get_per_token_logps_and_entropies(self.model, ids, mask, keep, batch_size=len(ids))
            real = batch["completion_mask"][rows].bool()
            gap = (trained - batch["sampling_per_token_logps"][rows]).abs()[real]
            gap = self.accelerator.gather(gap[~gap.isnan()].mean().reshape(1))
            return {"sampling__sampling_logp_difference__mean": gap.nanmean().item()}

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if self._began is not None:  # the rest of a rollout batch: log probabilities, backward, optimiser
                self._note(time__update=time.perf_counter() - self._began - self._spent)
                self._began, self._spent = None, 0.0
            super().log(logs, start_time)

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


def _columns(encoded: Encoded) -> dict[str, list[Any]]:
    return {
        "prompt": [row.prompt for row in encoded.rows],
        "qid": [row.example.query.qid for row in encoded.rows],
        "relevance": [list(row.example.relevance) for row in encoded.rows],
        "gold": [list(row.example.gold) for row in encoded.rows],
    }
