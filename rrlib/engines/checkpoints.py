"""Whether a checkpoint can be loaded, looked at before it is: one sentence and a remedy for what it lacks.

transformers says the same minutes later, in a traceback, or not at all: it asks the hub for a folder with a slip in its
name, and draws weights that are not there. Only heads and sizes of files are read here.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import re
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, MissingFileError
from rrlib.gguf import first_line

REMEDY = "name a folder with config.json, weights and tokenizer, or a hub name that this machine can reach"

_LOGGER = logging.getLogger("rrlib.engines")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_POINTER = b"version https://git-lfs"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_TEXT_FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json", "vocab.json")
_PACKAGES = {
    "aqlm": ("aqlm",),
    "auto-round": ("auto_round",),
    "awq": ("gptqmodel", "awq"),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed_tensors",),
    "eetq": ("eetq",),
    "gptq": ("gptqmodel", "auto_gptq"),
    "hqq": ("hqq",),
    "quanto": ("optimum",),
    "torchao": ("torchao",),
}
"""Quantisation method -> packages, one of which transformers needs to read it."""


def local_folder(path: str) -> Path | None:
    """The folder that a resolved model is, or None for a name of the hub that can be asked for, or is in its cache.

    Raises MissingFileError at once for a folder that is not there, rather than after the hub has been tried again and
    again; also where the hub cannot be reached and the name is not in its cache.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return place
    if place.is_file():
        raise InputError("this is a file", path=path, remedy="name the folder of a checkpoint, or a .gguf file")
    head = Path(path).parts[0] if Path(path).parts else ""
    if not _HUB_NAME.fullmatch(path) or path.endswith(".git") or ("/" in path and Path(head).is_dir()):
        raise MissingFileError(f"no folder {path!r}", remedy="name the folder of a checkpoint, or a hub name")
    if not _in_cache(path) and not _hub_answers():
        remedy = "name a folder, or fetch it first where there is a network (HF_HUB_OFFLINE=1 then reads its cache)"
        raise MissingFileError(f"no folder {path!r} here, and the hub cannot be reached", remedy=remedy)
    return None


def _in_cache(name: str) -> bool:
    from huggingface_hub import constants, try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(name, "config.json"), str):
        return False
    if not constants.HF_HUB_OFFLINE and not _hub_answers():
        _LOGGER.warning("the hub cannot be reached: %s is read from its cache, as with HF_HUB_OFFLINE=1", name)
        constants.HF_HUB_OFFLINE = True  # its clients look here before each call, and would try for two minutes
    return True


@functools.cache
def _hub_answers() -> bool:
    """Whether the hub may be asked, and answers within three seconds."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=3)
    except Exception:
        return False
    return True


def check_checkpoint(path: str, *, weights: bool = True, transformers: bool = True) -> None:
    """Look a resolved model over: InputError for the first thing that keeps it from being loaded.

    weights: it is loaded itself, not its tokenizer alone. transformers: by that library, which needs packages for
    quantised weights and code of its own for models that it does not know.
    """
    folder = local_folder(path)
    if folder is None:
        return
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        _check_file(file)
    if not any((folder / name).is_file() for name in _TOKENIZERS) and not list(folder.glob("*.tiktoken")):
        remedy = "copy tokenizer.json and tokenizer_config.json from the model it was made of"
        raise InputError("this checkpoint has no tokenizer files", path=folder, remedy=remedy)
    if not weights:
        return
    if not (folder / "config.json").is_file():
        raise InputError("this folder has no config.json", path=folder, remedy="name the folder of a checkpoint")
    config = _json(folder / "config.json")
    _check_weights(folder)
    if transformers:
        _check_needs(folder, config)


def _check_file(file: Path) -> None:
    """Pointers of Git LFS, files that are empty or broken, and safetensors that are cut off."""
    heavy = file.suffix in (".safetensors", ".bin", ".model")
    if not heavy and file.name not in _TEXT_FILES:
        return
    size = file.stat().st_size
    with open(file, "rb") as handle:
        head = handle.read(64)
    if head.startswith(_POINTER):
        remedy = "fetch the file itself: `git lfs pull` in its folder"
        raise InputError("this is a pointer of Git LFS, not the file", path=file, remedy=remedy)
    if size == 0:
        raise InputError("this file is empty", path=file, remedy="fetch it again")
    if file.suffix == ".safetensors":
        _check_safetensors(file, size)
    elif file.suffix == ".json":
        _json(file)


def _check_safetensors(file: Path, size: int) -> None:
    """Eight bytes say how long the JSON header is, and the header where each tensor ends."""
    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = handle.read(length) if length <= size else b""
    try:
        tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        ends = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        ends = -1
    if ends < 0 or 8 + length + ends > size:
        at_least = f"{8 + length + ends:,} bytes" if ends >= 0 else "a whole header"
        why = f"this file of weights is cut off or damaged: {size:,} bytes, where {at_least} should be"
        raise InputError(why, path=file, remedy="fetch it again")


def _check_weights(folder: Path) -> None:
    index = next((p for p in sorted(folder.glob("*.index.json")) if "safetensors" in p.name or ".bin" in p.name), None)
    if index is not None:
        named = _json(index).get("weight_map") or {}
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
            why = "`weight_map` does not say of each tensor the file that holds it"
            raise InputError(why, path=index, remedy="fetch it again")
        parts = sorted(set(named.values()))
        absent = [name for name in parts if not (folder / name).is_file()]
        if absent:
            what = f"{len(absent)} of {len(parts)} parts of the weights are not there, such as {absent[0]}"
            raise InputError(what, path=folder, remedy="fetch them")
    elif not [file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin", ".h5")]:
        raise InputError("this checkpoint has no weights", path=folder, remedy="fetch model.safetensors")


def _check_needs(folder: Path, config: dict[str, Any]) -> None:
    quantised = config.get("quantization_config")
    method = str(quantised.get("quant_method", "")) if isinstance(quantised, dict) else ""
    packages = _PACKAGES.get(method, ())
    if packages and not any(importlib.util.find_spec(package) for package in packages):
        remedy = f"pip install {packages[0]}, or name the checkpoint that is not quantised"
        raise InputError(f"its weights are quantised by {method}, which needs a package", path=folder, remedy=remedy)
    if "AutoModelForCausalLM" in (config.get("auto_map") or {}):
        from transformers import CONFIG_MAPPING

        kind = config.get("model_type")
        if kind not in CONFIG_MAPPING:
            remedy = "name a model that transformers knows; code that comes with weights is never run here"
            raise InputError(f"the model {kind!r} needs code of its own", path=folder, remedy=remedy)


def end_tokens(said: Any, path: Path) -> list[int]:
    """The ids of an `eos_token_id`: one, several, or none. path: where it stands. Raises InputError for no ids."""
    ends = [] if said is None else list(said) if isinstance(said, list | tuple) else [said]
    if any(isinstance(end, bool) or not isinstance(end, int) for end in ends):
        remedy = "write the token's id, or a list of ids"
        raise InputError(f"`eos_token_id` is {said!r}, which is no token id", path=path, remedy=remedy)
    return list(dict.fromkeys(ends))


def cannot_load(what: str, model: str, error: Exception) -> InputError:
    """The error of a loader that failed, in one line."""
    return InputError(f"cannot load the {what} of {model!r}: {first_line(error)[:300]}", remedy=REMEDY)


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"this is not JSON: {error}", path=file, remedy="fetch it again") from error
    if not isinstance(value, dict):
        raise InputError("this is no JSON object", path=file, remedy="fetch it again")
    return value
