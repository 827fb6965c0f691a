"""Engines' options on a command line: which have a flag of their own, and `--engine-option` for all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rrlib.engines import check_engine_options
from rrlib.engines.options import read_options

FLAGS: Mapping[str, tuple[str, ...]] = {
    "transformers": ("dtype", "batch_size"),
    "numpy": ("batch_size",),
    "vllm": ("dtype", "max_model_len"),
    "openai": ("base_url", "tokenizer", "concurrency", "api_key_env", "provider"),
    "replay": ("responses",),
}
"""Engine -> its options that have a flag of their own in `rrlib rerank`."""


def more_options(
    engine: str, texts: Sequence[str], other_flags: Mapping[str, str | None] | None = None
) -> dict[str, Any]:
    """The options of --engine-option, read and checked by name before anything is loaded.

    other_flags: option -> its flag in a command that names it differently, None where the command has no flag for it.
    """
    flags = {name: "--" + name.replace("_", "-") for name in FLAGS.get(engine, ())} | dict(other_flags or {})
    options = read_options(texts, {name: flag for name, flag in flags.items() if flag is not None})
    check_engine_options(engine, options)
    return options
