"""Engines answer prompts: transformers, vllm, openai (any compatible server), replay, numpy. Each loads when made."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from os import PathLike
from typing import Any

from rrlib.doctor import missing_package
from rrlib.engines.base import Decoding, Engine, Message, Reply, Request
from rrlib.engines.options import check_options
from rrlib.errors import InputError

__all__ = [
    "ENGINES",
    "Decoding",
    "Engine",
    "Message",
    "Reply",
    "Request",
    "check_engine_options",
    "engine_from",
    "make_engine",
]

ENGINES = ("transformers", "vllm", "openai", "replay", "numpy")


def make_engine(name: str, model: str, **options: Any) -> Engine:
    """Make an engine by name.

    Options: transformers: dtype, device, batch_size, max_batch_tokens. vllm: dtype, max_model_len,
    gpu_memory_utilization, tensor_parallel_size, max_num_seqs, enforce_eager, and all other arguments of vLLM's engine.
    numpy: batch_size. openai: base_url (one or several), tokenizer, api_key_env, concurrency, timeout, max_retries,
    provider. replay: responses (a JSONL file).

    Raises InputError for an unknown name, an option that is none, or a model that cannot be loaded,
    MissingPackageError where a package is not installed, EngineError where vLLM cannot start.
    """
    check_engine_options(name, options)
    try:
        made = _engine_class(name)
        return made(**options) if name == "replay" else made(model, **options)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        raise missing_package(error) or error from error


def check_engine_options(name: str, options: Mapping[str, Any], also: Collection[str] = ()) -> None:
    """Refuse what cannot be an option of an engine, before a model is loaded (rrlib.engines.options)."""
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}", remedy=f"use one of {', '.join(ENGINES)}")
    try:
        check_options(name, _engine_class(name), options, also)
    except ModuleNotFoundError as error:
        raise missing_package(error) or error from error


def engine_from(model: Any, name: str, options: Mapping[str, Any], also: Collection[str]) -> Engine:
    """The engine of a model's name, or the one that was given as `model`. also: see check_options.

    Raises InputError for a model that is neither, and for options that are none.
    """
    if isinstance(model, str | PathLike):
        if not str(model).strip():
            raise InputError("the model's name is empty", remedy="name a folder or a hub name")
        check_engine_options(name, options, also)
        return make_engine(name, str(model), **options)
    if not (hasattr(model, "submit") and hasattr(model, "collect")):
        raise InputError(f"the model is {model!r:.60}", remedy="name a folder or a hub name, or give an engine")
    for option in options:
        near = difflib.get_close_matches(option, also, 1)
        remedy = f"write {near[0]!r}" if near else "options of an engine go to make_engine"
        raise InputError(f"there is no option {option!r} beside an engine already made", remedy=remedy)
    return model  # type: ignore[no-any-return]


def _engine_class(name: str) -> Any:
    if name == "transformers":
        from rrlib.engines.hf import TransformersEngine as Made
    elif name == "vllm":
        from rrlib.engines.vllm import VLLMEngine as Made  # type: ignore[assignment]
    elif name == "numpy":
        from rrlib.engines.light import LightEngine as Made  # type: ignore[assignment]
    elif name == "openai":
        from rrlib.engines.openai import OpenAIEngine as Made  # type: ignore[assignment]
    else:
        from rrlib.engines.replay import ReplayEngine as Made  # type: ignore[assignment]
    return Made
