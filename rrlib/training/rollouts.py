"""GRPO on a CPU: each prompt is read once for all of its rollouts (rrlib.engines.prefix), in sampling and in scoring.

TRL hands a prompt over once for each rollout, equal ones next to each other. On GPUs rollouts are vLLM's business, or
that of transformers' `generate`; this is for the small models that train on a CPU, where generation is most of a step.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from rrlib.engines import prefix

if TYPE_CHECKING:
    import torch

_VOCABULARY = 32768
"""Larger vocabularies are left to TRL's fused head, which never holds the logits of a whole batch."""


def shared_prefix_rollouts(
    trainer: Any, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
) -> tuple[list[list[int]], None] | None:
    """(completion ids with their end token, no log-probabilities), or None where TRL must generate itself.

    Sampled with the trainer's temperature and its other settings of generation, from torch's global generator. The
    weights are used as they are, in float32: rounding rollouts to bfloat16 would draw them from another policy.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.use_vllm or trainer.accelerator.device.type != "cpu" or not prefix.supports(model):
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

    The same numbers as TRL's (a test holds them together). With several processes the gradients must pass through
    the wrapper that averages them, and under gradient checkpointing through each layer once: both are left to TRL.
    """
    single = trainer.accelerator.num_processes == 1
    if trainer.accelerator.device.type != "cpu" or not single or not prefix.supports(model):
        return None
    if (model.is_gradient_checkpointing and model.training) or model.config.vocab_size > _VOCABULARY:
        return None
    with trainer.accelerator.autocast():
        scores, spread = prefix.answer_logprobs(
            model, input_ids, attention_mask, answer, temperature=trainer.temperature, entropy=entropy
        )
    return scores, spread, None
