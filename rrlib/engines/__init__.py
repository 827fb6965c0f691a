"""Engines answer prompts: transformers, vllm, openai (any compatible server), replay. Each loads when it is made."""

from __future__ import annotations

from typing import Any

from rrlib.engines.base import Decoding, Engine, Message, Reply, Request
from rrlib.errors import InputError

__all__ = ["ENGINES", "Decoding", "Engine", "Message", "Reply", "Request", "make_engine"]

ENGINES = ("transformers", "vllm", "openai", "replay")


def make_engine(name: str, model: str, **options: Any) -> Engine:
    """Make an engine by name.

    Options: transformers: dtype, device, batch_size, max_batch_tokens. vllm: dtype, max_model_len,
    gpu_memory_utilization, tensor_parallel_size, max_num_seqs. openai: base_url, api_key_env, concurrency, timeout,
    max_retries, provider. replay: responses (a JSONL file).

    Raises InputError for an unknown name or a model that cannot be loaded, MissingPackageError where a package is not
    installed, EngineError where vLLM cannot start.
    """
    if name == "transformers":
        from rrlib.engines.hf import TransformersEngine

        return TransformersEngine(model, **options)
    if name == "vllm":
        from rrlib.engines.vllm import VLLMEngine

        return VLLMEngine(model, **options)
    if name == "openai":
        from rrlib.engines.openai import OpenAIEngine

        return OpenAIEngine(model, **options)
    if name == "replay":
        from rrlib.engines.replay import ReplayEngine

        return ReplayEngine(**options)
    raise InputError(f"unknown engine {name!r}", remedy=f"use one of {', '.join(ENGINES)}")
