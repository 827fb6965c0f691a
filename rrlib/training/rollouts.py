"""Rollouts by ourselves, for models small enough to train on a CPU or on one GPU, where nobody starts vLLM.

`prefix` reads a prompt once for all of a group (rrlib.engines.prefix), in sampling and in scoring: TRL hands it over
once for each rollout, equal ones next to each other. `graph` draws them on a GPU, a token a launch
(rrlib.engines.graphs); the scoring is TRL's.
"""

from __future__ import annotations

from itertools import groupby
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rrlib.engines import prefix
from rrlib.engines.graphs import GraphDecoder
from rrlib.errors import InputError

if TYPE_CHECKING:
    import torch

_VOCABULARY = 32768
"""Unless asked for, larger vocabularies are left to TRL's fused head, which never holds the logits of a whole batch."""


def check_prefix(model: str) -> None:
    """Raise InputError where rollout_engine: prefix cannot run a checkpoint."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    if not prefix.supports(SimpleNamespace(config=config)):
        raise InputError(
            f"rollout_engine: prefix does not run models of type {config.model_type!r} as this one is configured",
            remedy="use rollout_engine: generate",
        )


def _is_shared(trainer: Any, model: Any) -> bool:
    """Whether prompts are read once for this model and these settings. Sharded weights are left to TRL."""
    if trainer.rollout_engine == "auto":
        return trainer.accelerator.device.type == "cpu" and prefix.supports(model)
    return trainer.rollout_engine == "prefix" and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def _is_graphed(trainer: Any, model: Any) -> bool:
    """Whether the rollouts of this model are drawn by a CUDA graph: on one GPU, temperature alone shaping the draw."""
    config = trainer.generation_config
    plain = (config.top_p or 1.0) >= 1.0 and not config.top_k
    single = trainer.accelerator.num_processes == 1 and trainer.accelerator.device.type == "cuda"
    chosen = trainer.rollout_engine == "graph" or (trainer.rollout_engine == "auto" and prefix.supports(model))
    return single and plain and chosen and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def graphed_rollouts(trainer: Any, prompt_ids: list[list[int]]) -> tuple[list[list[int]], None] | None:
    """As `shared_prefix_rollouts`, on one GPU; None where TRL must generate itself. Where the training computes under
    bfloat16 autocast, so do the rollouts: from a bfloat16 copy of the weights, as vLLM's would be."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.use_vllm or not _is_graphed(trainer, model):
        return None
    if trainer.graph_decoder is None:
        trainer.graph_decoder = GraphDecoder(model, copied=trainer.args.bf16)
    completions = trainer.graph_decoder.decode(
        prompt_ids,
        max_new_tokens=trainer.max_completion_length,
        eos=[trainer.processing_class.eos_token_id],
        temperature=trainer.generation_config.temperature,
    )
    return completions, None


def shared_prefix_rollouts(
    trainer: Any, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
) -> tuple[list[list[int]], None] | None:
    """(completion ids with their end token, no log-probabilities), or None where TRL must generate itself.

    Sampled with the trainer's temperature and its other settings of generation, from torch's global generator. The
    weights are used as they are: rounding rollouts from float32 to bfloat16 would draw them from another policy.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.use_vllm or not _is_shared(trainer, model):
        return None
    groups = [(list(ids), len(list(rows))) for ids, rows in groupby(tuple(ids) for ids in prompt_ids)]
    copies = min(size for _, size in groups)
    if any(size % copies for _, size in groups):
        groups, copies = [(list(ids), 1) for ids in prompt_ids], 1
    prompts = [ids for ids, size in groups for _ in range(size // copies)]
    config = trainer.generation_config
    completions = prefix.decode(
        model,
        prompts,
        copies=copies,
        max_new_tokens=trainer.max_completion_length,
        eos=[trainer.processing_class.eos_token_id],
        sampling=prefix.Sampling(config.temperature, config.top_p or 1.0, config.top_k or 0),
    )
    return completions, None


def shared_prefix_logprobs(
    trainer: Any, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, answer: int, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None, None] | None:
    """(log-probabilities, entropies, no auxiliary loss) of the rollouts, or None where TRL must compute them itself.

    input_ids, attention_mask: (rows, prompt + answer); the results: (rows, answer). The same numbers as TRL's (a test
    holds them together). With several processes the gradients must pass through the wrapper that averages them, and
    under gradient checkpointing through each layer once: both are left to TRL. Holds a row of logits in float32 for
    each answer token of a micro-batch.
    """
    if trainer.accelerator.num_processes > 1 or not _is_shared(trainer, model):
        return None
    if model.is_gradient_checkpointing and model.training:
        return None
    if trainer.rollout_engine == "auto" and model.config.vocab_size > _VOCABULARY:
        return None
    with trainer.accelerator.autocast():
        scores, spread = prefix.answer_logprobs(
            model, input_ids, attention_mask, answer, temperature=trainer.temperature, entropy=entropy
        )
    return scores, spread, None
