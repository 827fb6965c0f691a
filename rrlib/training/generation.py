"""Rollouts of GRPO on a CPU: each prompt is read once for all of its rollouts (rrlib.engines.prefix).

TRL hands a prompt over once for each rollout, equal ones next to each other. On GPUs rollouts are vLLM's business, or
that of transformers' `generate`; this is for the small models that train on a CPU, where generation is most of a step.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rrlib.engines import prefix


def small_model_rollouts(
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
