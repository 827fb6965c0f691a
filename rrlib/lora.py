"""Adapters (LoRA, in PEFT's format) as models: merged once with their base into a folder that everything else can load.

A folder with `adapter_config.json` may stand wherever a model is named: `rrlib.resources.resolve` asks this module. The
base is what the adapter names (`base_model_name_or_path`): a folder, a hub name, a GGUF file or a `package:` reference
to one of them. Weights are added in the base's type, float32 for a GGUF file; the tokenizer is the base's.

Not done: adapters by hub name, adapters of kinds that are no change of weights (prompts, prefixes).
"""

from __future__ import annotations

import contextlib
import io
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rrlib.disk import hash_text, hash_tree, read_json, write_json
from rrlib.errors import InputError, missing_extra
from rrlib.gguf import cache_root, first_line, made_once

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The two files of an adapter folder."""

RECORD = "rrlib-adapter.json"
"""File of a merged folder: what it was made from."""

RECIPE = 1
"""Part of a merged folder's name: raised when a change here changes what is written."""


def is_adapter(name: str | Path) -> bool:
    """Whether a path is the folder of an adapter; one that holds a model of its own (`config.json`) is not."""
    folder = Path(name)
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: str | Path) -> str:
    """The base that an adapter names. Raises InputError where it names none, or is no adapter that can be merged."""
    config = read_json(Path(folder) / CONFIG)
    if not isinstance(config, dict) or not config.get("base_model_name_or_path"):
        remedy = f"name the base there, as base_model_name_or_path in {CONFIG}"
        raise InputError("this adapter does not say what its base is", path=folder, remedy=remedy)
    if config.get("peft_type") != "LORA":
        kind = config.get("peft_type")
        raise InputError(f"an adapter of kind {kind!r} cannot be merged", path=folder, remedy="name one of kind LORA")
    if not (Path(folder) / WEIGHTS).is_file():
        remedy = "save it as safetensors, or fetch it again"
        raise InputError(f"this adapter has no {WEIGHTS}", path=folder, remedy=remedy)
    return str(config["base_model_name_or_path"])


def merged(folder: str | Path, base: str, base_hash: str) -> Path:
    """The folder with an adapter's base and the adapter in one model, written by the first call.

    base: a folder or hub name for `from_pretrained`; base_hash: of its content. Safe where several processes ask at
    once. Raises InputError where the adapter was made for another base, or base or adapter cannot be read.
    """
    source = Path(folder).resolve()
    key = hash_text(base_hash, *(hash_tree(source / name) for name in (CONFIG, WEIGHTS)))
    target = cache_root() / "adapters" / f"{source.name}-{key[:12]}-{RECIPE}"

    def make(partial: Path) -> str:
        _merge(source, base, base_hash, partial)
        return f"adapter {source.name}: merged with its base into {target}"

    return made_once(target, RECORD, make)


def _merge(source: Path, base: str, base_hash: str, folder: Path) -> None:
    """Write base plus adapter as a folder for `from_pretrained`, the record last."""
    try:
        import torch  # noqa: F401
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise missing_extra(error.name or "transformers", "train", needed_by="merging an adapter") from error
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        try:
            tokenizer = AutoTokenizer.from_pretrained(base)
            model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"its base {base!r} cannot be loaded: {first_line(error)}",
                path=source,
                remedy=f"fetch the base, or name a folder in {CONFIG}",
            ) from error
        _add(model, source).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    record = {"adapter": source.name, "base": base_of(source), "base_hash": base_hash, "recipe": RECIPE}
    write_json(folder / RECORD, {**record, "peft": version("peft")})


def _add(model: Any, source: Path) -> Any:
    """The model with the adapter's change added to its weights, all of the adapter and nothing that it does not say."""
    from peft import PeftConfig, PeftModel

    remedy = "name the base that it was trained from"
    try:
        adapted = PeftModel(model, PeftConfig.from_pretrained(str(source)))
        loaded = adapted.load_adapter(str(source), "default", torch_device="cpu")
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"this adapter does not fit its base: {why[:300]}", path=source, remedy=remedy) from error
    strange = [*loaded.missing_keys, *loaded.unexpected_keys]
    if strange:  # PEFT warns, and leaves such weights out or as they were drawn
        raise InputError(f"this adapter does not fit its base in {strange[0]}", path=source, remedy=remedy)
    return adapted.merge_and_unload()
