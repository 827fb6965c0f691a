"""Stage two: reinforcement learning with the multi-view reward (paper section 4.2), GRPO as verl 0.4 ran it.

The loss is written out in objective.py. The defaults of GRPOSettings are the paper's: 16 prompts a step, 8 rollouts
each, two updates per rollout batch (mini-batch of 8 prompts), 200 steps, lr 1e-6 constant, KL 0.001 against the SFT
checkpoint, clip 0.2, entropy 0, prompts up to 20480 and responses up to 3072 tokens. TRL's own defaults differ in
nearly all of it, so each is set below: its schedule is linear, its loss is DAPO's, its KL has a bias correction, its
beta is 0.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.engines.graphs import GraphDecoder
from rrlib.errors import InputError
from rrlib.patches import prepare_vllm
from rrlib.prompts import PromptBuilder, format_response
from rrlib.resources import resolve
from rrlib.reward import MultiViewReward
from rrlib.training.config import GRPOSettings, world_size
from rrlib.training.data import Encoded, Limits, encode_examples, load_tokenizer, model_length
from rrlib.training.resume import TrainResult
from rrlib.training.rollouts import check_prefix, graphed_rollouts, shared_prefix_logprobs, shared_prefix_rollouts
from rrlib.training.schedule import batches
from rrlib.training.trainer import OnLog, Training, training_arguments
from rrlib.training.trl_reward import answer_decoder, trl_reward, trl_reward_parts
from rrlib.types import RankingExample

if TYPE_CHECKING:
    from transformers import Trainer


def encode_for_grpo(
    examples: Sequence[RankingExample], model: str | Path, settings: GRPOSettings, style: str = "reasonrank"
) -> Encoded:
    """The prompts GRPO would roll out, with every length checked. Raises InputError naming offenders."""
    path = resolve(model)
    return _encode(examples, load_tokenizer(path), model_length(path), settings, style)


def _encode(
    examples: Sequence[RankingExample], tokenizer: Any, positions: int, settings: GRPOSettings, style: str
) -> Encoded:
    room = positions - settings.max_completion
    if room < 1:
        raise InputError(
            f"max_completion is {settings.max_completion}, but the model has {positions} positions",
            remedy="leave room for the prompt",
        )
    limit = min(settings.max_prompt, room)
    builder, limits = PromptBuilder(tokenizer, style, settings.max_passage_tokens), Limits(limit, limit, limit)
    encoded = encode_examples(examples, tokenizer, builder, limits, target=None, too_long=settings.too_long)
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
    return _GRPO(examples, model, output, settings or GRPOSettings(), reward or MultiViewReward(), style, on_log).run()


class _GRPO(Training):
    stage = "grpo"
    settings: GRPOSettings

    def __init__(
        self,
        examples: Sequence[RankingExample],
        model: str | Path,
        output: str | Path,
        settings: GRPOSettings,
        reward: MultiViewReward,
        style: str,
        on_log: OnLog | None,
    ) -> None:
        super().__init__(examples, model, output, settings, style, on_log)
        self.reward, decode = reward, answer_decoder(self.tokenizer, self.encoded.rows[0].prompt, reward.think)
        if settings.normalize == "views":
            self.reward_functions, self.reward_weights = trl_reward_parts(reward, decode)
        else:
            self.reward_functions, self.reward_weights = [trl_reward(reward, decode)], [1.0]
        _check_reward(self.encoded, reward, style)
        if settings.rollout_engine == "prefix":
            check_prefix(self.path)
        if settings.use_vllm:
            prepare_vllm(self.device, settings.vllm_mode)

    def encode(self) -> Encoded:
        return _encode(self.examples, self.tokenizer, self.positions, self.settings, self.style)

    def config(self) -> Any:
        return grpo_config(
            self.settings,
            self.output,
            self.device,
            self.bf16,
            world_size(),
            self.positions,
            reward_weights=self.reward_weights,
        )

    def trainer(self, **shared: Any) -> Trainer:
        from datasets import Dataset

        rows = self.encoded.rows
        columns = {
            "prompt": [row.prompt for row in rows],
            "qid": [row.example.query.qid for row in rows],
            "relevance": [list(row.example.relevance) for row in rows],
            "gold": [list(row.example.gold) for row in rows],
        }
        dataset = Dataset.from_dict(columns)
        trainer = _trainer_class()(reward_funcs=self.reward_functions, train_dataset=dataset, **shared)
        trainer.rollout_engine = self.settings.rollout_engine
        return trainer

    def probe_limits(self) -> tuple[int, int]:
        return self.settings.max_completion, self.settings.updates

    def inputs(self) -> dict[str, Any]:
        return {"reward": self.reward.signature}

    def info(self) -> dict[str, Any]:
        return {
            "reward": self.reward.signature,
            "prompt_tokens_max": self.encoded.prompt_tokens,
            "completions_per_step": self.settings.prompts * self.settings.rollouts,
        }


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
        log_completions=True,
        logging_steps=split.logging_steps,
        save_strategy="steps",
        save_steps=split.save_steps,
        **_vllm_arguments(settings, positions),
        **more,
    )


def _vllm_arguments(settings: GRPOSettings, positions: int) -> dict[str, Any]:
    return {
        "use_vllm": settings.use_vllm,
        "vllm_mode": settings.vllm_mode,
        "vllm_max_model_length": min(settings.max_prompt + settings.max_completion, positions),
        "vllm_gpu_memory_utilization": settings.vllm_memory,
        "vllm_tensor_parallel_size": settings.vllm_tensor_parallel,
        "vllm_enable_sleep_mode": settings.vllm_sleep,
        "vllm_importance_sampling_correction": settings.vllm_correction,
        "vllm_importance_sampling_mode": "token_truncate",
        **({"vllm_server_base_url": settings.vllm_server} if settings.vllm_mode == "server" else {}),
    }


def _trainer_class() -> type:
    from trl import GRPOTrainer

    return type("RankingGRPOTrainer", (RankingRollouts, GRPOTrainer), {})


class RankingRollouts:
    """What we change of TRL's GRPOTrainer, to be put before it: our prompt tokens, shared prefixes, and a log that also
    says where the time goes, how groups spread, and whether vLLM samples from the weights that are trained."""

    rollout_engine = "auto"
    graph_decoder: GraphDecoder | None = None
    _began: float | None = None  # when the running rollout batch began
    _spent = 0.0  # seconds of it in generation and scoring, and others that are no part of its updates

    def _note(self: Any, **values: float) -> None:
        mode = "train" if self.model.training else "eval"
        for name, value in values.items():
            self._metrics[mode][name.replace("__", "/")].append(value)

    def leave_out(self, seconds: float) -> None:
        """Seconds of the running rollout batch that `time/update` shall not hold."""
        self._spent += seconds

    def _tokenize_prompts(self: Any, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        # The prompts are templated strings: encoded as the engines do it, without a second BOS token.
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}

    def _generate_single_turn(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        self._began = self._began or start
        generated = shared_prefix_rollouts(self, *args, **kwargs) or graphed_rollouts(self, args[0])
        generated = generated or super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]
        seconds = time.perf_counter() - start
        self._spent += seconds
        self._note(time__generate=seconds)
        return generated

    def _get_per_token_logps_and_entropies(
        self: Any, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        entropy = bool(kwargs.get("compute_entropy"))
        plain = not args and not kwargs.get("compute_aux_loss")
        shared = plain and shared_prefix_logprobs(self, model, input_ids, attention_mask, logits_to_keep, entropy)
        return shared or super()._get_per_token_logps_and_entropies(  # type: ignore[misc]
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )

    def _calculate_rewards(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        rewards_NF = super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]  # (rollouts, reward functions)
        seconds = time.perf_counter() - start
        self._spent += seconds
        totals_N = (rewards_NF * self.reward_weights.to(rewards_NF.device)).nansum(dim=1)
        spread_K = totals_N.view(-1, self.num_generations).std(dim=1)  # (groups,)
        no_spread_K = spread_K.isclose(spread_K.new_zeros(()), atol=1e-7)
        self._note(time__score=seconds, groups__no_spread=no_spread_K.float().mean().item())
        return rewards_NF

    def _generate_and_score_completions(self: Any, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        if self.use_vllm and not self.vllm_importance_sampling_correction:
            self._note(sampling__sampling_logp_difference__mean=self._sampling_gap(batch))
        return batch

    def _sampling_gap(self: Any, batch: Any) -> float:
        """How far the log-probabilities of vLLM and of the trainer lie apart, by token. TRL logs this only together
        with its correction. One pass is enough to see stale weights."""
        import torch

        rows = slice(self.args.per_device_train_batch_size)
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)[rows]  # (B, P + T)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)[rows]
        width = batch["completion_ids"].shape[1]  # T
        with torch.no_grad():
            trained, _, _ = self._get_per_token_logps_and_entropies(self.model, ids, mask, width, batch_size=len(ids))
            real = batch["completion_mask"][rows].bool()
            gap = (trained - batch["sampling_per_token_logps"][rows]).abs()[real]  # (real tokens,)
            gap = self.accelerator.gather(gap[~gap.isnan()].mean().reshape(1))
        return float(gap.nanmean().item())

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._began is not None:  # the rest of a rollout batch: log probabilities, backward, optimiser
            self._note(time__update=time.perf_counter() - self._began - self._spent)
            self._began, self._spent = None, 0.0
        super().log(logs, start_time)  # type: ignore[misc]
